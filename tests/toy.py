"""A toy kind of work: counts to a number with checkpoints. Registered by naming this module in FARM_KINDS.

It shows that a new kind of work needs a step, a planner, a payload and a `run`, and nothing else.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from jobs.steps import Late, PlannedItem, PlannedTask, Planning, Step, StepKind, register_step
from jobs.tasks import TaskMessage
from workers.kinds import Context, Kind, Produced, register


class ToyStep(Step):
    """Make `items` files, `chunk` of them in a task, each after `count` counts of `seconds` each.

    The first attempt kills its worker at count `die_at`, every attempt at the output key `deadly`. No count
    ends while there is a file `gate`, unless it should stop.
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


_FOR_THE_WORKER = {"count", "seconds", "asset", "log", "die_at", "deadly", "gate"}


def plan(step: ToyStep, planning: Planning) -> Iterator[PlannedTask]:
    """Yield the tasks."""
    word = planning.results[step.word.step]["word"] if isinstance(step.word, Late) else step.word
    payload = {**step.model_dump(include=_FOR_THE_WORKER), "word": word}
    keys = [f"{step.name}-{n}.txt" for n in range(step.items)]
    for first in range(0, len(keys), step.chunk):
        items = tuple(PlannedItem("", -1, "", key, style="toy") for key in keys[first : first + step.chunk])
        yield PlannedTask(payload, items, step.affinity, estimate_s=step.count * step.seconds * len(items))


def run(task: TaskMessage, context: Context) -> dict[str, Any]:
    """Count, keeping the number after each count; the file says the word and how far it got."""
    payload = task.payload
    asset = context.asset(payload["asset"]).read_bytes() if payload["asset"] else b""
    for item, _ in context.read_ahead():
        key, _, reached = (context.load_checkpoint() or b"").decode().partition(" ")
        for n in range(int(reached) if key == item.output_key else 0, payload["count"]):
            if context.should_stop():
                return {}
            _write_log(payload["log"], f"{item.output_key} {n} attempt {task.attempt} pid {os.getpid()}")
            if n == payload["die_at"] and task.attempt == 1:
                os._exit(9)
            if item.output_key == payload.get("deadly"):
                os._exit(9)
            _wait_at(payload.get("gate", ""), context)
            time.sleep(payload["seconds"])
            context.save_checkpoint(f"{item.output_key} {n + 1}".encode())
            context.progress((n + 1) / payload["count"])
            context.emit("loss", {"step": n, "value": 1 / (n + 1)})
        text = f"{payload['word']} {payload['count']} ".encode() + asset
        context.finish_item(item, lambda text=text: Produced(text))  # type: ignore[misc]
    return {"word": payload["word"].upper(), "sha256": hashlib.sha256(payload["word"].encode()).hexdigest()}


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
