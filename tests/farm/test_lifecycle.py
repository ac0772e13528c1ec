"""How jobs move on and how a controller ends, with workers in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from farm.controller import Controller, ControllerOptions
from jobs.errors import Failure
from jobs.tasks import Event, TaskMessage
from tests import toy  # noqa: F401 - registers the kind
from tests.farm.controlled import farm, manifest, over, until
from tests.farm.scripted_pool import WAIT, ScriptedPool, ended, finished, started


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_steps_follow_one_another_in_whatever_order_the_manifest_names_them(tmp_path, order):
    chain = [
        {"name": "a", "items": 2},
        {"name": "b", "items": 2, "needs": ["a"]},
        {"name": "c", "items": 2, "needs": ["b"]},
    ]

    async def run() -> None:
        pool = ScriptedPool()
        async with farm(tmp_path, pool) as controller:
            job = await controller.commands.submit(manifest(tmp_path, *(chain[n] for n in order)))
            assert (await over(controller, job))["state"] == "completed"
            assert [message.step for _, message in pool.sent] == ["a", "a", "b", "b", "c", "c"]

    asyncio.run(run())


def test_the_loop_ends_in_peace_when_the_controller_is_closed(tmp_path):
    """It waits for its next tick at that moment, and must not do it on a closed ledger."""

    async def run() -> None:
        options = ControllerOptions(
            "f", str(tmp_path / "ledger.sqlite"), str(tmp_path / "store"), str(tmp_path / "cache")
        )
        controller = Controller(options, ScriptedPool())
        loop = asyncio.ensure_future(controller.run())
        await asyncio.sleep(0)
        await controller.close()
        await asyncio.wait_for(loop, 10)
        assert loop.exception() is None

    asyncio.run(run())


def checkpoints_of(folder: Path, job: str) -> set[str]:
    """Return the outputs whose tasks have a checkpoint left."""
    kept = folder / "out/.farm/jobs" / job / "checkpoints"
    return {path.read_text() for path in kept.rglob("*.data")}


def saving(worker: str, message: TaskMessage) -> Iterator[Event | str]:
    """Keep a checkpoint, then fail the item `bad`, wait at `slow`, or finish."""
    (item,) = message.items
    folder = Path(message.output, ".farm/jobs", message.job, "checkpoints", str(message.task))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "1.data").write_text(item.output_key)
    yield started(message, item)
    if item.output_key.startswith("slow"):
        yield WAIT
    bad = item.output_key.startswith("bad")
    yield finished(message, item, Failure.BAD_INPUT if bad else None)
    yield ended(message)


@pytest.mark.parametrize(
    ("names", "state", "left"),
    [
        (["good"], "completed", set()),
        (["good", "bad"], "completed with errors", {"bad-0.txt"}),
        (["bad"], "completed with errors", {"bad-0.txt"}),
        (["good", "slow"], "canceled", {"slow-0.txt"}),
    ],
)
def test_checkpoints_stay_for_what_is_not_made_and_for_nothing_else(tmp_path, names, state, left):
    """`farm retry` goes on from them, since its tasks are the same."""

    async def run() -> None:
        async with farm(tmp_path, ScriptedPool(len(names), saving)) as controller:
            job = await controller.commands.submit(manifest(tmp_path, *({"name": name} for name in names)))
            if "slow" in names:
                await until(lambda: checkpoints_of(tmp_path, job) == {"good-0.txt", "slow-0.txt"})
                await until(lambda: controller.view.job(job)["items"]["done"] == 1)
                controller.commands.cancel(job)
            ended_job = await over(controller, job)
            assert ended_job["state"] == state
            assert checkpoints_of(tmp_path, job) == left
            told = [note for note in ended_job["notes"] if "0.0 MB" in note and f"{job}/checkpoints" in note]
            assert len(told) == len(ended_job["notes"]) == len(left)
            how = "submitted again" if state == "canceled" else f"`farm retry {job}`"
            assert all(how in note for note in told)

    asyncio.run(run())


def test_what_is_said_of_checkpoints_is_taken_back_when_they_are_gone(tmp_path):
    """The item fails once more, then is made; as its kind does, that removes the checkpoint."""
    left: list[Path] = []

    def script(worker: str, message: TaskMessage) -> Iterator[Event | str]:
        if message.attempt < 3:
            yield from saving(worker, message)
            return
        left.extend(Path(message.output, ".farm/jobs", message.job).rglob("*.data"))
        yield started(message, message.items[0])
        yield finished(message, message.items[0])
        yield ended(message)

    async def run() -> None:
        async with farm(tmp_path, ScriptedPool(1, script)) as controller:
            job = await controller.commands.submit(manifest(tmp_path, {"name": "bad"}))
            for _ in range(2):
                assert len((await over(controller, job))["notes"]) == 1
                controller.commands.retry(job)
            ended_job = await over(controller, job)
            assert (ended_job["state"], ended_job["notes"]) == ("completed", [])
            assert len(left) == 1

    asyncio.run(run())
