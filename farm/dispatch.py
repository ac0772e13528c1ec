"""Leases: which worker has which task, and what becomes of that when workers speak, come and go."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from farm.ledger import Ledger
from farm.outcomes import Outcomes
from farm.pool import Pool
from farm.progress import ProgressLog
from farm.running import JobRun, Lease, Member, TaskRun, WorkerRun
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
        self._progress = ProgressLog(ledger, clock)
        self.orphans: list[tuple[Lease, Member]] = []
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
                [task.waiting() for task in job.window()],
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
            FreeWorker(worker.id, frozenset(worker.holds), len(worker.tasks), worker.held_by)
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
        workers = [self.workers[name] for name in assignment.workers]
        task = job.take(assignment.task)
        items, pending = self._items(task)
        task.attempt += 1
        task.message = ""
        members = tuple(Member(worker.id, now + self._lease_s) for worker in workers)
        lease = Lease(task, members, {item.id: item for item in items if item.id in pending}, now, now)
        job.leases[task.id] = lease
        for worker in workers:
            worker.tasks[task.id] = lease
            if task.affinity:
                worker.holds.add(task.affinity)
        self._served += 1
        job.served = self._served
        self._write_lease(job, lease, workers[0].report.device)
        message = self._message(job, task, items)
        self._unsent += [(name, replace(message, gang=lease.place(name))) for name in lease.workers]

    def _write_lease(self, job: JobRun, lease: Lease, device: str) -> None:
        if job.state is JobState.QUEUED:
            job.state = move(job.state, JobState.ACTIVE)
            self._ledger.update("jobs", {"state": job.state}, id=job.id)
            if job.started_at is None:
                job.started_at = time.time()
                self._ledger.update("jobs", {"started_at": job.started_at}, id=job.id)
        leased = {"state": move(TaskState.QUEUED, TaskState.LEASED), "attempt": lease.attempt, "message": ""}
        self._ledger.update("tasks", leased, id=lease.task.id)
        self._ledger.insert(
            "attempts",
            {
                "task": lease.task.id,
                "number": lease.attempt,
                "worker": lease.worker,
                "members": lease.workers,
                "device": device,
                "started_at": time.time(),
            },
        )

    def _items(self, task: TaskRun) -> tuple[list[Item], set[int]]:
        """Return the items that an attempt gets, and which of them it has to finish.

        One whose result was lost on the way gets what is done as well: it returns that.
        """
        rows = self._ledger.read(
            "SELECT id, input, size_bytes, stamp, output_key, state FROM items WHERE task=? AND "
            "(state='pending' OR (? AND state IN ('done', 'skipped'))) ORDER BY id",
            task.id,
            task.returns,
        )
        return [Item(*row[:5]) for row in rows], {row["id"] for row in rows if row["state"] == "pending"}

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

    def say_why(self, task: TaskRun, text: str) -> None:
        """Note why a task waits."""
        if task.message != text:
            task.message = text
            self._ledger.update("tasks", {"message": text}, id=task.id)

    def send_leased(self) -> None:
        """Send what was leased and what is to stop; the ledger has it by now."""
        unsent, self._unsent = self._unsent, []
        for worker, message in unsent:
            if worker in self.workers:
                self._pool.send(worker, message)
        stops, self._stops = self._stops, []
        for lease in stops:
            for member in lease.running:
                self._pool.stop(member.worker, lease.task.id, lease.attempt, at_once=lease.at_once)

    # Stopping.

    def stop_job(self, job: JobRun, *, at_once: bool = False) -> None:
        """Ask all attempts of a job to stop, at once or when they have saved what they are at."""
        for lease in job.leases.values():
            self._stop(lease, at_once=at_once)

    def _stop(self, lease: Lease, *, at_once: bool) -> None:
        """Ask the members of an attempt to stop; each answers with `TaskEnded`."""
        if lease.stop_sent_at is None or (at_once and not lease.at_once):
            lease.stop_sent_at, lease.at_once = self._clock(), at_once
            self._stops.append(lease)
            self._wake()

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
            member = lease.member(worker)
            if certain:
                self.lost(lease, member, gone.killed, reason, begun=position == 0)
            else:
                self.orphans.append((lease, member))
                if len(lease.members) > 1:
                    self._stop(lease, at_once=True)
        self._wake()

    def lost(self, lease: Lease, member: Member, killed: str, reason: str, *, begun: bool) -> None:
        """Record that a member cannot use its lease any more.

        Args:
            lease: What its attempt held.
            member: The worker that is gone, or never got it.
            killed: Why we ended the worker ourselves, if we did.
            reason: What happened to it.
            begun: Whether the attempt had begun; one that waited behind another is blameless.
        """
        job = self.jobs.get(lease.task.job)
        if job is None or job.leases.get(lease.task.id) is not lease:
            return
        if killed in {HUNG, SILENT} or not killed:
            failure = Failure.TIMEOUT if killed == HUNG else Failure.WORKER_LOST
        else:
            failure = Failure.PREEMPTED
        reason = killed or reason
        text = f"{member.worker} is gone: {reason}; what is left of task {lease.task.id} goes on"
        self._ledger.event(job.id, "worker lost", text)
        member.begun = begun
        self._member_ended(
            job, lease, member, TaskEnded(lease.task.id, lease.attempt, "lost", failure, reason)
        )

    def unknown(self, worker: WorkerRun, lease: Lease) -> None:
        """End a lease that its worker does not know: the message was lost on the way."""
        del worker.tasks[lease.task.id]
        self.lost(lease, lease.member(worker.id), "the task never reached its worker", "", begun=False)
        self._wake()

    def worker_says(self, worker: str, events: Sequence[Event]) -> None:
        """Take in what a worker says; what an attempt without a lease says counts for nothing.

        Of those that run an attempt together only the first is heard; the others say when they end.
        """
        source = self.workers.get(worker)
        if source is None:
            return
        for event in events:
            lease = source.tasks.get(event.task)
            if lease is None or lease.attempt != event.attempt:
                continue
            lease.heard_at = self._clock()
            job = self.jobs[lease.task.job]
            if isinstance(event, TaskEnded):
                self._task_ended(source, job, lease, event)
            elif worker == lease.worker:
                self._hear(source, job, lease, event)

    def _hear(self, worker: WorkerRun, job: JobRun, lease: Lease, event: Event) -> None:
        match event:
            case ItemStarted():
                lease.in_flight.add(event.item)
            case ItemFinished():
                worker.items_done += 1
                self._outcomes.item_finished(job, lease, event)
                self._over(job.id)
            case Progress():
                self._progress.progressed(lease, event)
            case Emitted():
                self._progress.emitted(job, lease, event)

    def _task_ended(self, worker: WorkerRun, job: JobRun, lease: Lease, ended: TaskEnded) -> None:
        del worker.tasks[ended.task]
        now = self._clock()
        worker.idle_since = now
        worker.device_s += ended.device_s
        used, at = self._usage.get(job.user, (0.0, now))
        self._usage[job.user] = (decayed(used, now - at) + ended.device_s, now)
        self._ledger.used(job.user, self._usage[job.user][0], time.time())
        self._member_ended(job, lease, lease.member(worker.id), ended)
        self._wake()

    def _member_ended(self, job: JobRun, lease: Lease, member: Member, ended: TaskEnded) -> None:
        """End an attempt with its last member; before that, the end of one may be the end of all."""
        member.ended = ended
        if not lease.running:
            self._attempt_over(job, lease)
        elif ended.outcome != "finished" or member is lease.members[0]:
            self._stop(lease, at_once=True)

    def _attempt_over(self, job: JobRun, lease: Lease) -> None:
        del job.leases[lease.task.id]
        self._progress.attempt_over(job, lease.task)
        ended = self._outcomes.attempt_ended(job, lease)
        if ended.outcome == "finished":
            for name in lease.workers:
                if name in self.workers:
                    self.workers[name].failed_jobs.clear()
            for name in lease.task.failed_on.difference(lease.workers):
                self._blame(self.workers.get(name), job)
        self._over(job.id)

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
