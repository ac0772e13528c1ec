"""What may happen next: which task goes to which worker, and whether a failure is tried again.

Pure functions over small values. Nothing here looks into a payload, reads a clock or talks to anyone,
so every rule can be tested as values in, values out.
"""

from __future__ import annotations

import math
from collections import Counter
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
        avoid: Workers it failed on; taken only when there is no other way.
        workers: Least and most workers it runs on.
        not_before: When its back-off is over.
        alone: Whether nothing else may be on its worker: it takes long, or is suspected of killing workers.
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

    @property
    def for_itself(self) -> bool:
        """Whether it needs its workers for itself, as one that several run together always does."""
        return self.alone or self.workers[1] > 1


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
    """A worker that could take a task.

    Attributes:
        holds: Content hashes of the models it has loaded.
        load: How many tasks it has.
        held_by: The task that has it for itself, if there is one.
    """

    id: str
    holds: frozenset[str] = frozenset()
    load: int = 0
    held_by: int | None = None


@dataclass(frozen=True, slots=True)
class Assignment:
    """One task for the workers that run it, by rank."""

    task: int
    job: str
    workers: tuple[str, ...]


@dataclass
class _Turn:
    """The picture that `decide` changes while it hands out tasks one by one.

    Attributes:
        held: Workers that a task has for itself, nobody knows for how long, and which.
        reserved: Workers that are kept free until a task can have them for itself.
    """

    loads: dict[str, int]
    holds: dict[str, set[str]]
    held: dict[str, int]
    usage: dict[str, float]
    reserved: set[str] = field(default_factory=set)
    taken: set[int] = field(default_factory=set)
    leased: dict[str, int] = field(default_factory=dict)
    served: dict[str, int] = field(default_factory=dict)
    turn: int = 0

    def open(self) -> list[str]:
        """Return the workers that may get something, if they have credits left."""
        return [worker for worker in self.loads if worker not in self.held and worker not in self.reserved]


@dataclass(frozen=True, slots=True)
class _Found:
    """A task whose turn it is, and workers for it: they get it now, or are kept free for it."""

    job: RunnableJob
    task: WaitingTask
    workers: tuple[str, ...]
    starts: bool = True


def decide(
    now: float, jobs: Sequence[RunnableJob], workers: Sequence[FreeWorker], usage: Mapping[str, float]
) -> list[Assignment]:
    """Choose tasks for workers with credits left.

    Order: tiers strictly; inside a tier the user with the fewest recent device seconds; inside a user
    higher priority strictly; jobs of equal priority in turn. A job none of whose tasks can start now
    (back-off, waiting for a worker that holds the model) does not hold up the next one.

    A task that needs workers for itself gets all of them or none. Where too few are idle when its job's turn
    comes, but enough have nothing but chunks, which end soon, as many as it needs are kept free for it, and
    that counts as its turn. Where others have workers for themselves, which may take hours, chunks go on
    meanwhile; but tasks that take long start only where the end of one of those others still lets it start.

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
        held={w.id: w.held_by for w in workers if w.held_by is not None},
        usage=dict(usage),
        leased={j.id: j.leased for j in jobs},
        served={j.id: j.served for j in jobs},
        turn=max((j.served for j in jobs), default=0),
    )
    chosen: list[Assignment] = []
    while found := _next(now, jobs, turn):
        if found.starts:
            chosen.append(Assignment(found.task.id, found.job.id, found.workers))
        _hand_out(found, turn)
    return chosen


def _hand_out(found: _Found, turn: _Turn) -> None:
    """Change the picture: what is kept free for a task counts as much for its job as if it had started."""
    job, task = found.job, found.task
    turn.turn += 1
    turn.taken.add(task.id)
    turn.leased[job.id] += 1
    turn.served[job.id] = turn.turn
    turn.usage[job.user] = turn.usage.get(job.user, 0.0) + task.estimate_s
    if not found.starts:
        turn.reserved.update(found.workers)
        return
    for worker in found.workers:
        turn.loads[worker] += 1
        if task.for_itself:
            turn.held[worker] = task.id
        if task.affinity:
            turn.holds[worker].add(task.affinity)


def _next(now: float, jobs: Iterable[RunnableJob], turn: _Turn) -> _Found | None:
    """Return what comes first, or None when nothing can start or be kept free."""
    if not turn.open():
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

    waiting: list[int] = []
    for job in sorted(jobs, key=rank):
        startable = [t for t in job.tasks if t.id not in turn.taken and t.not_before <= now]
        for task in (t for t in startable if t.for_itself):
            found = _members(task, turn)
            if found is None and task.workers[0] <= len(turn.loads):
                waiting.append(task.workers[0])
            elif found and _leaves_enough(len(found[0]), waiting, turn):
                return _Found(job, task, *found)
        if match := _match(now, [t for t in startable if not t.for_itself], turn):
            return _Found(job, *match)
    return None


def _leaves_enough(taken: int, waiting: Iterable[int], turn: _Turn) -> bool:
    """Return whether tasks that wait for so many workers can still start when one of the others ends.

    Otherwise long tasks of one worker, of which always one more is to start when one ends, would keep a
    task of two from starting for ever.
    """
    left = len(turn.open()) - taken
    soonest = max(Counter(turn.held.values()).values(), default=0)
    return all(left + soonest >= least for least in waiting)


def _members(task: WaitingTask, turn: _Turn) -> tuple[tuple[str, ...], bool] | None:
    """Return workers for a task that needs them for itself, and whether it can start on them.

    It starts on all that are idle, from the least to the most it asks for; workers that hold its model come
    first, those that it failed on last. If too few are idle, they are the ones that will be soonest.
    """
    least, most = task.workers
    others = {worker for worker in turn.loads if worker not in turn.held and worker not in task.avoid}
    soon = [worker for worker in turn.open() if worker in others or len(others) < least]
    idle = [worker for worker in soon if not turn.loads[worker]]
    if len(idle) >= least:
        idle.sort(key=lambda w: (w in task.avoid, task.affinity not in turn.holds[w]))
        unavoided = sum(worker not in task.avoid for worker in idle)
        return tuple(idle[: min(most, max(least, unavoided))]), True
    if len(soon) >= least:
        soon.sort(key=lambda w: (turn.loads[w], w))
        return tuple(soon[:least]), False
    return None


def _match(
    now: float, tasks: Sequence[WaitingTask], turn: _Turn
) -> tuple[WaitingTask, tuple[str, ...]] | None:
    """Return a chunk and the worker that should have it: an idle one if that can be."""
    loads = {worker: turn.loads[worker] for worker in turn.open()}
    for load in range(CREDITS):
        free = [worker for worker, has in loads.items() if has == load]
        if free and (found := _warmest(now, tasks, free, turn)):
            return found
    return None


def _warmest(
    now: float, tasks: Sequence[WaitingTask], free: Sequence[str], turn: _Turn
) -> tuple[WaitingTask, tuple[str, ...]] | None:
    """Return a chunk and one of the free workers.

    Three rounds, each in task order: a worker that holds the model; a model that nobody holds yet (the
    next worker loads it); a task that has waited long enough for a warm worker.
    """
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
                    return task, (worker,)
    return None


def _allowed(task: WaitingTask, worker: str, turn: _Turn) -> bool:
    """A worker the task failed on is taken only when no other will be free soon."""
    return worker not in task.avoid or all(w in task.avoid for w in turn.loads if w not in turn.held)


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
