"""Looking at the first task of a step before any work starts: the kind of work itself says what is wrong.

A kind of work may need torch and seconds to be loaded: only kinds of steps that are `examined` come here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice
from typing import TYPE_CHECKING

from farm.machine import Machine
from jobs.errors import BadInputError, FarmError, ManifestError, UsageError
from jobs.library import Library
from jobs.manifest import Manifest
from jobs.plan import Checked, PlannedTask, Planning, begin_planning, plan_step
from jobs.schema import Location, Mistake, refusal
from jobs.steps import Step, step_kind
from jobs.storage import store_and_key

if TYPE_CHECKING:
    from workers.kinds import Checks, Kind

_LARGEST_INPUT_BYTES = 2 << 30


def examine(manifest: Manifest, checked: Checked, library: Library, machine: Machine) -> list[str]:
    """Look at the first task of each step whose kind of work does that.

    Args:
        manifest: One that `validate_plan` let pass.
        checked: What it found.
        library: Has the files and networks of the manifest.
        machine: What the job may count on.

    Returns:
        What the user should know, though it stops nothing.

    Raises:
        ManifestError: With one line for each mistake and its path.
        FarmError: If it could not be found out; trying again may help.
    """
    planning = begin_planning(manifest, checked)
    notes: list[str] = []
    refused: list[str] = []
    for number, step in enumerate(manifest.steps):
        if not step_kind(step.kind).examined:
            continue
        try:
            tasks = _first_tasks(("steps", number), step, planning)
            if tasks:
                checks = checks_of(step, tasks, planning, library, machine, notes.append)
                examine_task(("steps", number), step.kind, tasks[0], checks)
        except ManifestError as error:
            refused += error.message.splitlines()
    if refused:
        raise ManifestError("\n".join(refused), "`farm schema` shows every key and its values")
    return notes


def _first_tasks(at: Location, step: Step, planning: Planning) -> list[PlannedTask]:
    """Return the first two tasks of a step, or what there is."""
    try:
        return list(islice(plan_step(step, planning), 2))
    except UsageError as error:
        raise refusal([Mistake(at, str(error))]) from error


def checks_of(
    step: Step,
    tasks: Sequence[PlannedTask],
    planning: Planning,
    library: Library,
    machine: Machine,
    note: Callable[[str], None],
) -> Checks:
    """Return what the check of a kind of work may use for the first task of a step.

    Args:
        step: That is looked at.
        tasks: All of the step, or more than one of them.
        planning: That planned them.
        library: Has its assets.
        machine: What the job may count on.
        note: Takes what the user should know, though it stops nothing.
    """
    from workers.kinds import Checks

    def read(url: str) -> bytes:
        root, key = store_and_key(url)
        try:
            return planning.opener(root, planning.store_options).read(key, limit_bytes=_LARGEST_INPUT_BYTES)
        except FileNotFoundError:
            raise UsageError(f"there is no file {url} any more", "submit again") from None

    workers = min(tasks[0].workers[1], machine.workers)
    device = machine.device.partition(":")[0]
    alone = _all_need(step, planning.steps)
    return Checks(library.path, read, workers, device, machine.memory_bytes, note, len(tasks) == 1, alone)


def _all_need(step: Step, steps: Sequence[Step]) -> bool:
    """Return whether nothing can be done in a job without one of its steps."""
    lost = {step.name}
    for _ in steps:  # whoever needs a lost one is lost; a manifest may name them in any order
        lost |= {each.name for each in steps if not lost.isdisjoint(each.needs)}
    return len(lost) == len(steps)


def examine_task(at: Location, kind: str, task: PlannedTask, checks: Checks) -> Kind:
    """Let the kind of work look whether a task can be done, and return the kind.

    Args:
        at: Path of the step; it goes before the key that the kind names.
        kind: Name of the kind of work.
        task: To be looked at.
        checks: What it may use.

    Raises:
        ManifestError: If it cannot be done.
        FarmError: If it could not be found out.
    """
    from workers.kinds import load_kind

    work = load_kind(kind)
    try:
        if work.check is not None:
            work.check(task.payload, task.items, checks)
    except (UsageError, BadInputError) as error:
        raise refusal([_placed(at, kind, error)]) from error
    return work


def _placed(at: Location, kind: str, error: FarmError) -> Mistake:
    """Return what is wrong with a step; an error that begins with one of its keys is about that."""
    key, _, rest = error.message.partition(": ")
    if key in step_kind(kind).model.model_fields:
        return Mistake((*at, key), str(type(error)(rest, error.hint)))
    return Mistake(at, str(error))
