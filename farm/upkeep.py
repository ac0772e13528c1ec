"""What time asks for: renewing leases, ending what is silent for too long, growing and shrinking."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence

from farm.dispatch import HUNG, SILENT, Dispatcher, Limits
from farm.pool import Pool
from farm.running import JobRun, WorkerRun
from jobs.errors import FarmError
from jobs.scheduler import wanted_workers
from jobs.states import JobState
from jobs.tasks import WorkerReport

log = logging.getLogger(__name__)

CANCEL_GRACE_S = 2.0
"""How long a canceled attempt may take to stop before its worker is killed."""

IDLE_S = 120.0
"""How long a worker beyond the least number may be idle, so that an autoscaler can take its node."""

_SCALE_EVERY_S = 2.0
_MISSED_REPORTS = 2


class Upkeep:
    """Looks after the workers of a dispatcher, a little in each tick."""

    def __init__(
        self, dispatcher: Dispatcher, pool: Pool, limits: Limits, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._dispatcher = dispatcher
        self._pool = pool
        self._limits = limits
        self._clock = clock
        self._least = self._most = 0
        self._scale_at = 0.0
        self._beats: set[asyncio.Task[None]] = set()

    # Leases.

    def beat(self) -> None:
        """Renew the leases of workers that are due, and end what has been silent for too long."""
        now = self._clock()
        for worker in list(self._dispatcher.workers.values()):
            if worker.killed:
                continue
            if now - worker.answered_at > self._limits.lease_s:
                self._kill(worker, SILENT)
            elif not worker.beating:
                worker.beating = True
                beat = asyncio.ensure_future(self._beat(worker))
                self._beats.add(beat)
                beat.add_done_callback(self._beats.discard)
        self._end_overdue(now)

    async def _beat(self, worker: WorkerRun) -> None:
        """Ask a worker once, then rest; the next tick begins the next beat."""
        asked_at = self._clock()
        leases = dict.fromkeys(worker.tasks, self._limits.lease_s)
        try:
            report = await self._pool.renew(worker.id, leases)
        except FarmError as error:
            log.info("%s did not answer: %s", worker.id, error)
        else:
            worker.answered_at = self._clock()
            self._take_in(worker, report, leases, asked_at)
        await asyncio.sleep(min(1.0, self._limits.lease_s / 4))
        worker.beating = False

    def _take_in(
        self, worker: WorkerRun, report: WorkerReport, leases: dict[int, float], asked_at: float
    ) -> None:
        worker.report = report
        held = [lease.task.affinity for lease in worker.tasks.values() if lease.task.affinity]
        worker.holds = {*report.holds, *held}
        for task in leases:
            lease = worker.tasks.get(task)
            if lease is None:
                continue
            member = lease.member(worker.id)
            # Received after it was asked, and before it was answered: at most a lease from now.
            member.deadline = self._clock() + self._limits.lease_s
            member.missed = 0 if task in report.tasks or lease.began_at > asked_at else member.missed + 1
            if member.missed >= _MISSED_REPORTS:
                self._dispatcher.unknown(worker, lease)

    def _end_overdue(self, now: float) -> None:
        orphans = self._dispatcher.orphans
        for lease, member in [orphan for orphan in orphans if orphan[1].deadline <= now]:
            orphans.remove((lease, member))
            reason = "its node is gone and its lease has run out"
            begun = bool(lease.in_flight) or len(lease.members) > 1
            self._dispatcher.lost(lease, member, "", reason, begun=begun)
        for worker in list(self._dispatcher.workers.values()):
            first = next(iter(worker.tasks.values()), None)
            if first is None or worker.killed:
                continue
            canceled = self._dispatcher.jobs[first.task.job].state is JobState.CANCELING
            grace_s = CANCEL_GRACE_S if canceled else self._limits.lease_s
            sent = first.stop_sent_at if canceled or first.at_once else None
            if sent is not None and now - sent > grace_s:
                what = "a canceled task" if canceled else "a task whose other workers have ended"
                self._kill(worker, f"{what} did not stop in time")
            elif now - max(first.heard_at, first.began_at) > self._limits.stall_s:
                self._kill(worker, HUNG)

    def _kill(self, worker: WorkerRun, reason: str) -> None:
        worker.killed = reason
        log.warning("ending %s: %s", worker.id, reason)
        self._pool.kill(worker.id)

    # The number of workers.

    def keep_workers(self, least: int, most: int | None) -> None:
        """Let the farm grow from `least` to `most` workers while there is work; None for no growth."""
        self._least, self._most = least, max(least, most or 0)

    def scale(self) -> None:
        """Start more workers for a long backlog, or for a task that needs more; end those idle for long."""
        now = self._clock()
        if now < self._scale_at:
            return
        self._scale_at = now + _SCALE_EVERY_S
        workers = self._dispatcher.workers
        active = [j for j in self._dispatcher.jobs.values() if j.state in {JobState.QUEUED, JobState.ACTIVE}]
        together = self._together(active)
        count = len(workers)
        if self._most > self._least or max(together, count) > self._least:
            backlog_s = sum(task.estimate_s for job in active for task in job.all_queued())
            busy = sum(bool(worker.tasks) for worker in workers.values())
            wanted = max(together, wanted_workers(backlog_s, busy, self._least, self._most))
            resting = [w for w in workers.values() if not w.tasks and now - w.idle_since > IDLE_S]
            spare = resting[: max(0, len(workers) - wanted)]
            count = max(wanted, len(workers) - len(spare))
            self._pool.resize(count)
            for worker in spare:
                worker.killed = "it was idle"
                self._pool.retire(worker.id)
        self._tell_why_they_wait(active, coming=count - len(workers))

    def _together(self, jobs: Sequence[JobRun]) -> int:
        """Return the most workers that a task needs at once, of those there can be."""
        tasks = (task for job in jobs for task in (*job.window(), *(le.task for le in job.leases.values())))
        together = max((task.workers[0] for task in tasks), default=0)
        enough = together <= len(self._dispatcher.workers)
        return together if enough else min(together, self._pool.capacity())

    def _tell_why_they_wait(self, jobs: Sequence[JobRun], coming: int) -> None:
        """Note with tasks that need workers for themselves what they wait for."""
        workers = self._dispatcher.workers.values()
        idle = sum(not worker.tasks for worker in workers)
        for task in (task for job in jobs for task in job.window() if task.alone):
            least = task.workers[0]
            needed = "a worker" if least == 1 else f"{least} workers"
            if len(workers) < least:
                reason = f"{len(workers)} there, {max(0, coming)} starting"
            else:
                reason = f"{idle} of {len(workers)} idle"
            self._dispatcher.say_why(task, f"waits for {needed}: {reason}")

    async def close(self) -> None:
        """Stop renewing leases."""
        for beat in self._beats:
            beat.cancel()
        await asyncio.gather(*self._beats, return_exceptions=True)
