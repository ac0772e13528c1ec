"""How many workers a farm has: as many as the work needs, within what the machine can hold."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from typing import Any

import pytest

from farm.machine import least_memory_bytes, machine_of
from jobs.errors import ManifestError
from jobs.tasks import Event, TaskMessage, WorkerReport
from tests.farm.controlled import farm, manifest, over, run, until
from tests.farm.scripted_pool import WAIT, ScriptedPool, succeed

TWO = {"items": 1, "workers": {"min": 2, "max": 2}}


@pytest.fixture(autouse=True)
def _toy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FARM_KINDS", "tests.toy")
    monkeypatch.setattr("farm.upkeep._SCALE_EVERY_S", 0.05)


def said(controller: Any) -> set[str]:
    """Return what the ledger knows of tasks: how far they are, or why they wait."""
    return {row["message"] for row in controller.ledger.read("SELECT message FROM tasks")}


def test_a_farm_with_too_few_workers_grows_for_a_gang_says_so_and_shrinks_again(tmp_path, monkeypatch):
    monkeypatch.setattr("farm.upkeep.IDLE_S", 0.2)
    asked: list[int] = []

    class Growing(ScriptedPool):
        """Its workers take a while to come up."""

        def resize(self, count: int) -> None:
            if count > len(self.alive) >= 1:
                asked.append(count)
                asyncio.get_running_loop().call_later(0.2, super().resize, count)
            else:
                super().resize(count)

    async def scene() -> None:
        pool = Growing(1, capacity=3)
        async with farm(tmp_path, pool) as controller:
            job_id = await controller.commands.submit(manifest(tmp_path, TWO))
            await until(lambda: said(controller) == {"waits for 2 workers: 1 there, 1 starting"})
            assert (await over(controller, job_id))["state"] == "completed"
            assert set(asked) == {2}
            assert said(controller) == {""}
            await until(lambda: len(pool.alive) == 1)
            assert pool.killed == []

    run(scene())


def test_a_farm_does_not_grow_for_a_gang_that_runs_on_what_is_there(tmp_path):
    async def scene() -> None:
        pool = ScriptedPool(1, capacity=3)
        async with farm(tmp_path, pool) as controller:
            job_id = await controller.commands.submit(manifest(tmp_path, {"workers": {"min": 1, "max": 3}}))
            assert (await over(controller, job_id))["state"] == "completed"
            assert pool.alive == ["w1"]

    run(scene())


def test_a_farm_grows_to_what_it_can_hold_and_no_further(tmp_path):
    """A second machine that was there at submit has gone: the gang waits, and says for what."""

    async def scene() -> None:
        pool = ScriptedPool(1, capacity=3)
        async with farm(tmp_path, pool) as controller:
            job_id = await controller.commands.submit(manifest(tmp_path, {"workers": {"min": 3, "max": 3}}))
            pool.places = 2
            await until(lambda: said(controller) == {"waits for 3 workers: 2 there, 0 starting"})
            assert len(pool.alive) == 2
            controller.commands.cancel(job_id)
            await over(controller, job_id)

    run(scene())


def test_a_task_that_waits_for_workers_that_are_busy_says_so(tmp_path):
    def waits(worker: str, message: TaskMessage) -> Iterator[Event | str]:
        if message.step == "long":
            yield WAIT
        yield from succeed(worker, message)

    async def scene() -> None:
        pool = ScriptedPool(2, waits)
        async with farm(tmp_path, pool) as controller:
            long = await controller.commands.submit(manifest(tmp_path / "a", {"name": "long", "items": 1}))
            await until(lambda: len(pool.sent) == 1)
            job_id = await controller.commands.submit(manifest(tmp_path / "b", TWO))
            await until(lambda: "waits for 2 workers: 1 of 2 idle" in said(controller))
            controller.commands.cancel(long)
            assert (await over(controller, job_id))["state"] == "completed"

    run(scene())


def test_a_gang_that_this_farm_can_never_hold_is_refused_with_both_numbers(tmp_path):
    async def scene() -> None:
        async with farm(tmp_path, ScriptedPool(1, capacity=3)) as controller:
            with pytest.raises(ManifestError) as caught:
                await controller.commands.submit(manifest(tmp_path, {"workers": {"min": 4, "max": 4}}))
            assert re.search(
                r"steps\[0\]\.workers\.min: 4 workers at once .* can have 3 .*farm up --workers",
                str(caught.value),
            )
            assert controller.view.jobs() == []

    run(scene())


# --- what each worker has ---------------------------------------------------------------------------


def report(worker: str, node: str, gigabytes: int, device: str = "cpu") -> WorkerReport:
    return WorkerReport(worker, 1, node, device, device_bytes=gigabytes << 30)


@pytest.mark.parametrize(
    ("reports", "wanted", "gigabytes"),
    [
        ([report("w1", "a", 12)], 1, 12),
        ([report("w1", "a", 12), report("w2", "a", 12)], 1, 6),
        ([report("w1", "a", 12)], 3, 4),
        ([report("w1", "a", 12), report("w2", "b", 8)], 2, 8),
        ([report("w1", "a", 12), report("w2", "b", 8)], 4, 4),
        ([report("w1", "a", 12, "cuda"), report("w2", "a", 24, "cuda")], 4, 12),
        ([report("w1", "a", 12), report("w2", "a", 0)], 1, 0),
        ([], 1, 0),
    ],
)
def test_workers_on_the_cpu_of_a_node_share_its_memory_and_those_with_a_gpu_have_its_own(
    reports, wanted, gigabytes
):
    assert least_memory_bytes(reports, wanted) == gigabytes << 30


def test_a_farm_that_has_just_been_started_says_what_it_has_when_its_first_worker_is_there(tmp_path):
    async def scene() -> None:
        pool = ScriptedPool(0, capacity=2)
        async with farm(tmp_path, pool) as controller:
            asked = asyncio.ensure_future(machine_of(controller.dispatcher.workers, pool))
            await asyncio.sleep(0.1)
            assert not asked.done()
            pool.join()
            machine = await asked
            assert (machine.there, machine.workers, machine.device) == (1, 2, "cpu")

    run(scene())
