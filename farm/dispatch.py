"""Leases: which worker has which task, and what becomes of that when workers speak, come and go."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from farm.ledger import Ledger
from farm.outcomes import Outcomes
from farm.pool import Pool
from farm.running import JobRun, Lease, TaskRun, WorkerRun
from jobs.errors import Failure
from jobs.scheduler import Assignment, FreeWorker, RunnableJob, decayed, decide
from jobs.states import JobState, TaskState, move
from jobs.tasks import (
    Emitted,
    Event,
    Item,
    ItemFinished,
    ItemStarted,
    Progress,
    TaskEnded,
    TaskMessage,
    WorkerReport,
)

log = logging.getLogger(__name__)

HUNG = "the task said nothing for longer than it may"
SILENT = "it did not answer for longer than a lease"
"""Why a worker was ended that is to blame for it; any other reason blames nobody."""

ASIDE_S = 300.0
ASIDE_AFTER_JOBS = 3
"""A worker that failed tasks of this many different jobs in a row gets no tasks for `ASIDE_S` seconds."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How long something may be silent.

    Attributes:
        lease_s: How long a worker may go on without hearing from the controller.
        stall_s: How long a task may say nothing before its worker counts as hung.
    """

    lease_s: float = 15.0
    stall_s: float = 900.0


class Dispatcher:
    """Hands out tasks, renews leases, and turns what workers say into outcomes (`farm.pool.Listener`).

    Args:
        ledger: Where every change is written; the caller commits.
        pool: The workers.
        limits: How long workers and tasks may be silent.
        over: Called with a job's id when one of its attempts has ended.
        wake: Called when there may be something to hand out.
    """

    def __init__(
        self,
        ledger: Ledger,
        pool: Pool,
        *,
        limits: Limits,
        over: Callable[[str], None],
        wake: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.jobs: dict[str, JobRun] = {}
        self.workers: dict[str, WorkerRun] = {}
        self._ledger = ledger
        self._pool = pool
        self._lease_s = limits.lease_s
        self._over = over
        self._wake = wake
        self._clock = clock
        self._outcomes = Outcomes(ledger, clock)
        self.orphans: list[Lease] = []
        self._unsent: list[tuple[str, TaskMessage]] = []
        self._stops: list[Lease] = []
        self._served = 0
        self._usage: dict[str, tuple[float, float]] = {
            row["user"]: (row["device_s"], clock() - max(0.0, time.time() - row["at"]))
            for row in ledger.read("SELECT * FROM usage")
        }

    # Handing out.

    def assign(self) -> None:
        """Lease startable tasks to workers with credits; `send_leased` sends them after the commit."""
        now = self._clock()
        runnable = [
            RunnableJob(
                job.id,
                job.user,
                job.tier,
                job.priority,
                list(job.window()),
                len(job.leases),
                job.served,
                job.number,
            )
            for job in self.jobs.values()
            if job.state in {JobState.QUEUED, JobState.ACTIVE} and job.queued and not job.stopping_reason
        ]
        if not runnable:
            return
        workers = [
            FreeWorker(worker.id, frozenset(worker.holds), worker.load)
            for worker in self.workers.values()
            if not worker.killed and worker.aside_until <= now
        ]
        for assignment in decide(now, runnable, workers, self._usage_now(now)):
            self._lease(assignment, now)

    def _usage_now(self, now: float) -> dict[str, float]:
        usage = {user: decayed(used, now - at) for user, (used, at) in self._usage.items()}
        for job in self.jobs.values():
            for lease in job.leases.values():
                usage[job.user] = usage.get(job.user, 0.0) + lease.task.estimate_s
        return usage

    def _lease(self, assignment: Assignment, now: float) -> None:
        job = self.jobs[assignment.job]
        worker = self.workers[assignment.worker]
        task = job.take(assignment.task)
        items = self._pending_items(task)
        task.attempt += 1
        lease = Lease(task, worker.id, {item.id: item for item in items}, now + self._lease_s, now, now)
        job.leases[task.id] = worker.tasks[task.id] = lease
        if task.affinity:
            worker.holds.add(task.affinity)
        self._served += 1
        job.served = self._served
        if job.state is JobState.QUEUED:
            job.state = move(job.state, JobState.ACTIVE)
            self._ledger.update("jobs", {"state": job.state}, id=job.id)
            if job.started_at is None:
                job.started_at = time.time()
                self._ledger.update("jobs", {"started_at": job.started_at}, id=job.id)
        self._ledger.update(
            "tasks",
            {"state": move(TaskState.QUEUED, TaskState.LEASED), "attempt": task.attempt},
            id=task.id,
        )
        self._ledger.insert(
            "attempts",
            {
                "task": task.id,
                "number": task.attempt,
                "worker": worker.id,
                "device": worker.report.device,
                "started_at": time.time(),
            },
        )
        self._unsent.append((worker.id, self._message(job, task, items)))

    def _pending_items(self, task: TaskRun) -> list[Item]:
        rows = self._ledger.read(
            "SELECT id, input, size_bytes, stamp, output_key FROM items "
            "WHERE task=? AND state='pending' ORDER BY id",
            task.id,
        )
        return [Item(*row) for row in rows]

    def _message(self, job: JobRun, task: TaskRun, items: Sequence[Item]) -> TaskMessage:
        payload = self._ledger.read("SELECT payload FROM tasks WHERE id=?", task.id)[0]["payload"]
        return TaskMessage(
            job=job.id,
            step=task.step,
            task=task.id,
            attempt=task.attempt,
            kind=task.kind,
            lease_s=self._lease_s,
            output=job.output,
            payload=json.loads(payload),
            items=tuple(items),
            on_existing=job.on_existing,
            store_options=job.store_options,
        )

    def send_leased(self) -> None:
        """Send what was leased and what is to stop; the ledger has it by now."""
        unsent, self._unsent = self._unsent, []
        for worker, message in unsent:
            if worker in self.workers:
                self._pool.send(worker, message)
        stops, self._stops = self._stops, []
        for lease in stops:
            self._pool.stop(lease.worker, lease.task.id, lease.attempt)

    # Stopping.

    def stop_job(self, job: JobRun) -> None:
        """Ask all attempts of a job to stop; each answers with `TaskEnded`."""
        for lease in job.leases.values():
            if lease.stop_sent_at is None:
                lease.stop_sent_at = self._clock()
                self._stops.append(lease)

    # What workers say (`farm.pool.Listener`).

    def worker_joined(self, report: WorkerReport) -> None:
        """Take a worker into service."""
        self.workers[report.worker] = WorkerRun(report, self._clock(), idle_since=self._clock())
        self._wake()

    def worker_left(self, worker: str, reason: str, *, certain: bool) -> None:
        """Take a worker out of service; its leases end now, or when they run out if it may still write."""
        gone = self.workers.pop(worker, None)
        if gone is None:
            return
        for position, lease in enumerate(gone.tasks.values()):
            if certain:
                self.lost(lease, gone.killed, reason, running=position == 0)
            else:
                self.orphans.append(lease)
        self._wake()

    def lost(self, lease: Lease, killed: str, reason: str, *, running: bool) -> None:
        """End a lease that its worker cannot use any more.

        Args:
            lease: What its attempt held.
            killed: Why we ended the worker ourselves, if we did.
            reason: What happened to it.
            running: Whether the attempt had begun; one that waited behind another is blameless.
        """
        job = self.jobs.get(lease.task.job)
        if job is None or job.leases.get(lease.task.id) is not lease:
            return
        del job.leases[lease.task.id]
        if killed in {HUNG, SILENT} or not killed:
            failure = Failure.TIMEOUT if killed == HUNG else Failure.WORKER_LOST
        else:
            failure = Failure.PREEMPTED
        reason = killed or reason
        self._outcomes.worker_lost(job, lease, failure, reason, running=running)
        text = f"{lease.worker} is gone: {reason}; what is left of task {lease.task.id} goes on"
        self._ledger.event(job.id, "worker lost", text)
        self._over(job.id)

    def unknown(self, worker: WorkerRun, lease: Lease) -> None:
        """End a lease that its worker does not know: the message was lost on the way."""
        del worker.tasks[lease.task.id]
        self.lost(lease, "the task never reached its worker", "", running=False)
        self._wake()

    def worker_says(self, worker: str, events: Sequence[Event]) -> None:
        """Take in what a worker says; what an attempt without a lease says counts for nothing."""
        source = self.workers.get(worker)
        if source is None:
            return
        for event in events:
            lease = source.tasks.get(event.task)
            if lease is None or lease.attempt != event.attempt:
                continue
            lease.heard_at = self._clock()
            job = self.jobs[lease.task.job]
            match event:
                case ItemStarted():
                    lease.in_flight.add(event.item)
                case ItemFinished():
                    source.items_done += 1
                    self._outcomes.item_finished(job, lease, event)
                    self._over(job.id)
                case Progress():
                    lease.advanced = lease.advanced or event.fraction > lease.task.fraction
                    lease.task.fraction = max(lease.task.fraction, event.fraction)
                case Emitted():
                    text = event.data.get("text") or ", ".join(f"{k} {v}" for k, v in event.data.items())
                    self._ledger.event(job.id, event.type, text, {**event.data, "task": event.task})
                case TaskEnded():
                    self._task_ended(source, job, lease, event)

    def _task_ended(self, worker: WorkerRun, job: JobRun, lease: Lease, ended: TaskEnded) -> None:
        del worker.tasks[ended.task]
        del job.leases[ended.task]
        worker.idle_since = self._clock()
        worker.device_s += ended.device_s
        used, at = self._usage.get(job.user, (0.0, self._clock()))
        now = self._clock()
        self._usage[job.user] = (decayed(used, now - at) + ended.device_s, now)
        self._ledger.used(job.user, self._usage[job.user][0], time.time())
        self._outcomes.attempt_ended(job, lease, ended)
        if ended.outcome == "finished":
            worker.failed_jobs.clear()
            for name in lease.task.failed_on - {worker.id}:
                self._blame(self.workers.get(name), job)
        self._over(job.id)
        self._wake()

    def _blame(self, worker: WorkerRun | None, job: JobRun) -> None:
        """Set a worker aside that could not do what another one then did, for several jobs in a row."""
        if worker is None or job.id in worker.failed_jobs:
            return
        worker.failed_jobs.append(job.id)
        now = self._clock()
        others = [w for w in self.workers.values() if w is not worker and w.aside_until <= now]
        if len(worker.failed_jobs) >= ASIDE_AFTER_JOBS and others:
            worker.failed_jobs.clear()
            worker.aside_until = now + ASIDE_S
            text = (
                f"{worker.id} failed tasks of {ASIDE_AFTER_JOBS} jobs in a row that another worker then did; "
                f"it gets no tasks for {ASIDE_S:.0f} s"
            )
            self._ledger.event(job.id, "worker set aside", text)
