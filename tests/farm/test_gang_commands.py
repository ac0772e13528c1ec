"""What people ask of tasks that several workers run together, and what they see of them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from jobs.tasks import Event, TaskMessage
from tests.farm.controlled import attempts, farm, manifest, over, run, until
from tests.farm.scripted_pool import WAIT, ScriptedPool, rank, started, succeed

TWO = {"items": 1, "workers": {"min": 2, "max": 2}}


@pytest.fixture(autouse=True)
def _toy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FARM_KINDS", "tests.toy")


def waits(worker: str, message: TaskMessage) -> Iterator[Event | str]:
    if message.attempt == 1:
        if rank(message) == 0:
            yield started(message, message.items[0])
        yield WAIT
    yield from succeed(worker, message)


def test_pause_lets_a_gang_save_what_it_has_and_cancel_stops_it_at_once(tmp_path):
    async def scene() -> None:
        pool = ScriptedPool(2, waits)
        async with farm(tmp_path, pool) as controller:
            job_id = await controller.commands.submit(manifest(tmp_path, TWO))
            await until(lambda: len(pool.sent) == 2)
            controller.commands.pause(job_id)
            await until(lambda: controller.view.job(job_id)["state"] == "paused")
            assert [at_once for *_, at_once in pool.stops[:2]] == [False, False]
            assert attempts(controller)[0]["outcome"] == "stopped"
            controller.commands.resume(job_id)
            assert (await over(controller, job_id))["state"] == "completed"

            job_id = await controller.commands.submit(manifest(tmp_path, TWO))
            await until(lambda: len(pool.sent) == 6)
            pool.stops.clear()
            controller.commands.cancel(job_id)
            assert (await over(controller, job_id))["state"] == "canceled"
            assert {at_once for *_, at_once in pool.stops} == {True}

    run(scene())


def test_a_gang_that_is_canceled_while_it_saves_for_a_pause_is_told_again_at_once(tmp_path):
    class Saving(ScriptedPool):
        def stop(self, worker: str, task: int, attempt: int, *, at_once: bool = False) -> None:
            if at_once:
                super().stop(worker, task, attempt, at_once=at_once)

    async def scene() -> None:
        pool = Saving(2, waits)
        async with farm(tmp_path, pool) as controller:
            job_id = await controller.commands.submit(manifest(tmp_path, TWO))
            await until(lambda: len(pool.sent) == 2)
            controller.commands.pause(job_id)
            await asyncio.sleep(0.15)
            controller.commands.cancel(job_id)
            assert (await over(controller, job_id))["state"] == "canceled"
            assert pool.killed == []

    run(scene())


def test_workers_say_that_they_are_in_a_gang(tmp_path):
    async def scene() -> None:
        pool = ScriptedPool(2, waits)
        async with farm(tmp_path, pool) as controller:
            job_id = await controller.commands.submit(manifest(tmp_path, TWO))
            await until(lambda: len(pool.sent) == 2)
            gangs = [worker["gang"] for worker in await controller.workers()]
            assert gangs == [{"rank": n, "workers": ("w1", "w2")} for n in (0, 1)]
            controller.commands.cancel(job_id)
            await over(controller, job_id)
            assert [worker["gang"] for worker in await controller.workers()] == [None, None]

    run(scene())
