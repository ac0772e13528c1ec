"""From a manifest to tasks: the quick checks at submit, the streaming plan of a step, and its summary."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jobs.errors import UsageError
from jobs.estimates import Rates
from jobs.inputs import Open
from jobs.manifest import Manifest
from jobs.paths import OutputNames, is_s3
from jobs.schema import Mistake, refusal
from jobs.steps import AssetLookup, Checking, PlannedItem, PlannedTask, Planning, Step, Style, step_kind
from jobs.storage.base import Store
from jobs.storage.opening import open_store

__all__ = [
    "Checked",
    "PlanSummary",
    "PlannedItem",
    "PlannedTask",
    "Planning",
    "begin_planning",
    "plan_step",
    "try_output",
    "validate_plan",
]


@dataclass(frozen=True, slots=True)
class Checked:
    """A manifest that can be planned.

    Attributes:
        styles: Styles by the name that the manifest gives them. Keep them with the job: a style that is
            renamed or replaced after submit changes nothing.
        assets: Files and loss networks as they were kept; see `Planning.assets`.
        notes: What the user should know, though it stops nothing.
    """

    styles: Mapping[str, Style] = field(default_factory=dict)
    assets: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def validate_plan(
    manifest: Manifest,
    library: AssetLookup,
    *,
    opener: Open = open_store,
    try_writing: bool = True,
    assets: Mapping[str, str] | None = None,
) -> Checked:
    """Check, while the user waits, that a manifest can be planned and its output be written.

    No folder is listed to its end and no picture is opened.

    Args:
        manifest: With an output and absolute paths; see `Manifest.anchored`.
        library: Knows the styles.
        opener: Opens stores.
        try_writing: Prove that the output can be written; see `try_output`.
        assets: Files and networks that were kept for an earlier job and are not looked for again.

    Raises:
        ManifestError: With one line for each mistake and its path, such as `steps[0].styles[1]: ...`.
        StorageError: If a store does not answer as it should; trying again may help.
    """
    if manifest.output is None:
        raise refusal([Mistake(("output",), "missing: name a folder or s3://bucket/prefix")])
    checking = Checking(manifest.output, library, manifest.s3.options(), opener, assets=dict(assets or {}))
    for number, step in enumerate(manifest.steps):
        kind = step_kind(step.kind)
        if kind.check:
            kind.check(step, ("steps", number), checking)
    try:
        _open_output(manifest, opener)
    except UsageError as error:
        checking.refuse(("output",), error)
    if checking.mistakes:
        raise refusal(checking.mistakes)
    if try_writing:  # a job that is refused leaves no folder behind
        checking.notes += try_output(manifest, opener=opener)
    return Checked(checking.styles, checking.assets, tuple(checking.notes))


def try_output(manifest: Manifest, *, opener: Open = open_store) -> tuple[str, ...]:
    """Prove that the output of a manifest can be written, which makes its folder.

    Returns:
        What the user should know of its store.

    Raises:
        ManifestError: If it cannot be written.
        StorageError: If its store does not answer as it should.
    """
    try:
        store = _open_output(manifest, opener)
        store.probe()
    except UsageError as error:
        raise refusal([Mistake(("output",), str(error))]) from error
    return tuple(_notes_on(store))


def _open_output(manifest: Manifest, opener: Open) -> Store:
    output = manifest.output or ""
    if not is_s3(output) and not Path(output).is_absolute():
        raise UsageError(f"{output} is a relative path", "give an absolute path: workers run elsewhere")
    return opener(output, manifest.s3.options())


def _notes_on(store: Store) -> list[str]:
    if store.honors_conditions:
        return []
    risk = "if another program writes the same name at the same moment, the farm may notice it too late"
    return [f"{store.url} ignores conditional writes: {risk}"]


def begin_planning(
    manifest: Manifest,
    checked: Checked,
    *,
    results: Mapping[str, Mapping[str, Any]] | None = None,
    taken: Iterable[tuple[str, str]] = (),
    rates: Rates | None = None,
    opener: Open = open_store,
) -> Planning:
    """Return what `plan_step` needs to plan the steps of a job, one after the other.

    Args:
        manifest: One that `validate_plan` let pass.
        checked: What it found.
        results: What steps that are done have made, by step, for those that name it as late.
        taken: Output keys that steps planned earlier have given away, each with its input.
        rates: What is known of the speed of styles.
        opener: Opens stores.
    """
    if manifest.output is None:
        raise ValueError("validate_plan was not asked")
    names = OutputNames(manifest.output)
    for key, url in taken:
        names.claim(key, url)
    return Planning(
        output=manifest.output,
        steps=tuple(manifest.steps),
        styles=checked.styles,
        assets=checked.assets,
        names=names,
        results=results or {},
        rates=rates or Rates(),
        store_options=manifest.s3.options(),
        opener=opener,
    )


def plan_step(step: Step, planning: Planning) -> Iterator[PlannedTask]:
    """Yield the tasks of a step in the order in which they should run.

    The same step, listing and styles give the same tasks again, so a plan that was cut off is thrown away
    and made anew. A step that names a late value is planned when the steps it needs are done. Files that
    are not taken are in `planning.ignored` when it ends.

    Raises:
        FarmError: If the step cannot be done as it stands.
    """
    return step_kind(step.kind).plan(step, planning)


@dataclass(slots=True)
class PlanSummary:
    """What a plan adds up to.

    Attributes:
        input_bytes: Bytes to be read; a picture counts once for each style.
        estimate_s: Device seconds, about: divide by the number of workers.
        output_bytes: Bytes to be written, about.
        working_bytes: Bytes more that a task has in the output while it runs, about; of the one with most.
    """

    items: int = 0
    tasks: int = 0
    input_bytes: int = 0
    estimate_s: float = 0.0
    output_bytes: int = 0
    working_bytes: int = 0

    def add(self, task: PlannedTask) -> None:
        """Count a task."""
        self.items += len(task.items)
        self.tasks += 1
        self.input_bytes += sum(max(item.size_bytes, 0) for item in task.items)
        self.estimate_s += task.estimate_s
        self.output_bytes += sum(item.output_bytes for item in task.items)
        self.working_bytes = max(self.working_bytes, task.working_bytes)

    def plus(self, other: PlanSummary) -> PlanSummary:
        """Return what both add up to."""
        return PlanSummary(
            self.items + other.items,
            self.tasks + other.tasks,
            self.input_bytes + other.input_bytes,
            self.estimate_s + other.estimate_s,
            self.output_bytes + other.output_bytes,
            max(self.working_bytes, other.working_bytes),
        )

    def note_on_space(self, free_bytes: int | None) -> str:
        """Return what to tell the user if the results may not fit into the free space, or an empty string."""
        if free_bytes is None or self.output_bytes + self.working_bytes <= free_bytes:
            return ""
        meanwhile = f"and {self.working_bytes / 1e6:,.1f} MB for checkpoints, " if self.working_bytes else ""
        return (
            f"the results may need {self.output_bytes / 1e6:,.1f} MB, {meanwhile}"
            f"but the output has {free_bytes / 1e6:,.1f} MB left"
        )
