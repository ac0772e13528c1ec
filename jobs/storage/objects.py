"""Results as objects: the commit rules for stores that have conditional puts and nothing else.

A result is one put. The attempt that made it stands in the object's metadata, so that one look tells whose it
is, whatever happened to the reply of the put. The record beside it is written after and can be made again.
"""

from __future__ import annotations

import hashlib
import logging
import re
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

from jobs.errors import StorageError
from jobs.records import Record
from jobs.storage.base import Committed, Entry, Found
from jobs.storage.metadata import SHORTENED, from_metadata, to_metadata
from jobs.storage.rules import check_commit, conflict, record_key, record_stem, result_key, same_commit

COMMIT_ATTEMPTS = 8
"""Times that a commit is tried while others change the object under it."""

WRITER = "farm-writer"

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Head:
    """What one request tells of an object: `stamp` is its etag, `metadata` has its names in lower case."""

    size_bytes: int
    stamp: str
    metadata: dict[str, str]


class Objects(Protocol):
    """What the rules need of a store of objects."""

    url: str

    def conditional(self) -> bool:
        """Return whether the store honors conditions; the first who asks finds out."""
        ...

    def head(self, key: str) -> Head | None:
        """Return what one request tells of the object at `key`, or None."""
        ...

    def put(self, key: str, data: bytes, metadata: Mapping[str, str], condition: Mapping[str, str]) -> bool:
        """Put an object; return False if `condition` did not hold."""
        ...

    def read(self, key: str, *, limit_bytes: int | None = None) -> bytes:
        """Return the content."""
        ...

    def beginning(self, start: str, *, recursive: bool) -> Iterator[Entry]:
        """Yield the objects whose keys begin with `start`."""
        ...


def create(store: Objects, key: str, data: bytes) -> bool:
    """Put `data` under `key` if nothing is there; exactly one does, if the store honors conditions."""
    writer = uuid.uuid4().hex
    condition = {"IfNoneMatch": "*"} if store.conditional() else {}
    if not condition and store.head(key):
        return False
    if store.put(key, data, {WRITER: writer}, condition) and condition:
        return True
    head = store.head(key)  # the reply to a put of our own may have been lost
    return head is not None and head.metadata.get(WRITER) == writer


def find(store: Objects, key: str) -> Found:
    """Return what stands at an output key: one request, if the object there is ours."""
    head = store.head(result_key(key))
    if head is None:
        return Found(record=_latest(store, key))
    record = from_metadata(key, head.size_bytes, head.metadata)
    if record is not None:
        if SHORTENED in head.metadata:
            beside = _record_at(store, key, record.generation)
            record = beside if beside and same_commit(beside, record) else record
        return Found(record=record, exists=True, ours=True, stamp=head.stamp)
    record = _latest(store, key)
    ours = record is not None and head.size_bytes == record.size_bytes and _holds(store, record)
    return Found(record=record, exists=True, ours=ours, stamp=head.stamp)


def commit(store: Objects, record: Record, data: bytes, found: Found, *, on_existing: str) -> Committed:
    """Make `data` the result at `record.key` with one single put, for exactly one attempt.

    Where a store ignores conditions, we look, put, and look again: then two attempts that put at the same
    moment may both believe that they won.
    """
    key, conditional = check_commit(record, data, found), store.conditional()
    for _ in range(COMMIT_ATTEMPTS):
        seen = find(store, key)
        if seen.record is not None and seen.record.generation >= record.generation:
            if not same_commit(seen.record, record):
                return Committed(won=False, record=seen.record)
        elif seen.exists and not seen.ours and on_existing != "replace":
            raise conflict(f"{store.url}/{key}")
        else:
            condition = {"IfMatch": f'"{seen.stamp}"'} if seen.exists else {"IfNoneMatch": "*"}
            put = store.put(key, data, to_metadata(record), condition if conditional else {})
            if not put or not conditional:
                continue
        standing = _note(store, record)
        if standing is None or same_commit(standing, record):
            return Committed(won=True, record=record)
        if standing.sha256 == record.sha256:
            # Same bytes, same etag: a condition can let two attempts through. The first one is recorded.
            return Committed(won=False, record=standing)
        # Another made this generation and somebody deleted it, just before our put: ours is the next.
        record = replace(record, generation=standing.generation + 1)
    raise StorageError(f"{store.url}/{key} is changed by others all the time", "try again later")


def _note(store: Objects, record: Record) -> Record | None:
    """Write the record of a result that was put; return the one that stands, None if that is not known."""
    name = record_key(record.key, record.generation)
    try:
        return (
            record
            if create(store, name, record.to_json())
            else _record_at(store, record.key, record.generation)
        )
    except StorageError as error:
        log.warning("%s/%s is finished, but its record is not written: %s", store.url, record.key, error)
        return None


def _latest(store: Objects, key: str) -> Record | None:
    """Return the record of the highest generation that was written."""
    stem = record_stem(key)
    generations = [
        int(number[1])
        for entry in store.beginning(stem, recursive=False)
        if (number := re.fullmatch(r"([0-9]+)\.json", entry.key.removeprefix(stem)))
    ]
    return _record_at(store, key, max(generations)) if generations else None


def _record_at(store: Objects, key: str, generation: int) -> Record | None:
    name = record_key(key, generation)
    try:
        record = Record.from_json(store.read(name))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise StorageError(
            f"{store.url}/{name} is damaged: {error}", "remove it to make its result again"
        ) from error
    return record if record.key == key else None


def _holds(store: Objects, record: Record) -> bool:
    """Return whether the object, whose metadata were lost, has the bytes that `record` names."""
    try:
        return hashlib.sha256(store.read(record.key)).hexdigest() == record.sha256
    except FileNotFoundError:
        return False
