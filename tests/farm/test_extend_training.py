"""More steps for finished trainings: which job that makes, what it is told, and what is refused."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from farm.controller import Controller
from farm.extending import More
from jobs import train_step
from jobs.checkpoints import kept_states
from jobs.errors import Failure, UsageError
from jobs.library import NetworkEntry
from jobs.optimize import state_name
from jobs.states import ItemState
from jobs.steps import StepKind, step_kinds
from jobs.storage.local import LocalStore
from jobs.tasks import ItemFinished, TaskEnded, TaskMessage
from jobs.train_step import TrainStep
from tests.farm.controlled import farm, over, run
from tests.farm.scripted_pool import ScriptedPool, finished, started, succeed


@pytest.fixture(autouse=True)
def _unexamined(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let plans be made without the kind of work, which would load torch to look at them."""
    step_kinds()
    kind = StepKind("train", TrainStep, train_step.plan, train_step.check, makes_style=True)
    monkeypatch.setitem(__import__("jobs.steps", fromlist=["_KINDS"])._KINDS, "train", kind)
    monkeypatch.setattr("jobs.scheduler._BACKOFF_S", {})


def training(worker: str, message: TaskMessage) -> Any:
    """Train a style, keep its last state and return it, as the kind of work does; `bad` fails."""
    if message.kind != "train":
        yield from succeed(worker, message)
        return
    (item,), style = message.items, message.payload["style"]
    yield started(message, item)
    if style == "bad":
        yield finished(message, item, Failure.BAD_INPUT, "the painting is broken")
        yield TaskEnded(message.task, message.attempt, "finished")
        return
    store = LocalStore(message.output)
    kept_states(store, message.job, state_name(item.output_key), message.attempt).save(b"state")
    yield finished(message, item)
    sha256 = hashlib.sha256(f"{style} {message.job}".encode()).hexdigest()
    entry = {"width": 32, "size_bytes": 5}
    result = {"name": style, "sha256": sha256, "entry": entry}
    yield TaskEnded(message.task, message.attempt, "finished", result=result)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with twenty photographs and a painting."""
    (tmp_path / "photos").mkdir()
    for number in range(20):
        (tmp_path / f"photos/{number}.jpg").write_bytes(b"x")
    (tmp_path / "wave.jpg").write_bytes(b"wave")
    return tmp_path


def job_of(folder: Path, *styles: str, **said: Any) -> dict[str, Any]:
    """Return a job that trains styles and renders in the first of them."""
    steps: list[dict[str, Any]] = [
        {
            "name": f"train-{style}",
            "kind": "train",
            "data": [str(folder / "photos")],
            "style": style,
            "style_images": [str(folder / "wave.jpg")],
            "steps": 100,
            **said,
        }
        for style in styles
    ]
    steps.append(
        {
            "name": "render",
            "kind": "stylize",
            "inputs": [str(folder / "photos")],
            "styles": [{"from": f"train-{styles[0]}"}],
        }
    )
    return {"version": 1, "name": "styles", "output": str(folder / "out"), "steps": steps}


async def submitted(controller: Controller, document: dict[str, Any]) -> str:
    """Submit a job to a farm that has a loss network."""
    sha256 = controller.library.put(b"weights")
    controller.library.add_network(
        NetworkEntry("vgg19", sha256, "vgg19", "torchvision", False, "relu5_4", 7, 0.0)
    )
    return await controller.commands.submit(document)


def test_a_training_goes_on_from_its_last_state_with_the_same_data_and_its_style_is_replaced(folder):
    async def scene() -> None:
        pool = ScriptedPool(1, training)
        async with farm(folder, pool) as controller:
            first = await submitted(controller, job_of(folder, "wave"))
            await over(controller, first)
            before = controller.library.style("wave")
            for photo in (folder / "photos").iterdir():
                photo.rename(photo.with_suffix(".png"))
            (folder / "wave.jpg").unlink()
            controller.library.remove_network("vgg19")
            second = await controller.commands.extend(first, More(steps=50))
            assert (await over(controller, second))["state"] == "completed"
            third = await controller.commands.extend(second, More(steps=25))
            assert (await over(controller, third))["state"] == "completed"
            payloads = [message.payload for _, message in pool.sent if message.kind == "train"]
            assert [payload.get("extends") for payload in payloads] == [
                None,
                {"job": first, "steps": [50]},
                {"job": second, "steps": [50, 25]},
            ]
            kept = [{key: said for key, said in each.items() if key != "extends"} for each in payloads]
            assert kept[0] == kept[1] == kept[2]
            after = controller.library.style("wave")
            assert after.sha256 != before.sha256
            assert (after.metadata["job"], after.metadata["output"]) == (third, str(folder / "out"))

    run(scene())


def test_only_trainings_go_on_and_of_them_only_those_that_finished(folder):
    async def scene() -> None:
        async with farm(folder, ScriptedPool(1, training)) as controller:
            job = await submitted(controller, job_of(folder, "wave", "bad", "night"))
            assert (await over(controller, job))["state"] == "completed with errors"
            further = await controller.commands.extend(job, More(steps=50))
            steps = controller.view.manifest(further)["steps"]
            assert [step["name"] for step in steps] == ["train-wave", "train-night"]
            assert (await over(controller, further))["state"] == "completed"

    run(scene())


def test_what_cannot_go_on_is_refused_with_what_to_do(folder):
    def skipping(worker: str, message: TaskMessage) -> Any:
        if message.kind != "train":
            yield from succeed(worker, message)
            return
        item = message.items[0].id
        yield ItemFinished(message.task, message.attempt, item, ItemState.SKIPPED)
        entry = {"width": 32, "size_bytes": 5}
        result = {"name": "wave", "sha256": "1" * 64, "entry": entry}
        yield TaskEnded(message.task, message.attempt, "finished", result=result)

    async def scene() -> None:
        pool = ScriptedPool(1, training)
        async with farm(folder, pool) as controller:
            first = await submitted(controller, job_of(folder, "wave"))
            await over(controller, first)
            extend = controller.commands.extend
            with pytest.raises(UsageError, match="has no optimize step") as caught:
                await extend(first, More(iterations=5))
            assert "--steps" in caught.value.hint
            pool.script = skipping
            second = await controller.commands.submit(job_of(folder, "wave"))
            await over(controller, second)
            with pytest.raises(UsageError, match=f"job {second} made nothing of that itself") as caught:
                await extend(second, More(steps=5))
            assert first in caught.value.hint

    run(scene())
