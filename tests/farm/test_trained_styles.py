"""Steps that make styles: the library hears of each once, and later steps of what was made."""

from __future__ import annotations

from typing import Any

import pytest

from jobs.errors import Failure, StorageError
from jobs.library import Library, StyleEntry
from jobs.states import ItemState
from jobs.tasks import ItemFinished, TaskEnded, TaskMessage
from tests.farm.controlled import farm, over, run, until
from tests.farm.making import done, events, job_of, making, names, returned, states
from tests.farm.scripted_pool import WAIT, ScriptedPool, finished, started

pytestmark = pytest.mark.usefixtures("brewing")


# --- into the library -----------------------------------------------------------------------------


def test_a_style_is_in_the_library_when_its_step_is_done_and_says_where_it_came_from(tmp_path, photos):
    async def scene() -> None:
        async with farm(tmp_path, ScriptedPool(script=making)) as controller:
            job = await done(controller, job_of(tmp_path, "wave"))
            assert job["state"] == "completed"
            entry = controller.library.style("wave")
            assert (entry.format, entry.width, entry.size_bytes) == ("trained", 16, 9)
            assert entry.metadata == {
                "painting": "w.jpg",
                "job": job["id"],
                "step": "make-wave",
                "output": str(tmp_path / "out"),
                "file": str(tmp_path / "out/wave.safetensors"),
            }
            assert entry.sha256 == job["steps"][0]["result"]["sha256"]
            assert events(controller, job, "style") == ["style wave is in the library"]

    run(scene())


def test_later_steps_render_in_what_was_made(tmp_path, photos):
    async def scene() -> None:
        pool = ScriptedPool(script=making)
        async with farm(tmp_path, pool) as controller:
            job = await done(controller, job_of(tmp_path, "wave", "night"))
            assert job["items"]["done"] == 2 + 2 * 2
            assert set(states(job).values()) == {"done"}
            taken = {m.payload["style"]["sha256"] for _, m in pool.sent if m.kind == "stylize"}
            assert taken == {step["result"]["sha256"] for step in job["steps"][:2]}

    run(scene())


def test_a_render_starts_while_other_styles_are_still_made(tmp_path, photos):
    """It is ready as soon as the step that it names is done."""

    def script(worker: str, message: TaskMessage) -> Any:
        if message.payload["style"] == "slow":
            yield started(message, message.items[0])
            yield WAIT
        else:
            yield from making(worker, message)

    async def scene() -> None:
        async with farm(tmp_path, ScriptedPool(script=script)) as controller:
            job = await controller.commands.submit(job_of(tmp_path, "slow", "wave"))
            await until(lambda: states(controller.view.job(job))["render-wave"] == "done")
            assert states(controller.view.job(job)) == {
                "make-slow": "ready",
                "make-wave": "done",
                "render-slow": "blocked",
                "render-wave": "done",
            }
            controller.commands.cancel(job)
            await over(controller, job)

    run(scene())


def test_a_style_that_fails_takes_only_what_needs_it_with_it(tmp_path, photos):
    def script(worker: str, message: TaskMessage) -> Any:
        if message.payload["style"] == "bad":
            yield started(message, message.items[0])
            yield finished(message, message.items[0], Failure.BAD_INPUT, "the painting is broken")
            yield TaskEnded(message.task, message.attempt, "finished")
        else:
            yield from making(worker, message)

    async def scene() -> None:
        async with farm(tmp_path, ScriptedPool(script=script)) as controller:
            job = await done(controller, job_of(tmp_path, "bad", "wave"))
            assert job["state"] == "completed with errors"
            assert states(job) == {
                "make-bad": "failed",
                "make-wave": "done",
                "render-bad": "failed",
                "render-wave": "done",
            }
            reasons = {step["name"]: step["reason"] for step in job["steps"]}
            assert reasons["render-bad"] == "it needs make-bad, which failed"
            assert job["items"]["done"] == 3
            assert job["items"]["failed"] == 1
            assert [failure["reason"] for failure in job["failures"]] == ["the painting is broken"]
            assert names(controller) == ["wave"]

    run(scene())


def test_a_style_that_was_finished_before_is_registered_too(tmp_path, photos):
    def skipping(worker: str, message: TaskMessage) -> Any:
        item = message.items[0].id
        yield ItemFinished(message.task, message.attempt, item, ItemState.SKIPPED, reason="before")
        yield returned(message)

    async def scene() -> None:
        async with farm(tmp_path, ScriptedPool(script=skipping)) as controller:
            job = await done(controller, job_of(tmp_path, "wave", render=False))
            assert job["state"] == "completed"
            assert controller.library.style("wave").metadata["job"] == job["id"]

    run(scene())


# --- names ----------------------------------------------------------------------------------------


def test_a_newer_style_of_the_same_output_takes_the_name_and_another_one_keeps_it(tmp_path, photos):
    async def scene() -> None:
        async with farm(tmp_path, ScriptedPool(script=making)) as controller:
            first = await done(controller, job_of(tmp_path, "wave", render=False))
            second = await done(controller, job_of(tmp_path, "wave", render=False))
            assert controller.library.style("wave").metadata["job"] == second["id"] != first["id"]
            elsewhere = {**job_of(tmp_path, "wave"), "output": str(tmp_path / "elsewhere")}
            job = await done(controller, elsewhere)
            assert job["state"] == "completed"
            assert job["items"]["done"] == 3
            assert controller.library.style("wave").metadata["job"] == second["id"]
            (note,) = job["notes"]
            assert note.startswith("make-wave: its style is not in the library: there is another style named")
            replacing = {
                **job_of(tmp_path, "wave", replace=True, render=False),
                "output": elsewhere["output"],
            }
            job = await done(controller, replacing)
            assert controller.library.style("wave").metadata["job"] == job["id"]

    run(scene())


def test_a_result_that_is_no_style_is_said_and_stops_nothing_else(tmp_path, photos):
    def script(worker: str, message: TaskMessage) -> Any:
        yield started(message, message.items[0])
        yield finished(message, message.items[0])
        yield returned(message, width=None)

    async def scene() -> None:
        async with farm(tmp_path, ScriptedPool(script=script)) as controller:
            job = await done(controller, job_of(tmp_path, "wave", render=False))
            assert job["state"] == "completed"
            assert "what it returned is no style" in job["notes"][0]
            assert names(controller) == []

    run(scene())


@pytest.mark.parametrize("times", [1, 5])
def test_a_store_that_does_not_answer_is_asked_again_a_few_times(tmp_path, photos, monkeypatch, times):
    add, asked = Library.add_trained, []

    def failing(self: Library, entry: StyleEntry, *, replacing: bool = False) -> bool:
        asked.append(entry.name)
        if len(asked) <= times:
            raise StorageError("the store is away")
        return add(self, entry, replacing=replacing)

    monkeypatch.setattr(Library, "add_trained", failing)

    async def scene() -> None:
        async with farm(tmp_path, ScriptedPool(script=making)) as controller:
            job = await done(controller, job_of(tmp_path, "wave", render=False))
            assert job["state"] == "completed"
            assert names(controller) == (["wave"] if times == 1 else [])
            assert ("the store is away" in "".join(job["notes"])) is (times == 5)

    run(scene())
