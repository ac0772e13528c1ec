"""Workers on Ray: actors that belong to the controller's process, and live and die with it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import RayError

from farm.folders import cache_dir
from farm.pool import Listener
from jobs.errors import FarmError
from jobs.tasks import StoreOptions, TaskMessage, WorkerReport

log = logging.getLogger(__name__)

_RESPAWN_S = (0.0, 0.5, 2.0, 5.0, 15.0)
_SEES_S = 30.0


class WorkerActor:
    """A `workers.worker.Worker` in a process of its own. Two concurrency groups: `render` and `control`."""

    def __init__(self, options: dict[str, Any], controller: Any) -> None:
        from workers.memory import tune_allocator

        tune_allocator()
        from workers.worker import Worker, WorkerOptions

        store_options = StoreOptions(**options.pop("store_options"))
        self._worker = Worker(
            WorkerOptions(**options, store_options=store_options),
            lambda events: controller.worker_says.remote(options["id"], events),
        )

    @ray.method(concurrency_group="control")
    def report(self) -> WorkerReport:
        """Say what the worker is at."""
        return self._worker.report()

    @ray.method(concurrency_group="control")
    def node(self) -> str:
        """Return Ray's id of the node that the worker is on."""
        return str(ray.get_runtime_context().get_node_id())

    @ray.method(concurrency_group="control")
    def submit(self, message: TaskMessage) -> None:
        """Take an attempt."""
        self._worker.submit(message)

    @ray.method(concurrency_group="control")
    def stop(self, task: int, attempt: int) -> bool:
        """Ask an attempt to stop."""
        return self._worker.stop(task, attempt)

    @ray.method(concurrency_group="control")
    def renew(self, leases: dict[int, float]) -> WorkerReport:
        """Renew leases."""
        return self._worker.renew(leases)

    @ray.method(concurrency_group="look")
    def sees(self, urls: list[str], options: StoreOptions) -> list[str]:
        """Return what this worker cannot see."""
        return self._worker.sees(urls, options)

    @ray.method(concurrency_group="render")
    def run_forever(self) -> None:
        """Run attempts; ends only with the process."""
        self._worker.run_forever()


@dataclass
class _Member:
    actor: Any
    node_id: str = ""
    retired: bool = False


@dataclass(frozen=True)
class PoolOptions:
    """How many workers, on what.

    Attributes:
        workers: How many at first, or None for one per GPU of the cluster, or one where there is no GPU.
        max_workers: How many there may be later, or None for no more than at first.
        threads: Compute threads of each, or None to share the cores among them.
        device: `cpu`, `cuda`, or `auto` for a GPU where the cluster has one now.
    """

    workers: int | None
    max_workers: int | None
    threads: int | None
    device: str
    store: str
    store_options: StoreOptions = field(default_factory=StoreOptions)


class RayPool:
    """Workers as Ray actors that belong to this process (`farm.pool.Pool`)."""

    def __init__(self, options: PoolOptions, controller: Any) -> None:
        self._options = options
        self._controller = controller
        self._members: dict[str, _Member] = {}
        self._number = 0
        self._keepers: set[asyncio.Task[None]] = set()
        self._listener: Listener
        self._on_gpu = False
        self._threads = 1
        self._request: dict[str, float] = {}

    def start(self, listener: Listener) -> int:
        """Begin to keep the workers at their number; returns it."""
        self._listener = listener
        resources = ray.cluster_resources()
        gpus, cores = int(resources.get("GPU", 0)), resources.get("CPU", 1.0)
        self._on_gpu = self._options.device == "cuda" or (self._options.device == "auto" and gpus > 0)
        if self._options.workers is None:
            workers = gpus if self._on_gpu and gpus else 1
        else:
            workers = self._options.workers
        share = cores / max(workers, self._options.max_workers or 1)
        self._threads = self._options.threads or max(1, int(share))
        # A little less than its share, so that rounding never leaves the last worker without a place.
        self._request = {"num_cpus": round(min(self._threads, share * 0.99), 3)}
        if self._on_gpu:
            self._request["num_gpus"] = 1
        self.resize(workers)
        return workers

    def resize(self, count: int) -> None:
        """Keep this many: start more, or take back those that have not come up yet."""
        for _ in range(count - len(self._keepers)):
            keeper = asyncio.ensure_future(self._keep())
            self._keepers.add(keeper)
            keeper.add_done_callback(self._keepers.discard)
        surplus = max(0, len(self._keepers) - count)
        coming = [name for name, member in self._members.items() if not member.node_id]
        for name in coming[:surplus]:
            self.retire(name)

    def retire(self, worker: str) -> None:
        """End a worker and do not replace it."""
        if worker in self._members:
            self._members[worker].retired = True
            self.kill(worker)

    async def _keep(self) -> None:
        """Keep one place filled: start a worker, wait for its end, start the next."""
        groups = {"render": 1, "control": 2, "look": 1}
        actors = ray.remote(max_restarts=0, max_task_retries=0, concurrency_groups=groups)(WorkerActor)  # type: ignore[call-overload]
        deaths_in_a_row = 0
        while True:
            self._number += 1
            name = f"w{self._number}"
            options = {
                "id": name,
                "device": "cuda" if self._on_gpu else "cpu",
                "threads": self._threads,
                "store": self._options.store,
                "store_options": _as_dict(self._options.store_options),
                "cache_dir": str(cache_dir()),
            }
            actor = actors.options(**self._request).remote(options, self._controller)
            member = self._members[name] = _Member(actor)
            joined = await self._serve(name, member)
            self._members.pop(name, None)
            if member.retired:
                return
            deaths_in_a_row = 0 if joined else deaths_in_a_row + 1
            await asyncio.sleep(_RESPAWN_S[min(deaths_in_a_row, len(_RESPAWN_S) - 1)])

    async def _serve(self, name: str, member: _Member) -> bool:
        """Announce a worker, wait for its end, announce that; return whether it ever came up."""
        try:
            report: WorkerReport = await member.actor.report.remote()
            member.node_id = await member.actor.node.remote()
        except RayError as error:
            log.warning("%s did not start: %s", name, error)
            return False
        self._listener.worker_joined(report)
        reason = "it ended"
        try:
            await member.actor.run_forever.remote()
        except RayError as error:
            reason = first_line(error)
        certain = await asyncio.to_thread(_node_lives, member.node_id)
        self._listener.worker_left(name, reason, certain=certain)
        return True

    def send(self, worker: str, message: TaskMessage) -> None:
        """Give a worker an attempt."""
        if worker in self._members:
            self._members[worker].actor.submit.remote(message)

    def stop(self, worker: str, task: int, attempt: int) -> None:
        """Ask a worker to stop an attempt."""
        if worker in self._members:
            self._members[worker].actor.stop.remote(task, attempt)

    async def renew(self, worker: str, leases: dict[int, float]) -> WorkerReport:
        """Renew leases; see `farm.pool.Pool`."""
        if worker not in self._members:
            raise FarmError(f"worker {worker} is gone")
        try:
            report: WorkerReport = await self._members[worker].actor.renew.remote(leases)
        except RayError as error:
            raise FarmError(f"worker {worker} does not answer: {first_line(error)}") from error
        return report

    async def sees(self, urls: Sequence[str], options: StoreOptions) -> dict[str, list[str]]:
        """Return by worker which URLs it cannot see; one that does not answer in time is left out."""
        blind: dict[str, list[str]] = {}
        asked = {
            name: member.actor.sees.remote(list(urls), options)
            for name, member in self._members.items()
            if member.node_id
        }
        for name, answer in asked.items():
            try:
                missing = await asyncio.wait_for(asyncio.wrap_future(answer.future()), _SEES_S)
            except (RayError, TimeoutError) as error:
                log.info("%s was not asked what it sees: %s", name, error)
                continue
            if missing:
                blind[name] = missing
        return blind

    def kill(self, worker: str) -> None:
        """End a worker's process now."""
        if worker in self._members:
            ray.kill(self._members[worker].actor, no_restart=True)

    async def close(self) -> None:
        """End all workers."""
        for keeper in self._keepers:
            keeper.cancel()
        for name in list(self._members):
            self.kill(name)


def _as_dict(options: StoreOptions) -> dict[str, Any]:
    return {name: getattr(options, name) for name in StoreOptions.__dataclass_fields__}


def first_line(error: BaseException) -> str:
    """Return the first line of what an error says."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _node_lives(node_id: str) -> bool:
    return any(node["NodeID"] == node_id and node["Alive"] for node in ray.nodes())
