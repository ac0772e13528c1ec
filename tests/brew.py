"""A kind of work that makes a style without training it. Registered by naming this module in FARM_KINDS.

It shows what a training relies on: a result that later steps name, and that the library is told of.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, Literal

from jobs.errors import BadInputError
from jobs.library import TRAINED
from jobs.steps import PlannedItem, PlannedTask, Planning, Step, StepKind, register_step
from jobs.tasks import Item, TaskMessage
from workers.kinds import Context, Kind, Produced, register


class BrewStep(Step):
    """Make the style `style` of made-up weights.

    It waits while there is a file `gate`, and fails if it is `spoiled`. With `dies` the worker of the first
    attempt ends when the file is there, before it returned anything.
    """

    kind: Literal["brew"]
    style: str
    seed: int = 0
    replace: bool = False
    gate: str = ""
    spoiled: bool = False
    dies: bool = False
    exclusive: bool = True


_FOR_THE_WORKER = {"style", "seed", "gate", "spoiled", "dies"}
_WIDTH = 4


def plan(step: BrewStep, _planning: Planning) -> Iterator[PlannedTask]:
    """Yield the one task."""
    item = PlannedItem("", -1, "", f"{step.style}.safetensors", style=step.style)
    yield PlannedTask(step.model_dump(include=_FOR_THE_WORKER), (item,), exclusive=step.exclusive)


def run(task: TaskMessage, context: Context) -> dict[str, Any]:
    """Make the style, or take the one that was made before."""
    said, data = task.payload, None
    for item, _ in context.read_ahead():
        while said["gate"] and Path(said["gate"]).exists():
            if context.should_stop():
                return {}
            time.sleep(0.01)
        if said["spoiled"]:
            context.finish_item(item, BadInputError("the water is foul"))
            return {}
        data = _style_model(said["style"], said["seed"])
        context.finish_item(item, partial(Produced, data))
    if data is None:
        data = context.finished(task.items[0]) or b""
    elif said["dies"] and task.attempt == 1:
        _wait_for(task, task.items[0])
        os._exit(9)
    entry = {
        "format": TRAINED,
        "width": _WIDTH,
        "size_bytes": len(data),
        "source": "a kettle",
        "metadata": {"painting": "water.jpg", "data_count": 12, "loss_network": "none"},
    }
    return {"name": said["style"], "sha256": context.keep_asset(data), "entry": entry}


def _style_model(name: str, seed: int) -> bytes:
    from tests.workers.nst.plain import seeded_state
    from workers.nst.style_models import StyleMetadata, encode_style_model
    from workers.nst.transformer import TransformerNet

    net = TransformerNet(_WIDTH)
    net.load_state_dict(seeded_state(_WIDTH, seed))
    return encode_style_model(net, StyleMetadata(name, _WIDTH))


def _wait_for(task: TaskMessage, item: Item) -> None:
    """Wait until the result is there, which is written behind."""
    while not Path(task.output, item.output_key).exists():
        time.sleep(0.01)
    time.sleep(1.0)


def settings(payload: dict[str, Any]) -> dict[str, Any]:
    """Return what decides the weights."""
    return {"seed": payload["seed"]}


register_step(StepKind("brew", BrewStep, plan, makes_style=True))
register(Kind("brew", run, settings=settings))
