"""Traces and sheets of a training come back as they were kept."""

from __future__ import annotations

import json

import pytest
import torch

from tests.workers.rendering import pixels
from workers.optimize_gang import packed, unpacked
from workers.train_files import Sheet, Trace, loss_plot
from workers.train_state import Diary, Kept, Position, read_kept


def picture(value: int, height_px: int = 30, width_px: int = 40) -> torch.Tensor:
    return torch.full((height_px, width_px, 3), value, dtype=torch.uint8)


def test_a_trace_keeps_every_bit() -> None:
    trace = Trace()
    for step in range(1, 6):
        trace.add({"loss": 1 / (3 * step), "content": step / 7})
    trace = Trace.from_words(unpacked(packed(trace.to_words())))
    lines = [json.loads(line) for line in trace.lines().splitlines()]
    assert lines == [{"step": step, "loss": 1 / (3 * step), "content": step / 7} for step in range(1, 6)]
    trace.cut(3)
    assert (len(trace), trace.of("content")) == (3, [1 / 7, 2 / 7, 3 / 7])
    with pytest.raises(ValueError, match="terms loss after loss, content"):
        trace.add({"loss": 1.0})
    assert Trace.from_words(Trace().to_words()).lines() == b""


def test_a_sheet_has_a_row_for_each_picture_and_a_column_for_each_look() -> None:
    sheet = Sheet()
    for step in range(1, 5):
        sheet.add(step, [picture(20 * step), picture(200)])
    shown = pixels(Sheet.from_words(unpacked(packed(sheet.to_words()))).encoded())
    shade = shown[12 + 128, 12 + 128 :: 268, 0]
    assert [abs(int(got) - 20 * step) <= 3 for step, got in enumerate(shade, 1)] == [True] * 4
    sheet.cut(2)
    assert [step for step, _ in sheet.columns] == [1, 2]


def test_a_long_training_has_no_endless_sheet() -> None:
    sheet = Sheet()
    for step in range(1, 101):
        sheet.add(step, [picture(step)])
        assert len(sheet.columns) <= 8
    steps = [step for step, _ in sheet.columns]
    assert (steps[0], steps[-1]) == (1, 100)


def test_a_plot_is_drawn_of_any_losses() -> None:
    trace = Trace()
    trace.add({"loss": 1.0, "content": 0.0, "style": 1.0, "style relu1_1": 1.0})
    assert pixels(loss_plot(trace, [{"step": 0, "loss": None}, {"step": 1, "loss": 2.0}], "a $title")).size


def test_states_of_other_versions_are_none() -> None:
    kept = Kept("f", Position(9, {"steps_done": 3}, None, 2), Diary(bad={4: "damaged"}))
    back = read_kept(kept.packed())
    assert back is not None
    assert (back.fingerprint, back.position.total, back.position.tries) == ("f", 9, 2)
    assert back.diary.bad == {4: "damaged"}
    words = unpacked(kept.packed())
    assert read_kept(packed({**words, "version": 0})) is None
    assert read_kept(b"nonsense") is None
    assert read_kept(None) is None
