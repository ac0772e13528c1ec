"""Jobs that make styles, and workers in memory that make them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from farm.controller import Controller
from jobs.tasks import TaskEnded, TaskMessage
from tests.farm.controlled import over
from tests.farm.scripted_pool import Script, finished, started, succeed


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


def names(controller: Controller) -> list[str]:
    """Return the styles of the library, but for those that came with the farm."""
    return [entry.name for entry in controller.library.styles() if not entry.bundled]


def states(job: dict[str, Any]) -> dict[str, str]:
    return {step["name"]: step["state"] for step in job["steps"]}


async def done(controller: Controller, document: dict[str, Any]) -> dict[str, Any]:
    return await over(controller, await controller.commands.submit(document))


def events(controller: Controller, job: dict[str, Any], type_: str) -> list[str]:
    return [event["text"] for event in controller.view.events(job["id"]) if event["type"] == type_]
