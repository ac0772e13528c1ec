"""Workers on Ray: actors that belong to the controller's process, and live and die with it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import psutil
import ray
from ray.exceptions import ActorDiedError, ActorUnavailableError, RayError

from farm.folders import cache_dir
from farm.places import Node, Places
from farm.pool import Listener
from farm.processes import wait
from jobs.errors import FarmError
from jobs.stylize import KIND
from jobs.tasks import Event, StoreOptions, TaskMessage, WorkerReport

log = logging.getLogger(__name__)

_RESPAWN_S = (0.0, 0.5, 2.0, 5.0, 15.0)
"""Pauses before the next worker, after as many in a row that ended before they had proved themselves."""

_PROVED_S = 60.0
_SEES_S = 30.0
_NODES_S = 10.0
_DEATH_S = 10.0
_TELL_AGAIN_S = 1.0

_ENVIRONMENT = {"MALLOC_ARENA_MAX": "1"}
"""Of a worker's process: only from its start can all threads, Ray's own among them, share the one arena that
holds large blocks (`docs/adr/0006-allocator.md`)."""


class WorkerActor:
    """A `workers.worker.Worker` in a process of its own.

    Concurrency groups: `render` drives the device; `orders` has one thread, so that attempts come in order
    and no stop overtakes its attempt; `control` answers at any time; `mail` has one thread and takes in what
    other members of a gang send; `look` may take long.
    """

    def __init__(self, options: dict[str, Any], controller: Any) -> None:
        from workers.memory import tune_allocator

        tune_allocator()
        from farm.ray_group import RayGroups
        from workers.kinds import load_kind
        from workers.worker import Worker, WorkerOptions

        try:  # before it is ready: the first attempt should not wait for torch
            load_kind(KIND)
        except Exception:  # a module of somebody's own: each of its tasks will say so
            log.exception("the kinds of work cannot be imported")
        store_options = StoreOptions(**options.pop("store_options"))
        self._groups = RayGroups(options["device"])
        self._worker = Worker(
            WorkerOptions(**options, store_options=store_options),
            lambda events: tell(controller, options["id"], events),
            self._groups,
        )

    @ray.method(concurrency_group="control")
    def report(self) -> WorkerReport:
        """Say what the worker is at."""
        return self._worker.report()

    @ray.method(concurrency_group="control")
    def node(self) -> str:
        """Return Ray's id of the node that the worker is on."""
        return str(ray.get_runtime_context().get_node_id())

    @ray.method(concurrency_group="orders")
    def submit(self, message: TaskMessage, members: dict[str, Any] | None = None) -> None:
        """Take an attempt; of a gang, with the handles of its members by name."""
        if members is not None:
            self._groups.expect(message, members)
        self._worker.submit(message)

    @ray.method(concurrency_group="orders")
    def stop(self, task: int, attempt: int, at_once: bool) -> bool:  # noqa: FBT001 - Ray's types know no names
        """Ask an attempt to stop."""
        return self._worker.stop(task, attempt, at_once=at_once)

    @ray.method(concurrency_group="mail")
    def deliver(self, letter: Any, content: Any) -> None:
        """Take in what another member of a gang sends (`workers.mail`)."""
        self._groups.deliver(letter, content)

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


def tell(controller: Any, worker: str, events: list[Event]) -> None:
    """Tell the controller what a worker says, and again while it cannot be reached: it may hear it twice.

    Whatever is raised says that the events cannot travel, or that the controller could do nothing with them.
    """
    while True:
        try:
            ray.get(controller.worker_says.remote(worker, events))
        except ActorUnavailableError as error:
            log.warning("%s cannot reach the controller and tries again: %s", worker, first_line(error))
            time.sleep(_TELL_AGAIN_S)
        else:
            return


@dataclass
class _Member:
    """One worker.

    Attributes:
        node_id: Ray's id of its node, once it has come up.
        process: Its process, if that is on the controller's own node.
        tasks: What it had when it was last asked.
        proved: Whether it was of use: it has ended a task, or lived for some time.
        retired: Whether it is not to be replaced.
    """

    actor: Any = None
    node_id: str = ""
    process: psutil.Process | None = None
    tasks: frozenset[int] = frozenset()
    proved: bool = False
    retired: bool = False

    async def is_gone(self) -> bool:
        """Return whether its process has ended, as far as that can be seen: Ray says so a little before."""
        return not self.process or not await asyncio.to_thread(wait, [self.process], _DEATH_S)

    def kill(self) -> None:
        """End its process now."""
        if self.process:
            # Ray lets it exit by itself, for some seconds, and calls it dead before: it may be frozen.
            with suppress(psutil.NoSuchProcess):  # psutil makes sure that it is the same one
                self.process.kill()
        if self.actor is not None:
            try:
                ray.kill(self.actor, no_restart=True)
            except RayError as error:  # without its Ray it ends by itself
                log.warning("Ray does not end a worker: %s", first_line(error))


@dataclass(frozen=True)
class PoolOptions:
    """How many workers, on what.

    Attributes:
        workers: How many at first, or None for one per GPU of the cluster, or one where there is no GPU.
        max_workers: How many there may be later, or None for no more than at first, unless a task needs more.
        threads: Compute threads of each, or None to share the cores among them.
        device: `cpu`, `cuda`, or `auto` for a GPU where the cluster has one now.
        share: Part of a GPU that each takes.
    """

    workers: int | None
    max_workers: int | None
    threads: int | None
    device: str
    store: str
    store_options: StoreOptions = field(default_factory=StoreOptions)
    share: float = 1.0


class RayPool:
    """Workers as Ray actors that belong to this process (`farm.pool.Pool`)."""

    def __init__(self, options: PoolOptions, controller: Any) -> None:
        self._options = options
        self._controller = controller
        self._members: dict[str, _Member] = {}
        self._number = 0
        self._keepers: set[asyncio.Task[None]] = set()
        self._listener: Listener
        self._node_id = ""
        self._places: Places
        self._threads = 1
        self._looking: asyncio.Task[None] | None = None

    def start(self, listener: Listener) -> int:
        """Begin to keep the workers at their number; returns it."""
        self._listener = listener
        self._node_id = ray.get_runtime_context().get_node_id()
        wanted = self._options
        self._places = Places(
            _resources(ray.nodes()),
            workers=wanted.workers,
            max_workers=wanted.max_workers,
            threads=wanted.threads,
            device=wanted.device,
            share=wanted.share,
        )
        self.resize(self._places.least)
        return self._places.least

    def resize(self, count: int) -> None:
        """Keep this many: start more, or take back those that have not come up yet.

        Those that come now share the cores with all the others; these keep the threads they have.
        """
        self._threads = self._places.threads(count)
        for _ in range(count - len(self._keepers)):
            keeper = asyncio.ensure_future(self._keep())
            self._keepers.add(keeper)
            keeper.add_done_callback(self._keepers.discard)
        surplus = max(0, len(self._keepers) - count)
        coming = [name for name, member in self._members.items() if not member.node_id]
        for name in coming[:surplus]:
            self.retire(name)

    def capacity(self) -> int:
        """Return how many workers the cluster has a place for, of those the user allows.

        As it was when it was last looked at; each question lets it be looked at again, behind.
        """
        if self._looking is None or self._looking.done():
            self._looking = asyncio.ensure_future(self._look())
        return self._places.capacity()

    async def _look(self) -> None:
        """See which nodes there are now."""
        nodes = await _nodes()
        if nodes is not None:
            self._places.nodes = _resources(nodes)

    def retire(self, worker: str) -> None:
        """End a worker and do not replace it."""
        if worker in self._members:
            self._members[worker].retired = True
            self.kill(worker)

    async def _keep(self) -> None:
        """Keep one place filled: start a worker, wait for its end, start the next."""
        ended_early = 0
        while True:
            self._number += 1
            name = f"w{self._number}"
            member = self._members[name] = _Member()
            try:
                member.actor = self._start(name)
                await self._serve(name, member)
            except Exception:  # the place is kept, whatever went wrong with this worker
                log.exception("%s was not kept", name)
            finally:
                del self._members[name]
                member.kill()
            if member.retired:
                return
            ended_early = 0 if member.proved else ended_early + 1
            await asyncio.sleep(_RESPAWN_S[min(ended_early, len(_RESPAWN_S) - 1)])

    def _start(self, name: str) -> Any:
        """Let Ray start a worker, when it has a place for it; return its handle at once."""
        groups = {"render": 1, "orders": 1, "control": 2, "mail": 1, "look": 1}
        actors = ray.remote(max_restarts=0, max_task_retries=0, concurrency_groups=groups)(WorkerActor)  # type: ignore[call-overload]
        options = {
            "id": name,
            "device": "cuda" if self._places.on_gpu else "cpu",
            "threads": self._threads,
            "share": self._options.share,
            "store": self._options.store,
            "store_options": _as_dict(self._options.store_options),
            "cache_dir": str(cache_dir()),
        }
        asked = self._places.request
        place = {"num_cpus": asked["CPU"], "num_gpus": asked.get("GPU", 0)}
        process = {"scheduling_strategy": "SPREAD", "runtime_env": {"env_vars": _ENVIRONMENT}}
        return actors.options(**place, **process).remote(options, self._controller)

    async def _serve(self, name: str, member: _Member) -> None:
        """Announce a worker, wait for its end, announce that."""
        try:
            report: WorkerReport = await member.actor.report.remote()
            member.node_id = await member.actor.node.remote()
        except RayError as error:
            log.warning("%s did not start: %s", name, error)
            return
        if member.node_id == self._node_id:
            with suppress(psutil.NoSuchProcess):
                member.process = psutil.Process(report.pid)
        came_at, died, reason = time.monotonic(), False, "it ended"
        try:
            self._listener.worker_joined(report)
            await member.actor.run_forever.remote()
        except Exception as error:  # noqa: BLE001 - whatever it is: its leases must be given to others
            died, reason = isinstance(error, ActorDiedError), first_line(error)
        member.proved = member.proved or time.monotonic() - came_at > _PROVED_S
        member.kill()  # it may live on, without anybody who would listen
        certain = died and await _lives(member.node_id) and await member.is_gone()
        self._listener.worker_left(name, reason, certain=certain)

    def send(self, worker: str, message: TaskMessage) -> None:
        """Give a worker an attempt, and a member of a gang the way to the others."""
        if worker not in self._members:
            return
        gang = None
        if message.gang:
            there = [name for name in message.gang.workers if name in self._members]
            gang = {name: self._members[name].actor for name in there}
        self._members[worker].actor.submit.remote(message, gang)

    def stop(self, worker: str, task: int, attempt: int, *, at_once: bool = False) -> None:
        """Ask a worker to stop an attempt."""
        if worker in self._members:
            self._members[worker].actor.stop.remote(task, attempt, at_once)

    async def renew(self, worker: str, leases: dict[int, float]) -> WorkerReport:
        """Renew leases; see `farm.pool.Pool`."""
        member = self._members.get(worker)
        if member is None:
            raise FarmError(f"worker {worker} is gone")
        try:
            report: WorkerReport = await member.actor.renew.remote(leases)
        except RayError as error:
            raise FarmError(f"worker {worker} does not answer: {first_line(error)}") from error
        member.proved = member.proved or not member.tasks <= set(report.tasks)
        member.tasks = frozenset(report.tasks)
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
            self._members[worker].kill()

    async def close(self) -> None:
        """End all workers."""
        tasks = [*self._keepers, *filter(None, [self._looking])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _as_dict(options: StoreOptions) -> dict[str, Any]:
    return {name: getattr(options, name) for name in StoreOptions.__dataclass_fields__}


def first_line(error: BaseException) -> str:
    """Return the first line of what an error says."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


async def _lives(node_id: str) -> bool:
    """Return whether a node is known to be alive: then what Ray says of its processes is true."""
    nodes = await _nodes()
    return any(node["NodeID"] == node_id and node["Alive"] for node in nodes or [])


async def _nodes() -> list[dict[str, Any]] | None:
    """Return what Ray says of its nodes, None if it does not say."""
    try:
        return await asyncio.wait_for(asyncio.to_thread(ray.nodes), _NODES_S)
    except Exception as error:  # noqa: BLE001 - not to know is an answer
        log.warning("Ray does not say which nodes are alive: %s", first_line(error))
        return None


def _resources(nodes: Sequence[dict[str, Any]]) -> list[Node]:
    """Return the resources of each living node."""
    return [node["Resources"] for node in nodes if node["Alive"]]
