"""Planning a job's steps in the background, in batches, while the controller goes on."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from itertools import islice

from farm.examination import examine
from farm.ledger import Ledger
from farm.machine import machine_of, most_workers, refuse_large_gangs
from farm.pool import Pool
from farm.running import JobRun, TaskRun, WorkerRun
from jobs.errors import FarmError, StorageError, UsageError
from jobs.estimates import Rate, Rates
from jobs.inputs import Ignored
from jobs.library import Library
from jobs.manifest import Manifest, load_manifest
from jobs.plan import (
    Checked,
    PlannedTask,
    PlanSummary,
    begin_planning,
    plan_step,
    try_output,
    validate_plan,
)
from jobs.states import ItemState, JobState, StepState, TaskState, move
from jobs.steps import Planning, Step, Style, step_kind
from jobs.storage import open_store
from jobs.storage.base import FARM_PREFIX

log = logging.getLogger(__name__)

_BATCH = 64
_IGNORED_NAMES = 50
_PAUSES_S = (1.0, 2.0, 4.0, 8.0)
"""How long to wait before inputs that could not be listed are listed again."""


class Planner:
    """Checks manifests at submit, and turns steps into tasks in the ledger.

    Args:
        workers: Those in service, by name.
    """

    def __init__(
        self, ledger: Ledger, library: Library, pool: Pool, workers: Mapping[str, WorkerRun]
    ) -> None:
        self._ledger = ledger
        self._library = library
        self._pool = pool
        self._workers = workers

    async def check(self, manifest: Manifest, assets: Mapping[str, str] | None = None) -> Checked:
        """Check what can be checked while the user waits.

        The output is written to last: a job that is refused leaves no folder behind.

        Args:
            manifest: To be checked.
            assets: Files and networks that were kept for an earlier job.

        Raises:
            UsageError: If the manifest names what is not there, asks for what cannot be done, or a worker
                cannot see it.
        """
        self._check_gangs(manifest)
        checked = await asyncio.to_thread(
            validate_plan, manifest, self._library, try_writing=False, assets=assets
        )
        notes = await self._examine(manifest, checked)
        notes += await asyncio.to_thread(try_output, manifest)
        await self._check_sight(manifest)
        return replace(checked, notes=(*checked.notes, *notes))

    async def _examine(self, manifest: Manifest, checked: Checked) -> list[str]:
        """Let kinds of work look at their steps, in a thread: loading them may take seconds."""
        examined = [step.workers.min for step in manifest.steps if step_kind(step.kind).examined]
        if not examined:
            return []
        machine = await machine_of(self._workers, self._pool, max(examined))
        return await asyncio.to_thread(examine, manifest, checked, self._library, machine)

    def _check_gangs(self, manifest: Manifest) -> None:
        """Refuse steps that want more workers at once than this farm can have."""
        if all(step.workers.min <= max(1, len(self._workers)) for step in manifest.steps):
            return
        refuse_large_gangs(manifest.steps, most_workers(self._workers, self._pool))

    async def _check_sight(self, manifest: Manifest) -> None:
        """Prove that every worker there is now sees the inputs and the output."""
        places = [str(manifest.output)]
        for step in manifest.steps:
            places += [place for place in getattr(step, "inputs", []) if not _is_glob(place)]
        blind = await self._pool.sees(places, manifest.s3.options())
        for worker, missing in blind.items():
            raise UsageError(
                f"worker {worker} cannot see {', '.join(missing[:3])}",
                "use s3:// or a folder that every machine of the farm mounts under the same path",
            )

    async def plan(self, job: JobRun) -> None:
        """Plan the ready steps of a job that are not planned yet.

        A step that cannot be planned fails alone if others are at work or done; a job whose first steps
        cannot be planned fails with the reason.
        """
        row = self._ledger.read("SELECT * FROM jobs WHERE id=?", job.id)[0]
        manifest = load_manifest(json.loads(row["manifest"]))
        styles = {name: Style(**style) for name, style in json.loads(row["styles"]).items()}
        checked = Checked(styles, json.loads(row["assets"]))
        summary = PlanSummary(**json.loads(row["plan"])) if row["plan"] else PlanSummary()
        ignored: list[Ignored] = []
        for step in manifest.steps:
            state = self._ledger.read("SELECT * FROM steps WHERE job=? AND name=?", job.id, step.name)[0]
            if state["state"] != StepState.READY or state["planned"] or _gone(job):
                continue
            try:
                planned = await self._plan_patiently(job, manifest, step, checked)
            except FarmError as error:
                self._refuse(job, step, error)
            except Exception as error:
                log.exception("planning %s", job.id)
                self._refuse(job, step, FarmError(f"{type(error).__name__}: {error}"))
            else:
                summary = summary.plus(planned[0])
                ignored.append(planned[1])
        if not _gone(job):
            await self._finish(job, manifest, summary, ignored)

    async def _plan_patiently(
        self, job: JobRun, manifest: Manifest, step: Step, checked: Checked
    ) -> tuple[PlanSummary, Ignored]:
        """Plan one step; while its inputs cannot be listed, begin again a little later."""
        pauses = iter(_PAUSES_S)
        while True:
            planning, summary = self._begin(job, manifest, checked), PlanSummary()
            try:
                await self._plan_step(job, step, planning, summary)
            except StorageError as error:
                pause_s = next(pauses, None)
                if pause_s is None:
                    raise
                self._forget(job, step)
                self._ledger.event(job.id, "message", f"planning {step.name} is tried again: {error}")
                self._ledger.commit()
                await asyncio.sleep(pause_s)
            else:
                return summary, planning.ignored

    def _begin(self, job: JobRun, manifest: Manifest, checked: Checked) -> Planning:
        steps = self._ledger.read("SELECT name, result FROM steps WHERE job=? AND state='done'", job.id)
        rates = self._ledger.read("SELECT * FROM rates WHERE megapixels > 0")
        return begin_planning(
            manifest,
            checked,
            results={row["name"]: json.loads(row["result"]) for row in steps},
            taken=[
                (row["output_key"], row["input"])
                for row in self._ledger.read("SELECT output_key, input FROM items WHERE job=?", job.id)
            ],
            rates=Rates({row["model"]: Rate(0.0, row["device_s"] / row["megapixels"]) for row in rates}),
        )

    async def _plan_step(self, job: JobRun, step: Step, planning: Planning, summary: PlanSummary) -> None:
        tasks = plan_step(step, planning)
        planned: list[TaskRun] = []
        while batch := await asyncio.to_thread(_take, tasks):
            if _gone(job):
                return
            for task in batch:
                summary.add(task)
                planned.append(self._insert(job, step, task))
            self._ledger.commit()
        if _gone(job):
            return
        self._ledger.update("steps", {"planned": 1}, job=job.id, name=step.name)
        for run in planned:
            run.since = time.monotonic()
            job.put(run)
            job.open_tasks[step.name] += 1

    def _insert(self, job: JobRun, step: Step, task: PlannedTask) -> TaskRun:
        number = self._ledger.insert(
            "tasks",
            {
                "job": job.id,
                "step": step.name,
                "state": TaskState.QUEUED,
                "kind": step.kind,
                "payload": task.payload,
                "affinity": task.affinity,
                "estimate_s": task.estimate_s,
                "min_workers": task.workers[0],
                "max_workers": task.workers[1],
                "exclusive": int(task.exclusive),
            },
        )
        for item in task.items:
            self._ledger.insert(
                "items",
                {
                    "job": job.id,
                    "step": step.name,
                    "task": number,
                    "state": ItemState.PENDING,
                    **{k: getattr(item, k) for k in ("input", "size_bytes", "stamp", "output_key", "style")},
                },
            )
        size_bytes = sum(max(item.size_bytes, 0) for item in task.items)
        self._ledger.count(job.id, step.name, total=len(task.items), bytes_total=size_bytes)
        job.total += len(task.items)
        return TaskRun(
            number,
            job.id,
            step.name,
            step.kind,
            task.affinity,
            task.estimate_s,
            task.workers,
            exclusive=task.exclusive,
        )

    def _forget(self, job: JobRun, step: Step) -> None:
        planned = self._ledger.read("SELECT total FROM steps WHERE job=? AND name=?", job.id, step.name)[0]
        job.total -= planned["total"]
        self._ledger.forget_plan(job.id, step.name)

    def _refuse(self, job: JobRun, step: Step, error: FarmError) -> None:
        """Let a step fail whose planning was refused; what was planned of it is forgotten."""
        self._forget(job, step)
        self._ledger.update(
            "steps",
            {"state": move(StepState.READY, StepState.FAILED), "reason": str(error), "planned": 1},
            job=job.id,
            name=step.name,
        )
        self._ledger.event(job.id, "step failed", f"{step.name}: {error}")
        if job.state is JobState.PLANNING:
            job.stopping_reason = str(error)
            job.refused = isinstance(error, UsageError)
            self._ledger.update("jobs", {"reason": job.stopping_reason}, id=job.id)

    async def _finish(
        self, job: JobRun, manifest: Manifest, summary: PlanSummary, ignored: Sequence[Ignored]
    ) -> None:
        names = [name for each in ignored for name in each.names][:_IGNORED_NAMES]
        count = sum(each.count for each in ignored)
        self._ledger.update("jobs", {"ignored": {"count": count, "names": names}}, id=job.id)
        if not job.refused:
            self._ledger.update("jobs", {"plan": asdict(summary)}, id=job.id)
        if job.stopping_reason:
            return
        try:
            note = await asyncio.to_thread(_settle_in, job, manifest, summary)
        except FarmError as error:
            self._ledger.event(job.id, "message", f"the manifest could not be kept: {error}")
        else:
            if note:
                self._ledger.note(job.id, note)
        if job.state is JobState.PLANNING and not _gone(job):
            job.state = move(job.state, JobState.QUEUED)
            self._ledger.update("jobs", {"state": job.state}, id=job.id)
            self._ledger.event(job.id, "planned", f"{summary.items} items in {summary.tasks} tasks")
        self._ledger.commit()


def _settle_in(job: JobRun, manifest: Manifest, summary: PlanSummary) -> str:
    """Keep the manifest with the results; return what is to be said of the space there."""
    store = open_store(job.output, job.store_options)
    document = json.dumps(manifest.document(), indent=1).encode()
    store.write(f"{FARM_PREFIX}/jobs/{job.id}/manifest.json", document)
    return summary.note_on_space(store.free_bytes())


def _take(tasks: Iterator[PlannedTask]) -> Sequence[PlannedTask]:
    return list(islice(tasks, _BATCH))


def _gone(job: JobRun) -> bool:
    """Return whether a job was canceled, or is ending, while it was being planned."""
    return job.finishing or job.state is JobState.CANCELING


def _is_glob(place: str) -> bool:
    return any(sign in place for sign in "*?[")
