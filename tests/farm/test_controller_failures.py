"""The controller with a pool in memory: all that goes wrong between submit and the end of a job."""

from __future__ import annotations

import asyncio
import contextlib
import random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from farm.controller import Controller, ControllerOptions
from farm.dispatch import Limits
from jobs.errors import Failure, StorageError, UsageError
from jobs.tasks import TaskMessage
from tests.farm.controlled import failing, farm, manifest, over, run, until
from tests.farm.scripted_pool import DIE, WAIT, ScriptedPool, ended, finished, started, succeed


@pytest.fixture(autouse=True)
def _toy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FARM_KINDS", "tests.toy")
    monkeypatch.setattr("jobs.scheduler._BACKOFF_S", {})


def test_a_bad_item_fails_itself_at_once_and_neither_its_chunk_nor_its_job(tmp_path):
    async def scene() -> None:
        pool = ScriptedPool(script=failing("s0-1", Failure.BAD_INPUT))
        async with farm(tmp_path, pool) as controller:
            job = await over(controller, await controller.commands.submit(manifest(tmp_path)))
            assert job["state"] == "completed with errors"
            assert (job["items"]["done"], job["items"]["failed"]) == (3, 1)
            assert [f["reason"] for f in job["failures"]] == ["because"]
            assert len(pool.sent) == 2

    run(scene())


@pytest.mark.parametrize("failure", [Failure.STORAGE, Failure.ERROR, Failure.OUTPUT_CHECK, Failure.TIMEOUT])
def test_what_may_pass_is_tried_again_for_that_item_alone_on_another_worker(tmp_path, failure):
    async def scene() -> None:
        pool = ScriptedPool(script=failing("s0-1", failure, times=1))
        async with farm(tmp_path, pool) as controller:
            job = await over(controller, await controller.commands.submit(manifest(tmp_path)))
            assert job["state"] == "completed"
            first, again = [(w, m) for w, m in pool.sent if "s0-1" in str(m.items)]
            assert [item.output_key for item in again[1].items] == ["s0-1.txt"]
            assert again[1].attempt == first[1].attempt + 1
            assert again[0] != first[0]

    run(scene())


@pytest.mark.parametrize("error", [StorageError("the disk is full"), TypeError("a mistake")])
def test_a_report_that_cannot_be_written_is_said_and_does_not_keep_the_job_from_ending(
    tmp_path, monkeypatch, error
):
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("farm.lifecycle.write_report", fail)

    async def scene() -> None:
        async with farm(tmp_path, ScriptedPool(script=succeed)) as controller:
            job = await over(controller, await controller.commands.submit(manifest(tmp_path)))
            assert job["state"] == "completed"
            assert "the report could not be written" in job["reason"]
            assert str(error) in job["reason"]

    run(scene())


def test_a_failure_that_stays_is_given_up_after_its_budget(tmp_path):
    async def scene() -> None:
        pool = ScriptedPool(script=failing("s0-1", Failure.ERROR))
        async with farm(tmp_path, pool) as controller:
            job = await over(controller, await controller.commands.submit(manifest(tmp_path)))
            assert (job["items"]["done"], job["items"]["failed"]) == (3, 1)
            assert len([m for _, m in pool.sent if "s0-1" in str(m.items)]) == 3

    run(scene())


def test_the_item_that_kills_workers_fails_alone_and_its_chunk_survives(tmp_path):
    def script(worker: str, message: TaskMessage) -> Any:
        for item in message.items:
            yield started(message, item)
            if item.output_key == "s0-2.txt":
                yield DIE
            yield finished(message, item)
        yield ended(message)

    async def scene() -> None:
        pool = ScriptedPool(script=script)
        async with farm(tmp_path, pool) as controller:
            job = await over(
                controller, await controller.commands.submit(manifest(tmp_path, {"items": 6, "chunk": 6}))
            )
            assert (job["items"]["done"], job["items"]["failed"]) == (5, 1)
            assert job["failures"][0]["failure"] == "worker_lost"
            assert len([m for _, m in pool.sent if "s0-2" in str(m.items)]) == 3
            kinds = [event["type"] for event in controller.view.events(job["id"])]
            assert kinds.count("worker lost") >= 3
            assert "split" in kinds

    run(scene())


def test_a_chunk_that_waited_behind_the_one_that_died_is_not_blamed(tmp_path):
    """Two chunks are sent to a worker ahead; the death of the first must cost the second nothing."""
    deaths = 0

    def script(worker: str, message: TaskMessage) -> Any:
        nonlocal deaths
        if message.items[0].output_key == "s0-0.txt" and deaths < 2:
            deaths += 1
            yield DIE
        yield from succeed(worker, message)

    async def scene() -> None:
        async with farm(tmp_path, ScriptedPool(1, script)) as controller:
            job = await over(
                controller, await controller.commands.submit(manifest(tmp_path, {"items": 2, "chunk": 1}))
            )
            assert job["state"] == "completed"
            rows = controller.ledger.read("SELECT output_key, failures FROM items ORDER BY id")
            assert [(r["output_key"], r["failures"]) for r in rows] == [
                ("s0-0.txt", '{"worker_lost": 2}'),
                ("s0-1.txt", "{}"),
            ]

    run(scene())


def test_what_an_attempt_without_a_lease_says_counts_for_nothing(tmp_path):
    held: list[TaskMessage] = []

    def script(worker: str, message: TaskMessage) -> Any:
        if worker == "w1":
            held.append(message)
            yield WAIT
        else:
            yield from succeed(worker, message)

    async def scene() -> None:
        pool = ScriptedPool(1, script)
        async with farm(tmp_path, pool) as controller:
            job_id = await controller.commands.submit(manifest(tmp_path, {"items": 1}))
            await until(lambda: bool(held))
            pool.lose("w1")
            await over(controller, job_id)
            before = controller.view.items(job_id)
            controller.dispatcher.worker_says(
                "w2", [finished(held[0], held[0].items[0], Failure.ERROR), ended(held[0])]
            )
            controller.dispatcher.worker_says("w1", [finished(held[0], held[0].items[0], Failure.ERROR)])
            assert controller.view.items(job_id) == before
            assert before["items"][0]["attempt"] == 2

    run(scene())


def test_a_worker_that_falls_silent_is_ended_and_its_work_goes_on_elsewhere(tmp_path):
    def script(worker: str, message: TaskMessage) -> Any:
        if worker == "w1":
            yield WAIT
        yield from succeed(worker, message)

    async def scene() -> None:
        pool = ScriptedPool(1, script)
        pool.frozen.add("w1")
        async with farm(tmp_path, pool, limits=Limits(lease_s=0.3)) as controller:
            job = await over(controller, await controller.commands.submit(manifest(tmp_path)))
            assert job["state"] == "completed"
            assert pool.killed == ["w1"]

    run(scene())


def test_the_items_of_a_worker_whose_node_vanished_wait_for_the_lease_to_run_out(tmp_path):
    """It may be alive and writing where nobody reaches it."""

    def script(worker: str, message: TaskMessage) -> Any:
        if worker == "w1":
            yield WAIT
        yield from succeed(worker, message)

    async def scene() -> None:
        pool = ScriptedPool(1, script)
        async with farm(tmp_path, pool, limits=Limits(lease_s=0.4)) as controller:
            job_id = await controller.commands.submit(manifest(tmp_path, {"items": 1}))
            await until(lambda: bool(pool.sent))
            deadline = next(iter(controller.dispatcher.jobs[job_id].leases.values())).members[0].deadline
            pool.lose("w1", certain=False)
            await over(controller, job_id)
            assert asyncio.get_running_loop().time() >= deadline

    run(scene())


def test_a_canceled_task_that_does_not_stop_is_ended_with_its_worker(tmp_path, monkeypatch):
    monkeypatch.setattr("farm.upkeep.CANCEL_GRACE_S", 0.1)
    monkeypatch.setattr(ScriptedPool, "stop", lambda *_, **__: None)

    def script(worker: str, message: TaskMessage) -> Any:
        yield WAIT

    async def scene() -> None:
        pool = ScriptedPool(1, script)
        async with farm(tmp_path, pool) as controller:
            job_id = await controller.commands.submit(manifest(tmp_path))
            await until(lambda: bool(pool.sent))
            controller.commands.cancel(job_id)
            assert (await over(controller, job_id))["state"] == "canceled"
            assert pool.killed == ["w1"]

    run(scene())


def test_a_worker_that_fails_tasks_of_three_jobs_in_a_row_is_set_aside_and_says_so(tmp_path):
    def script(worker: str, message: TaskMessage) -> Any:
        if worker == "w1":
            yield ended(message, "failed", Failure.ERROR)
        else:
            yield from succeed(worker, message)

    async def scene() -> None:
        async with farm(tmp_path, ScriptedPool(2, script)) as controller:
            for _ in range(4):
                job_id = await controller.commands.submit(manifest(tmp_path, {"items": 6}))
                assert (await over(controller, job_id))["state"] == "completed"
            states = {worker["id"]: worker["state"] for worker in await controller.workers()}
            assert states["w1"] == "set aside"
            told = [event for event in controller.view.events(None) if event["type"] == "worker set aside"]
            assert len(told) == 1

    run(scene())


def test_a_controller_that_starts_again_goes_on_where_the_ledger_says(tmp_path):
    """What was leased is tried again and blames nobody; what was done is not made twice."""

    def stuck(worker: str, message: TaskMessage) -> Any:
        yield started(message, message.items[0])
        yield finished(message, message.items[0])
        yield started(message, message.items[1])
        yield WAIT

    async def first() -> str:
        controller = Controller(
            ControllerOptions(
                "f", str(tmp_path / "ledger.sqlite"), str(tmp_path / "store"), str(tmp_path / "cache")
            ),
            ScriptedPool(1, stuck),
        )
        loop = asyncio.ensure_future(controller.run())
        job_id = await controller.commands.submit(manifest(tmp_path, {"items": 3, "chunk": 3}))
        await until(lambda: controller.view.job(job_id)["items"]["done"] == 1)
        await asyncio.sleep(0.15)
        loop.cancel()
        return job_id

    async def second(job_id: str) -> None:
        pool = ScriptedPool(1)
        async with farm(tmp_path, pool) as controller:
            job = await over(controller, job_id)
            assert job["state"] == "completed"
            assert [[i.output_key for i in m.items] for _, m in pool.sent] == [["s0-1.txt", "s0-2.txt"]]
            assert pool.sent[0][1].attempt == 2
            rows = controller.ledger.read("SELECT failures FROM items")
            assert all(row["failures"] == "{}" for row in rows)

    job_id = asyncio.run(first())
    run(second(job_id))


def test_a_plan_that_was_cut_off_is_made_again(tmp_path, monkeypatch):
    async def cut(*_: Any) -> None:
        await asyncio.Event().wait()

    async def first() -> str:
        controller = Controller(
            ControllerOptions(
                "f", str(tmp_path / "ledger.sqlite"), str(tmp_path / "store"), str(tmp_path / "cache")
            ),
            ScriptedPool(1),
        )
        with monkeypatch.context() as patch:
            patch.setattr("farm.planning.Planner._finish", cut)
            loop = asyncio.ensure_future(controller.run())
            job_id = await controller.commands.submit(manifest(tmp_path))
            await until(lambda: controller.view.job(job_id)["items"]["total"] == 4)
            controller.ledger.update("steps", {"planned": 0}, job=job_id, name="s0")
            controller.ledger.commit()
            assert controller.view.job(job_id)["state"] == "planning"
            loop.cancel()
        return job_id

    async def second(job_id: str) -> None:
        async with farm(tmp_path, ScriptedPool(1)) as controller:
            job = await over(controller, job_id)
            assert job["state"] == "completed"
            assert job["items"]["total"] == 4

    job_id = asyncio.run(first())
    run(second(job_id))


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32 - 1))
def test_whatever_workers_do_every_item_ends_once_and_every_counter_is_right(tmp_path_factory, seed):
    """Random walks: items fail in every class, workers die, tasks raise, people pause, resume and cancel."""
    folder = tmp_path_factory.mktemp("walk")
    dice = random.Random(seed)  # noqa: S311 - dice, no secret

    def script(worker: str, message: TaskMessage) -> Any:
        for item in message.items:
            yield started(message, item)
            roll = dice.random()
            if roll < 0.04:
                yield DIE
            if roll < 0.25:
                yield finished(
                    message, item, dice.choice([f for f in Failure if f is not Failure.PREEMPTED]), "dice"
                )
            elif roll < 0.3:
                yield ended(message, "failed", Failure.ERROR)
                return
            else:
                yield finished(message, item)
        yield ended(message)

    async def scene() -> None:
        pool = ScriptedPool(dice.randint(1, 3), script)
        async with farm(folder, pool) as controller:
            commands = controller.commands
            jobs = [
                await commands.submit(
                    manifest(folder, {"items": dice.randint(1, 9), "chunk": dice.randint(1, 4)})
                )
                for _ in range(dice.randint(1, 3))
            ]
            for _ in range(6):
                job = dice.choice(jobs)
                with contextlib.suppress(UsageError):
                    dice.choice([commands.pause, commands.resume, commands.cancel])(job)
                await asyncio.sleep(0.01)
            for job in jobs:
                with contextlib.suppress(UsageError):
                    commands.resume(job)
            for job in jobs:
                state = await over(controller, job)
                assert state["items"]["pending"] == 0
                assert state["tasks"]["leased"] == state["tasks"]["queued"] == 0

    run(scene())
