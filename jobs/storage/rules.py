"""The rules that every store keeps: which keys are allowed, where records lie, whose commit stands."""

from __future__ import annotations

import hashlib
import re

from jobs.errors import ConflictError, UsageError
from jobs.records import Record
from jobs.storage.base import FARM_PREFIX, Found

NAME_LIMIT_BYTES = 255
"""Longest name of one file on the usual file systems."""

RECORD_LIMIT_BYTES = 700
"""Longest key of a record, so that it fits below a prefix within the 1,024 bytes of an S3 key."""

_SUFFIX_ROOM_BYTES = 20
_REFUSED = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff\\]")
_LIKE_A_RECORD = re.compile(r"\.json~*$")


def safe_key(key: str) -> str:
    """Return `key` if it names one thing, inside the store, on every system, whatever it came from.

    Raises:
        UsageError: If it is empty or absolute, has an empty, `.` or `..` segment, or holds a backslash (which
            some stores take for a slash), control characters, or bytes that are no text.
    """
    if _REFUSED.search(key):
        raise UsageError(
            f"the name {key!r} holds a backslash, control characters or bytes that are no text",
            "rename the file",
        )
    if any(segment in {"", ".", ".."} for segment in key.split("/")):
        raise UsageError(
            f"the name {key!r} is not a plain relative path",
            "use names without a leading or double '/', and without '.' or '..' between them",
        )
    return key


def result_key(key: str) -> str:
    """Return `key` if a result may stand there: a safe key outside `.farm`.

    Raises:
        UsageError: If it is not.
    """
    if safe_key(key).split("/")[0] == FARM_PREFIX:
        raise UsageError(f"a result cannot be named {key!r}", f"{FARM_PREFIX}/ holds what is not a result")
    return key


def record_key(key: str, generation: int) -> str:
    """Return where the record of one generation of one output lies.

    Different outputs never share a record: a folder that is named like a record gets a `~`, and what would
    be too long for a file name is cut and told apart by a hash.
    """
    return f"{record_stem(key)}{generation}.json"


def record_stem(key: str) -> str:
    """Return what the records of all generations of one output start with, the last dot included."""
    *folders, name = key.split("/")
    parts = [_fit(_LIKE_A_RECORD.sub(r"\g<0>~", folder), NAME_LIMIT_BYTES) for folder in folders]
    parts.append(_fit(name, NAME_LIMIT_BYTES - _SUFFIX_ROOM_BYTES))
    stem = "/".join(parts)
    if len(stem.encode()) > RECORD_LIMIT_BYTES:
        stem = f"~{hashlib.sha256(key.encode()).hexdigest()}"
    return f"{FARM_PREFIX}/results/{stem}."


def _fit(name: str, room_bytes: int) -> str:
    encoded = name.encode()
    if len(encoded) <= room_bytes:
        return name
    digest = hashlib.sha256(encoded).hexdigest()[:16]
    return f"{encoded[: room_bytes - 17].decode(errors='ignore')}~{digest}"


def same_commit(one: Record, other: Record) -> bool:
    """Return whether both records are of one attempt at one generation: its own commit, tried again."""
    return (one.key, one.generation, one.job, one.task, one.attempt, one.sha256) == (
        other.key,
        other.generation,
        other.job,
        other.task,
        other.attempt,
        other.sha256,
    )


def check_commit(record: Record, data: bytes, found: Found) -> str:
    """Return the key of a commit whose parts belong together.

    Raises:
        ValueError: If they do not: a mistake in the program, never a user's.
        UsageError: If no result may stand under this key.
    """
    expected = 1 if found.record is None else found.record.generation + 1
    if record.generation != expected:
        raise ValueError(f"{record.key}: generation {record.generation} cannot follow {expected - 1}")
    if record.size_bytes != len(data) or record.sha256 != hashlib.sha256(data).hexdigest():
        raise ValueError(f"{record.key}: the record is not of this data")
    return result_key(record.key)


def conflict(where: str) -> ConflictError:
    """Return the error for a file that the farm did not make and may not replace."""
    return ConflictError(
        f"{where} is there already and was not made by the farm",
        "move it away, choose another output, or allow it with on_existing: replace or rename",
    )
