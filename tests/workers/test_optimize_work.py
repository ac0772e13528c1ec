"""What an optimization says of its work, by which the farm measures how fast a loss network is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from jobs.errors import StorageError
from tests.workers.rendering import Attempt, Desk, made
from workers.nst import tiled_state


@pytest.fixture(autouse=True)
def _no_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.optimize_files.trace_plot", lambda trace, title: b"")


def work(desk: Desk, **said: Any) -> int:
    (outcome,) = desk.run(desk.message(**said)).values()
    return int(made(outcome).facts["pixel_evaluations"])


def test_work_is_the_pixels_of_all_evaluations(tmp_path: Path) -> None:
    scales = [{"size_px": 32, "iterations": 3}, {"size_px": 48, "iterations": 2}]
    assert work(Desk(tmp_path), scales=scales) == 3 * 32 * 24 + 2 * 48 * 36


def test_an_attempt_that_goes_on_counts_its_own(tmp_path: Path) -> None:
    """Its device seconds are its own too."""
    desk = Desk(tmp_path)
    scales = [{"size_px": 32, "iterations": 3}, {"size_px": 48, "iterations": 2}]
    assert not desk.run(desk.message(scales=scales), stop_at=4)
    done = desk.trace()
    assert [step["scale"] for step in done] == [0] * len(done)
    assert work(desk, scales=scales) == (3 - len(done)) * 32 * 24 + 2 * 48 * 36


def test_an_extension_counts_what_it_adds(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    size = {"size_px": 48, "smallest_px": 48, "iterations": 4}
    assert work(desk, **size) == 4 * 48 * 36
    desk.checkpoint = None
    assert work(desk, job="j2", extends={"job": "j1", "iterations": [3]}, **size) == 3 * 48 * 36


@pytest.mark.parametrize(("tile_px", "size", "held"), [(None, 1, 1), (16, 1, 9), (16, 2, 3)])
def test_signs_of_life_are_given_within_every_evaluation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tile_px: int | None, size: int, held: int
) -> None:
    """One evaluation may take longer than a task may be silent: each tile is heard, and each layer back."""
    monkeypatch.setattr("workers.optimize_notes._ALIVE_EVERY_S", 0.0)
    monkeypatch.setattr("workers.optimize_notes._SAID_EVERY_S", 0.0)
    desk = Desk(tmp_path)
    desk.run(desk.message(tile_px=tile_px, size_px=48, smallest_px=48, iterations=4), size)
    places = [data["message"] for kind, data in desk.events if kind == "progress"]
    at = [f"scale 1 of 1, 48 px, iteration {iteration} of 4" for iteration in (1, 2, 3)]
    layers = 3
    assert min(map(places.count, at)) >= held * (1 + layers)
    assert places.count("getting ready") >= held * (1 + layers), "in the first evaluation as well"


def test_a_store_that_fails_costs_no_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Previews, traces, checkpoints and the last state are missing, which is said once of each."""
    desk = Desk(tmp_path)
    said: dict[str, Any] = {"size_px": 32, "smallest_px": 32, "iterations": 3}
    (whole,) = desk.run(desk.message(**said)).values()

    def full(*_: Any) -> None:
        raise StorageError("the disk is full")

    told: list[str] = []
    troubled = Desk(tmp_path)
    monkeypatch.setattr(Attempt, "save_checkpoint", full)
    monkeypatch.setattr(Attempt, "keep_file", full)
    monkeypatch.setattr(Attempt, "keep_state", full)
    monkeypatch.setattr(
        Attempt, "emit", lambda _, kind, data: told.append(data["text"]) if kind == "message" else None
    )
    often: dict[str, Any] = {"checkpoint": {"iterations": 1}, "preview_s": 0.001, "save_every": 1}
    (outcome,) = troubled.run(troubled.message(**said, **often)).values()
    assert made(outcome).data == made(whole).data
    assert len([text for text in told if "a checkpoint could not be kept: the disk is full" in text]) == 1
    assert len([text for text in told if "final/photo.png.state could not be kept" in text]) == 1


def test_a_store_that_fails_in_the_middle_of_a_state_leaves_no_member_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Member 0 asks for no more; the others go on with the next iteration."""
    monkeypatch.setattr(tiled_state, "PART_BYTES", 4096)
    said: dict[str, Any] = {"tile_px": 16, "checkpoint": {"iterations": 1}}
    wanted, desk = Desk(tmp_path), Desk(tmp_path)
    (whole,) = wanted.run(wanted.message(**said), 3).values()
    assert wanted.checkpoint is not None
    count = len(list(wanted.checkpoint.parts()))
    asked: list[bytes] = []

    def fails(_: object, *given: Any) -> None:
        asked.append(next(iter(given[-1])))
        raise StorageError("the disk is full")

    monkeypatch.setattr(Attempt, "save_checkpoint", fails)
    monkeypatch.setattr(Attempt, "keep_state", fails)
    (outcome,) = desk.run(desk.message(**said), 3).values()
    assert made(outcome).data == made(whole).data
    assert len(asked) > 1 < count


def test_a_pause_that_cannot_keep_the_state_is_no_pause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = Desk(tmp_path)

    def full(*_: Any) -> None:
        raise StorageError("the disk is full")

    monkeypatch.setattr(Attempt, "save_checkpoint", full)
    with pytest.raises(StorageError, match="full"):
        desk.run(desk.message(size_px=32, smallest_px=32, iterations=9), stop_at=3)
