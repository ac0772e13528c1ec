"""The schedulable set in memory: jobs, their queued tasks, and leases. The ledger holds the truth of each."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice

from jobs.errors import Failure
from jobs.scheduler import CREDITS, SPLIT_AFTER_DEATHS, WaitingTask
from jobs.states import JobState
from jobs.tasks import Item, StoreOptions, WorkerReport

_WINDOW = 16
"""How many queued tasks of each model the scheduler gets to see; the rest cannot come before them."""


@dataclass
class TaskRun:
    """A queued or leased task.

    Attributes:
        avoid: Workers on which it or one of its items failed.
        failed_on: Those on which an attempt failed as a whole: blamed once another worker can do it.
    """

    id: int
    job: str
    step: str
    kind: str
    affinity: str
    estimate_s: float
    workers: tuple[int, int]
    exclusive: bool = False
    attempt: int = 0
    deaths: int = 0
    failures: Counter[Failure] = field(default_factory=Counter)
    fraction: float = 0.0
    since: float = 0.0
    not_before: float = 0.0
    avoid: set[str] = field(default_factory=set)
    failed_on: set[str] = field(default_factory=set)

    @property
    def suspect(self) -> bool:
        """Whether it has ended so many workers that nothing else may be beside it."""
        return self.deaths >= SPLIT_AFTER_DEATHS

    def waiting(self) -> WaitingTask:
        """Return what the scheduler may know of it."""
        return WaitingTask(
            self.id,
            self.job,
            self.affinity,
            self.estimate_s,
            self.since,
            frozenset(self.avoid),
            self.workers,
            self.not_before,
            alone=self.suspect or self.exclusive or self.workers[1] > 1,
        )


@dataclass
class Lease:
    """The right of one attempt to commit.

    Attributes:
        open: Items without an outcome in this attempt.
        in_flight: Those of them that the worker has begun.
        deadline: When it ends unless it is renewed, in the controller's monotonic seconds.
        heard_at: When the worker last said something about it.
        retry_at: When its unfinished items may be tried again.
        advanced: Whether it got further than any attempt before it.
        stop_sent_at: When it was asked to stop.
        missed: How many reports of its worker in a row did not know it.
    """

    task: TaskRun
    worker: str
    open: dict[int, Item]
    deadline: float
    began_at: float
    heard_at: float
    in_flight: set[int] = field(default_factory=set)
    retry_at: float = 0.0
    pixels_done: int = 0
    advanced: bool = False
    stop_sent_at: float | None = None
    missed: int = 0

    @property
    def attempt(self) -> int:
        """Number of the attempt."""
        return self.task.attempt


@dataclass
class JobRun:
    """A job that has not ended.

    Attributes:
        stopping_reason: Why no more of its tasks start, for a job that ends early.
        refused: Whether it cannot be done as asked, which planning found out: it never gets a plan.
        planning: Whether its ready steps are being planned.
        finishing: Whether its report is being written.
        open_tasks: How many tasks of each step have not ended.
    """

    id: str
    number: int
    name: str
    user: str
    tier: str
    priority: int
    state: JobState
    output: str
    store_options: StoreOptions
    on_existing: str
    max_failed: str | int | None
    total: int = 0
    failed: int = 0
    served: int = 0
    started_at: float | None = None
    stopping_reason: str = ""
    refused: bool = False
    planning: bool = False
    finishing: bool = False
    open_tasks: Counter[str] = field(default_factory=Counter)
    queued: dict[str, deque[TaskRun]] = field(default_factory=dict)
    leases: dict[int, Lease] = field(default_factory=dict)

    def put(self, task: TaskRun, *, first: bool = False) -> None:
        """Queue a task, behind those of its model or before them."""
        queue = self.queued.setdefault(task.affinity, deque())
        if first:
            queue.appendleft(task)
        else:
            queue.append(task)

    def take(self, task_id: int) -> TaskRun:
        """Remove a task from the queue and return it."""
        for affinity, queue in self.queued.items():
            for task in islice(queue, _WINDOW):
                if task.id == task_id:
                    queue.remove(task)
                    if not queue:
                        del self.queued[affinity]
                    return task
        raise KeyError(task_id)

    def window(self) -> Iterator[WaitingTask]:
        """Yield the tasks that the scheduler gets to see."""
        for queue in self.queued.values():
            for task in islice(queue, _WINDOW):
                yield task.waiting()

    def all_queued(self) -> Iterator[TaskRun]:
        """Yield all queued tasks."""
        for queue in self.queued.values():
            yield from queue


@dataclass
class WorkerRun:
    """A worker in service.

    Attributes:
        tasks: Leases it has, oldest first: the first is the one that runs.
        answered_at: When it last answered to being asked, in the controller's monotonic seconds.
        failed_jobs: Jobs whose tasks failed on it in a row, without a success between.
        aside_until: Until when it gets no tasks.
        idle_since: When its last task ended.
        killed: Why we ended it ourselves, if we did: nothing is blamed for that.
    """

    report: WorkerReport
    answered_at: float
    tasks: dict[int, Lease] = field(default_factory=dict)
    holds: set[str] = field(default_factory=set)
    failed_jobs: list[str] = field(default_factory=list)
    aside_until: float = 0.0
    killed: str = ""
    idle_since: float = 0.0
    items_done: int = 0
    device_s: float = 0.0
    beating: bool = False

    @property
    def load(self) -> int:
        """How many of its credits are used; a suspect uses all."""
        return CREDITS if any(lease.task.suspect for lease in self.tasks.values()) else len(self.tasks)

    @property
    def id(self) -> str:
        """Name of the worker."""
        return self.report.worker
