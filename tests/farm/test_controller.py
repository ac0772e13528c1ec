"""The controller with a pool in memory: jobs from submit to their end, and all that goes wrong on the way."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from farm.controller import Controller, ControllerOptions
from farm.dispatch import Limits
from jobs.errors import Failure, FarmError, ManifestError, UsageError
from jobs.tasks import TaskMessage
from tests.farm.scripted_pool import DIE, WAIT, ScriptedPool, ended, finished, started, succeed

PATIENCE_S = 20.0


@pytest.fixture(autouse=True)
def _toy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FARM_KINDS", "tests.toy")
    monkeypatch.setattr("jobs.scheduler._BACKOFF_S", {})


def manifest(folder: Path, *steps: dict[str, Any], **more: Any) -> dict[str, Any]:
    steps = steps or ({"items": 4, "chunk": 2},)
    named = [{"name": f"s{n}", "kind": "toy", **step} for n, step in enumerate(steps)]
    return {
        "version": 1,
        "name": "toys",
        "user": "ann",
        "output": str(folder / "out"),
        "steps": named,
        **more,
    }


@contextlib.asynccontextmanager
async def farm(folder: Path, pool: ScriptedPool, **options: Any) -> AsyncIterator[Controller]:
    controller = Controller(
        ControllerOptions(
            "f", str(folder / "ledger.sqlite"), str(folder / "store"), str(folder / "cache"), **options
        ),
        pool,
    )
    loop = asyncio.ensure_future(controller.run())
    try:
        yield controller
        check_invariants(controller)
    finally:
        loop.cancel()
        await controller.close()


def check_invariants(controller: Controller) -> None:
    """Counters equal the ledger's sums, each item belongs to a task, nothing is leased by two."""
    for step in controller.ledger.read("SELECT * FROM steps"):
        where = (step["job"], step["name"])
        states = Counter(
            row["state"]
            for row in controller.ledger.read("SELECT state FROM items WHERE job=? AND step=?", *where)
        )
        assert step["total"] == states.total()
        assert [step[s] for s in ("done", "skipped", "failed", "canceled")] == [
            states[s] for s in ("done", "skipped", "failed", "canceled")
        ]
    leased = [task for job in controller.dispatcher.jobs.values() for task in job.leases]
    assert len(leased) == len(set(leased))
    doubled = controller.ledger.read(
        "SELECT task FROM attempts WHERE ended_at IS NULL GROUP BY task HAVING count(*) > 1"
    )
    assert not doubled


async def until(condition: Callable[[], bool], patience_s: float = PATIENCE_S) -> None:
    async with asyncio.timeout(patience_s):
        while not condition():  # noqa: ASYNC110 - the ledger has no event to wait for
            await asyncio.sleep(0.005)


async def over(controller: Controller, job: str) -> dict[str, Any]:
    await until(lambda: controller.view.job(job)["finished_at"] is not None)
    return controller.view.job(job)


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(work)


def test_a_job_goes_from_submit_to_completed_with_every_item_done(tmp_path):
    async def scene() -> None:
        async with farm(tmp_path, ScriptedPool()) as controller:
            job = await over(
                controller, await controller.commands.submit(manifest(tmp_path, {"items": 5, "chunk": 2}))
            )
            assert job["state"] == "completed"
            assert job["items"] == {
                "total": 5,
                "done": 5,
                "skipped": 0,
                "failed": 0,
                "canceled": 0,
                "pending": 0,
            }
            assert job["tasks"]["done"] == 3
            assert (tmp_path / "out/.farm/jobs" / job["id"] / "report.json").exists()

    run(scene())


def test_the_same_client_token_gives_the_same_job(tmp_path):
    async def scene() -> None:
        async with farm(tmp_path, ScriptedPool()) as controller:
            submit = controller.commands.submit
            assert await submit(manifest(tmp_path), "t") == await submit(manifest(tmp_path), "t")
            assert len(controller.view.jobs()) == 1
            await over(controller, controller.view.jobs()[0]["id"])

    run(scene())


def test_a_wrong_manifest_is_refused_and_leaves_nothing(tmp_path):
    async def scene() -> None:
        async with farm(tmp_path, ScriptedPool()) as controller:
            with pytest.raises(ManifestError, match=r"steps\[0\]"):
                await controller.commands.submit(manifest(tmp_path, {"items": "many"}))
            assert controller.view.jobs() == []

    run(scene())


def test_a_job_whose_folders_a_worker_cannot_see_is_refused_with_what_to_do(tmp_path):
    async def scene() -> None:
        pool = ScriptedPool()
        pool.blind = {"w2": [str(tmp_path / "out")]}
        async with farm(tmp_path, pool) as controller:
            with pytest.raises(UsageError, match="w2 cannot see") as caught:
                await controller.commands.submit(manifest(tmp_path))
            assert "s3://" in caught.value.hint

    run(scene())


def failing(which: str, failure: Failure, times: int = 10**9) -> Callable[[str, TaskMessage], Any]:
    """Return a script in which one item fails in a way, some times."""
    seen: Counter[str] = Counter()

    def script(worker: str, message: TaskMessage) -> Any:
        for item in message.items:
            yield started(message, item)
            if which in item.output_key and seen[which] < times:
                seen[which] += 1
                yield finished(message, item, failure, "because")
            else:
                yield finished(message, item)
        yield ended(message)

    return script


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
            deadline = next(iter(controller.dispatcher.jobs[job_id].leases.values())).deadline
            pool.lose("w1", certain=False)
            await over(controller, job_id)
            assert asyncio.get_running_loop().time() >= deadline

    run(scene())


def test_pause_stops_within_a_chunk_and_resume_goes_on_with_the_rest(tmp_path):
    def script(worker: str, message: TaskMessage) -> Any:
        if message.attempt == 1:
            yield started(message, message.items[0])
            yield finished(message, message.items[0])
            yield WAIT
        yield from succeed(worker, message)

    async def scene() -> None:
        pool = ScriptedPool(1, script)
        async with farm(tmp_path, pool) as controller:
            job_id = await controller.commands.submit(manifest(tmp_path, {"items": 3, "chunk": 3}))
            await until(lambda: controller.view.job(job_id)["items"]["done"] == 1)
            controller.commands.pause(job_id)
            await until(lambda: controller.view.job(job_id)["state"] == "paused")
            assert controller.view.job(job_id)["tasks"]["queued"] == 1
            sent = len(pool.sent)
            await asyncio.sleep(0.25)
            assert len(pool.sent) == sent
            controller.commands.resume(job_id)
            job = await over(controller, job_id)
            assert job["state"] == "completed"
            assert [item.output_key for item in pool.sent[-1][1].items] == ["s0-1.txt", "s0-2.txt"]

    run(scene())


def test_a_job_is_canceled_only_when_its_workers_have_confirmed(tmp_path):
    def script(worker: str, message: TaskMessage) -> Any:
        yield started(message, message.items[0])
        yield WAIT

    async def scene() -> None:
        async with farm(tmp_path, ScriptedPool(1, script)) as controller:
            job_id = await controller.commands.submit(manifest(tmp_path, {"items": 4, "chunk": 1}))
            await until(lambda: controller.view.job(job_id)["tasks"]["leased"] == 2)
            controller.commands.cancel(job_id)
            assert controller.view.job(job_id)["state"] == "canceling"
            job = await over(controller, job_id)
            assert job["state"] == "canceled"
            assert job["items"]["canceled"] == 4
            with pytest.raises(UsageError, match="has ended"):
                controller.commands.cancel(job_id)

    run(scene())


def test_a_canceled_task_that_does_not_stop_is_ended_with_its_worker(tmp_path, monkeypatch):
    monkeypatch.setattr("farm.dispatch.CANCEL_GRACE_S", 0.1)
    monkeypatch.setattr(ScriptedPool, "stop", lambda *_: None)

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


def test_a_job_stops_early_when_more_items_failed_than_it_allows_and_retry_goes_on(tmp_path):
    broken = True

    def script(worker: str, message: TaskMessage) -> Any:
        for item in message.items:
            yield finished(message, item, Failure.BAD_INPUT if broken else None, "broken")
        yield ended(message)

    async def scene() -> None:
        nonlocal broken
        async with farm(tmp_path, ScriptedPool(1, script)) as controller:
            job_id = await controller.commands.submit(manifest(tmp_path, {"items": 20}, max_failed=2))
            job = await over(controller, job_id)
            assert job["state"] == "failed"
            assert "max_failed" in job["reason"]
            assert job["items"]["pending"] > 10
            broken = False
            controller.commands.retry(job_id)
            await until(lambda: controller.view.job(job_id)["state"] == "completed")
            assert controller.view.job(job_id)["items"]["done"] == 20

    run(scene())


def test_retry_tries_the_failed_items_only(tmp_path):
    async def scene() -> None:
        pool = ScriptedPool(script=failing("s0-1", Failure.BAD_INPUT, times=1))
        async with farm(tmp_path, pool) as controller:
            job_id = await controller.commands.submit(manifest(tmp_path))
            await over(controller, job_id)
            sent = len(pool.sent)
            controller.commands.retry(job_id)
            job = await over(controller, job_id)
            assert job["state"] == "completed"
            assert [[i.output_key for i in m.items] for _, m in pool.sent[sent:]] == [["s0-1.txt"]]
            with pytest.raises(UsageError, match="nothing to try again"):
                controller.commands.retry(job_id)

    run(scene())


def test_a_later_step_gets_what_an_earlier_one_made_and_starts_while_others_still_run(tmp_path):
    released = asyncio.Event()

    def script(worker: str, message: TaskMessage) -> Any:
        if message.step == "slow" and not released.is_set():
            yield WAIT
        for item in message.items:
            yield finished(message, item)
        yield ended(message, word=message.payload["word"].upper())

    async def scene() -> None:
        pool = ScriptedPool(2, script)
        steps = (
            {"name": "quick", "word": "first"},
            {"name": "slow", "word": "other"},
            {"name": "after", "needs": ["quick"], "word": {"from": "quick"}},
        )
        async with farm(tmp_path, pool) as controller:
            job_id = await controller.commands.submit(manifest(tmp_path, *steps))
            await until(lambda: any(m.step == "after" for _, m in pool.sent))
            states = {step["name"]: step["state"] for step in controller.view.job(job_id)["steps"]}
            assert states["slow"] == "ready"
            assert next(m.payload["word"] for _, m in pool.sent if m.step == "after") == "FIRST"
            released.set()
            controller.commands.pause(job_id)
            await until(lambda: controller.view.job(job_id)["state"] == "paused")
            controller.commands.resume(job_id)
            assert (await over(controller, job_id))["state"] == "completed"

    run(scene())


def test_a_step_that_fails_takes_only_those_with_it_that_need_it(tmp_path):
    async def scene() -> None:
        pool = ScriptedPool(script=failing("bad", Failure.BAD_INPUT))
        steps = (
            {"name": "bad"},
            {"name": "good"},
            {"name": "after-bad", "needs": ["bad"]},
            {"name": "after-good", "needs": ["good"]},
        )
        async with farm(tmp_path, pool) as controller:
            job = await over(controller, await controller.commands.submit(manifest(tmp_path, *steps)))
            assert job["state"] == "completed with errors"
            assert {s["name"]: s["state"] for s in job["steps"]} == {
                "bad": "failed",
                "good": "done",
                "after-bad": "failed",
                "after-good": "done",
            }

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
            states = {worker["id"]: worker["state"] for worker in controller.workers()}
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
    class CutError(FarmError):
        pass

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
