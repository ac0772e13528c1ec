"""A kind of work that looks at its tasks at submit: named in FARM_KINDS. Nothing of it is ever run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

from jobs.errors import BadInputError, StorageError, UsageError
from jobs.steps import PlannedItem, PlannedTask, Planning, Step, StepKind, register_step
from workers.kinds import Checks, Kind, register


class PickyStep(Step):
    """Make one file, unless `wrong` says that it cannot be done."""

    kind: Literal["picky"]
    wrong: str = ""
    input: str = ""


def plan(step: PickyStep, planning: Planning) -> Iterator[PlannedTask]:
    """Yield the task."""
    if step.wrong == "plan":
        raise UsageError("there is nothing to do", "do something else")
    workers = (step.workers.min, step.workers.max)
    item = PlannedItem(step.input, -1, "", f"{step.name}.txt")
    yield PlannedTask({"wrong": step.wrong}, (item,), workers=workers)


def check(payload: dict[str, Any], items: Sequence[PlannedItem], checks: Checks) -> None:
    """Say what the step wants to be said, and what there is to look at."""
    wrong = payload["wrong"]
    if wrong == "input":
        raise UsageError("input: it is too small", "take a larger one")
    if wrong == "file":
        raise BadInputError("night.jpg is no picture")
    if wrong == "store":
        raise StorageError("the store does not answer")
    if wrong == "by itself":
        if checks.alone:
            raise UsageError("input: it is broken")
        checks.note("input: it is broken")
        return
    content = checks.read(items[0].input).decode() if items[0].input else ""
    checks.note(f"{content} workers={checks.workers} device={checks.device} bytes={checks.memory_bytes}")


def run(task: Any, context: Any) -> dict[str, Any]:
    """Do nothing: tests play the workers."""
    return {}


register_step(StepKind("picky", PickyStep, plan, examined=True))
register(Kind("picky", run, check=check))
