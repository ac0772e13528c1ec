"""How tests make manifests and plan them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from jobs.estimates import Rate, Rates
from jobs.inputs import Ignored
from jobs.library import Library
from jobs.manifest import Manifest, load_manifest
from jobs.plan import PlannedTask, begin_planning, plan_step, validate_plan

NO_TIME = Rates(default=Rate(item_s=0, megapixel_s=0))
"""Rates by which only the number of items closes a chunk."""


def manifest_of(*steps: dict[str, Any], output: Any, **keys: Any) -> Manifest:
    """Return a manifest; each step is given by what differs from a plain one."""
    whole = [
        {"name": f"step-{number}", "kind": "stylize", "styles": ["candy"], **step}
        for number, step in enumerate(steps)
    ]
    return load_manifest({"version": 1, "name": "job", "output": str(output), "steps": whole, **keys})


def tasks_of(
    manifest: Manifest, library: Library, number: int = 0, **options: Any
) -> tuple[list[PlannedTask], Ignored]:
    """Check a manifest and plan one of its steps."""
    planning = begin_planning(manifest, validate_plan(manifest, library), **{"rates": NO_TIME, **options})
    return list(plan_step(manifest.steps[number], planning)), planning.ignored


def keys_of(tasks: Iterable[PlannedTask]) -> list[str]:
    """Return the output names in the order of the tasks."""
    return [item.output_key for task in tasks for item in task.items]
