"""What an optimization says of its work, by which the farm measures how fast a loss network is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.workers.rendering import Desk, made


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
