"""How a finished job goes on: the manifest of the job that does so."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from jobs.errors import UsageError
from jobs.manifest import Manifest, load_manifest
from jobs.optimize_step import OptimizeStep
from jobs.train_step import TrainStep


@dataclass(frozen=True, slots=True)
class More:
    """What is asked for.

    Attributes:
        iterations: Of the last scale of each picture that was optimized; None to leave these alone.
        steps: Of each style that was trained; None to leave these alone.
    """

    iterations: int | None = None
    steps: int | None = None


def extended(manifest: Manifest, job: str, more: More, made: Collection[str]) -> Manifest:
    """Return the manifest that goes on with what another one made, and does nothing else.

    Args:
        manifest: Of the finished job.
        job: Its id.
        more: What is asked for.
        made: Steps that finished something in that job; a training that did not is left out.

    Raises:
        UsageError: If there is nothing of the kind, or no state of it was kept.
        ManifestError: If so many more are not possible.
    """
    pictures = [step for step in manifest.steps if isinstance(step, OptimizeStep)]
    styles = [step for step in manifest.steps if isinstance(step, TrainStep)]
    if more.iterations is None and more.steps is None:
        raise UsageError("how much longer is not said", "iterations for optimizations, steps for trainings")
    if more.iterations is not None and not pictures:
        hint = "its trainings go on by --steps" if styles else "only optimizations and trainings can go on"
        raise UsageError(f"job {job} has no optimize step", hint)
    if more.steps is not None and not styles:
        hint = "its optimizations go on by --iterations" if pictures else "only they can go on"
        raise UsageError(f"job {job} has no train step", hint)
    chosen: list[dict[str, Any]] = []
    if more.iterations is not None:
        chosen += [_longer_picture(step, job, more.iterations) for step in _with_state(pictures, job)]
    if more.steps is not None:
        finished = [step for step in styles if step.name in made] or styles
        chosen += [_longer_style(step, job, more.steps) for step in finished]
    names = {step["name"] for step in chosen}
    document = manifest.document()
    document["steps"] = [
        {**step, "needs": [need for need in step["needs"] if need in names]} for step in chosen
    ]
    return load_manifest(document)


def _with_state(steps: list[OptimizeStep], job: str) -> list[OptimizeStep]:
    forgetful = [step.name for step in steps if step.keep_state is False]
    if forgetful:
        raise UsageError(
            f"job {job} kept no state: keep_state is false in {', '.join(forgetful)}",
            "render it again with keep_state: true",
        )
    return steps


def _longer_picture(step: OptimizeStep, job: str, iterations: int) -> dict[str, Any]:
    earlier = step.extends.iterations if step.extends else []
    extends = {"job": job, "iterations": [*earlier, iterations]}
    return {**step.model_dump(mode="json", by_alias=True), "extends": extends}


def _longer_style(step: TrainStep, job: str, steps: int) -> dict[str, Any]:
    earlier = step.extends.steps if step.extends else []
    extends = {"job": job, "steps": [*earlier, steps]}
    return {**step.model_dump(mode="json", by_alias=True), "extends": extends}
