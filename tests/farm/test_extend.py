"""More iterations for finished optimizations: which job that makes, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from farm.controller import Controller
from farm.extending import More
from jobs import optimize_step
from jobs.checkpoints import kept_states
from jobs.errors import Failure, ManifestError, UsageError
from jobs.library import NetworkEntry
from jobs.optimize import state_name
from jobs.optimize_step import OptimizeStep
from jobs.states import ItemState
from jobs.steps import StepKind, step_kinds
from jobs.storage.local import LocalStore
from jobs.tasks import ItemFinished, TaskMessage
from tests.farm.controlled import failing, farm, over, run, until
from tests.farm.scripted_pool import WAIT, ScriptedPool, ended, started


@pytest.fixture(autouse=True)
def _unexamined(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let plans be made without the kind of work, which would load torch to look at them."""
    monkeypatch.setenv("FARM_KINDS", "tests.toy")
    step_kinds()
    kind = StepKind("optimize", OptimizeStep, optimize_step.plan, optimize_step.check)
    monkeypatch.setitem(__import__("jobs.steps", fromlist=["_KINDS"])._KINDS, "optimize", kind)


def keeping(worker: str, message: TaskMessage) -> Any:
    """Finish every item and keep its state, as the kind of work does."""
    for item in message.items:
        yield started(message, item)
        store = LocalStore(message.output)
        kept_states(store, message.job, state_name(item.output_key), message.attempt).save(b"state")
        yield ItemFinished(message.task, message.attempt, item.id, ItemState.DONE, detail={"width_px": 1})
    yield ended(message)


def skipping(worker: str, message: TaskMessage) -> Any:
    for item in message.items:
        yield ItemFinished(message.task, message.attempt, item.id, ItemState.SKIPPED)
    yield ended(message)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with two photographs and a painting."""
    (tmp_path / "photos").mkdir()
    for name in ("photos/a.jpg", "photos/b.jpg", "night.jpg"):
        (tmp_path / name).write_bytes(name.encode())
    return tmp_path


def optimization(folder: Path, **said: Any) -> dict[str, Any]:
    step = {
        "name": "render",
        "kind": "optimize",
        "inputs": [str(folder / "photos")],
        "style_images": [str(folder / "night.jpg")],
        **said,
    }
    return {"version": 1, "name": "night", "output": str(folder / "out"), "steps": [step]}


async def submitted(controller: Controller, document: dict[str, Any]) -> str:
    """Submit a job to a farm that has a loss network."""
    sha256 = controller.library.put(b"weights")
    controller.library.add_network(
        NetworkEntry("vgg19", sha256, "vgg19", "torchvision", False, "conv5_4", 7, 0.0)
    )
    return await controller.commands.submit(document)


async def done(controller: Controller, document: dict[str, Any]) -> str:
    job = await submitted(controller, document)
    await over(controller, job)
    return job


def test_an_extension_is_a_new_job_into_the_same_output_that_goes_on_from_the_old_one(folder):
    async def scene() -> None:
        pool = ScriptedPool(2, keeping)
        async with farm(folder, pool) as controller:
            first = await done(controller, optimization(folder))
            second = await controller.commands.extend(first, More(iterations=50))
            job = await over(controller, second)
            assert (job["state"], job["items"]["done"], job["name"]) == ("completed", 2, "night")
            assert job["output"] == str(folder / "out")
            third = await controller.commands.extend("night", More(iterations=20))
            await over(controller, third)
            said = [message.payload.get("extends") for _, message in pool.sent]
            assert said[:2] == [None, None]
            assert said[2:4] == [{"job": first, "iterations": [50]}] * 2
            assert said[4:] == [{"job": second, "iterations": [50, 20]}] * 2
            kept = json.loads((folder / "out/.farm/jobs" / second / "manifest.json").read_text())
            assert kept["steps"][0]["extends"] == {"job": first, "iterations": [50]}

    run(scene())


def test_paintings_and_networks_are_those_of_the_old_job(folder):
    async def scene() -> None:
        pool = ScriptedPool(1, keeping)
        async with farm(folder, pool) as controller:
            first = await done(controller, optimization(folder))
            (folder / "night.jpg").unlink()
            controller.library.remove_network("vgg19")
            await over(controller, await controller.commands.extend(first, More(iterations=5)))
            before, after = pool.sent[0][1].payload, pool.sent[-1][1].payload
            assert (after["styles"], after["network"]) == (before["styles"], before["network"])

    run(scene())


def test_only_the_optimizations_of_a_job_go_on(folder):
    async def scene() -> None:
        async with farm(folder, ScriptedPool(1, keeping)) as controller:
            document = optimization(folder, needs=["count"])
            document["steps"].insert(0, {"name": "count", "kind": "toy"})
            first = await done(controller, document)
            second = await controller.commands.extend(first, More(iterations=5))
            (step,) = controller.view.manifest(second)["steps"]
            assert (step["name"], step["needs"]) == ("render", [])
            assert (await over(controller, second))["state"] == "completed"

    run(scene())


def test_the_same_client_token_extends_once(folder):
    async def scene() -> None:
        async with farm(folder, ScriptedPool(1, keeping)) as controller:
            first = await done(controller, optimization(folder))
            extend = controller.commands.extend
            assert await extend(first, More(5), "token") == await extend(first, More(5), "token")
            await over(controller, controller.view.jobs()[0]["id"])
            assert len(controller.view.jobs()) == 2

    run(scene())


def test_pictures_that_failed_are_left_out(folder, monkeypatch):
    """Their state was never kept; `farm retry` is for them."""
    monkeypatch.setattr("jobs.scheduler._BACKOFF_S", {})

    def script(worker: str, message: TaskMessage) -> Any:
        bad = "b.jpg" in message.items[0].output_key
        return (failing("b.jpg", Failure.BAD_INPUT) if bad else keeping)(worker, message)

    async def scene() -> None:
        async with farm(folder, ScriptedPool(1, script)) as controller:
            first = await done(controller, optimization(folder))
            assert controller.view.job(first)["state"] == "completed with errors"
            job = await over(controller, await controller.commands.extend(first, More(iterations=5)))
            assert (job["state"], job["items"]["total"]) == ("completed", 1)
            assert "kept no state" in str(job["ignored"])

    run(scene())


def test_jobs_that_cannot_go_on_are_refused_by_name(folder):
    async def scene() -> None:
        async with farm(folder, ScriptedPool(1, keeping)) as controller:
            extend = controller.commands.extend
            with pytest.raises(UsageError, match="there is no job 'nothing'"):
                await extend("nothing", More(5))
            toys = {**optimization(folder), "steps": [{"name": "count", "kind": "toy"}]}
            with pytest.raises(UsageError, match="has no optimize step"):
                await extend(await done(controller, toys), More(5))
            with pytest.raises(UsageError, match="has no train step") as caught:
                await extend(await done(controller, optimization(folder)), More(steps=5))
            assert "--iterations" in caught.value.hint
            with pytest.raises(UsageError, match="how much longer is not said"):
                await extend(await done(controller, optimization(folder)), More())
            forgetful = await done(controller, optimization(folder, keep_state=False))
            with pytest.raises(UsageError, match="kept no state: keep_state is false in render"):
                await extend(forgetful, More(5))
            first = await done(controller, optimization(folder))
            for iterations in (0, -1, 10**7):
                with pytest.raises(ManifestError, match=r"iterations\[0\]: .* is not a whole number from 1"):
                    await extend(first, More(iterations))
            shutil.rmtree(folder / "out/.farm/jobs" / first / "final")
            job = await over(controller, await extend(first, More(5)))
            assert (job["state"], job["reason"][:26]) == ("failed", f"job {first} kept no state"[:26])

    run(scene())


def test_a_job_that_has_not_ended_or_was_canceled_does_not_go_on(folder):
    def script(worker: str, message: TaskMessage) -> Any:
        yield started(message, message.items[0])
        yield WAIT

    async def scene() -> None:
        async with farm(folder, ScriptedPool(1, script)) as controller:
            job = await submitted(controller, optimization(folder))
            await until(lambda: controller.view.job(job)["state"] == "active")
            with pytest.raises(UsageError, match="not finished: it is active") as caught:
                await controller.commands.extend(job, More(iterations=5))
            assert "wait" in caught.value.hint
            controller.commands.cancel(job)
            await over(controller, job)
            with pytest.raises(UsageError, match="not finished: it is canceled") as caught:
                await controller.commands.extend(job, More(iterations=5))
            assert "submit it again" in caught.value.hint

    run(scene())


def test_a_job_that_only_found_finished_pictures_names_the_one_that_made_them(folder):
    async def scene() -> None:
        pool = ScriptedPool(1, keeping)
        async with farm(folder, pool) as controller:
            first = await done(controller, optimization(folder))
            pool.script = skipping
            second = await done(controller, optimization(folder))
            with pytest.raises(UsageError, match=f"job {second} made nothing of that itself") as caught:
                await controller.commands.extend(second, More(iterations=5))
            assert first in caught.value.hint

    run(scene())


def test_what_a_loss_network_takes_is_measured_by_evaluations(folder):
    """A later estimate is right for other sizes and iterations."""

    def script(worker: str, message: TaskMessage) -> Any:
        for item in message.items:
            facts = {"width_px": 10, "height_px": 10, "pixel_evaluations": 2_000_000}
            yield started(message, item)
            yield ItemFinished(message.task, message.attempt, item.id, ItemState.DONE, detail=facts)
        yield ended(message)

    async def scene() -> None:
        async with farm(folder, ScriptedPool(1, script)) as controller:
            said = {"inputs": [str(folder / "photos/a.jpg")], "size_px": 1000, "smallest_px": 1000}
            await done(controller, optimization(folder, iterations=4, **said))
            job = controller.view.job(await done(controller, optimization(folder, iterations=8, **said)))
            assert job["plan"]["estimate_s"] == pytest.approx(0.75 * 8 * 0.1 / 2)

    run(scene())
