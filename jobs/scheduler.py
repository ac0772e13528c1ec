"""What may happen next: which task goes to which worker, and whether a failure is tried again.

Pure functions over small values. Nothing here looks into a payload, reads a clock or talks to anyone,
so every rule can be tested as values in, values out.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from jobs.errors import Failure

TIERS = ("rush", "default", "batch")
"""Strict order: nothing of a later tier starts while an earlier one has a task that can start."""

CREDITS = 2
"""Chunks per worker: one that renders and one that is being decoded."""

AFFINITY_WAIT_S = 0.5
"""How long a task waits for a worker that holds its model before it takes any other."""

USAGE_HALF_LIFE_S = 600.0
"""How fast the device seconds of a user are forgotten."""


@dataclass(frozen=True, slots=True)
class WaitingTask:
    """A task that could start.

    Attributes:
        affinity: Content hash of the model it needs, or an empty string.
        estimate_s: Device seconds it will take, as far as one knows.
        since: When it became startable, in seconds of any clock that `decide` gets too.
        avoid: Workers it failed on; taken only when no other worker exists.
        workers: Least and most workers it runs on.
        not_before: When its back-off is over.
        alone: Whether nothing else may be on its worker: it is suspected of killing workers.
    """

    id: int
    job: str
    affinity: str = ""
    estimate_s: float = 1.0
    since: float = 0.0
    avoid: frozenset[str] = frozenset()
    workers: tuple[int, int] = (1, 1)
    not_before: float = 0.0
    alone: bool = False


@dataclass(frozen=True, slots=True)
class RunnableJob:
    """A job that is allowed to start tasks.

    Attributes:
        leased: How many of its tasks are leased.
        served: Number of the last turn this job got; the least recently served of equals goes first.
        order: Number of its submission.
        tasks: Its tasks in the order in which they should start.
    """

    id: str
    user: str
    tier: str
    priority: int
    tasks: Sequence[WaitingTask]
    leased: int = 0
    served: int = 0
    order: int = 0


@dataclass(frozen=True, slots=True)
class FreeWorker:
    """A worker that could take a task: what it holds, and how many tasks it has."""

    id: str
    holds: frozenset[str] = frozenset()
    load: int = 0


@dataclass(frozen=True, slots=True)
class Assignment:
    """One task for one worker."""

    task: int
    job: str
    worker: str


@dataclass
class _Turn:
    """The picture that `decide` changes while it hands out tasks one by one."""

    loads: dict[str, int]
    holds: dict[str, set[str]]
    usage: dict[str, float]
    taken: set[int] = field(default_factory=set)
    leased: dict[str, int] = field(default_factory=dict)
    served: dict[str, int] = field(default_factory=dict)
    turn: int = 0


def decide(
    now: float, jobs: Sequence[RunnableJob], workers: Sequence[FreeWorker], usage: Mapping[str, float]
) -> list[Assignment]:
    """Choose tasks for workers with credits left.

    Order: tiers strictly; inside a tier the user with the fewest recent device seconds; inside a user
    higher priority strictly; jobs of equal priority in turn. A job none of whose tasks can start now
    (back-off, waiting for a worker that holds the model) does not hold up the next one.

    Args:
        now: Seconds of the clock of `since` and `not_before`.
        jobs: Jobs with startable tasks.
        workers: All workers in service, also busy ones: who holds what decides affinity.
        usage: Recent device seconds by user, those of running tasks included; a user who is not in it
            has used nothing.

    Returns:
        Assignments in order; idle workers are filled before second credits are.
    """
    turn = _Turn(
        loads={w.id: w.load for w in workers},
        holds={w.id: set(w.holds) for w in workers},
        usage=dict(usage),
        leased={j.id: j.leased for j in jobs},
        served={j.id: j.served for j in jobs},
        turn=max((j.served for j in jobs), default=0),
    )
    chosen: list[Assignment] = []
    while found := _next(now, jobs, turn):
        job, task, worker = found
        chosen.append(Assignment(task.id, job.id, worker))
        turn.turn += 1
        turn.taken.add(task.id)
        turn.loads[worker] = CREDITS if task.alone else turn.loads[worker] + 1
        if task.affinity:
            turn.holds[worker].add(task.affinity)
        turn.leased[job.id] += 1
        turn.served[job.id] = turn.turn
        turn.usage[job.user] = turn.usage.get(job.user, 0.0) + task.estimate_s
    return chosen


def _next(
    now: float, jobs: Iterable[RunnableJob], turn: _Turn
) -> tuple[RunnableJob, WaitingTask, str] | None:
    """Return the task that comes first and its worker, or None when nothing can start."""
    lightest = min(turn.loads.values(), default=CREDITS)
    if lightest >= CREDITS:
        return None

    def rank(job: RunnableJob) -> tuple[float, ...]:
        return (
            TIERS.index(job.tier),
            turn.usage.get(job.user, 0.0),
            -job.priority,
            turn.leased[job.id],
            turn.served[job.id],
            job.order,
        )

    for job in sorted(jobs, key=rank):
        for load in range(lightest, CREDITS):
            free = [worker for worker, has in turn.loads.items() if has == load]
            if found := _match(now, job, free, turn):
                return job, *found
    return None


def _match(now: float, job: RunnableJob, free: Sequence[str], turn: _Turn) -> tuple[WaitingTask, str] | None:
    """Return a task of this job and the free worker that should have it.

    Three rounds, each in task order: a worker that holds the model; a model that nobody holds yet (the
    next worker loads it); a task that has waited long enough for a warm worker.
    """
    tasks = [t for t in job.tasks if t.id not in turn.taken and t.not_before <= now and t.workers[0] == 1]
    held_by_anyone = set().union(*turn.holds.values()) if turn.holds else set()
    rounds = (
        lambda task, worker: task.affinity in turn.holds[worker] or not task.affinity,
        lambda task, _: task.affinity not in held_by_anyone,
        lambda task, _: now - task.since >= AFFINITY_WAIT_S,
    )
    for fits in rounds:
        for task in tasks:
            for worker in free:
                if _allowed(task, worker, turn) and fits(task, worker):
                    return task, worker
    return None


def _allowed(task: WaitingTask, worker: str, turn: _Turn) -> bool:
    """A worker the task failed on is taken only when there is no other, a busy one never for a suspect."""
    if task.alone and turn.loads[worker]:
        return False
    return worker not in task.avoid or all(other in task.avoid for other in turn.loads)


def decayed(used_s: float, elapsed_s: float) -> float:
    """Return what is left of `used_s` device seconds after `elapsed_s` seconds."""
    return used_s * math.exp2(-elapsed_s / USAGE_HALF_LIFE_S)


DRAIN_S = 60.0
"""How fast a farm that may grow wants to be through with what waits."""


def wanted_workers(backlog_s: float, busy: int, least: int, most: int) -> int:
    """Return how many workers a farm should have.

    Args:
        backlog_s: Device seconds of the tasks that wait.
        busy: Workers that have a task now.
        least: Never fewer.
        most: Never more.
    """
    waiting = math.ceil(backlog_s / DRAIN_S)
    return max(least, min(most, max(busy, waiting)))


BUDGETS: dict[Failure, float] = {
    Failure.BAD_INPUT: 0,
    Failure.OUT_OF_MEMORY: 1,
    Failure.WORKER_LOST: 2,
    Failure.PREEMPTED: math.inf,
    Failure.TIMEOUT: 1,
    Failure.STORAGE: 5,
    Failure.OUTPUT_CHECK: 1,
    Failure.ERROR: 2,
}
"""How often each class of failure is tried again. A kind halves its batch before it says out of memory."""

SPLIT_AFTER_DEATHS = 2
"""After this many dead workers a chunk is cut into single items, so that the guilty one dies alone."""

_BACKOFF_S = {Failure.STORAGE: 1.0, Failure.ERROR: 0.5, Failure.OUTPUT_CHECK: 0.5}
_BACKOFF_MOST_S = 60.0


def retry_delay_s(failure: Failure, times: int, jitter: float) -> float | None:
    """Return after how many seconds to try again, or None when the budget is spent.

    Args:
        failure: Class of the failure.
        times: How often this class has happened to the item or task, this time included.
        jitter: Uniform random number in 0..1; the delay is between half and all of the back-off.
    """
    if times > BUDGETS[failure]:
        return None
    backoff = min(_BACKOFF_MOST_S, _BACKOFF_S.get(failure, 0.0) * 2.0 ** (times - 1))
    return backoff * (0.5 + 0.5 * jitter)


def too_many_failed(max_failed: str | int | None, failed: int, total: int) -> bool:
    """Return whether more items failed than `max_failed` (a count, or like `5%`, or None) allows."""
    if max_failed is None:
        return False
    if isinstance(max_failed, str) and max_failed.endswith("%"):
        return failed * 100 > float(max_failed[:-1]) * total
    return failed > int(max_failed)
