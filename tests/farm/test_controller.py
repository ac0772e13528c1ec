"""The controller with a pool in memory: jobs from submit to their end, and what people ask of them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from jobs.errors import Failure, ManifestError, UsageError
from jobs.tasks import TaskMessage
from tests.farm.controlled import failing, farm, manifest, over, run, until
from tests.farm.scripted_pool import WAIT, ScriptedPool, ended, finished, started, succeed


@pytest.fixture(autouse=True)
def _toy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FARM_KINDS", "tests.toy")
    monkeypatch.setattr("jobs.scheduler._BACKOFF_S", {})


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


def test_a_farm_that_may_grow_gets_more_workers_for_a_backlog_and_gives_them_back_when_idle(
    tmp_path, monkeypatch
):
    monkeypatch.setattr("farm.upkeep.IDLE_S", 0.2)
    monkeypatch.setattr("farm.upkeep._SCALE_EVERY_S", 0.05)
    released = asyncio.Event()

    def script(worker: str, message: TaskMessage) -> Any:
        if not released.is_set():
            yield WAIT
        yield from succeed(worker, message)

    async def scene() -> None:
        pool = ScriptedPool(1, script)
        async with farm(tmp_path, pool, max_workers=3) as controller:
            long = {"items": 20, "count": 100, "seconds": 1.0}
            job_id = await controller.commands.submit(manifest(tmp_path, long))
            await until(lambda: len(pool.alive) == 3)
            released.set()
            controller.commands.pause(job_id)
            await until(lambda: controller.view.job(job_id)["state"] == "paused")
            controller.commands.resume(job_id)
            assert (await over(controller, job_id))["state"] == "completed"
            await until(lambda: len(pool.alive) == 1)
            assert pool.killed == []

    run(scene())
