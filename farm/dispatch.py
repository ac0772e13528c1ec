"""Leases: which worker has which task, until when, and what happens when one of them falls silent."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from farm.ledger import Ledger
from farm.outcomes import Outcomes
from farm.pool import Pool
from farm.running import JobRun, Lease, TaskRun, WorkerRun
from jobs.errors import Failure, FarmError
from jobs.scheduler import Assignment, FreeWorker, RunnableJob, decayed, decide, wanted_workers
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

CANCEL_GRACE_S = 2.0
"""How long a canceled attempt may take to stop before its worker is killed."""

_HUNG = "the task said nothing for longer than it may"

IDLE_S = 120.0
"""How long a worker beyond the least number may be idle, so that an autoscaler can take its node."""

_SCALE_EVERY_S = 2.0

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
        self._stall_s = limits.stall_s
        self._over = over
        self._wake = wake
        self._clock = clock
        self._outcomes = Outcomes(ledger, clock)
        self._least = self._most = 0
        self._scale_at = 0.0
        self._orphans: list[Lease] = []
        self._unsent: list[tuple[str, TaskMessage]] = []
        self._stops: list[Lease] = []
        self._served = 0
        self._usage: dict[str, tuple[float, float]] = {
            row["user"]: (row["device_s"], clock() - max(0.0, time.time() - row["at"]))
            for row in ledger.read("SELECT * FROM usage")
        }
        self._beats: set[asyncio.Task[None]] = set()

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
            FreeWorker(worker.id, frozenset(worker.holds), len(worker.tasks))
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
                self._lost(lease, gone, reason, running=position == 0)
            else:
                self._orphans.append(lease)
        self._wake()

    def _lost(self, lease: Lease, worker: WorkerRun | None, reason: str, *, running: bool) -> None:
        job = self.jobs.get(lease.task.job)
        if job is None or job.leases.pop(lease.task.id, None) is None:
            return
        failure = Failure.WORKER_LOST
        if worker and worker.killed:
            failure = Failure.TIMEOUT if worker.killed == _HUNG and running else Failure.PREEMPTED
            reason = worker.killed
        self._outcomes.worker_lost(job, lease, failure, reason, running=running)
        text = f"{lease.worker} is gone: {reason}; what is left of task {lease.task.id} goes on"
        self._ledger.event(job.id, "worker lost", text)
        self._over(job.id)

    def worker_says(self, worker: str, events: Sequence[Event]) -> None:
        """Take in what a worker says; what an attempt without a lease says counts for nothing."""
        source = self.workers.get(worker)
        if source is None:
            return
        source.heard_at = self._clock()
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
        if ended.outcome == "failed":
            self._maybe_set_aside(worker, job, ended.reason)
        elif ended.outcome == "finished":
            worker.failed_jobs.clear()
        self._over(job.id)
        self._wake()

    def _maybe_set_aside(self, worker: WorkerRun, job: JobRun, reason: str) -> None:
        if job.id not in worker.failed_jobs:
            worker.failed_jobs.append(job.id)
        if len(worker.failed_jobs) >= ASIDE_AFTER_JOBS:
            worker.failed_jobs.clear()
            worker.aside_until = self._clock() + ASIDE_S
            self._ledger.event(
                job.id,
                "worker set aside",
                f"{worker.id} failed tasks of {ASIDE_AFTER_JOBS} jobs in a row, the last with: {reason}; "
                f"it gets no tasks for {ASIDE_S:.0f} s",
            )

    # Time.

    def beat(self) -> None:
        """Renew the leases of workers that are due, and end what has been silent for too long."""
        now = self._clock()
        for worker in list(self.workers.values()):
            if now - worker.heard_at > self._lease_s and worker.beating and not worker.killed:
                self._kill(worker, "it did not answer for longer than a lease")
            elif not worker.beating and not worker.killed:
                worker.beating = True
                beat = asyncio.ensure_future(self._beat(worker))
                self._beats.add(beat)
                beat.add_done_callback(self._beats.discard)
        self._end_overdue(now)

    async def _beat(self, worker: WorkerRun) -> None:
        asked_at = self._clock()
        leases = dict.fromkeys(worker.tasks, self._lease_s)
        try:
            worker.report = await self._pool.renew(worker.id, leases)
        except FarmError as error:
            log.info("%s did not answer: %s", worker.id, error)
            return
        worker.heard_at = self._clock()
        worker.holds = set(worker.report.holds) | {
            lease.task.affinity for lease in worker.tasks.values() if lease.task.affinity
        }
        for task in leases:
            if task in worker.tasks:
                worker.tasks[task].deadline = asked_at + 2 * self._lease_s
        await asyncio.sleep(min(1.0, self._lease_s / 4))
        worker.beating = False

    def keep_workers(self, least: int, most: int | None) -> None:
        """Let the farm grow from `least` to `most` workers while there is work; None for no growth."""
        self._least, self._most = least, max(least, most or 0)

    def scale(self) -> None:
        """Start more workers for a long backlog; end those that were idle for long."""
        now = self._clock()
        if self._most <= self._least or now < self._scale_at:
            return
        self._scale_at = now + _SCALE_EVERY_S
        waiting = [job for job in self.jobs.values() if job.state in {JobState.QUEUED, JobState.ACTIVE}]
        backlog_s = sum(task.estimate_s for job in waiting for task in job.all_queued())
        busy = sum(bool(worker.tasks) for worker in self.workers.values())
        wanted = wanted_workers(backlog_s, busy, self._least, self._most)
        resting = [w for w in self.workers.values() if not w.tasks and now - w.idle_since > IDLE_S]
        spare = resting[: max(0, len(self.workers) - wanted)]
        self._pool.resize(max(wanted, len(self.workers) - len(spare)))
        for worker in spare:
            worker.killed = "it was idle"
            self._pool.retire(worker.id)

    def _end_overdue(self, now: float) -> None:
        for lease in [lease for lease in self._orphans if lease.deadline <= now]:
            self._orphans.remove(lease)
            reason = "its node is gone and its lease has run out"
            self._lost(lease, None, reason, running=bool(lease.in_flight))
        for worker in list(self.workers.values()):
            first = next(iter(worker.tasks.values()), None)
            if first is None or worker.killed:
                continue
            job = self.jobs[first.task.job]
            sent = first.stop_sent_at
            if sent is not None and job.state is JobState.CANCELING and now - sent > CANCEL_GRACE_S:
                self._kill(worker, "a canceled task did not stop in time")
            elif now - max(first.heard_at, first.began_at) > self._stall_s:
                self._kill(worker, _HUNG)

    def _kill(self, worker: WorkerRun, reason: str) -> None:
        worker.killed = reason
        log.warning("ending %s: %s", worker.id, reason)
        self._pool.kill(worker.id)

    async def close(self) -> None:
        """Stop renewing leases."""
        for beat in self._beats:
            beat.cancel()
        await asyncio.gather(*self._beats, return_exceptions=True)
