"""A pool in memory whose workers do what a script says."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence

from farm.pool import Listener
from jobs.errors import Failure, FarmError
from jobs.states import ItemState
from jobs.tasks import (
    Event,
    Item,
    ItemFinished,
    ItemStarted,
    StoreOptions,
    TaskEnded,
    TaskMessage,
    WorkerReport,
)

DIE = "die"
"""What a script yields for a worker that ends at this point."""

WAIT = "wait"
"""What a script yields for an attempt that says nothing more until it is asked to stop."""

Script = Callable[[str, TaskMessage], Iterator[Event | str]]


def started(message: TaskMessage, item: Item) -> ItemStarted:
    return ItemStarted(message.task, message.attempt, item.id)


def finished(
    message: TaskMessage, item: Item, failure: Failure | None = None, reason: str = ""
) -> ItemFinished:
    state = ItemState.FAILED if failure else ItemState.DONE
    detail = {} if failure else {"width_px": 100, "height_px": 100, "sha256": "0" * 64}
    output = "" if failure else f"{message.output}/{item.output_key}"
    return ItemFinished(message.task, message.attempt, item.id, state, failure, reason, output, detail)


def ended(
    message: TaskMessage, outcome: str = "finished", failure: Failure | None = None, **result: str
) -> TaskEnded:
    return TaskEnded(message.task, message.attempt, outcome, failure, device_s=0.1, result=dict(result))


def rank(message: TaskMessage) -> int:
    """Return which member a message is for; 0 for a worker alone."""
    return message.gang.rank if message.gang else 0


def succeed(worker: str, message: TaskMessage) -> Iterator[Event | str]:
    """Finish every item, then the task; of several workers only the first is heard of items."""
    if rank(message) > 0:
        yield ended(message)
        return
    for item in message.items:
        yield started(message, item)
        yield finished(message, item)
    yield ended(message)


class ScriptedPool:
    """Workers `w1`, `w2`, ...; one that dies is replaced by one of the next number.

    It holds the controller to what it promises of every attempt that it sends: see `_check`.
    """

    def __init__(self, workers: int = 2, script: Script = succeed, capacity: int = 0) -> None:
        self.script = script
        self.places = max(workers, capacity)
        self.sent: list[tuple[str, TaskMessage]] = []
        self.blind: dict[str, list[str]] = {}
        self.frozen: set[str] = set()
        self.killed: list[str] = []
        self.retired: list[str] = []
        self.alive: list[str] = []
        self._number = 0
        self._size = workers
        self._listener: Listener
        self._queues: dict[str, asyncio.Queue[TaskMessage]] = {}
        self._loops: dict[str, asyncio.Task[None]] = {}
        self._stops: dict[tuple[str, int, int], asyncio.Event] = {}
        self._has: dict[str, list[TaskMessage]] = {}
        self.broken: list[str] = []
        self.stops: list[tuple[str, int, int, bool]] = []
        self.lose_sends = 0
        self.replaces = True
        self.failing_renews = 0

    def start(self, listener: Listener) -> int:
        self._listener = listener
        self.resize(self._size)
        return self._size

    def resize(self, count: int) -> None:
        for _ in range(count - len(self.alive)):
            self.join()

    def capacity(self) -> int:
        return self.places

    def retire(self, worker: str) -> None:
        self.retired.append(worker)
        asyncio.get_running_loop().call_soon(self.lose, worker)

    def join(self) -> str:
        self._number += 1
        name = f"w{self._number}"
        self.alive.append(name)
        self._queues[name] = asyncio.Queue()
        self._loops[name] = asyncio.ensure_future(self._work(name))
        self._listener.worker_joined(self._report(name))
        return name

    def _report(self, name: str) -> WorkerReport:
        return WorkerReport(name, pid=1, node="here", device="cpu", tasks=self._tasks(name))

    def _tasks(self, name: str) -> tuple[int, ...]:
        return tuple(message.task for message in self._has.get(name, ()))

    async def _work(self, name: str) -> None:
        while True:
            message = await self._queues[name].get()
            for event in self.script(name, message):
                await asyncio.sleep(0)
                if event == DIE:
                    self.lose(name)
                    return
                if event == WAIT:
                    await self._stop_of(name, message.task, message.attempt).wait()
                    self._has[name].remove(message)
                    self._listener.worker_says(name, [ended(message, "stopped")])
                    break
                if isinstance(event, TaskEnded):
                    self._has[name].remove(message)
                self._listener.worker_says(name, [event])  # type: ignore[list-item]

    def lose(self, name: str, *, certain: bool = True) -> None:
        """End a worker and replace it."""
        if name in self.alive:
            self.alive.remove(name)
            self._has.pop(name, None)
            loop = self._loops.pop(name)
            if loop is not asyncio.current_task():
                loop.cancel()
            self._listener.worker_left(name, "it died", certain=certain)
            if self.replaces and name not in self.retired:
                self.join()

    def _stop_of(self, worker: str, task: int, attempt: int) -> asyncio.Event:
        return self._stops.setdefault((worker, task, attempt), asyncio.Event())

    def send(self, worker: str, message: TaskMessage) -> None:
        self._check(worker, message)
        self.sent.append((worker, message))
        if self.lose_sends > 0:
            self.lose_sends -= 1
        elif worker in self.alive:
            self._has.setdefault(worker, []).append(message)
            self._queues[worker].put_nowait(message)

    def _check(self, worker: str, message: TaskMessage) -> None:
        """Note what must never be: two attempts of a task at a time, or something beside a gang."""
        for name, messages in self._has.items():
            for other in messages:
                if other.task == message.task and other.attempt != message.attempt:
                    self.broken.append(f"{name} is still at {other} when {message} begins")
                if name == worker and (other.gang or message.gang):
                    self.broken.append(f"{name} gets {message} beside {other}")

    def stop(self, worker: str, task: int, attempt: int, *, at_once: bool = False) -> None:
        self.stops.append((worker, task, attempt, at_once))
        self._stop_of(worker, task, attempt).set()

    async def renew(self, worker: str, leases: dict[int, float]) -> WorkerReport:
        if worker in self.frozen:
            await asyncio.Event().wait()
        if self.failing_renews > 0:
            self.failing_renews -= 1
            raise FarmError("the network hiccuped")
        if worker not in self.alive:
            raise FarmError(f"{worker} is gone")
        return self._report(worker)

    async def sees(self, urls: Sequence[str], options: StoreOptions) -> dict[str, list[str]]:
        return self.blind

    def kill(self, worker: str) -> None:
        self.killed.append(worker)
        asyncio.get_running_loop().call_soon(self.lose, worker)

    async def close(self) -> None:
        for loop in self._loops.values():
            loop.cancel()
