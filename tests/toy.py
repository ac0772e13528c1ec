"""A toy kind of work: counts to a number with checkpoints. Registered by naming this module in FARM_KINDS.

It shows that a new kind of work needs a step, a planner, a payload and a `run`, and nothing else.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from jobs.steps import Late, PlannedItem, PlannedTask, Planning, Step, StepKind, register_step
from jobs.tasks import Item, TaskMessage
from workers.kinds import Context, Kind, Produced, register

if TYPE_CHECKING:  # the controller imports this too, and knows no torch
    from torch import Tensor

    from workers.nst.group import Group


class ToyStep(Step):
    """Make `items` files, `chunk` of them in a task, each after `count` counts of `seconds` each.

    The first attempt kills its worker at count `die_at`, every attempt at the output key `deadly`. No count
    ends while there is a file `gate`, unless it should stop. Several workers count together, each with the
    others, if `workers` says so.
    """

    kind: Literal["toy"]
    items: int = 1
    chunk: int = 1
    count: int = 1
    seconds: float = 0.0
    word: str | Late = "toy"
    asset: str = ""
    log: str = ""
    die_at: int = -1
    deadly: str = ""
    gate: str = ""
    affinity: str = ""
    exclusive: bool = False


_FOR_THE_WORKER = {"count", "seconds", "asset", "log", "die_at", "deadly", "gate"}


def plan(step: ToyStep, planning: Planning) -> Iterator[PlannedTask]:
    """Yield the tasks."""
    word = planning.results[step.word.step]["word"] if isinstance(step.word, Late) else step.word
    payload = {**step.model_dump(include=_FOR_THE_WORKER), "word": word}
    keys = [f"{step.name}-{n}.txt" for n in range(step.items)]
    for first in range(0, len(keys), step.chunk):
        items = tuple(PlannedItem("", -1, "", key, style="toy") for key in keys[first : first + step.chunk])
        yield PlannedTask(
            payload,
            items,
            step.affinity,
            estimate_s=step.count * step.seconds * len(items),
            workers=(step.workers.min, step.workers.max),
            exclusive=step.exclusive,
        )


def run(task: TaskMessage, context: Context) -> dict[str, Any]:
    """Count, keeping the number after each count; the file says the word and how far it got."""
    payload = task.payload
    if context.group.rank > 0:
        while (number := _told(context.group, -1)) >= 0:
            _count(task, context, task.items[number])
        return {}
    asset = context.asset(payload["asset"]).read_bytes() if payload["asset"] else b""
    for item, _ in context.read_ahead():
        _told(context.group, task.items.index(item))
        if not _count(task, context, item):
            break
        text = f"{payload['word']} {payload['count']} ".encode() + asset
        context.finish_item(item, lambda text=text: Produced(text))  # type: ignore[misc]
    _told(context.group, -1)
    return {"word": payload["word"].upper(), "sha256": hashlib.sha256(payload["word"].encode()).hexdigest()}


def _count(task: TaskMessage, context: Context, item: Item) -> bool:
    """Count for one item, in step with the other members; return whether it came to the end.

    The first member alone keeps the number and hears of being stopped: it tells the others.
    """
    payload, first = task.payload, context.group.rank == 0
    key, _, reached = (context.load_checkpoint() or b"").decode().partition(" ") if first else ("", "", "")
    begin = int(reached) if key == item.output_key else 0
    for n in range(_told(context.group, begin), payload["count"]):
        if _told(context.group, int(first and context.should_stop())):
            return False
        _write_log(
            payload["log"],
            f"{item.output_key} {n} attempt {task.attempt} rank {context.group.rank} pid {os.getpid()}",
        )
        if n == payload["die_at"] and task.attempt == 1:
            os._exit(9)
        if item.output_key == payload.get("deadly"):
            os._exit(9)
        _wait_at(payload.get("gate", ""), context)
        time.sleep(payload["seconds"])
        _add_up(context.group)
        if first:
            context.save_checkpoint(f"{item.output_key} {n + 1}".encode())
            context.progress((n + 1) / payload["count"], f"count {n + 1} of {payload['count']}")
            loss = {"scale": 0, "evaluations": n + 1, "budget": payload["count"], "loss": 1 / (n + 1)}
            context.emit("loss", {"item": item.output_key, **loss})
    return True


def _told(group: Group, value: int) -> int:
    """Return the value of the first member."""
    return value if group.size == 1 else int(group.broadcast(_tensor(value)).item())


_PARTS = 12


def _add_up(group: Group) -> None:
    """Let each member add its own parts, sum them over all, and see that neighbors hear each other."""
    from torch import equal

    mine = sum(range(group.rank, _PARTS, group.size))
    total = int(group.reduce(_tensor(mine)).item())
    around = {(group.rank + step) % group.size for step in (1, -1)} - {group.rank}
    heard = group.exchange({other: _tensor(group.rank) for other in around})
    if total != sum(range(_PARTS)) or any(not equal(heard[other], _tensor(other)) for other in around):
        raise ValueError(f"member {group.rank} of {group.size} got {total} and {heard}")


def _tensor(value: int) -> Tensor:
    from torch import tensor

    return tensor([value])


def _wait_at(gate: str, context: Context) -> None:
    while gate and Path(gate).exists() and not context.should_stop():
        time.sleep(0.01)


def _write_log(path: str, line: str) -> None:
    if path:
        with Path(path).open("a") as log:
            log.write(line + "\n")


def settings(payload: dict[str, Any]) -> dict[str, Any]:
    """Return what decides the content of the files."""
    return {name: payload[name] for name in ("word", "count", "asset")}


register_step(StepKind("toy", ToyStep, plan))
register(Kind("toy", run, settings=settings))
