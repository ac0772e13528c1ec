"""Results of steps that make styles, lost on the way: they are asked for again, and nothing is made twice."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from jobs.errors import Failure
from jobs.tasks import TaskEnded, TaskMessage
from tests.farm.controlled import attempts, farm, over, run, until
from tests.farm.making import done, first_then, job_of, making, names, states
from tests.farm.scripted_pool import DIE, WAIT, ScriptedPool, finished, started

pytestmark = pytest.mark.usefixtures("brewing")


# --- a result that is lost on the way ---------------------------------------------------------------


def test_a_worker_that_is_lost_before_it_returned_the_style_is_followed_by_one_that_does(tmp_path, photos):
    """What is made is not made again: the next attempt gets the finished item to return it."""

    def lose(message: TaskMessage) -> Any:
        yield finished(message, message.items[0])
        yield DIE

    async def scene() -> None:
        pool = ScriptedPool(script=first_then(lose))
        async with farm(tmp_path, pool) as controller:
            job = await done(controller, job_of(tmp_path, "wave"))
            assert job["state"] == "completed"
            assert job["items"]["done"] == 3
            makers = [message for _, message in pool.sent if message.kind == "brew"]
            assert [message.attempt for message in makers] == [1, 2]
            assert makers[0].items == makers[1].items
            assert controller.library.style("wave").metadata["job"] == job["id"]

    run(scene())


@pytest.mark.parametrize("outcome", ["failed", "finished", "lost"])
def test_a_style_that_is_never_returned_fails_its_step_when_the_budget_is_spent(tmp_path, photos, outcome):
    def script(worker: str, message: TaskMessage) -> Any:
        if message.attempt == 1:
            yield started(message, message.items[0])
            yield finished(message, message.items[0])
        if outcome == "lost":
            yield DIE
        failure = Failure.ERROR if outcome == "failed" else None
        yield TaskEnded(message.task, message.attempt, outcome, failure, "no room for it")

    async def scene() -> None:
        async with farm(tmp_path, ScriptedPool(script=script)) as controller:
            job = await done(controller, job_of(tmp_path, "wave"))
            assert job["state"] == "completed with errors"
            assert states(job) == {"make-wave": "failed", "render-wave": "failed"}
            assert job["steps"][0]["reason"].startswith("it made no style: ")
            assert len(attempts(controller)) == 3
            assert names(controller) == []

    run(scene())


def test_a_style_that_was_not_returned_can_be_tried_again(tmp_path, photos):
    made: list[int] = []

    def script(worker: str, message: TaskMessage) -> Any:
        if message.kind == "brew" and len(made) < 3:
            made.append(message.attempt)
            if message.attempt == 1:
                yield started(message, message.items[0])
                yield finished(message, message.items[0])
            yield TaskEnded(message.task, message.attempt, "failed", Failure.ERROR, "no room for it")
        else:
            yield from making(worker, message)

    async def scene() -> None:
        async with farm(tmp_path, ScriptedPool(script=script)) as controller:
            job = await done(controller, job_of(tmp_path, "wave"))
            assert job["state"] == "completed with errors"
            controller.commands.retry(job["id"])
            job = await over(controller, job["id"])
            assert job["state"] == "completed"
            assert set(states(job).values()) == {"done"}
            assert controller.library.style("wave").metadata["job"] == job["id"]

    run(scene())


# --- between two controllers ------------------------------------------------------------------------


def test_a_style_whose_controller_ends_before_it_is_registered_is_registered_by_the_next(
    tmp_path, photos, monkeypatch
):
    async def never(*_: Any) -> None:
        await asyncio.Event().wait()

    async def scene() -> None:
        with monkeypatch.context() as patch:
            patch.setattr("farm.registration.Registrar.register", never)
            async with farm(tmp_path, ScriptedPool(script=making)) as controller:
                job = await controller.commands.submit(job_of(tmp_path, "wave"))
                await until(lambda: bool(controller.view.job(job)["steps"][0]["result"]))
                assert states(controller.view.job(job)) == {"make-wave": "ready", "render-wave": "blocked"}
        pool = ScriptedPool(script=making)
        async with farm(tmp_path, pool) as controller:
            assert (await over(controller, job))["state"] == "completed"
            assert controller.library.style("wave").metadata["job"] == job
            assert {message.kind for _, message in pool.sent} == {"stylize"}

    run(scene())


def test_a_controller_that_ends_before_it_heard_of_the_result_asks_for_it_again(tmp_path, photos):
    """The item is done by then; the one that comes next lets the task return what was made."""

    def silent(message: TaskMessage) -> Any:
        yield finished(message, message.items[0])
        yield WAIT

    async def scene() -> None:
        async with farm(tmp_path, ScriptedPool(script=first_then(silent))) as controller:
            job = await controller.commands.submit(job_of(tmp_path, "wave"))
            await until(lambda: controller.view.job(job)["items"]["done"] == 1)
        async with farm(tmp_path, ScriptedPool(script=making)) as controller:
            assert (await over(controller, job))["state"] == "completed"
            assert controller.library.style("wave").metadata["job"] == job

    run(scene())


def test_a_canceled_job_leaves_the_styles_that_it_made(tmp_path, photos):
    def script(worker: str, message: TaskMessage) -> Any:
        if message.payload["style"] == "slow":
            yield started(message, message.items[0])
            yield WAIT
        else:
            yield from making(worker, message)

    async def scene() -> None:
        async with farm(tmp_path, ScriptedPool(script=script)) as controller:
            job = await controller.commands.submit(job_of(tmp_path, "slow", "wave", render=False))
            await until(lambda: states(controller.view.job(job))["make-wave"] == "done")
            controller.commands.cancel(job)
            assert (await over(controller, job))["state"] == "canceled"
            assert names(controller) == ["wave"]

    run(scene())
