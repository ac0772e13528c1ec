"""A store in memory: what the others promise, for tests and small things of one process."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from pathlib import Path

from jobs.errors import BadInputError
from jobs.paths import natural_key
from jobs.records import Record
from jobs.storage.base import Committed, Entry, Found
from jobs.storage.rules import check_commit, conflict, record_key, result_key, safe_key, same_commit


class MemoryStore:
    """A dictionary behind a lock; see `jobs.storage.base.Store`."""

    def __init__(self) -> None:
        self.url = "memory:"
        self.honors_conditions = True
        self._files: dict[str, tuple[bytes, int]] = {}
        self._writes = 0
        self._lock = threading.RLock()

    def list(self, prefix: str = "", *, recursive: bool = True) -> Iterator[Entry]:
        """Yield the files below `prefix` as they are now, in natural order."""
        inside = f"{safe_key(prefix.rstrip('/'))}/" if prefix else ""
        with self._lock:
            keys = [
                k for k in self._files if k.startswith(inside) and (recursive or "/" not in k[len(inside) :])
            ]
            return iter([self._entry(key) for key in sorted(keys, key=natural_key)])

    def stat(self, key: str) -> Entry | None:
        """Return the file at `key`, or None."""
        with self._lock:
            return self._entry(key) if safe_key(key) in self._files else None

    def read(self, key: str, *, limit_bytes: int | None = None) -> bytes:
        """Return the content."""
        with self._lock:
            if safe_key(key) not in self._files:
                raise FileNotFoundError(key)
            data, _ = self._files[key]
        if limit_bytes is not None and len(data) > limit_bytes:
            raise BadInputError(f"{key} is larger than {limit_bytes} bytes")
        return data

    def write(self, key: str, data: bytes | Path) -> None:
        """Put `data` under `key`."""
        content = data.read_bytes() if isinstance(data, Path) else bytes(data)
        with self._lock:
            self._writes += 1
            self._files[safe_key(key)] = (content, self._writes)

    def create(self, key: str, data: bytes) -> bool:
        """Put `data` under `key` if nothing is there."""
        with self._lock:
            if safe_key(key) in self._files:
                return False
            self.write(key, data)
            return True

    def delete(self, key: str) -> None:
        """Remove `key`."""
        with self._lock:
            self._files.pop(safe_key(key), None)

    def find(self, key: str) -> Found:
        """Return what stands at an output key."""
        with self._lock:
            record = self._latest(result_key(key))
            if key not in self._files:
                return Found(record=record)
            data, stamp = self._files[key]
            ours = record is not None and hashlib.sha256(data).hexdigest() == record.sha256
            return Found(record=record, exists=True, ours=ours, stamp=str(stamp))

    def commit(self, record: Record, data: bytes, found: Found, *, on_existing: str = "fail") -> Committed:
        """Make `data` the result at `record.key`, for exactly one attempt."""
        key = check_commit(record, data, found)
        with self._lock:
            now = self.find(key)
            if now.record is not None and now.record.generation >= record.generation:
                return Committed(won=same_commit(now.record, record), record=now.record)
            if now.exists and not now.ours and on_existing != "replace":
                raise conflict(key)
            self.write(record_key(key, record.generation), record.to_json())
            self.write(key, data)
            return Committed(won=True, record=record)

    def free_bytes(self) -> None:
        """Return None: the memory that is left is not known."""
        return

    def sweep(self, older_than_s: float) -> int:  # noqa: ARG002 - the word of the contract
        """Return 0: nothing is ever half done."""
        return 0

    def probe(self) -> None:
        """Do nothing: memory can be written."""

    def _entry(self, key: str) -> Entry:
        data, stamp = self._files[key]
        return Entry(key, len(data), str(stamp))

    def _latest(self, key: str) -> Record | None:
        generation = 0
        while record_key(key, generation + 1) in self._files:
            generation += 1
        return Record.from_json(self._files[record_key(key, generation)][0]) if generation else None
