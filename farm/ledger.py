"""The durable record of jobs, steps, tasks, items, attempts and events: one SQLite file.

Writes collect in one open transaction and become durable together at `commit`, which the controller calls
once per tick and before it answers or sends anything (group commit). Reads for people are in `farm.views`.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from jobs.errors import FarmError

_MIGRATIONS = (
    """
    CREATE TABLE jobs (
        id TEXT PRIMARY KEY, number INTEGER NOT NULL UNIQUE, name TEXT NOT NULL, user TEXT NOT NULL,
        tier TEXT NOT NULL, priority INTEGER NOT NULL, state TEXT NOT NULL, reason TEXT NOT NULL DEFAULT '',
        manifest TEXT NOT NULL, styles TEXT NOT NULL, output TEXT NOT NULL, client_token TEXT UNIQUE,
        notes TEXT NOT NULL DEFAULT '[]', plan TEXT,
        ignored TEXT NOT NULL DEFAULT '{"count": 0, "names": []}',
        created_at REAL NOT NULL, started_at REAL, finished_at REAL
    ) STRICT;
    CREATE TABLE steps (
        job TEXT NOT NULL REFERENCES jobs(id), name TEXT NOT NULL, position INTEGER NOT NULL,
        kind TEXT NOT NULL, state TEXT NOT NULL, reason TEXT NOT NULL DEFAULT '', needs TEXT NOT NULL,
        planned INTEGER NOT NULL DEFAULT 0, result TEXT NOT NULL DEFAULT '{}',
        bytes_total INTEGER NOT NULL DEFAULT 0, bytes_ended INTEGER NOT NULL DEFAULT 0,
        pixels INTEGER NOT NULL DEFAULT 0,
        total INTEGER NOT NULL DEFAULT 0, done INTEGER NOT NULL DEFAULT 0, skipped INTEGER NOT NULL DEFAULT 0,
        failed INTEGER NOT NULL DEFAULT 0, canceled INTEGER NOT NULL DEFAULT 0,
        PRIMARY KEY (job, name)
    ) STRICT;
    CREATE TABLE tasks (
        id INTEGER PRIMARY KEY, job TEXT NOT NULL REFERENCES jobs(id), step TEXT NOT NULL,
        state TEXT NOT NULL, kind TEXT NOT NULL, payload TEXT NOT NULL, affinity TEXT NOT NULL,
        estimate_s REAL NOT NULL, min_workers INTEGER NOT NULL, max_workers INTEGER NOT NULL,
        attempt INTEGER NOT NULL DEFAULT 0, deaths INTEGER NOT NULL DEFAULT 0,
        failures TEXT NOT NULL DEFAULT '{}', failure TEXT, reason TEXT NOT NULL DEFAULT ''
    ) STRICT;
    CREATE INDEX tasks_of_job ON tasks(job, state);
    CREATE TABLE items (
        id INTEGER PRIMARY KEY, job TEXT NOT NULL, step TEXT NOT NULL,
        task INTEGER NOT NULL REFERENCES tasks(id), state TEXT NOT NULL, input TEXT NOT NULL,
        size_bytes INTEGER NOT NULL, stamp TEXT NOT NULL, output_key TEXT NOT NULL, style TEXT NOT NULL,
        output TEXT NOT NULL DEFAULT '', failure TEXT, reason TEXT NOT NULL DEFAULT '',
        attempt INTEGER NOT NULL DEFAULT 0, worker TEXT NOT NULL DEFAULT '',
        failures TEXT NOT NULL DEFAULT '{}', detail TEXT NOT NULL DEFAULT '{}', finished_at REAL,
        UNIQUE (job, output_key)
    ) STRICT;
    CREATE INDEX items_of_task ON items(task);
    CREATE INDEX items_of_job ON items(job, state);
    CREATE TABLE attempts (
        task INTEGER NOT NULL REFERENCES tasks(id), number INTEGER NOT NULL, worker TEXT NOT NULL,
        device TEXT NOT NULL, started_at REAL NOT NULL, ended_at REAL, outcome TEXT, failure TEXT,
        reason TEXT NOT NULL DEFAULT '', device_s REAL NOT NULL DEFAULT 0, waited_s REAL NOT NULL DEFAULT 0,
        PRIMARY KEY (task, number)
    ) STRICT;
    CREATE TABLE events (
        id INTEGER PRIMARY KEY, job TEXT NOT NULL, at REAL NOT NULL, type TEXT NOT NULL,
        text TEXT NOT NULL, data TEXT NOT NULL
    ) STRICT;
    CREATE INDEX events_of_job ON events(job, id);
    CREATE TABLE rates (
        model TEXT PRIMARY KEY, megapixels REAL NOT NULL, device_s REAL NOT NULL
    ) STRICT;
    CREATE TABLE usage (user TEXT PRIMARY KEY, device_s REAL NOT NULL, at REAL NOT NULL) STRICT;
    """,
    """
    ALTER TABLE jobs ADD COLUMN assets TEXT NOT NULL DEFAULT '{}';
    ALTER TABLE tasks ADD COLUMN exclusive INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE tasks ADD COLUMN fraction REAL NOT NULL DEFAULT 0;
    ALTER TABLE tasks ADD COLUMN message TEXT NOT NULL DEFAULT '';
    ALTER TABLE attempts ADD COLUMN members TEXT NOT NULL DEFAULT '[]';
    """,
)
"""A script per schema version; the ledger migrates from any. Never change one that has shipped."""

SCHEMA_VERSION = len(_MIGRATIONS)


def too_new(path: Path, version: int) -> FarmError:
    """Return the error about a ledger of a schema that is not known here yet."""
    return FarmError(
        f"the ledger {path} has schema {version}, newer than this version of stylefarm",
        "install the newer stylefarm again",
    )


_COUNTERS = ("total", "done", "skipped", "failed", "canceled", "bytes_total", "bytes_ended", "pixels")


class Ledger:
    """The controller's connection to the ledger. One thread uses it."""

    def __init__(self, path: Path, broken: Callable[[Exception], None] = lambda _: None) -> None:
        """Open the ledger at `path`, creating or migrating it.

        Args:
            path: The file.
            broken: Called when something could not be written (a full disk): what the caller holds in
                memory is then ahead of the ledger, and only starting again puts that right.

        Raises:
            FarmError: If the file is not a ledger, or was written by a newer version.
        """
        self.path = path
        self._broken = broken
        path.parent.mkdir(parents=True, exist_ok=True)
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._db.row_factory = sqlite3.Row
        try:
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.execute("PRAGMA foreign_keys=ON")
            self._migrate()
        except sqlite3.DatabaseError as error:
            self._db.close()
            raise FarmError(
                f"the ledger {path} cannot be opened: {error}", "move the file away to begin a new history"
            ) from error

    def _migrate(self) -> None:
        version = self._db.execute("PRAGMA user_version").fetchone()[0]
        if version > SCHEMA_VERSION:
            raise too_new(self.path, version)
        for number, script in enumerate(_MIGRATIONS[version:], start=version + 1):
            self._db.executescript(f"BEGIN;{script};PRAGMA user_version={number};COMMIT;")

    def close(self) -> None:
        """Commit and close."""
        self.commit()
        self._db.close()

    def commit(self) -> None:
        """Make everything written since the last commit durable."""
        if self._db.in_transaction:
            self._execute("COMMIT")

    def read(self, query: str, *values: Any) -> list[sqlite3.Row]:
        """Return the rows of a query, what is not yet committed included."""
        return self._db.execute(query, values).fetchall()

    @property
    def connection(self) -> sqlite3.Connection:
        """The connection, for `farm.views`."""
        return self._db

    def _write(self, statement: str, values: Iterable[Any]) -> int:
        if not self._db.in_transaction:
            self._execute("BEGIN IMMEDIATE")
        return self._execute(statement, tuple(values)).lastrowid or 0

    def _execute(self, statement: str, values: tuple[Any, ...] = ()) -> sqlite3.Cursor:
        try:
            return self._db.execute(statement, values)
        except sqlite3.OperationalError as error:
            self._broken(error)
            raise

    def insert(self, table: str, values: Mapping[str, Any]) -> int:
        """Insert a row; dicts and lists are stored as JSON. Returns the row's number.

        Raises:
            sqlite3.IntegrityError: If the row breaks a promise of the schema, such as one item per output.
        """
        names = ", ".join(values)
        marks = ", ".join("?" * len(values))
        return self._write(
            f"INSERT INTO {table} ({names}) VALUES ({marks})",  # noqa: S608 - names are ours, values are bound
            (_stored(v) for v in values.values()),
        )

    def update(self, table: str, changes: Mapping[str, Any], **where: Any) -> None:
        """Update the rows for which every column in `where` has its value."""
        sets = ", ".join(f"{name}=?" for name in changes)
        tests = " AND ".join(f"{name}=?" for name in where)
        self._write(
            f"UPDATE {table} SET {sets} WHERE {tests}",  # noqa: S608 - names are ours, values are bound
            (*(_stored(v) for v in changes.values()), *where.values()),
        )

    def count(self, job: str, step: str, **by: int) -> None:
        """Add to the counters and sums of a step (`total=+5`, `done=+1`, `failed=-2`)."""
        sets = ", ".join(f"{name}={name}+?" for name in by)
        self._write(
            f"UPDATE steps SET {sets} WHERE job=? AND name=?",  # noqa: S608 - names are ours
            (*by.values(), job, step),
        )

    def event(self, job: str, type_: str, text: str, data: Mapping[str, Any] | None = None) -> int:
        """Write down that something happened that a user may want to read; returns the event's number."""
        return self.insert(
            "events", {"job": job, "at": time.time(), "type": type_, "text": text, "data": data or {}}
        )

    def drop_event(self, number: int) -> None:
        """Remove an event that a newer one has taken the place of."""
        self._write("DELETE FROM events WHERE id=?", (number,))

    def note(self, job: str, text: str, *, about: str = "") -> None:
        """Keep something that a user should know of a job, once.

        Args:
            job: Its id.
            text: Nothing takes back what was noted before.
            about: How `text` begins, where it replaces what was noted before with this beginning.
        """
        notes = json.loads(self.read("SELECT notes FROM jobs WHERE id=?", job)[0]["notes"])
        kept = [note for note in notes if not (about and note.startswith(about))]
        if text and text not in kept:
            kept.append(text)
        if kept != notes:
            self.update("jobs", {"notes": kept}, id=job)

    def rate(self, model: str, *, megapixels: float, device_s: float) -> None:
        """Add what an attempt measured to the rate of a model; what was known before counts half."""
        self._write(
            "INSERT INTO rates VALUES (?, ?, ?) ON CONFLICT (model) DO UPDATE SET "
            "megapixels=megapixels/2+excluded.megapixels, device_s=device_s/2+excluded.device_s",
            (model, megapixels, device_s),
        )

    def used(self, user: str, device_s: float, at: float) -> None:
        """Keep the recent device seconds of a user."""
        self._write("INSERT OR REPLACE INTO usage VALUES (?, ?, ?)", (user, device_s, at))

    def forget_plan(self, job: str, step: str) -> None:
        """Remove the tasks and items of a step whose planning was cut off, so that it is planned again."""
        self._write("DELETE FROM items WHERE job=? AND step=?", (job, step))
        self._write("DELETE FROM tasks WHERE job=? AND step=?", (job, step))
        self.update("steps", {"planned": 0, **dict.fromkeys(_COUNTERS, 0)}, job=job, name=step)


def _stored(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, dict | list | tuple) else value
