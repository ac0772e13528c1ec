"""The states of jobs, steps, tasks and items, and the one table of transitions of each.

A state changes only through `move`, which raises for every pair that is not in the table.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TypeVar


class JobState(StrEnum):
    """Where a job stands."""

    PLANNING = "planning"
    QUEUED = "queued"
    ACTIVE = "active"
    PAUSING = "pausing"
    PAUSED = "paused"
    COMPLETED = "completed"
    COMPLETED_WITH_ERRORS = "completed with errors"
    FAILED = "failed"
    CANCELING = "canceling"
    CANCELED = "canceled"


class StepState(StrEnum):
    """Where a step stands; `blocked` waits for a step that it needs."""

    BLOCKED = "blocked"
    READY = "ready"
    DONE = "done"
    FAILED = "failed"


class TaskState(StrEnum):
    """Where a task stands; `waiting` belongs to a step that is blocked."""

    WAITING = "waiting"
    QUEUED = "queued"
    LEASED = "leased"
    DONE = "done"
    FAILED = "failed"
    CANCELED = "canceled"


class ItemState(StrEnum):
    """Where an item stands; every state but `pending` is the outcome that a user reads."""

    PENDING = "pending"
    DONE = "done"
    SKIPPED = "skipped"
    FAILED = "failed"
    CANCELED = "canceled"


_J, _S, _T, _I = JobState, StepState, TaskState, ItemState

JOB_MOVES: dict[JobState, frozenset[JobState]] = {
    _J.PLANNING: frozenset({_J.QUEUED, _J.PAUSED, _J.FAILED, _J.CANCELING}),
    _J.QUEUED: frozenset(
        {_J.ACTIVE, _J.PAUSED, _J.CANCELING, _J.COMPLETED, _J.COMPLETED_WITH_ERRORS, _J.FAILED}
    ),
    _J.ACTIVE: frozenset({_J.PAUSING, _J.CANCELING, _J.COMPLETED, _J.COMPLETED_WITH_ERRORS, _J.FAILED}),
    _J.PAUSING: frozenset(
        {_J.PAUSED, _J.ACTIVE, _J.CANCELING, _J.COMPLETED, _J.COMPLETED_WITH_ERRORS, _J.FAILED}
    ),
    _J.PAUSED: frozenset({_J.QUEUED, _J.CANCELING, _J.FAILED}),
    _J.COMPLETED: frozenset({_J.QUEUED}),
    _J.COMPLETED_WITH_ERRORS: frozenset({_J.QUEUED}),
    _J.FAILED: frozenset({_J.QUEUED}),
    _J.CANCELING: frozenset({_J.CANCELED}),
    _J.CANCELED: frozenset(),
}
"""`queued` after an end is a retry of what failed; a canceled job stays canceled."""

STEP_MOVES: dict[StepState, frozenset[StepState]] = {
    _S.BLOCKED: frozenset({_S.READY, _S.FAILED}),
    _S.READY: frozenset({_S.DONE, _S.FAILED}),
    _S.DONE: frozenset({_S.READY}),
    _S.FAILED: frozenset({_S.READY, _S.BLOCKED}),
}
"""`ready` after an end is a retry of what failed."""

TASK_MOVES: dict[TaskState, frozenset[TaskState]] = {
    _T.WAITING: frozenset({_T.QUEUED, _T.CANCELED, _T.FAILED}),
    _T.QUEUED: frozenset({_T.LEASED, _T.CANCELED, _T.FAILED, _T.DONE}),
    _T.LEASED: frozenset({_T.QUEUED, _T.DONE, _T.FAILED, _T.CANCELED}),
    _T.DONE: frozenset({_T.QUEUED}),
    _T.FAILED: frozenset({_T.QUEUED, _T.WAITING}),
    _T.CANCELED: frozenset(),
}
"""`queued` to `done` is a task whose items all ended while it waited for another attempt."""

ITEM_MOVES: dict[ItemState, frozenset[ItemState]] = {
    _I.PENDING: frozenset({_I.DONE, _I.SKIPPED, _I.FAILED, _I.CANCELED}),
    _I.DONE: frozenset(),
    _I.SKIPPED: frozenset(),
    _I.FAILED: frozenset({_I.PENDING}),
    _I.CANCELED: frozenset(),
}

ENDED_JOBS = frozenset({_J.COMPLETED, _J.COMPLETED_WITH_ERRORS, _J.FAILED, _J.CANCELED})
ENDED_TASKS = frozenset({_T.DONE, _T.FAILED, _T.CANCELED})

_TABLES: dict[type[StrEnum], dict[StrEnum, frozenset[StrEnum]]] = {
    JobState: JOB_MOVES,  # type: ignore[dict-item]
    StepState: STEP_MOVES,  # type: ignore[dict-item]
    TaskState: TASK_MOVES,  # type: ignore[dict-item]
    ItemState: ITEM_MOVES,  # type: ignore[dict-item]
}

AnyState = TypeVar("AnyState", JobState, StepState, TaskState, ItemState)


def move(old: AnyState, new: AnyState) -> AnyState:
    """Return `new` if the table of its kind lets `old` become `new`.

    Raises:
        ValueError: If the pair is not in the table. That is a mistake in the program, never a user's.
    """
    if new not in _TABLES[type(old)][old]:
        raise ValueError(f"{type(old).__name__}: {old.value!r} cannot become {new.value!r}")
    return new
