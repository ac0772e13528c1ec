"""The schedulable set in memory: jobs, their queued tasks, and leases. The ledger holds the truth of each."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import islice

from jobs.errors import Failure
from jobs.scheduler import SPLIT_AFTER_DEATHS, WaitingTask
from jobs.states import JobState
from jobs.steps import makes_style
from jobs.tasks import GangPlace, Item, StoreOptions, TaskEnded, WorkerReport

_WINDOW = 16
"""How many queued tasks of each model the scheduler gets to see; the rest cannot come before them."""


@dataclass
class TaskRun:
    """A queued or leased task.

    Attributes:
        avoid: Workers on which it or one of its items failed.
        failed_on: Those on which an attempt failed as a whole: blamed once another worker can do it.
        exclusive: Whether nothing else may wait on its workers while it runs.
        fraction: How far an attempt of it got, 0 to 1.
        message: What it last said of that, or why it waits.
        noted_at: When the ledger last learned of these, in the controller's monotonic seconds.
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
    message: str = ""
    noted_at: float = 0.0
    since: float = 0.0
    not_before: float = 0.0
    avoid: set[str] = field(default_factory=set)
    failed_on: set[str] = field(default_factory=set)

    @property
    def suspect(self) -> bool:
        """Whether it has ended so many workers that nothing else may be beside it."""
        return self.deaths >= SPLIT_AFTER_DEATHS

    @property
    def alone(self) -> bool:
        """Whether it needs its workers for itself."""
        return self.suspect or self.exclusive or self.workers[1] > 1

    @property
    def returns(self) -> bool:
        """Whether it is not done before its result is known, which later steps and the library wait for."""
        return makes_style(self.kind)

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
            alone=self.alone,
        )


@dataclass
class Member:
    """One of the workers that run an attempt.

    Attributes:
        deadline: Until when it may go on unless that is renewed, in the controller's monotonic seconds.
        missed: How many of its reports in a row did not know the attempt.
        ended: How the attempt ended on it; None while it may still be at it.
        begun: Whether it had begun when it ended.
    """

    worker: str
    deadline: float
    missed: int = 0
    ended: TaskEnded | None = None
    begun: bool = True


@dataclass
class Lease:
    """The right of one attempt to commit. Of its members only the first uses it, and is heard.

    Attributes:
        members: The workers that run it, by rank.
        open: Items without an outcome in this attempt.
        in_flight: Those of them that the worker has begun.
        heard_at: When a worker last said something about it.
        retry_at: When its unfinished items may be tried again.
        advanced: Whether it got further than any attempt before it.
        renewed: Whether its task has new budgets because of that.
        stop_sent_at: When it was asked to stop.
        at_once: Whether it was asked to stop at once, saving nothing.
    """

    task: TaskRun
    members: tuple[Member, ...]
    open: dict[int, Item]
    began_at: float
    heard_at: float
    in_flight: set[int] = field(default_factory=set)
    retry_at: float = 0.0
    pixels_computed: int = 0
    advanced: bool = False
    renewed: bool = False
    stop_sent_at: float | None = None
    at_once: bool = False

    @property
    def attempt(self) -> int:
        """Number of the attempt."""
        return self.task.attempt

    @property
    def worker(self) -> str:
        """The worker that holds it: the first member."""
        return self.members[0].worker

    @property
    def workers(self) -> tuple[str, ...]:
        """Names of all members, by rank."""
        return tuple(member.worker for member in self.members)

    @property
    def running(self) -> list[Member]:
        """The members that may still be at it."""
        return [member for member in self.members if member.ended is None]

    def member(self, worker: str) -> Member:
        """Return the member that is this worker."""
        return next(member for member in self.members if member.worker == worker)

    def place(self, worker: str) -> GangPlace | None:
        """Return where a worker stands among those that run this together; None if it is alone."""
        workers = self.workers
        return GangPlace(workers.index(worker), workers) if len(workers) > 1 else None

    def verdict(self) -> tuple[Member, TaskEnded]:
        """Return how the attempt ended, once all have, and the member whose end decided that.

        If the first member finished, that is it. Otherwise a member whose worker was lost comes before one
        that failed, which it may have done because of that; both come before those that were ended because
        others had failed. Device seconds are those of all.
        """
        ends = [(member, member.ended) for member in self.members if member.ended is not None]
        member, ended = ends[0]
        if ended.outcome != "finished":
            member, ended = max(ends, key=lambda end: _gravity(end[1]))
        reason = ended.reason if member is self.members[0] else f"{member.worker}: {ended.reason}"
        return member, replace(
            ended,
            reason=reason,
            device_s=sum(end.device_s for _, end in ends),
            waited_s=sum(end.waited_s for _, end in ends),
        )


def _gravity(ended: TaskEnded) -> int:
    if ended.outcome not in {"failed", "lost"}:
        return 0
    if ended.outcome == "failed":
        return 2
    return 1 if ended.failure is Failure.PREEMPTED else 3


@dataclass
class JobRun:
    """A job that has not ended.

    Attributes:
        stopping_reason: Why no more of its tasks start, for a job that ends early.
        refused: Whether it cannot be done as asked, which planning found out: it never gets a plan.
        planning: Whether its ready steps are being planned.
        finishing: Whether its report is being written.
        open_tasks: How many tasks of each step have not ended.
        registering: Steps whose style is on its way into the library.
        registered: Steps whose style came there, or could not; since this controller started.
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
    registering: set[str] = field(default_factory=set)
    registered: set[str] = field(default_factory=set)
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

    def window(self) -> Iterator[TaskRun]:
        """Yield the tasks that the scheduler gets to see."""
        for queue in self.queued.values():
            yield from islice(queue, _WINDOW)

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
    def held_by(self) -> int | None:
        """The task that has it for itself, if there is one."""
        return next((lease.task.id for lease in self.tasks.values() if lease.task.alone), None)

    @property
    def id(self) -> str:
        """Name of the worker."""
        return self.report.worker
