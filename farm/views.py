"""What people read from the ledger, as the plain dicts that the api and `--json` show.

Works on the controller's own connection, and on the file itself when no farm is running.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from farm import activity
from farm.ledger import SCHEMA_VERSION, too_new
from jobs.errors import FarmError, UsageError
from jobs.states import ENDED_JOBS, JobState, TaskState
from jobs.storage.base import FARM_PREFIX
from jobs.tasks import StoreOptions

_COUNTS = ("total", "done", "skipped", "failed", "canceled")
_PAGE = 5000
_FAILURES_SHOWN = 20
_REMARKS_SHOWN = 20
_RENDERS_SHOWN = 20

_TRAIN = "train"
"""Kind of the steps that make no pictures."""


class View:
    """Reads of one ledger."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._db = connection
        self._db.row_factory = sqlite3.Row

    def _rows(self, query: str, *values: Any) -> list[sqlite3.Row]:
        return self._db.execute(query, values).fetchall()

    def jobs(
        self, limit: int = 50, user: str | None = None, state: str | None = None
    ) -> list[dict[str, Any]]:
        """Return the latest jobs, newest first."""
        rows = self._rows(
            "SELECT * FROM jobs WHERE (?1 IS NULL OR user=?1) AND (?2 IS NULL OR state=?2) "
            "ORDER BY number DESC LIMIT ?3",
            user,
            state,
            limit,
        )
        return [self._job(row) for row in rows]

    def resolve(self, word: str) -> str:
        """Return the id of the job that a person means: an id, the start of one, or a name (its latest job).

        Raises:
            UsageError: If no job or more than one fits.
        """
        for query in (
            "SELECT id FROM jobs WHERE id=?",
            "SELECT id FROM jobs WHERE name=? ORDER BY number DESC LIMIT 1",
            r"SELECT id FROM jobs WHERE id LIKE replace(replace(?, '%', '\%'), '_', '\_') || '%' ESCAPE '\'",
        ):
            found = [row["id"] for row in self._rows(query, word)]
            if len(found) == 1:
                return str(found[0])
            if found:
                raise UsageError(f"{word!r} fits {len(found)} jobs", f"say which: {', '.join(found[:5])}")
        raise UsageError(f"there is no job {word!r}", "`farm status` lists the jobs")

    def job(self, word: str) -> dict[str, Any]:
        """Return one job, by id, start of an id, or name."""
        job = self._job(self._rows("SELECT * FROM jobs WHERE id=?", self.resolve(word))[0])
        job["failures"] = self._failures(job["id"]) if job["items"]["failed"] else []
        over = job["state"] in ENDED_JOBS
        job["remarks"] = self._remarks(job["id"]) if over else []
        job["running"] = [] if over else activity.running(self._db, job["id"])
        job["renders"] = self._renders(job["id"])
        return job

    def losses(self, word: str) -> list[dict[str, Any]]:
        """Return the loss curves of a job, one for each item that has one."""
        return activity.losses(self._db, self.resolve(word))

    def preview(self, word: str, task: int | None = None) -> tuple[str, StoreOptions, str]:
        """Return where the newest preview of a job lies: its output, how to open that, and the key.

        Raises:
            UsageError: If there is no such job, or nothing to see yet.
        """
        job = self.resolve(word)
        file = activity.newest_preview(self._db, job, task)
        if file is None:
            raise UsageError(f"there is no job preview of {job} yet")
        from jobs.manifest import load_manifest  # not every reader should wait for pydantic

        row = self._rows("SELECT output, manifest FROM jobs WHERE id=?", job)[0]
        options = load_manifest(json.loads(row["manifest"])).s3.options()
        return row["output"], options, f"{FARM_PREFIX}/jobs/{job}/{file}"

    def manifest(self, word: str) -> dict[str, Any]:
        """Return the manifest that a job was made from."""
        rows = self._rows("SELECT manifest FROM jobs WHERE id=?", self.resolve(word))
        return dict(json.loads(rows[0]["manifest"]))

    def close(self) -> None:
        """Close the connection, if it is this view's own."""
        self._db.close()

    def _job(self, row: sqlite3.Row) -> dict[str, Any]:
        job = row["id"]
        steps = self._rows("SELECT * FROM steps WHERE job=? ORDER BY position", job)
        counts = {name: sum(step[name] for step in steps) for name in _COUNTS}
        tasks = dict.fromkeys((state.value for state in TaskState), 0)
        tasks.update(
            (r["state"], r["n"])
            for r in self._rows("SELECT state, count(*) AS n FROM tasks WHERE job=? GROUP BY state", job)
        )
        ended = row["state"] in ENDED_JOBS
        until = row["finished_at"] or time.time()
        seconds = max(0.0, until - row["started_at"]) if row["started_at"] else 0.0
        made = sum(step["done"] for step in steps if step["kind"] != _TRAIN)
        return {
            "id": job,
            "name": row["name"],
            "user": row["user"],
            "tier": row["tier"],
            "priority": row["priority"],
            "state": row["state"],
            "reason": row["reason"],
            "output": row["output"],
            "created_at": row["created_at"],
            "started_at": row["started_at"],
            "finished_at": row["finished_at"],
            "seconds": round(seconds, 3),
            "items": {**counts, "pending": _pending(counts)},
            "tasks": tasks,
            "images_per_s": round(made / seconds, 4) if made and seconds else None,
            "eta_s": None
            if ended or row["state"] == JobState.PAUSED
            else activity.eta_s(self._db, job, counts, _pending(counts)) or _eta(steps, counts, seconds),
            "megapixels": round(sum(step["pixels"] for step in steps) / 1e6, 3),
            "ignored": json.loads(row["ignored"]),
            "notes": json.loads(row["notes"]),
            "plan": json.loads(row["plan"]) if row["plan"] else None,
            "steps": [_step(step) for step in steps],
            "failures": [],
            "remarks": [],
            "running": [],
            "renders": [],
        }

    def device_seconds(self, job: str) -> dict[str, float]:
        """Return for how long a job's attempts held devices, and how much of that these waited."""
        row = self._rows(
            "SELECT total(device_s) AS device_s, total(waited_s) AS waited_s FROM attempts "
            "WHERE task IN (SELECT id FROM tasks WHERE job=?)",
            job,
        )[0]
        return {name: round(row[name], 3) for name in ("device_s", "waited_s")}

    def _failures(self, job: str) -> list[dict[str, Any]]:
        rows = self._rows(
            "SELECT coalesce(nullif(input, ''), output_key) AS input, style, reason, failure FROM items "
            "WHERE job=? AND state='failed' ORDER BY id LIMIT ?",
            job,
            _FAILURES_SHOWN,
        )
        return [dict(row) for row in rows]

    def _remarks(self, job: str) -> list[dict[str, Any]]:
        """Return what should be known of results: each text once, with an input and how many there are."""
        rows = self._rows(
            "SELECT reason AS text, min(input) AS input, count(*) AS items FROM items "
            "WHERE job=? AND state='done' AND reason<>'' GROUP BY reason ORDER BY min(id) LIMIT ?",
            job,
            _REMARKS_SHOWN,
        )
        return [dict(row) for row in rows]

    def _renders(self, job: str) -> list[dict[str, Any]]:
        """Return how the first optimized pictures and trained styles of a job were made."""
        rows = self._rows(
            "SELECT i.*, s.kind FROM items i JOIN steps s ON s.job=i.job AND s.name=i.step "
            "WHERE i.job=? AND s.kind IN ('optimize', ?) AND i.state IN ('done', 'skipped') "
            "ORDER BY i.id LIMIT ?",
            job,
            _TRAIN,
            _RENDERS_SHOWN,
        )
        return [
            {
                **{name: row[name] for name in ("output", "kind", "style", "state")},
                **json.loads(row["detail"]),
            }
            for row in rows
        ]

    def items(
        self, word: str, state: str | None = None, limit: int = 1000, offset: int = 0
    ) -> dict[str, Any]:
        """Return a page of a job's items and how many there are in all."""
        job = self.resolve(word)
        wanted = "FROM items WHERE job=?1 AND (?2 IS NULL OR state=?2)"
        rows = self._rows(f"SELECT * {wanted} ORDER BY id LIMIT ?3 OFFSET ?4", job, state, limit, offset)
        total = self._rows(f"SELECT count(*) AS n {wanted}", job, state)[0]["n"]
        return {"items": [_item(row) for row in rows], "total": total}

    def every_item(self, job: str) -> Iterator[dict[str, Any]]:
        """Yield all items of a job, page by page, in the time that one pass takes."""
        after = 0
        query = "SELECT * FROM items WHERE job=? AND id>? ORDER BY id LIMIT ?"
        while rows := self._rows(query, job, after, _PAGE):
            after = rows[-1]["id"]
            yield from map(_item, rows)

    def tasks(self, word: str, limit: int = _PAGE, offset: int = 0) -> list[dict[str, Any]]:
        """Return a page of a job's tasks, with the counts of their items and their last attempt."""
        rows = self._rows(
            "SELECT t.*, a.worker, a.members, a.started_at, a.ended_at, count(i.id) AS total, "
            "total(i.state='done') AS done, total(i.state='failed') AS failed, "
            "total(i.state='skipped') AS skipped "
            "FROM (SELECT * FROM tasks WHERE job=? ORDER BY id LIMIT ? OFFSET ?) t "
            "LEFT JOIN attempts a ON a.task=t.id AND a.number=t.attempt "
            "LEFT JOIN items i ON i.task=t.id GROUP BY t.id ORDER BY t.id",
            self.resolve(word),
            limit,
            offset,
        )
        return [
            {
                "id": row["id"],
                "step": row["step"],
                "kind": row["kind"],
                "state": row["state"],
                "attempt": row["attempt"],
                "worker": row["worker"] or "",
                "members": json.loads(row["members"] or "[]"),
                "fraction": round(row["fraction"], 4),
                "message": row["message"],
                "started_at": row["started_at"],
                "ended_at": row["ended_at"],
                "items": {name: int(row[name]) for name in ("total", "done", "failed", "skipped")},
                "failure": row["failure"],
                "reason": row["reason"],
            }
            for row in rows
        ]

    def events(self, word: str | None, after: int = 0, limit: int = 1000) -> list[dict[str, Any]]:
        """Return what happened after event number `after`, of one job or of all."""
        job = self.resolve(word) if word else None
        rows = self._rows(
            "SELECT * FROM events WHERE id>?1 AND (?2 IS NULL OR job=?2) ORDER BY id LIMIT ?3",
            after,
            job,
            limit,
        )
        return [{**dict(row), "data": json.loads(row["data"])} for row in rows]


def _pending(counts: dict[str, int]) -> int:
    return counts["total"] - counts["done"] - counts["skipped"] - counts["failed"] - counts["canceled"]


def _eta(steps: list[sqlite3.Row], counts: dict[str, int], seconds: float) -> list[float] | None:
    """Return a range from what the job itself has shown: nothing before it has shown something.

    Skipped pictures took no time and say nothing; by count and by bytes are two guesses.
    """
    made, left = counts["done"] + counts["failed"], _pending(counts)
    if not made or not left or seconds <= 0:
        return None
    ended_bytes = sum(step["bytes_ended"] for step in steps)
    left_bytes = sum(step["bytes_total"] for step in steps) - ended_bytes
    made_bytes = ended_bytes * made / (made + counts["skipped"])
    by_count = seconds * left / made
    by_size = seconds * left_bytes / made_bytes if made_bytes else by_count
    low, high = sorted((by_count, by_size))
    spread = 1 + 1 / (1 + made) ** 0.5
    return [round(low / spread, 1), round(high * spread, 1)]


def _step(row: sqlite3.Row) -> dict[str, Any]:
    counts = {name: row[name] for name in _COUNTS}
    return {
        "name": row["name"],
        "kind": row["kind"],
        "state": row["state"],
        "reason": row["reason"],
        "needs": json.loads(row["needs"]),
        "result": json.loads(row["result"]),
        "items": {**counts, "pending": _pending(counts)},
    }


_FACTS = ("seconds", "width_px", "height_px", "sha256", "size_bytes", "generation")
"""What every item has, None where it is not known; a kind of work adds facts of its own."""


def _item(row: sqlite3.Row) -> dict[str, Any]:
    columns = ("id", "step", "input", "style", "output", "state", "failure", "reason", "attempt", "worker")
    return {
        **dict.fromkeys(_FACTS),
        **json.loads(row["detail"]),
        **{name: row[name] for name in columns},
    }


def read_ledger(path: Path) -> View | None:
    """Open the ledger file for reading, or return None where there is none yet.

    Raises:
        FarmError: If it is no ledger, or one of another version, which only a farm may change.
    """
    if not path.exists():
        return None
    connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
    try:
        version = connection.execute("PRAGMA user_version").fetchone()[0]
    except sqlite3.DatabaseError as error:
        connection.close()
        raise FarmError(
            f"the ledger {path} cannot be read: {error}", "move the file away to begin a new history"
        ) from error
    if version == SCHEMA_VERSION:
        return View(connection)
    connection.close()
    if version > SCHEMA_VERSION:
        raise too_new(path, version)
    if not version:  # a farm is just making it
        return None
    raise FarmError(
        f"the ledger {path} has schema {version}, older than this version of stylefarm",
        "`farm up` brings it up to date and keeps its history",
    )
