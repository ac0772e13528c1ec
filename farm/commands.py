"""What a person may ask of jobs: submit, extend, pause, resume, cancel, retry. The caller commits."""

from __future__ import annotations

import getpass
import json
import secrets
import sqlite3
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict
from typing import Any

from farm.dispatch import Dispatcher
from farm.extending import More, extended
from farm.ledger import Ledger
from farm.planning import Planner
from farm.recovery import load_jobs
from farm.running import JobRun
from farm.views import View
from jobs.errors import UsageError
from jobs.manifest import Manifest, load_manifest
from jobs.plan import Checked
from jobs.states import ENDED_JOBS, ItemState, JobState, StepState, TaskState, move


class Commands:
    """Commands on jobs; each returns the job's id.

    Args:
        touch: Called with the id of a job that should be looked at again.
    """

    def __init__(
        self,
        ledger: Ledger,
        view: View,
        dispatcher: Dispatcher,
        planner: Planner,
        touch: Callable[[str], None],
    ) -> None:
        self._ledger = ledger
        self._view = view
        self._dispatcher = dispatcher
        self._planner = planner
        self._touch = touch

    async def submit(self, document: dict[str, Any], client_token: str | None = None) -> str:
        """Take a job: check what can be checked at once, write it down, plan it behind the answer.

        Args:
            document: A manifest.
            client_token: The same token gives the same job, so that a client may ask again when an answer
                was lost.

        Raises:
            UsageError: If the manifest or what it names is wrong.
        """
        if known := self._known(client_token):
            return known
        return await self._take(load_manifest(document), client_token)

    async def extend(self, word: str, more: More, client_token: str | None = None) -> str:
        """Go on with what a finished job optimized or trained, as a new job into the same output.

        Args:
            word: The finished job.
            more: How much longer.
            client_token: The same token gives the same job.

        Raises:
            UsageError: If there is no such job, or nothing to go on with.
        """
        if known := self._known(client_token):
            return known
        job_id = self._view.resolve(word)
        row = self._ledger.read("SELECT * FROM jobs WHERE id=?", job_id)[0]
        made = {
            item["step"]
            for item in self._ledger.read(
                "SELECT DISTINCT step FROM items WHERE job=? AND state=?", job_id, ItemState.DONE
            )
        }
        manifest = extended(load_manifest(json.loads(row["manifest"])), job_id, more, made)
        self._check_finished(row, made & {step.name for step in manifest.steps})
        return await self._take(manifest, client_token, json.loads(row["assets"]))

    def _check_finished(self, row: sqlite3.Row, made: Collection[str]) -> None:
        """Refuse to go on with a job that is not finished, or has finished nothing of that itself."""
        job_id, state = row["id"], JobState(row["state"])
        if state not in {JobState.COMPLETED, JobState.COMPLETED_WITH_ERRORS}:
            hints = {
                JobState.FAILED: "`farm retry` goes on with it",
                JobState.CANCELED: "submit it again",
            }
            raise UsageError(f"job {job_id} is not finished: it is {state}", hints.get(state, "wait for it"))
        if made:
            return
        makers = self._ledger.read(
            "SELECT j.id FROM jobs j JOIN items i ON i.job=j.id WHERE j.output=? AND i.state=? "
            "AND i.output_key IN (SELECT output_key FROM items WHERE job=? AND state=?) "
            "ORDER BY j.number DESC LIMIT 1",
            row["output"],
            ItemState.DONE,
            job_id,
            ItemState.SKIPPED,
        )
        hint = f"extend job {makers[0]['id']}, which made them" if makers else ""
        raise UsageError(f"job {job_id} made nothing of that itself", hint)

    async def _take(
        self, manifest: Manifest, client_token: str | None, assets: Mapping[str, str] | None = None
    ) -> str:
        checked = await self._planner.check(manifest, assets)
        if known := self._known(client_token):  # asked again while the first one was being checked
            return known
        job = self._record(manifest, checked, client_token)
        self._dispatcher.jobs[job.id] = job
        self._touch(job.id)
        return job.id

    def _known(self, client_token: str | None) -> str:
        """Return the job that was submitted with this token, or nothing."""
        found = self._ledger.read("SELECT id FROM jobs WHERE client_token=?", client_token)
        return str(found[0]["id"]) if found else ""

    def _record(self, manifest: Manifest, checked: Checked, client_token: str | None) -> JobRun:
        user = manifest.user or getpass.getuser()
        number = self._ledger.read("SELECT coalesce(max(number), 0) + 1 AS n FROM jobs")[0]["n"]
        job_id = f"{time.strftime('%y%m%d')}-{number}-{secrets.token_hex(2)}"
        self._ledger.insert(
            "jobs",
            {
                "id": job_id,
                "number": number,
                "name": manifest.name,
                "user": user,
                "tier": manifest.tier,
                "priority": manifest.priority,
                "state": JobState.PLANNING,
                "manifest": manifest.document(),
                "styles": {name: asdict(style) for name, style in checked.styles.items()},
                "assets": dict(checked.assets),
                "output": manifest.output,
                "client_token": client_token,
                "notes": checked.notes,
                "created_at": time.time(),
            },
        )
        for position, step in enumerate(manifest.steps):
            self._ledger.insert(
                "steps",
                {
                    "job": job_id,
                    "name": step.name,
                    "position": position,
                    "kind": step.kind,
                    "state": StepState.BLOCKED if step.needs else StepState.READY,
                    "needs": list(step.needs),
                },
            )
        self._ledger.event(job_id, "submitted", f"submitted by {user}")
        return next(job for job in load_jobs(self._ledger, job_id))

    def pause(self, word: str) -> str:
        """Start nothing more of a job; what runs stops after the picture it is at."""
        job = self._unended(word)
        if job.state in {JobState.PAUSED, JobState.PAUSING}:
            return job.id
        if job.state is JobState.CANCELING:
            raise UsageError(f"job {job.id} is being canceled")
        self._move(job, JobState.PAUSING if job.state is JobState.ACTIVE else JobState.PAUSED, "paused")
        self._dispatcher.stop_job(job)
        self._touch(job.id)
        return job.id

    def resume(self, word: str) -> str:
        """Let a paused job go on."""
        job = self._unended(word)
        if job.state in {JobState.PAUSED, JobState.PAUSING}:
            self._move(job, JobState.QUEUED if job.state is JobState.PAUSED else JobState.ACTIVE, "resumed")
            self._touch(job.id)
        return job.id

    def cancel(self, word: str) -> str:
        """End a job; it is canceled when its workers have confirmed or are gone."""
        job = self._unended(word)
        if job.state is not JobState.CANCELING:
            self._move(job, JobState.CANCELING, "canceled")
            self._dispatcher.stop_job(job, at_once=True)
            self._touch(job.id)
        return job.id

    def _move(self, job: JobRun, state: JobState, event: str) -> None:
        job.state = move(job.state, state)
        self._ledger.update("jobs", {"state": job.state}, id=job.id)
        self._ledger.event(job.id, event, f"{event}: the job is {job.state}")

    def _unended(self, word: str) -> JobRun:
        job_id = self._view.resolve(word)
        job = self._dispatcher.jobs.get(job_id)
        if job is None or job.finishing:
            state = self._ledger.read("SELECT state FROM jobs WHERE id=?", job_id)[0]["state"]
            raise UsageError(f"job {job_id} has ended: it is {state}")
        return job

    def retry(self, word: str) -> str:
        """Try the failed items of a job again, and what an early stop left behind; the finished ones stay.

        Raises:
            UsageError: If there is nothing to try again, or the job is still at work or was canceled.
        """
        job_id = self._view.resolve(word)
        row = self._ledger.read("SELECT * FROM jobs WHERE id=?", job_id)[0]
        state = JobState(row["state"])
        if job_id in self._dispatcher.jobs or state not in ENDED_JOBS:
            raise UsageError(f"job {job_id} has not ended: it is {state}", "wait for it, or cancel it")
        if state is JobState.CANCELED:
            raise UsageError(
                f"job {job_id} was canceled",
                "submit it again: what is finished is skipped, what has a checkpoint goes on",
            )
        if not self._reopen(job_id):
            raise UsageError(f"job {job_id} has nothing to try again")
        self._ledger.update(
            "jobs", {"state": move(state, JobState.QUEUED), "reason": "", "finished_at": None}, id=job_id
        )
        self._ledger.event(job_id, "retried", "failed items are tried again")
        self._dispatcher.jobs[job_id] = next(load_jobs(self._ledger, job_id))
        self._touch(job_id)
        return job_id

    def _reopen(self, job_id: str) -> int:
        """Open again what failed or was left: items, their tasks, steps that were never planned.

        Returns:
            How much there is to do.
        """
        unplanned = self._ledger.read(
            "SELECT name, state, needs FROM steps WHERE job=? AND state='failed' AND total=0", job_id
        )
        for step in unplanned:
            state = StepState.BLOCKED if json.loads(step["needs"]) else StepState.READY
            self._reopen_step(job_id, step["name"], StepState(step["state"]), state, planned=0)
        for step in self._ledger.read("SELECT name, failed FROM steps WHERE job=? AND failed>0", job_id):
            self._ledger.count(job_id, step["name"], failed=-step["failed"])
        pending = {"state": move(ItemState.FAILED, ItemState.PENDING), "failure": None, "reason": ""}
        self._ledger.update("items", {**pending, "failures": {}}, job=job_id, state=ItemState.FAILED)
        tasks = self._ledger.read(
            "SELECT DISTINCT t.id, t.step, t.state, s.state AS step_state FROM tasks t "
            "JOIN items i ON i.task=t.id JOIN steps s ON s.job=t.job AND s.name=t.step "
            "WHERE t.job=? AND (i.state='pending' OR t.state='failed')",
            job_id,
        )
        for task in tasks:
            if task["state"] != TaskState.QUEUED:
                queued = {"state": move(TaskState(task["state"]), TaskState.QUEUED), "failure": None}
                self._ledger.update(
                    "tasks", {**queued, "reason": "", "failures": {}, "deaths": 0}, id=task["id"]
                )
        for name, was in {task["step"]: StepState(task["step_state"]) for task in tasks}.items():
            if was is not StepState.READY:
                self._reopen_step(job_id, name, was, StepState.READY, planned=1)
        return len(tasks) + len(unplanned)

    def _reopen_step(self, job_id: str, name: str, old: StepState, new: StepState, *, planned: int) -> None:
        changes = {"state": move(old, new), "reason": "", "planned": planned}
        self._ledger.update("steps", changes, job=job_id, name=name)
