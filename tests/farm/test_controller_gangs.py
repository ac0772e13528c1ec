"""Tasks that several workers run together: leased to all or none, over when the last of them has ended."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import replace

import pytest

from farm.dispatch import Limits
from jobs.errors import Failure
from jobs.tasks import Event, GangPlace, Progress, TaskEnded, TaskMessage
from tests.farm.controlled import attempts, farm, manifest, over, run, until
from tests.farm.scripted_pool import DIE, WAIT, ScriptedPool, ended, finished, rank, started, succeed

TWO = {"items": 1, "workers": {"min": 2, "max": 2}}
ONE_OR_TWO = {"items": 1, "workers": {"min": 1, "max": 2}}


@pytest.fixture(autouse=True)
def _toy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FARM_KINDS", "tests.toy")
    monkeypatch.setattr("jobs.scheduler._BACKOFF_S", {})


# --- the lease --------------------------------------------------------------------------------------


class Deaf(ScriptedPool):
    """Its workers do not hear of stopping, until a test tells them."""

    def stop(self, worker: str, task: int, attempt: int, *, at_once: bool = False) -> None:
        self.stops.append((worker, task, attempt, at_once))

    def tell(self, worker: str, message: TaskMessage) -> None:
        super().stop(worker, message.task, message.attempt, at_once=True)


def test_every_member_gets_the_same_attempt_and_its_place_and_the_task_is_done_when_all_have_ended(tmp_path):
    def script(worker: str, message: TaskMessage) -> Iterator[Event | str]:
        if rank(message) == 1:
            yield WAIT
        yield from succeed(worker, message)

    async def scene() -> None:
        pool = Deaf(3, script)
        async with farm(tmp_path, pool) as controller:
            job_id = await controller.commands.submit(manifest(tmp_path, TWO))
            await until(lambda: controller.view.job(job_id)["items"]["done"] == 1 and bool(pool.stops))
            assert controller.view.job(job_id)["tasks"]["leased"] == 1
            (one, first), (two, second) = pool.sent
            pool.tell(two, second)
            assert (await over(controller, job_id))["state"] == "completed"
            assert replace(first, gang=None) == replace(second, gang=None)
            assert first.gang == GangPlace(0, (one, two))
            assert second.gang == GangPlace(1, (one, two))
            [attempt] = attempts(controller)
            assert (attempt["worker"], attempt["members"]) == (one, [one, two])
            assert attempt["outcome"] == "finished"
            assert attempt["device_s"] == pytest.approx(0.2)

    run(scene())


def test_a_task_for_one_or_more_workers_runs_alone_on_a_farm_of_one_and_knows_of_no_gang(tmp_path):
    async def scene() -> None:
        pool = ScriptedPool(1)
        async with farm(tmp_path, pool) as controller:
            await over(controller, await controller.commands.submit(manifest(tmp_path, ONE_OR_TWO)))
            assert [message.gang for _, message in pool.sent] == [None]
            assert attempts(controller)[0]["members"] == ["w1"]

    run(scene())


def test_a_gang_and_chunks_of_other_jobs_are_never_on_one_worker_and_both_end(tmp_path):
    """The pool of these tests notes whatever is sent beside a gang."""

    async def scene() -> None:
        pool = ScriptedPool(2)
        async with farm(tmp_path, pool) as controller:
            submit = controller.commands.submit
            jobs = [await submit(manifest(tmp_path / str(n), {"items": 30})) for n in range(2)]
            jobs += [await submit(manifest(tmp_path / f"g{n}", {**TWO, "items": 3})) for n in range(2)]
            for job_id in jobs:
                assert (await over(controller, job_id))["state"] == "completed"

    run(scene())


def test_what_others_than_the_first_member_say_of_items_counts_for_nothing(tmp_path):
    def script(worker: str, message: TaskMessage) -> Iterator[Event | str]:
        if rank(message) == 1:
            yield started(message, message.items[0])
            yield finished(message, message.items[0], Failure.BAD_INPUT, "not its business")
            yield Progress(message.task, message.attempt, 0.9)
            yield ended(message)
        else:
            yield from succeed(worker, message)

    async def scene() -> None:
        async with farm(tmp_path, ScriptedPool(2, script)) as controller:
            job = await over(controller, await controller.commands.submit(manifest(tmp_path, TWO)))
            assert (job["state"], job["items"]["done"]) == ("completed", 1)
            assert controller.ledger.read("SELECT fraction FROM tasks")[0]["fraction"] == 0

    run(scene())


def test_device_seconds_of_all_members_count_for_their_user(tmp_path):
    async def scene() -> None:
        async with farm(tmp_path, ScriptedPool(2)) as controller:
            await over(controller, await controller.commands.submit(manifest(tmp_path, TWO)))
            used = controller.ledger.read("SELECT device_s FROM usage WHERE user='ann'")[0]["device_s"]
            assert used == pytest.approx(0.2, rel=0.01)
            assert {worker["device_s"] for worker in await controller.workers()} == {0.1}

    run(scene())


# --- when one of them ends ---------------------------------------------------------------------------


@pytest.mark.parametrize("victim", [0, 1])
def test_when_a_member_is_lost_the_others_stop_at_once_and_the_next_attempt_goes_on(tmp_path, victim):
    def script(worker: str, message: TaskMessage) -> Iterator[Event | str]:
        if message.attempt == 1:
            yield started(message, message.items[0])
            yield DIE if rank(message) == victim else WAIT
        yield from succeed(worker, message)

    async def scene() -> None:
        pool = ScriptedPool(2, script)
        async with farm(tmp_path, pool) as controller:
            job = await over(controller, await controller.commands.submit(manifest(tmp_path, TWO)))
            assert job["state"] == "completed"
            assert pool.stops == [(f"w{2 - victim}", pool.sent[0][1].task, 1, True)]
            first, second = attempts(controller)
            assert (first["outcome"], first["failure"]) == ("lost", "worker_lost")
            assert (second["outcome"], len(second["members"])) == ("finished", 2)
            told = [event for event in controller.view.events(job["id"]) if event["type"] == "worker lost"]
            assert len(told) == 1
            assert json.loads(controller.ledger.read("SELECT failures FROM items")[0]["failures"]) == {
                "worker_lost": 1
            }

    run(scene())


def test_a_gang_goes_on_with_the_workers_there_are(tmp_path):
    def script(worker: str, message: TaskMessage) -> Iterator[Event | str]:
        if message.attempt == 1:
            yield DIE if rank(message) == 1 else WAIT
        yield from succeed(worker, message)

    async def scene() -> None:
        pool = ScriptedPool(2, script)
        pool.replaces = False
        async with farm(tmp_path, pool) as controller:
            job = await over(controller, await controller.commands.submit(manifest(tmp_path, ONE_OR_TWO)))
            assert job["state"] == "completed"
            assert [attempt["members"] for attempt in attempts(controller)] == [["w1", "w2"], ["w1"]]

    run(scene())


def test_no_attempt_begins_while_a_member_of_the_last_one_may_still_be_at_it(tmp_path):
    def script(worker: str, message: TaskMessage) -> Iterator[Event | str]:
        if message.attempt == 1:
            yield DIE if rank(message) == 0 else WAIT
        yield from succeed(worker, message)

    async def scene() -> None:
        pool = Deaf(2, script)
        async with farm(tmp_path, pool) as controller:
            job_id = await controller.commands.submit(manifest(tmp_path, ONE_OR_TWO))
            await until(lambda: bool(pool.stops))
            await asyncio.sleep(0.25)
            assert len(pool.sent) == 2
            pool.tell(*pool.sent[1])
            assert (await over(controller, job_id))["state"] == "completed"
            assert attempts(controller)[0]["failure"] == "worker_lost"

    run(scene())


def test_a_member_whose_node_vanished_is_waited_for_until_its_lease_has_run_out(tmp_path):
    def script(worker: str, message: TaskMessage) -> Iterator[Event | str]:
        if message.attempt == 1:
            yield WAIT
        yield from succeed(worker, message)

    async def scene() -> None:
        pool = ScriptedPool(2, script)
        async with farm(tmp_path, pool, limits=Limits(lease_s=0.4)) as controller:
            job_id = await controller.commands.submit(manifest(tmp_path, TWO))
            await until(lambda: len(pool.sent) == 2)
            lease = next(iter(controller.dispatcher.jobs[job_id].leases.values()))
            pool.lose("w2", certain=False)
            await until(lambda: ("w1", lease.task.id, 1, True) in pool.stops)
            deadline = lease.members[1].deadline
            await over(controller, job_id)
            assert asyncio.get_running_loop().time() >= deadline
            assert len(attempts(controller)) == 2

    run(scene())


def test_a_member_that_fails_ends_the_attempt_with_its_reason_and_is_avoided(tmp_path):
    def script(worker: str, message: TaskMessage) -> Iterator[Event | str]:
        if worker == "w2":
            failed = TaskEnded(message.task, message.attempt, "failed", Failure.ERROR, "its disk is gone")
            yield failed
        elif message.attempt == 1:
            yield WAIT
        else:
            yield from succeed(worker, message)

    async def scene() -> None:
        pool = ScriptedPool(3, script)
        async with farm(tmp_path, pool) as controller:
            job = await over(controller, await controller.commands.submit(manifest(tmp_path, TWO)))
            assert job["state"] == "completed"
            first, second = attempts(controller)
            assert (first["outcome"], first["failure"]) == ("failed", "error")
            assert first["reason"] == "w2: its disk is gone"
            assert second["members"] == ["w1", "w3"]
            assert pool.stops == [("w1", pool.sent[0][1].task, 1, True)]

    run(scene())


def test_the_others_do_not_wait_for_a_member_that_stopped_by_itself(tmp_path):
    """Its lease ran out by its own clock, or it was stopped before it had begun."""

    def script(worker: str, message: TaskMessage) -> Iterator[Event | str]:
        if message.attempt == 1:
            yield ended(message, "stopped") if rank(message) == 1 else WAIT
        else:
            yield from succeed(worker, message)

    async def scene() -> None:
        pool = ScriptedPool(2, script)
        async with farm(tmp_path, pool) as controller:
            job = await over(controller, await controller.commands.submit(manifest(tmp_path, TWO)))
            assert job["state"] == "completed"
            assert pool.stops == [("w1", pool.sent[0][1].task, 1, True)]
            assert [attempt["outcome"] for attempt in attempts(controller)] == ["stopped", "finished"]

    run(scene())


def test_a_gang_that_fails_everywhere_is_given_up_with_the_reason(tmp_path):
    def script(worker: str, message: TaskMessage) -> Iterator[Event | str]:
        if rank(message) == 1:
            yield TaskEnded(message.task, message.attempt, "failed", Failure.ERROR, "no such tile")
        else:
            yield WAIT

    async def scene() -> None:
        async with farm(tmp_path, ScriptedPool(2, script)) as controller:
            job = await over(controller, await controller.commands.submit(manifest(tmp_path, TWO)))
            assert (job["state"], job["items"]["failed"]) == ("completed with errors", 1)
            assert "no such tile" in job["failures"][0]["reason"]
            assert len(attempts(controller)) == 3

    run(scene())


def test_a_member_that_does_not_stop_after_the_others_have_ended_is_ended_with_its_worker(tmp_path):
    """What had failed counts, not that a worker was ended for it."""

    def script(worker: str, message: TaskMessage) -> Iterator[Event | str]:
        if message.attempt == 1:
            yield ended(message, "failed", Failure.ERROR) if rank(message) == 0 else WAIT
        else:
            yield from succeed(worker, message)

    async def scene() -> None:
        pool = Deaf(2, script)
        async with farm(tmp_path, pool, limits=Limits(lease_s=0.4)) as controller:
            job = await over(controller, await controller.commands.submit(manifest(tmp_path, TWO)))
            assert job["state"] == "completed"
            assert pool.killed == ["w2"]
            assert [a["failure"] for a in attempts(controller)] == ["error", None]

    run(scene())


def test_a_first_member_that_has_finished_is_not_undone_by_another_that_dies_at_the_end(tmp_path):
    def script(worker: str, message: TaskMessage) -> Iterator[Event | str]:
        if rank(message) == 1:
            yield WAIT
        for item in message.items:
            yield finished(message, item)
        yield ended(message, word="DONE")

    class Dying(ScriptedPool):
        def stop(self, worker: str, task: int, attempt: int, *, at_once: bool = False) -> None:
            self.lose(worker)

    async def scene() -> None:
        pool = Dying(2, script)
        async with farm(tmp_path, pool) as controller:
            job = await over(controller, await controller.commands.submit(manifest(tmp_path, TWO)))
            assert job["state"] == "completed"
            assert job["steps"][0]["result"] == {"word": "DONE"}
            assert [a["outcome"] for a in attempts(controller)] == ["finished"]

    run(scene())


def test_a_gang_that_says_nothing_for_too_long_is_ended_and_tried_again(tmp_path):
    def script(worker: str, message: TaskMessage) -> Iterator[Event | str]:
        if message.attempt == 1:
            yield WAIT
        yield from succeed(worker, message)

    async def scene() -> None:
        pool = ScriptedPool(2, script)
        async with farm(tmp_path, pool, limits=Limits(stall_s=0.3)) as controller:
            job = await over(controller, await controller.commands.submit(manifest(tmp_path, TWO)))
            assert job["state"] == "completed"
            assert sorted(pool.killed) == ["w1", "w2"]
            assert attempts(controller)[0]["failure"] == "timeout"
            assert json.loads(controller.ledger.read("SELECT failures FROM items")[0]["failures"]) == {
                "timeout": 1
            }

    run(scene())


def test_a_gang_one_of_whose_messages_was_lost_begins_again_and_nobody_is_blamed(tmp_path):
    def script(worker: str, message: TaskMessage) -> Iterator[Event | str]:
        if message.attempt == 1:
            yield WAIT
        yield from succeed(worker, message)

    async def scene() -> None:
        pool = ScriptedPool(2, script)
        pool.lose_sends = 1
        async with farm(tmp_path, pool, limits=Limits(lease_s=0.4)) as controller:
            job = await over(controller, await controller.commands.submit(manifest(tmp_path, TWO)))
            assert job["state"] == "completed"
            assert pool.killed == []
            assert controller.ledger.read("SELECT failures FROM items")[0]["failures"] == "{}"

    run(scene())


def test_a_worker_that_spoils_the_gangs_of_three_jobs_is_set_aside_and_not_those_beside_it(tmp_path):
    def script(worker: str, message: TaskMessage) -> Iterator[Event | str]:
        if worker == "w2":
            yield ended(message, "failed", Failure.ERROR)
        elif message.gang and "w2" in message.gang.workers:
            yield WAIT
        else:
            yield from succeed(worker, message)

    async def scene() -> None:
        async with farm(tmp_path, ScriptedPool(3, script)) as controller:
            for _ in range(3):
                job = await over(controller, await controller.commands.submit(manifest(tmp_path, TWO)))
                assert job["state"] == "completed"
            states = {worker["id"]: worker["state"] for worker in await controller.workers()}
            assert states == {"w1": "idle", "w2": "set aside", "w3": "idle"}

    run(scene())
