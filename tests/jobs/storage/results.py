"""Results to commit, and what must be true of a store after any number of commits."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path

from jobs.records import Record
from jobs.storage import Committed, Found, Store
from jobs.storage.rules import record_key

KEY = "july/beach 1.jpg"


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def record_after(
    found: Found, data: bytes, *, attempt: int = 1, key: str = KEY, job: str = "job-1"
) -> Record:
    """Return the record of the next generation."""
    return Record(
        key=key,
        generation=found.record.generation + 1 if found.record else 1,
        job=job,
        task=7,
        attempt=attempt,
        render_key=sha256(b"settings" + data),
        size_bytes=len(data),
        sha256=sha256(data),
        input="/photos/été  1.jpg",
        input_size_bytes=12345,
        input_stamp="1700000000000000001",
        input_sha256=sha256(b"input"),
        extra={"width_px": 640, "height_px": 480, "seconds": 0.25},
    )


def commit(
    store: Store,
    data: bytes,
    *,
    found: Found | None = None,
    on_existing: str = "fail",
    attempt: int = 1,
    key: str = KEY,
) -> Committed:
    """Commit `data` as an attempt that has looked before."""
    found = store.find(key) if found is None else found
    return store.commit(
        record_after(found, data, attempt=attempt, key=key), data, found, on_existing=on_existing
    )


def stored_record(store: Store, key: str, generation: int) -> Record:
    return Record.from_json(store.read(record_key(key, generation)))


def scratch() -> tempfile.TemporaryDirectory[str]:
    """Return a folder for one example of many; in memory if there is one, as real disks take their time."""
    memory = Path("/dev/shm")
    return tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None)


def names(store: Store) -> list[str]:
    return sorted(entry.key for entry in store.list())


def temporary(store: Store) -> list[str]:
    """Return everything that is neither a result nor the record of one."""
    return [
        name for name in names(store) if name.startswith(".farm/") and not name.startswith(".farm/results/")
    ]
