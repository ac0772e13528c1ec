"""The controller: owns the state of all jobs, and lets nothing happen that the ledger does not know.

One asyncio loop, one thread. Commands change the ledger and the schedulable set; a tick leases what can
start; everything of a tick is committed before it is answered or sent.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from farm.commands import Commands
from farm.dispatch import Dispatcher, Limits
from farm.ledger import Ledger
from farm.lifecycle import Lifecycle
from farm.machine import most_workers
from farm.planning import Planner
from farm.pool import Pool
from farm.recovery import load_jobs
from farm.registration import Registrar
from farm.running import JobRun, WorkerRun
from farm.upkeep import Upkeep
from farm.views import View
from jobs.bundled import bundled_store
from jobs.library import Library
from jobs.states import JobState
from jobs.storage import open_store
from jobs.tasks import StoreOptions

log = logging.getLogger(__name__)

_TICK_S = 0.1


@dataclass(frozen=True)
class ControllerOptions:
    """What a controller is told when it starts; the same again when it is restarted.

    Attributes:
        ledger: File on a local disk.
        store: URL of the farm's store of assets.
        limits: How long workers and tasks may be silent.
        max_workers: How many workers the farm may grow to while there is work; None for no growth.
        idle_exit_s: After how long without work the farm ends itself; 0 for never.
    """

    farm: str
    ledger: str
    store: str
    cache_dir: str
    limits: Limits = field(default_factory=Limits)
    max_workers: int | None = None
    idle_exit_s: float = 0.0
    store_options: StoreOptions = field(default_factory=StoreOptions)


class Controller:
    """Commands and the loop behind them.

    Args:
        options: What it is told.
        pool: The workers it commands.
        end_farm: Called once when the farm has been idle for too long.
        broken: Called when memory and ledger may differ: only starting again puts that right.
    """

    def __init__(
        self,
        options: ControllerOptions,
        pool: Pool,
        end_farm: Callable[[], None] = lambda: None,
        broken: Callable[[Exception], None] = lambda _: None,
    ) -> None:
        self.options = options
        self.started_at = time.time()
        self.ledger = Ledger(Path(options.ledger), broken)
        self.view = View(self.ledger.connection)
        self.library = Library(
            open_store(options.store, options.store_options), Path(options.cache_dir), bundled_store()
        )
        self.pool = pool
        self.changed = asyncio.Event()
        self._wake = asyncio.Event()
        self._over: set[str] = set()
        self.dispatcher = Dispatcher(
            self.ledger,
            pool,
            limits=options.limits,
            over=self._over.add,
            wake=self._wake.set,
        )
        self.upkeep = Upkeep(self.dispatcher, pool, options.limits)
        self.lifecycle = Lifecycle(self.ledger, self.dispatcher)
        self.registrar = Registrar(self.ledger, self.library)
        self.planner = Planner(self.ledger, self.library, pool, self.dispatcher.workers)
        self.commands = Commands(self.ledger, self.view, self.dispatcher, self.planner, self._touch)
        self._end_farm = end_farm
        self._background: set[asyncio.Task[None]] = set()
        self._idle_since = time.monotonic()
        self._broken = broken
        self.closing = False

    def _touch(self, job_id: str) -> None:
        """Something about a job changed: look at it in the next tick, which comes at once."""
        self._idle_since = time.monotonic()
        self._over.add(job_id)
        self._wake.set()

    # The loop.

    async def run(self) -> None:
        """Recover what the ledger holds, start the workers, and tick until `close`."""
        for job in load_jobs(self.ledger):
            self.dispatcher.jobs[job.id] = job
            self._over.add(job.id)
        self.ledger.commit()
        self.upkeep.keep_workers(self.pool.start(self.dispatcher), self.options.max_workers)
        while not self.closing:
            self._wake.clear()
            self.tick()
            self._end_when_idle()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), _TICK_S)

    def tick(self) -> None:
        """Do what can be done now, make it durable, then let the workers know."""
        self.upkeep.beat()
        self.upkeep.scale()
        over = set(self._over)
        self._over.clear()
        for job_id in over:
            job = self.dispatcher.jobs.get(job_id)
            if job:
                self._settle(job)
        self.dispatcher.assign()
        self.flush()
        if over:
            self.announce()

    def flush(self) -> None:
        """Commit, then send."""
        self.ledger.commit()
        self.dispatcher.send_leased()

    def announce(self) -> None:
        """Let those who follow jobs look again."""
        self.changed.set()
        self.changed = asyncio.Event()

    def _settle(self, job: JobRun) -> None:
        """Move a job on after one of its attempts ended, and begin what became possible."""
        todo = self.lifecycle.settle(job)
        for step in todo.register:
            self._spawn(self._register(job, step))
        if todo.plan:
            job.planning = True
            self._spawn(self._plan(job))
        if todo.finish is not None:
            job.finishing = True
            self._spawn(self._finish(job, todo.finish))

    async def _register(self, job: JobRun, step: str) -> None:
        await self.registrar.register(job, step)
        job.registering.discard(step)
        job.registered.add(step)
        self._touch(job.id)

    async def _finish(self, job: JobRun, state: JobState) -> None:
        await self.lifecycle.finish(job, state)
        self.flush()
        self.announce()
        self._idle_since = time.monotonic()

    async def _plan(self, job: JobRun) -> None:
        try:
            await self.planner.plan(job)
        finally:
            job.planning = False
        self._touch(job.id)

    def _spawn(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._background.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._background.discard(task)
        error = None if task.cancelled() else task.exception()
        if isinstance(error, Exception):
            log.error("planning or ending a job failed", exc_info=error)
            self._broken(error)

    def _end_when_idle(self) -> None:
        if self.dispatcher.jobs:
            self._idle_since = time.monotonic()
        elif 0 < self.options.idle_exit_s < time.monotonic() - self._idle_since:
            self.closing = True
            self._end_farm()

    async def close(self) -> None:
        """Stop the loop and the workers; jobs go on when a controller starts again."""
        self.closing = True
        for task in self._background:
            task.cancel()
        await self.upkeep.close()
        await self.pool.close()
        self.ledger.close()

    # Reads that need more than the ledger.

    async def workers(self) -> list[dict[str, Any]]:
        """Return the workers in service and what each is at."""
        styles = await asyncio.to_thread(self.library.styles)
        names = {entry.sha256: entry.name for entry in styles}
        now = time.monotonic()
        return [
            {
                "id": worker.id,
                "pid": worker.report.pid,
                "node": worker.report.node,
                "device": worker.report.device,
                "state": _state_of(worker.killed, aside=worker.aside_until > now, busy=bool(worker.tasks)),
                "styles": sorted(names.get(sha, sha[:12]) for sha in worker.report.holds),
                "task": next(iter(worker.tasks), None),
                "gang": _gang(worker),
                "job": next((lease.task.job for lease in worker.tasks.values()), None),
                "item": self._item_name(next(iter(worker.tasks.values()), None)),
                "items_done": worker.items_done,
                "device_s": round(worker.device_s, 3),
                "held_bytes": worker.report.memory_bytes,
                "device_bytes": worker.report.device_bytes,
                "loads": worker.report.loads,
            }
            for worker in self.dispatcher.workers.values()
        ]

    def health(self) -> dict[str, Any]:
        """Return that the farm is there, and how it is set."""
        return {
            "farm": self.options.farm,
            "version": version("stylefarm"),
            "pid": os.getpid(),
            "uptime_s": round(time.time() - self.started_at, 3),
            "workers": len(self.dispatcher.workers),
            "most_workers": most_workers(self.dispatcher.workers, self.pool),
            "store": self.options.store,
            "lease_s": self.options.limits.lease_s,
        }

    def _item_name(self, lease: Any) -> str | None:
        flying = sorted(lease.in_flight) if lease else []
        return lease.open[flying[0]].input if flying and flying[0] in lease.open else None


def _gang(worker: WorkerRun) -> dict[str, Any] | None:
    """Return where a worker stands among those that run its task together, if there are others."""
    lease = next(iter(worker.tasks.values()), None)
    place = lease.place(worker.id) if lease else None
    return asdict(place) if place else None


def _state_of(killed: str, *, aside: bool, busy: bool) -> str:
    if killed:
        return "ending"
    if aside:
        return "set aside"
    return "busy" if busy else "idle"
