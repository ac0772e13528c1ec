"""Steps that make styles: the library hears of each once, and later steps of what was made."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from farm.controller import Controller
from jobs.errors import Failure, StorageError
from jobs.library import Library, StyleEntry
from jobs.states import ItemState
from jobs.tasks import ItemFinished, TaskEnded, TaskMessage
from tests.farm.controlled import attempts, farm, over, run, until
from tests.farm.scripted_pool import DIE, WAIT, Script, ScriptedPool, finished, started, succeed


@pytest.fixture(autouse=True)
def _kinds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FARM_KINDS", "tests.brew")
    monkeypatch.setattr("jobs.scheduler._BACKOFF_S", {})
    monkeypatch.setattr("farm.registration._PAUSES_S", (0.0, 0.0))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder with two photographs."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("a.jpg", "b.jpg"):
        (folder / name).write_bytes(b"x")
    return folder


def job_of(folder: Path, *styles: str, render: bool = True, **said: Any) -> dict[str, Any]:
    """Return a job that makes styles, and renders in each."""
    steps: list[dict[str, Any]] = [
        {"name": f"make-{style}", "kind": "brew", "style": style, **said} for style in styles
    ]
    steps += [
        {
            "name": f"render-{style}",
            "kind": "stylize",
            "inputs": [str(folder / "photos")],
            "styles": [{"from": f"make-{style}"}],
        }
        for style in (styles if render else ())
    ]
    return {"version": 1, "name": "styles", "user": "ann", "output": str(folder / "out"), "steps": steps}


def result_of(message: TaskMessage, **entry: Any) -> dict[str, Any]:
    """Return what a task that made a style returns."""
    name = message.payload["style"]
    told = {"format": "trained", "width": 16, "size_bytes": 9, "metadata": {"painting": "w.jpg"}, **entry}
    return {
        "name": name,
        "sha256": hashlib.sha256(f"{name} {message.job}".encode()).hexdigest(),
        "entry": told,
    }


def returned(message: TaskMessage, **entry: Any) -> TaskEnded:
    return TaskEnded(
        message.task, message.attempt, "finished", device_s=0.1, result=result_of(message, **entry)
    )


def making(worker: str, message: TaskMessage) -> Any:
    """Make a style and return it; render whatever else there is."""
    if message.kind != "brew":
        yield from succeed(worker, message)
        return
    (item,) = message.items
    yield started(message, item)
    yield finished(message, item)
    yield returned(message)


def first_then(first: Callable[[TaskMessage], Any]) -> Script:
    """Return a script whose first attempts to make a style end otherwise."""

    def script(worker: str, message: TaskMessage) -> Any:
        if message.kind == "brew" and message.attempt == 1:
            yield started(message, message.items[0])
            yield from first(message)
        else:
            yield from making(worker, message)

    return script


def states(job: dict[str, Any]) -> dict[str, str]:
    return {step["name"]: step["state"] for step in job["steps"]}


async def done(controller: Controller, document: dict[str, Any]) -> dict[str, Any]:
    return await over(controller, await controller.commands.submit(document))


def events(controller: Controller, job: dict[str, Any], type_: str) -> list[str]:
    return [event["text"] for event in controller.view.events(job["id"]) if event["type"] == type_]


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
            assert [entry.name for entry in controller.library.styles()] == ["wave"]

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
            assert controller.library.styles() == []

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
            names = [entry.name for entry in controller.library.styles()]
            assert names == (["wave"] if times == 1 else [])
            assert ("the store is away" in "".join(job["notes"])) is (times == 5)

    run(scene())


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
            assert controller.library.styles() == []

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
            assert [entry.name for entry in controller.library.styles()] == ["wave"]

    run(scene())
