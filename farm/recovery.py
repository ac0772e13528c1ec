"""Jobs read back from the ledger, when they are submitted and when a controller starts again."""

from __future__ import annotations

import json
import sqlite3
import time
from collections import Counter
from collections.abc import Iterator

from farm.ledger import Ledger
from farm.running import JobRun, TaskRun
from jobs.errors import Failure, UsageError
from jobs.manifest import load_manifest
from jobs.states import ENDED_JOBS, JobState, StepState, TaskState, move


def load_jobs(ledger: Ledger, job_id: str | None = None) -> Iterator[JobRun]:
    """Yield the jobs that have not ended, or the one with this id, as the ledger has them.

    What was leased when the last controller died is queued again: its workers died with it, and nobody is
    blamed. A step whose planning was cut off is planned again from the start.
    """
    rows = ledger.read("SELECT * FROM jobs WHERE (?1 IS NULL OR id=?1) ORDER BY number", job_id)
    for row in rows:
        if row["state"] not in ENDED_JOBS:
            _close_attempts(ledger, row["id"])
            try:
                yield _load(ledger, row)
            except UsageError as error:
                _end(ledger, row["id"], f"the job cannot be read any more: {error}")


def _end(ledger: Ledger, job_id: str, reason: str) -> None:
    """Let a job fail that this version, or this set of kinds of work, knows nothing of."""
    ledger.update("jobs", {"state": JobState.FAILED, "reason": reason, "finished_at": time.time()}, id=job_id)
    ledger.event(job_id, "finished", f"the job is failed: {reason}")


def _load(ledger: Ledger, row: sqlite3.Row) -> JobRun:
    manifest = load_manifest(json.loads(row["manifest"]))
    job = JobRun(
        id=row["id"],
        number=row["number"],
        name=row["name"],
        user=row["user"],
        tier=row["tier"],
        priority=row["priority"],
        state=_resting_state(ledger, row["id"], JobState(row["state"])),
        output=row["output"],
        store_options=manifest.s3.options(),
        on_existing=manifest.on_existing,
        max_failed=manifest.max_failed,
        started_at=row["started_at"],
        stopping_reason=row["reason"],
    )
    for step in ledger.read("SELECT * FROM steps WHERE job=?", job.id):
        if step["state"] == StepState.READY and not step["planned"]:
            ledger.forget_plan(job.id, step["name"])
        else:
            job.total += step["total"]
            job.failed += step["failed"]
    load_tasks(ledger, job)
    return job


def _close_attempts(ledger: Ledger, job_id: str) -> None:
    for row in ledger.read("SELECT id, attempt FROM tasks WHERE job=? AND state='leased'", job_id):
        ended = {
            "ended_at": time.time(),
            "outcome": "lost",
            "failure": Failure.PREEMPTED,
            "reason": "the controller ended",
        }
        ledger.update("attempts", ended, task=row["id"], number=row["attempt"])
        ledger.update("tasks", {"state": move(TaskState.LEASED, TaskState.QUEUED)}, id=row["id"])


def _resting_state(ledger: Ledger, job_id: str, state: JobState) -> JobState:
    """Return the state of a job none of whose attempts runs."""
    if state is JobState.PAUSING:
        state = move(state, JobState.PAUSED)
        ledger.update("jobs", {"state": state}, id=job_id)
    return state


def load_tasks(ledger: Ledger, job: JobRun) -> None:
    """Queue the tasks of a job that have not ended."""
    rows = ledger.read("SELECT * FROM tasks WHERE job=? AND state='queued' ORDER BY id", job.id)
    since = time.monotonic()
    for row in rows:
        job.put(
            TaskRun(
                row["id"],
                row["job"],
                row["step"],
                row["kind"],
                row["affinity"],
                row["estimate_s"],
                (row["min_workers"], row["max_workers"]),
                exclusive=bool(row["exclusive"]),
                attempt=row["attempt"],
                deaths=row["deaths"],
                failures=Counter({Failure(k): n for k, n in json.loads(row["failures"]).items()}),
                fraction=row["fraction"],
                message=row["message"],
                since=since,
            )
        )
        job.open_tasks[row["step"]] += 1
