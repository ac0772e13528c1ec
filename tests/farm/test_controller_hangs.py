"""Whatever happens, a job ends or says why it waits: sequences that once left one hanging."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from typing import Any

import pytest

from farm.dispatch import Limits
from farm.ledger import Ledger
from jobs.errors import Failure, StorageError, UsageError
from jobs.tasks import TaskMessage
from tests.farm.controlled import failing, farm, manifest, over, run, until
from tests.farm.scripted_pool import DIE, WAIT, ScriptedPool, ended, finished, started, succeed


@pytest.fixture(autouse=True)
def _toy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FARM_KINDS", "tests.toy")
    monkeypatch.setattr("jobs.scheduler._BACKOFF_S", {})
    monkeypatch.setattr("farm.planning._PAUSES_S", (0.01, 0.01))


def test_an_item_that_makes_every_worker_silent_is_given_up(tmp_path):
    """A worker that thrashes or holds the interpreter answers nobody; that cannot go on for ever."""

    def script(worker: str, message: TaskMessage) -> Any:
        for item in message.items:
            yield started(message, item)
            if item.output_key == "s0-1.txt":
                pool.frozen.add(worker)
                yield WAIT
            yield finished(message, item)
        yield ended(message)

    pool = ScriptedPool(1, script)

    async def scene() -> None:
        async with farm(tmp_path, pool, limits=Limits(lease_s=0.2)) as controller:
            job = await over(controller, await controller.commands.submit(manifest(tmp_path)))
            assert (job["items"]["done"], job["items"]["failed"]) == (3, 1)
            assert "did not answer" in job["failures"][0]["reason"]

    run(scene())


def test_a_task_that_never_reached_its_worker_is_sent_again_and_nobody_is_blamed(tmp_path):
    async def scene() -> None:
        pool = ScriptedPool(1)
        pool.lose_sends = 1
        async with farm(tmp_path, pool, limits=Limits(lease_s=0.4)) as controller:
            job_id = await controller.commands.submit(manifest(tmp_path, {"items": 1}))
            assert (await over(controller, job_id))["state"] == "completed"
            assert [message.attempt for _, message in pool.sent] == [1, 2]
            assert pool.killed == []
            assert controller.ledger.read("SELECT failures FROM items")[0]["failures"] == "{}"

    run(scene())


def test_one_failed_heartbeat_does_not_end_the_heartbeats_of_a_worker(tmp_path):
    async def scene() -> None:
        pool = ScriptedPool(1)
        pool.failing_renews = 1
        async with farm(tmp_path, pool, limits=Limits(lease_s=1.0)) as controller:
            await until(lambda: pool.failing_renews == 0)
            joined = controller.dispatcher.workers["w1"].answered_at
            await until(lambda: controller.dispatcher.workers["w1"].answered_at > joined)
            assert pool.killed == []

    run(scene())


def test_innocent_items_beside_the_one_that_kills_workers_are_not_lost_with_it(tmp_path):
    """All of a chunk are read ahead when its worker dies; the suspects then run one by one, alone."""

    def script(worker: str, message: TaskMessage) -> Any:
        for item in message.items:
            yield started(message, item)
        for _, other in pool.waiting_behind(worker):
            for item in other.items:
                yield started(other, item)
        for item in message.items:
            if item.output_key == "s0-1.txt":
                yield DIE
            yield finished(message, item)
        yield ended(message)

    class Reading(ScriptedPool):
        def waiting_behind(self, worker: str) -> list[tuple[str, TaskMessage]]:
            return [(w, m) for w, m in self.sent if w == worker and m in self._has[worker][1:]]

    pool = Reading(1, script)

    async def scene() -> None:
        async with farm(tmp_path, pool) as controller:
            job_id = await controller.commands.submit(manifest(tmp_path, {"items": 4, "chunk": 4}))
            job = await over(controller, job_id)
            assert (job["items"]["done"], job["items"]["failed"]) == (3, 1)

    run(scene())


def test_a_job_that_fails_while_it_is_paused_ends(tmp_path):
    def script(worker: str, message: TaskMessage) -> Any:
        yield finished(message, message.items[0], Failure.BAD_INPUT, "bad")
        yield WAIT

    async def scene() -> None:
        async with farm(tmp_path, ScriptedPool(1, script)) as controller:
            job_id = await controller.commands.submit(
                manifest(tmp_path, {"items": 3, "chunk": 3}, max_failed=0)
            )
            await until(lambda: controller.view.job(job_id)["items"]["failed"] == 1)
            controller.commands.pause(job_id)
            job = await over(controller, job_id)
            assert job["state"] == "failed"
            assert "max_failed" in job["reason"]

    run(scene())


def test_a_store_that_does_not_say_its_free_space_keeps_no_job_in_planning(tmp_path, monkeypatch):
    def broken(_: Any) -> None:
        raise StorageError("no answer")

    monkeypatch.setattr("jobs.storage.local.LocalStore.free_bytes", broken)

    async def scene() -> None:
        async with farm(tmp_path, ScriptedPool()) as controller:
            assert (await over(controller, await controller.commands.submit(manifest(tmp_path))))[
                "state"
            ] == "completed"

    run(scene())


def test_inputs_that_cannot_be_listed_for_a_moment_are_listed_again(tmp_path, monkeypatch):
    from jobs import plan

    times = 0
    real = plan.plan_step

    def shaky(*arguments: Any) -> Any:
        nonlocal times
        times += 1
        for number, task in enumerate(real(*arguments)):
            if times < 3 and number == 1:
                raise StorageError("503")
            yield task

    monkeypatch.setattr("farm.planning.plan_step", shaky)
    monkeypatch.setattr("farm.planning._BATCH", 1)

    async def scene() -> None:
        async with farm(tmp_path, ScriptedPool()) as controller:
            job = await over(controller, await controller.commands.submit(manifest(tmp_path)))
            assert job["state"] == "completed"
            assert job["plan"]["items"] == job["items"]["done"] == 4

    run(scene())


def test_a_planner_that_raises_anything_fails_its_job_with_the_reason(tmp_path, monkeypatch):
    def wrong(*_: Any) -> Any:
        raise RuntimeError("a mistake in a planner")

    monkeypatch.setattr("farm.planning.plan_step", wrong)

    async def scene() -> None:
        async with farm(tmp_path, ScriptedPool()) as controller:
            job = await over(controller, await controller.commands.submit(manifest(tmp_path)))
            assert job["state"] == "failed"
            assert "a mistake in a planner" in job["reason"]

    run(scene())


def test_one_job_that_cannot_be_read_any_more_does_not_keep_the_others_from_going_on(tmp_path, monkeypatch):
    async def first() -> list[str]:
        async with farm(tmp_path, ScriptedPool(0)) as controller:
            jobs = [await controller.commands.submit(manifest(tmp_path)) for _ in range(2)]
            await until(lambda: all(controller.view.job(job)["state"] == "queued" for job in jobs))
            document = controller.view.manifest(jobs[0])
            document["steps"][0]["kind"] = "of-a-module-that-is-gone"
            controller.ledger.update("jobs", {"manifest": document}, id=jobs[0])
            return jobs

    async def second(jobs: list[str]) -> None:
        async with farm(tmp_path, ScriptedPool()) as controller:
            assert (await over(controller, jobs[1]))["state"] == "completed"
            gone = controller.view.job(jobs[0])
            assert gone["state"] == "failed"
            assert "of-a-module-that-is-gone" in gone["reason"]

    run(second(asyncio.run(first())))


def test_retry_opens_what_failed_because_of_the_step_that_is_retried(tmp_path):
    async def scene() -> None:
        pool = ScriptedPool(script=failing("first", Failure.BAD_INPUT, times=1))
        steps = (
            {"name": "first"},
            {"name": "second", "needs": ["first"]},
            {"name": "third", "needs": ["second"]},
        )
        async with farm(tmp_path, pool) as controller:
            job_id = await controller.commands.submit(manifest(tmp_path, *steps))
            assert (await over(controller, job_id))["state"] == "completed with errors"
            controller.commands.retry(job_id)
            job = await over(controller, job_id)
            assert job["state"] == "completed"
            assert {step["state"] for step in job["steps"]} == {"done"}

    run(scene())


def test_what_no_worker_can_do_sets_no_worker_aside(tmp_path):
    def script(worker: str, message: TaskMessage) -> Any:
        if "good" in message.step:
            yield from succeed(worker, message)
        else:
            yield ended(message, "failed", Failure.ERROR)

    async def scene() -> None:
        async with farm(tmp_path, ScriptedPool(1, script)) as controller:
            for _ in range(4):
                await over(controller, await controller.commands.submit(manifest(tmp_path, {"name": "bad"})))
            job_id = await controller.commands.submit(manifest(tmp_path, {"name": "good"}))
            assert (await over(controller, job_id))["state"] == "completed"

    run(scene())


def test_cancel_while_a_job_is_planned_leaves_nothing_pending(tmp_path, monkeypatch):
    gate = asyncio.Event()
    real = asyncio.to_thread

    async def slow(function: Any, *arguments: Any, **named: Any) -> Any:
        if function.__name__ == "_take":
            await gate.wait()
        return await real(function, *arguments, **named)

    monkeypatch.setattr("farm.planning.asyncio.to_thread", slow)

    async def scene() -> None:
        async with farm(tmp_path, ScriptedPool()) as controller:
            job_id = await controller.commands.submit(manifest(tmp_path))
            await asyncio.sleep(0.05)
            controller.commands.cancel(job_id)
            gate.set()
            job = await over(controller, job_id)
            assert job["state"] == "canceled"
            assert job["items"]["pending"] == 0

    run(scene())


def test_a_ledger_that_cannot_be_written_says_so_at_once(tmp_path):
    """The controller then ends, and the next one begins from what is written down."""
    told: list[Exception] = []
    ledger = Ledger(tmp_path / "ledger.sqlite", told.append)
    ledger.event("j", "test", "fits")
    ledger.commit()
    pages = ledger.read("PRAGMA page_count")[0][0]
    ledger.read(f"PRAGMA max_page_count={pages}")
    with pytest.raises(sqlite3.OperationalError, match="full"):
        ledger.event("j", "test", "x" * 100_000)
    assert len(told) == 1


def test_the_report_is_whole_json_and_has_every_item_once(tmp_path, monkeypatch):
    monkeypatch.setattr("farm.views._PAGE", 3)

    async def scene() -> None:
        async with farm(tmp_path, ScriptedPool()) as controller:
            job_id = await controller.commands.submit(manifest(tmp_path, {"items": 10, "chunk": 4}))
            await over(controller, job_id)
            report = json.loads((tmp_path / "out/.farm/report.json").read_text())
            assert len({item["id"] for item in report["items"]}) == len(report["items"]) == 10
            assert report["state"] == "completed"
            with pytest.raises(UsageError):
                controller.commands.retry(job_id)

    run(scene())
