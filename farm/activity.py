"""What running tasks have said of themselves, read from the ledger: how far they are, losses, previews."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Mapping, Sequence
from typing import Any

from jobs.states import TaskState

_SHOWN = 20
"""Running tasks that a job shows; those that began first."""

_SETTLED_S = 3.0
"""An attempt that ran for less says nothing about how long the rest will take."""

_SPREAD = 0.3

_OF_LOSS = ("scale", "size_px", "iteration", "budget", "loss", "validation_loss")


def running(db: sqlite3.Connection, job: str) -> list[dict[str, Any]]:
    """Return the tasks of a job that run or have something to say, oldest first.

    Each has what its last loss and preview said: `item`, `scale`, `size_px`, `iteration`, `budget`, `loss`,
    `validation_loss`, `preview` (a file below the job's own folder); None where nothing was said.
    """
    tasks = db.execute(
        "SELECT t.id, t.step, t.kind, t.state, t.attempt, t.fraction, t.message, a.members, a.started_at "
        "FROM tasks t LEFT JOIN attempts a ON a.task=t.id AND a.number=t.attempt "
        "WHERE t.job=? AND t.state IN (?, ?) AND (t.fraction > 0 OR t.message <> '') ORDER BY t.id LIMIT ?",
        (job, TaskState.LEASED.value, TaskState.QUEUED.value, _SHOWN),
    ).fetchall()
    said = {type_: _newest(db, job, type_) for type_ in ("loss", "preview")} if tasks else {}
    return [_task(row, said) for row in tasks]


def _newest(db: sqlite3.Connection, job: str, type_: str) -> dict[int, dict[str, Any]]:
    """Return what was last said of this type, by task."""
    rows = db.execute(
        "SELECT data, max(id) FROM events WHERE job=? AND type=? GROUP BY json_extract(data, '$.task')",
        (job, type_),
    )
    found = [json.loads(row["data"]) for row in rows]
    return {data["task"]: data for data in found if "task" in data}


def _task(row: sqlite3.Row, said: Mapping[str, Mapping[int, dict[str, Any]]]) -> dict[str, Any]:
    runs = row["state"] == TaskState.LEASED
    loss = said["loss"].get(row["id"], {})
    preview = said["preview"].get(row["id"], {})
    return {
        "task": row["id"],
        "step": row["step"],
        "kind": row["kind"],
        "state": row["state"],
        "attempt": row["attempt"],
        "workers": json.loads(row["members"] or "[]") if runs else [],
        "started_at": row["started_at"] if runs else None,
        "fraction": round(row["fraction"], 4),
        "message": row["message"],
        "item": loss.get("item") or preview.get("item"),
        **{name: loss.get(name) for name in _OF_LOSS},
        "preview": preview.get("file"),
    }


def newest_preview(db: sqlite3.Connection, job: str, task: int | None) -> str | None:
    """Return the newest preview of a task, or of any, as a file below the job's own folder."""
    found = _newest(db, job, "preview")
    wanted = [data for number, data in found.items() if task in {None, number}]
    return str(wanted[-1]["file"]) if wanted else None


def losses(db: sqlite3.Connection, job: str) -> list[dict[str, Any]]:
    """Return the loss curves of a job: by item, with its points in order, some hundreds of them at most."""
    curves: dict[tuple[int, str], list[dict[str, Any]]] = {}
    for row in db.execute("SELECT data FROM events WHERE job=? AND type='loss' ORDER BY id", (job,)):
        data = json.loads(row["data"])
        item, task = str(data.pop("item", "")), int(data.pop("task", 0))
        curves.setdefault((task, item), []).append(data)
    return [{"task": task, "item": item, "points": points} for (task, item), points in curves.items()]


def eta_s(db: sqlite3.Connection, job: str, counts: Mapping[str, int], left: int) -> list[float] | None:
    """Return how long a job of few long items still takes, as a range, or None if that cannot be said.

    What all attempts took, work that was lost with a worker included, made the items that are done and parts
    of those that run; the rest is taken to be as fast, on as many gangs as run now.
    """
    fractions = [
        (row["fraction"], row["state"] == TaskState.LEASED)
        for row in db.execute("SELECT fraction, state FROM tasks WHERE job=? AND fraction > 0", (job,))
    ]
    begun = sum(fraction for fraction, _ in fractions if fraction < 1)
    gangs = sum(runs for _, runs in fractions)
    spent_s = _spent_s(db, job)
    made = counts["done"] + counts["failed"] + begun
    if not gangs or not begun or spent_s < _SETTLED_S:
        return None
    seconds = spent_s / made * max(0.0, left - begun) / gangs
    spread = 1 + _SPREAD * (1 - min(1.0, made / max(1, left)))
    return [round(seconds / spread, 1), round(seconds * spread, 1)]


def _spent_s(db: sqlite3.Connection, job: str) -> float:
    """Return the seconds that all attempts of a job ran."""
    row = db.execute(
        "SELECT total(coalesce(a.ended_at, ?) - a.started_at) AS seconds FROM attempts a "
        "JOIN tasks t ON t.id=a.task WHERE t.job=?",
        (time.time(), job),
    ).fetchone()
    return float(row["seconds"])


def waits(tasks: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return why queued tasks wait, each reason once."""
    return list(dict.fromkeys(t["message"] for t in tasks if t["state"] == TaskState.QUEUED and t["message"]))
