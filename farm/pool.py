"""What the controller needs of the workers it commands. `farm.ray_pool` does it with Ray."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from jobs.tasks import Event, StoreOptions, TaskMessage, WorkerReport


class Listener(Protocol):
    """What a pool tells the controller, always from the controller's own thread."""

    def worker_joined(self, report: WorkerReport) -> None:
        """A worker is ready for tasks."""
        ...

    def worker_left(self, worker: str, reason: str, *, certain: bool) -> None:
        """A worker is gone; `certain` says that its process has ended and cannot write any more."""
        ...

    def worker_says(self, worker: str, events: Sequence[Event]) -> None:
        """Events of a worker, in the order in which they happened."""
        ...


class Pool(Protocol):
    """Workers that are kept at a number: one that is lost is replaced under a new id."""

    def start(self, listener: Listener) -> int:
        """Begin to start workers; returns their number at once."""
        ...

    def resize(self, count: int) -> None:
        """Keep this many from now on: start more, or take back those that have not come up yet."""
        ...

    def capacity(self) -> int:
        """Return how many workers there could be, of those the user allows: no fewer than at the start."""
        ...

    def retire(self, worker: str) -> None:
        """End a worker and do not replace it; `worker_left` follows."""
        ...

    def send(self, worker: str, message: TaskMessage) -> None:
        """Give a worker an attempt; returns at once."""
        ...

    def stop(self, worker: str, task: int, attempt: int, *, at_once: bool = False) -> None:
        """Ask a worker to stop an attempt; returns at once, `TaskEnded` is the answer.

        Of workers that run it together the first decides when, and they save what they have; `at_once`, each
        stops by itself, as others of them may be gone.
        """
        ...

    async def renew(self, worker: str, leases: dict[int, float]) -> WorkerReport:
        """Renew the leases (seconds from receipt by task) and return what the worker is at.

        Raises:
            FarmError: If the worker is gone.
        """
        ...

    async def sees(self, urls: Sequence[str], options: StoreOptions) -> dict[str, list[str]]:
        """Return which folders, files and prefixes each worker cannot see, for those that miss some."""
        ...

    def kill(self, worker: str) -> None:
        """End a worker's process now; `worker_left` follows."""
        ...

    async def close(self) -> None:
        """End all workers."""
        ...
