"""What long tasks say of themselves is known while they run and after, and stays small however long."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest

from farm.controller import Controller, ControllerOptions
from farm.progress import MOST_POINTS
from jobs.tasks import Emitted, Event, Progress, TaskMessage
from tests.farm.controlled import farm, manifest, over, run, until
from tests.farm.scripted_pool import DIE, WAIT, Script, ScriptedPool, succeed

ONE = {"items": 1}


@pytest.fixture(autouse=True)
def _toy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FARM_KINDS", "tests.toy")


def loss(message: TaskMessage, evaluations: int, *, scale: int = 0, item: str = "a") -> Emitted:
    data = {"item": item, "scale": scale, "evaluations": evaluations, "loss": 1 / (evaluations + 1)}
    return Emitted(message.task, message.attempt, "loss", data)


def preview(message: TaskMessage, file: str, item: str = "a") -> Emitted:
    return Emitted(message.task, message.attempt, "preview", {"item": item, "file": file})


def at(message: TaskMessage, fraction: float, text: str = "") -> Progress:
    return Progress(message.task, message.attempt, fraction, text)


def of(controller: Controller, job: str, type_: str) -> list[dict[str, Any]]:
    return [event["data"] for event in controller.view.events(job, limit=10_000) if event["type"] == type_]


def curve(controller: Controller, job: str) -> list[tuple[int, int]]:
    return [(data["scale"], data["evaluations"]) for data in of(controller, job, "loss")]


def play(folder: Any, script: Script, look: Any) -> None:
    """Run a job of one task to its end and look at what is known of it."""

    async def scene() -> None:
        async with farm(folder, ScriptedPool(1, script)) as controller:
            job = await controller.commands.submit(manifest(folder, ONE))
            await over(controller, job)
            look(controller, job)

    run(scene())


def test_the_ledger_knows_how_far_a_running_task_is_and_is_not_written_for_every_word(tmp_path, monkeypatch):
    written: list[float] = []

    def script(worker: str, message: TaskMessage) -> Iterator[Event | str]:
        for n in range(1, 51):
            yield at(message, n / 100, f"iteration {n}")
        yield WAIT

    async def scene() -> None:
        async with farm(tmp_path, ScriptedPool(1, script)) as controller:
            update = controller.ledger.update

            def noting(table: str, changes: Any, **where: Any) -> None:
                written.extend([changes["fraction"]] if "fraction" in changes else [])
                update(table, changes, **where)

            monkeypatch.setattr(controller.ledger, "update", noting)
            job = await controller.commands.submit(manifest(tmp_path, ONE))
            await until(lambda: bool(written))
            assert 0 < written[0] < 0.5
            controller.commands.cancel(job)
            await over(controller, job)
            row = controller.ledger.read("SELECT fraction, message FROM tasks")[0]
            assert (row["fraction"], row["message"]) == (0.5, "iteration 50")
            assert len(written) < 10

    run(scene())


def test_a_task_never_goes_back_though_its_next_attempt_repeats_some_of_it(tmp_path):
    def script(worker: str, message: TaskMessage) -> Iterator[Event | str]:
        yield at(message, 0.6 if message.attempt == 1 else 0.4, f"attempt {message.attempt}")
        if message.attempt == 1:
            yield DIE
        yield from succeed(worker, message)

    def look(controller: Controller, job: str) -> None:
        row = controller.ledger.read("SELECT fraction, message FROM tasks")[0]
        assert (row["fraction"], row["message"]) == (0.6, "attempt 2")

    play(tmp_path, script, look)


@pytest.mark.parametrize("count", [1, MOST_POINTS, MOST_POINTS + 1, 5000])
def test_a_loss_curve_keeps_its_first_and_its_newest_point_and_some_hundred_between(tmp_path, count):
    def script(worker: str, message: TaskMessage) -> Iterator[Event | str]:
        for n in range(count):
            yield loss(message, n)
        yield from succeed(worker, message)

    def look(controller: Controller, job: str) -> None:
        points = [evaluations for _, evaluations in curve(controller, job)]
        assert points[0] == 0
        assert points[-1] == count - 1
        assert points == sorted(set(points))
        assert min(count, MOST_POINTS // 2) <= len(points) <= MOST_POINTS + 1
        gaps = {b - a for a, b in pairwise(points[:-1])}
        assert len(gaps) <= 1

    play(tmp_path, script, look)


def test_curves_of_several_pictures_are_kept_apart(tmp_path):
    def script(worker: str, message: TaskMessage) -> Iterator[Event | str]:
        for n in range(40):
            yield loss(message, n, item="ab"[n % 2])
        yield from succeed(worker, message)

    def look(controller: Controller, job: str) -> None:
        losses = of(controller, job, "loss")
        for item in "ab":
            assert len([data for data in losses if data["item"] == item]) == 20

    play(tmp_path, script, look)


def test_an_attempt_that_goes_on_from_a_checkpoint_draws_over_what_it_repeats(tmp_path):
    def script(worker: str, message: TaskMessage) -> Iterator[Event | str]:
        if message.attempt == 1:
            for n in range(30):
                yield loss(message, n)
            yield loss(message, 0, scale=1)
            yield DIE
        for n in range(20, 30):
            yield loss(message, n)
        for n in range(5):
            yield loss(message, n, scale=1)
        yield from succeed(worker, message)

    def look(controller: Controller, job: str) -> None:
        assert curve(controller, job) == [(0, n) for n in range(30)] + [(1, n) for n in range(5)]

    play(tmp_path, script, look)


def test_only_the_newest_preview_of_a_picture_is_kept_also_over_attempts(tmp_path):
    def script(worker: str, message: TaskMessage) -> Iterator[Event | str]:
        for n in range(3):
            yield preview(message, f"{message.attempt}-{n}.jpg")
            yield preview(message, "other.jpg", "b")
        if message.attempt == 1:
            yield DIE
        yield from succeed(worker, message)

    def look(controller: Controller, job: str) -> None:
        previews = {(data["item"], data["file"]) for data in of(controller, job, "preview")}
        assert previews == {("a", "2-2.jpg"), ("b", "other.jpg")}
        assert len(of(controller, job, "preview")) == 2

    play(tmp_path, script, look)


def test_what_else_a_kind_of_work_emits_is_kept_as_it_is(tmp_path):
    def script(worker: str, message: TaskMessage) -> Iterator[Event | str]:
        yield Emitted(message.task, message.attempt, "message", {"text": "the tiles are 512 px"})
        yield Emitted(message.task, message.attempt, "loss", {"value": 3})
        yield Emitted(message.task, message.attempt, "loss", {"value": 2})
        yield from succeed(worker, message)

    def look(controller: Controller, job: str) -> None:
        events = controller.view.events(job)
        assert [event["text"] for event in events if event["type"] == "message"] == ["the tiles are 512 px"]
        assert [data["value"] for data in of(controller, job, "loss")] == [3, 2]

    play(tmp_path, script, look)


def test_a_controller_that_starts_again_knows_how_far_its_tasks_are(tmp_path):
    def stuck(worker: str, message: TaskMessage) -> Iterator[Event | str]:
        yield at(message, 0.7)
        for n in range(10):
            yield loss(message, n)
        yield WAIT

    def goes_on(worker: str, message: TaskMessage) -> Iterator[Event | str]:
        yield at(message, 0.5)
        for n in range(8, 12):
            yield loss(message, n)
        yield from succeed(worker, message)

    async def first() -> str:
        ledger, store, cache = (str(tmp_path / name) for name in ("ledger.sqlite", "store", "cache"))
        controller = Controller(ControllerOptions("f", ledger, store, cache), ScriptedPool(1, stuck))
        loop = asyncio.ensure_future(controller.run())
        job = await controller.commands.submit(manifest(tmp_path, ONE))
        await until(lambda: len(of(controller, job, "loss")) == 10)
        await asyncio.sleep(0.15)
        loop.cancel()
        return job

    async def second(job: str) -> None:
        async with farm(tmp_path, ScriptedPool(1, goes_on)) as controller:
            assert (await over(controller, job))["state"] == "completed"
            assert controller.ledger.read("SELECT fraction FROM tasks")[0]["fraction"] == 0.7
            assert [n for _, n in curve(controller, job)] == list(range(12))

    job = asyncio.run(first())
    run(second(job))
