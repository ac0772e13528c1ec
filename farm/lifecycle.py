"""How jobs and steps move on when their attempts have ended."""

from __future__ import annotations

import asyncio
import json
import logging
import sqlite3
import time
from dataclasses import dataclass

from farm.dispatch import Dispatcher
from farm.ledger import Ledger
from farm.report import build_report, write_report
from farm.running import JobRun
from farm.views import View
from jobs.errors import FarmError
from jobs.scheduler import too_many_failed
from jobs.states import ItemState, JobState, StepState, TaskState, move
from jobs.storage import open_store

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Todo:
    """What the controller should begin: plan the job's ready steps, or finish it with a state."""

    plan: bool = False
    finish: JobState | None = None


class Lifecycle:
    """The rules; every change goes to the ledger, the caller commits."""

    def __init__(self, ledger: Ledger, dispatcher: Dispatcher) -> None:
        self._ledger = ledger
        self._dispatcher = dispatcher

    def settle(self, job: JobRun) -> Todo:
        """Move a job and its steps as far as they can go now."""
        if job.finishing:
            return Todo()
        if not job.stopping_reason and too_many_failed(job.max_failed, job.failed, job.total):
            job.stopping_reason = f"{job.failed} items failed, more than max_failed: {job.max_failed} allows"
            self._dispatcher.stop_job(job)
        ending = job.stopping_reason or job.state in {JobState.CANCELING, JobState.CANCELED}
        if job.leases and (ending or job.state is JobState.PAUSING):
            return Todo()
        if ending:
            return self._settle_end(job)
        if job.state is JobState.PAUSING:
            self._move(job, JobState.PAUSED)
        if job.planning or job.state is JobState.PAUSED:
            return Todo()
        return self._settle_steps(job)

    def _settle_end(self, job: JobRun) -> Todo:
        if job.state in {JobState.CANCELING, JobState.CANCELED}:
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
            made = row["done"] + row["skipped"]
            states[name] = StepState.DONE if made or not row["failed"] else StepState.FAILED
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

    def _final_state(self, job: JobRun, steps: list[StepState]) -> JobState:
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

    async def finish(self, job: JobRun, state: JobState, view: View) -> None:
        """Clear up after attempts that were lost, write the report, then give the job its last state.

        In this order, so that whoever sees the state finds the report; a crash between the two writes it
        again.
        """
        finished_at = time.time()
        self._ledger.update("jobs", {"reason": job.stopping_reason}, id=job.id)
        report = build_report(view, job.id, state, finished_at)
        try:
            if report["totals"]["total"]:
                store = open_store(job.output, job.store_options)
                if self._may_sweep(job):
                    await asyncio.to_thread(store.sweep, 0.0)
                await asyncio.to_thread(write_report, store, report)
        except Exception as error:  # whatever keeps the report from being written must not keep the job
            log.warning("no report of %s", job.id, exc_info=error)
            reason = str(error) if isinstance(error, FarmError) else f"{type(error).__name__}: {error}"
            reasons = filter(None, (job.stopping_reason, f"the report could not be written: {reason}"))
            self._ledger.update("jobs", {"reason": "; ".join(reasons)}, id=job.id)
        job.state = state if job.state is state else move(job.state, state)
        self._ledger.update("jobs", {"state": job.state, "finished_at": finished_at}, id=job.id)
        reason = f": {job.stopping_reason}" if job.stopping_reason else ""
        self._ledger.event(job.id, "finished", f"the job is {job.state}{reason}")
        del self._dispatcher.jobs[job.id]

    def _may_sweep(self, job: JobRun) -> bool:
        """Return whether attempts that were lost may have left something where nobody is writing now.

        A job that shares its output with another one leaves that to whichever ends last.
        """
        if any(other is not job and other.output == job.output for other in self._dispatcher.jobs.values()):
            return False
        return bool(
            self._ledger.read(
                "SELECT 1 FROM jobs j JOIN tasks t ON t.job=j.id JOIN attempts a ON a.task=t.id "
                "WHERE j.output=? AND a.outcome='lost' LIMIT 1",
                job.output,
            )
        )
