"""Renders by optimization on a worker: asked to stop, and told to stop at once."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from jobs.tasks import Emitted, Item, TaskEnded, TaskMessage
from tests.workers.bench import Bench
from tests.workers.rendering import Desk, made, picture_bytes

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def worker(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """Return a worker that says every loss at once."""
    monkeypatch.setattr("workers.optimize_notes._SAID_EVERY_S", 0.0)
    (bench.folder / "photo.png").write_bytes(picture_bytes(48, 36, 1))
    return bench


def attempt(worker: Bench, desk: Desk, number: int = 1, **said: Any) -> TaskMessage:
    """Return an attempt for a real worker."""
    for file in desk.folder.iterdir():
        if file.is_file() and len(file.name) == 64:
            worker.library.put(file.read_bytes())
    item = Item(1, str(worker.folder / "photo.png"), 1, "", "photo.png")
    message = worker.message(item, kind="optimize", attempt=number)
    return replace(message, payload=said)


def test_a_worker_that_is_asked_to_stop_keeps_the_state_and_the_next_attempt_ends_as_if_it_had_not(
    worker: Bench, desk: Desk
) -> None:
    payload = desk.payload(iterations=120)
    expected = made(desk.run(desk.message(iterations=120))["photo.png"]).data
    worker.worker.submit(attempt(worker, desk, **payload))
    worker.wait_for(lambda events: any(isinstance(e, Emitted) and e.type == "loss" for e in events))
    worker.worker.stop(1, 1)
    worker.wait_for(lambda events: any(isinstance(e, TaskEnded) for e in events))
    assert worker.ended().outcome == "stopped"
    assert not (worker.folder / "out/photo.png").exists()
    [outcome] = worker.run(attempt(worker, desk, 2, **payload))
    assert outcome.detail["evaluations"] == 120
    assert (worker.folder / "out/photo.png").read_bytes() == expected
    folder = worker.folder / "out/.farm/jobs" / "job of task 1"
    assert len((folder / "traces/photo.png.jsonl").read_text().splitlines()) == 120


def test_a_worker_that_must_stop_at_once_keeps_nothing(worker: Bench, desk: Desk) -> None:
    payload = desk.payload(iterations=5000, checkpoint={"seconds": 3600.0})
    worker.worker.submit(attempt(worker, desk, **payload))
    worker.wait_for(lambda events: any(isinstance(e, Emitted) and e.type == "loss" for e in events))
    worker.worker.stop(1, 1, at_once=True)
    worker.wait_for(lambda events: any(isinstance(e, TaskEnded) for e in events))
    assert worker.ended().outcome == "stopped"
    assert not list((worker.folder / "out").rglob("*.data"))
