"""How jobs and steps move on when their attempts have ended."""

from __future__ import annotations

import asyncio
import json
import logging
import sqlite3
import time
from dataclasses import dataclass, replace

from farm.dispatch import Dispatcher
from farm.ledger import Ledger
from farm.report import write_report
from farm.running import JobRun
from jobs.errors import FarmError
from jobs.scheduler import too_many_failed
from jobs.states import ItemState, JobState, StepState, TaskState, move
from jobs.steps import makes_style
from jobs.storage import open_store
from jobs.storage.base import FARM_PREFIX

log = logging.getLogger(__name__)


_KEPT = "what was begun and not finished is kept"


@dataclass(frozen=True, slots=True)
class Todo:
    """What the controller should begin.

    Attributes:
        plan: Whether to plan the job's ready steps.
        finish: The state to finish the job with.
        register: Steps whose style is to be put into the library: they are done when it is there.
    """

    plan: bool = False
    finish: JobState | None = None
    register: tuple[str, ...] = ()


class Lifecycle:
    """The rules; every change goes to the ledger, the caller commits."""

    def __init__(self, ledger: Ledger, dispatcher: Dispatcher) -> None:
        self._ledger = ledger
        self._dispatcher = dispatcher

    def settle(self, job: JobRun) -> Todo:
        """Move a job and its steps as far as they can go now."""
        if job.finishing:
            return Todo()
        register = self._unregistered(job)
        job.registering.update(register)
        return replace(self._settle(job), register=register)

    def _unregistered(self, job: JobRun) -> tuple[str, ...]:
        """Return the steps whose task has returned a style that nobody has put into the library yet.

        A job that is paused or ends early has them too: what was trained is there to be used.
        """
        rows = self._ledger.read(
            "SELECT name FROM steps WHERE job=? AND state=? AND planned AND result<>'{}' AND done+skipped>0",
            job.id,
            StepState.READY,
        )
        known = job.registering | job.registered
        names = [row["name"] for row in rows if row["name"] not in known and not job.open_tasks[row["name"]]]
        return tuple(name for name in names if makes_style(self._kind(job, name)))

    def _kind(self, job: JobRun, step: str) -> str:
        row = self._ledger.read("SELECT kind FROM steps WHERE job=? AND name=?", job.id, step)[0]
        return str(row["kind"])

    def _settle(self, job: JobRun) -> Todo:
        if not job.stopping_reason and too_many_failed(job.max_failed, job.failed, job.total):
            self.end_early(job, f"{job.failed} items failed, more than max_failed: {job.max_failed} allows")
        ending = job.stopping_reason or job.state is JobState.CANCELING
        if job.leases and (ending or job.state is JobState.PAUSING):
            return Todo()
        if ending and (job.planning or job.registering):
            return Todo()
        if ending:
            return self._settle_end(job)
        if job.state is JobState.PAUSING:
            self._move(job, JobState.PAUSED)
        if job.planning or job.state is JobState.PAUSED:
            return Todo()
        return self._settle_steps(job)

    def end_early(self, job: JobRun, reason: str) -> None:
        """Start nothing more of a job and let it fail when what runs has stopped."""
        job.stopping_reason = reason
        self._ledger.update("jobs", {"reason": reason}, id=job.id)
        self._dispatcher.stop_job(job)

    def _settle_end(self, job: JobRun) -> Todo:
        if job.state is JobState.CANCELING:
            self._cancel_rest(job)
            return Todo(finish=JobState.CANCELED)
        return Todo(finish=JobState.FAILED)

    def _settle_steps(self, job: JobRun) -> Todo:
        rows = self._ledger.read("SELECT * FROM steps WHERE job=? ORDER BY position", job.id)
        states = {row["name"]: StepState(row["state"]) for row in rows}
        moved = True
        while moved:  # one step may let another move that stands before it
            moved = any(self._settle_step(job, row, states) for row in rows)
        if all(state in {StepState.DONE, StepState.FAILED} for state in states.values()):
            return Todo(finish=self._final_state(job, list(states.values())))
        unplanned = {row["name"] for row in rows if not row["planned"]}
        return Todo(plan=any(states[name] is StepState.READY for name in unplanned))

    def _settle_step(self, job: JobRun, row: sqlite3.Row, states: dict[str, StepState]) -> bool:
        """Move one step as far as it can go now; return whether it moved."""
        name = row["name"]
        old, reason = states[name], ""
        if old is StepState.READY and row["planned"] and not job.open_tasks[name]:
            states[name], reason = self._outcome(job, row)
        elif old is StepState.BLOCKED:
            needs = {need: states[need] for need in json.loads(row["needs"])}
            broken = [need for need, state in needs.items() if state is StepState.FAILED]
            if broken:
                states[name], reason = StepState.FAILED, f"it needs {', '.join(broken)}, which failed"
            elif all(state is StepState.DONE for state in needs.values()):
                states[name] = StepState.READY
        if states[name] is old:
            return False
        self._move_step(job, name, old, states[name], reason)
        return True

    def _outcome(self, job: JobRun, row: sqlite3.Row) -> tuple[StepState, str]:
        """Return the state of a step whose tasks have ended, with a reason where its items tell none.

        A step that makes a style waits until the library has it.
        """
        made = row["done"] + row["skipped"]
        if not made and row["failed"]:
            return StepState.FAILED, ""
        if made and makes_style(row["kind"]):
            if row["result"] == "{}":
                return StepState.FAILED, f"it made no style: {self._reason(job, row['name'])}"
            if row["name"] not in job.registered:
                return StepState.READY, ""
        return StepState.DONE, ""

    def _reason(self, job: JobRun, step: str) -> str:
        """Return why a task of a step failed."""
        rows = self._ledger.read(
            "SELECT reason FROM tasks WHERE job=? AND step=? AND reason<>'' ORDER BY id DESC", job.id, step
        )
        return str(rows[0]["reason"]) if rows else "nobody said why"

    def _final_state(self, job: JobRun, steps: list[StepState]) -> JobState:
        if job.state is JobState.PLANNING:  # no step could be planned, and a restart forgot why
            return JobState.FAILED
        clean = not job.failed and StepState.FAILED not in steps
        return JobState.COMPLETED if clean else JobState.COMPLETED_WITH_ERRORS

    def _move(self, job: JobRun, state: JobState) -> None:
        job.state = move(job.state, state)
        self._ledger.update("jobs", {"state": job.state}, id=job.id)

    def _move_step(self, job: JobRun, name: str, old: StepState, new: StepState, reason: str) -> None:
        self._ledger.update("steps", {"state": move(old, new), "reason": reason}, job=job.id, name=name)
        if reason:
            self._ledger.event(job.id, "step failed", f"{name}: {reason}")

    def _cancel_rest(self, job: JobRun) -> None:
        for row in self._ledger.read(
            "SELECT step, count(*) AS n FROM items WHERE job=? AND state='pending' GROUP BY step", job.id
        ):
            self._ledger.count(job.id, row["step"], canceled=row["n"])
        self._ledger.update("items", {"state": ItemState.CANCELED}, job=job.id, state=ItemState.PENDING)
        for state in (TaskState.QUEUED, TaskState.WAITING):
            self._ledger.update(
                "tasks", {"state": move(state, TaskState.CANCELED)}, job=job.id, state=state.value
            )
        job.queued.clear()

    async def finish(self, job: JobRun, state: JobState) -> None:
        """Clear up after attempts that were lost, write the report, then give the job its last state.

        In this order, so that whoever sees the state finds the report; a crash between the two writes it
        again.
        """
        finished_at = time.time()
        self._ledger.update("jobs", {"reason": job.stopping_reason}, id=job.id)
        self._ledger.commit()
        try:
            if job.total:
                age_s, resumable = self._swept_age_s(job), self._resumable(job)
                kept_bytes = await asyncio.to_thread(_leave_in_order, job, age_s, resumable)
                self._ledger.note(job.id, _on_kept_states(job, kept_bytes), about=_KEPT)
                self._ledger.commit()
                await asyncio.to_thread(self._write_report, job, state, finished_at)
        except Exception as error:  # whatever keeps the report from being written must not keep the job
            log.warning("no report of %s", job.id, exc_info=error)
            reason = str(error) if isinstance(error, FarmError) else f"{type(error).__name__}: {error}"
            reasons = filter(None, (job.stopping_reason, f"the report could not be written: {reason}"))
            self._ledger.update("jobs", {"reason": "; ".join(reasons)}, id=job.id)
        job.state = move(job.state, state)
        self._ledger.update("jobs", {"state": job.state, "finished_at": finished_at}, id=job.id)
        reason = f": {job.stopping_reason}" if job.stopping_reason else ""
        self._ledger.event(job.id, "finished", f"the job is {job.state}{reason}")
        del self._dispatcher.jobs[job.id]

    def _write_report(self, job: JobRun, state: JobState, finished_at: float) -> None:
        store = open_store(job.output, job.store_options)
        write_report(self._ledger.path, store, job.id, state, finished_at)

    def _resumable(self, job: JobRun) -> set[str]:
        """Return the tasks with items that are not made: `farm retry` goes on from their checkpoints."""
        rows = self._ledger.read(
            "SELECT DISTINCT task FROM items WHERE job=? AND state NOT IN (?, ?)",
            job.id,
            ItemState.DONE,
            ItemState.SKIPPED,
        )
        return {str(row["task"]) for row in rows}

    def _swept_age_s(self, job: JobRun) -> float | None:
        """Return how old the leavings of lost attempts are at least, or None if there can be none.

        What is younger may be at work. A job that shares its output leaves this to whichever ends last.
        """
        if any(other is not job and other.output == job.output for other in self._dispatcher.jobs.values()):
            return None
        lost_at = self._ledger.read(
            "SELECT max(a.ended_at) AS at FROM jobs j JOIN tasks t ON t.job=j.id "
            "JOIN attempts a ON a.task=t.id WHERE j.output=? AND a.outcome='lost'",
            job.output,
        )[0]["at"]
        return None if lost_at is None else max(0.0, time.time() - lost_at)


def _leave_in_order(job: JobRun, swept_age_s: float | None, resumable: set[str]) -> int:
    """Remove what a job leaves in its output that nobody needs; in a thread, since stores may be slow.

    Returns:
        How many bytes of checkpoints stay, since somebody may go on from them.
    """
    store = open_store(job.output, job.store_options)
    if swept_age_s is not None:
        store.sweep(swept_age_s)
    kept_bytes = 0
    for entry in list(store.list(_checkpoints(job))):
        if entry.key.split("/")[-2] in resumable:
            kept_bytes += entry.size_bytes
        else:
            store.delete(entry.key)
    return kept_bytes


def _on_kept_states(job: JobRun, kept_bytes: int) -> str:
    """Return what is to be said of checkpoints that stay: only the user knows whether they are of use."""
    if not kept_bytes:
        return ""
    how = "submitted again, the same job goes on from it"
    if job.state is not JobState.CANCELING:
        how = f"`farm retry {job.id}` goes on from it"
    return (
        f"{_KEPT}, {kept_bytes / 1e6:,.1f} MB: {how}; to give it up, remove {_checkpoints(job)} in the output"
    )


def _checkpoints(job: JobRun) -> str:
    return f"{FARM_PREFIX}/jobs/{job.id}/checkpoints"
