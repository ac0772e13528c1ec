"""Commit records as the metadata of an object, so that one request tells whose it is.

Metadata travels in HTTP headers: names in any case, values in ASCII, 2,048 bytes in all.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from urllib.parse import quote, unquote

from jobs.records import Record

LIMIT_BYTES = 2048
SHORTENED = "farm-shortened"
"""Present if facts were left out to keep within the limit; the record beside the object has them all."""

_OPTIONAL = ("farm-extra", "farm-input", "farm-input-stamp")


def to_metadata(record: Record) -> dict[str, str]:
    """Return `record` as metadata; what is long and not needed to tell whose it is may be left out."""
    metadata = {
        "farm-version": str(record.version),
        "farm-key": _digest(record.key),
        "farm-generation": str(record.generation),
        "farm-job": _encode(record.job),
        "farm-task": str(record.task),
        "farm-attempt": str(record.attempt),
        "farm-render-key": record.render_key,
        "farm-sha256": record.sha256,
        "farm-input": _encode(record.input),
        "farm-input-size": str(record.input_size_bytes),
        "farm-input-stamp": _encode(record.input_stamp),
        "farm-input-sha256": record.input_sha256,
        "farm-extra": _encode(json.dumps(record.extra, sort_keys=True)),
    }
    metadata = {name: value for name, value in metadata.items() if value}
    for name in _OPTIONAL:
        if sum(len(k) + len(v) for k, v in metadata.items()) > LIMIT_BYTES:
            metadata.pop(name, None)
            metadata[SHORTENED] = "1"
    return metadata


def from_metadata(key: str, size_bytes: int, metadata: Mapping[str, str]) -> Record | None:
    """Return the record in an object's metadata, or None if the farm did not make this object under this key.

    Args:
        key: Where the object lies; a copy of it elsewhere is not ours.
        size_bytes: Its size.
        metadata: Names in lower case, as `to_metadata` made them.
    """
    if metadata.get("farm-key") != _digest(key):
        return None
    try:
        return Record(
            key=key,
            generation=int(metadata["farm-generation"]),
            job=_decode(metadata, "farm-job"),
            task=int(metadata["farm-task"]),
            attempt=int(metadata["farm-attempt"]),
            render_key=metadata.get("farm-render-key", ""),
            size_bytes=size_bytes,
            sha256=metadata["farm-sha256"],
            input=_decode(metadata, "farm-input"),
            input_size_bytes=int(metadata.get("farm-input-size", "-1")),
            input_stamp=_decode(metadata, "farm-input-stamp"),
            input_sha256=metadata.get("farm-input-sha256", ""),
            extra=dict(json.loads(_decode(metadata, "farm-extra") or "{}")),
            version=int(metadata["farm-version"]),
        )
    except (KeyError, TypeError, ValueError):  # somebody edited it
        return None


def _encode(text: str) -> str:
    return quote(text, errors="surrogateescape")


def _decode(metadata: Mapping[str, str], name: str) -> str:
    return unquote(metadata.get(name, ""), errors="surrogateescape")


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()[:32]
