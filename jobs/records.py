"""Commit records and render keys: how the farm knows that a result is finished, and whose it is."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field, fields
from typing import Any

RECORD_VERSION = 1

PIXELS_VERSION = 1
"""Grows only when the stored reference outputs change, so that old results are not taken for new ones."""


@dataclass(frozen=True, slots=True)
class Record:
    """The immutable note that one attempt made one generation of one output.

    Attributes:
        key: Output key, relative to the job's output.
        generation: 1 for the first result under this key, then one more for each that replaced it.
        staged: Name of the staged file that holds the bytes until they are published (local folders only).
        stamp: mtime in ns of that file, which publishing keeps (local folders only): a file with this size
            and mtime is known as ours without reading it.
        render_key: Hash over everything that decides the pixels; see `render_key`.
        input: Path or URL of the input, with its size and stamp as listed, so that an unchanged file
            need not be read again, and the sha256 of its content.
        extra: Facts for the report (width_px, height_px, seconds).
    """

    key: str
    generation: int
    job: str
    task: int
    attempt: int
    render_key: str
    size_bytes: int
    sha256: str
    input: str = ""
    input_size_bytes: int = -1
    input_stamp: str = ""
    input_sha256: str = ""
    staged: str = ""
    stamp: str = ""
    extra: dict[str, Any] = field(default_factory=dict)
    version: int = RECORD_VERSION

    def to_json(self) -> bytes:
        """Return the record as UTF-8 JSON."""
        return json.dumps(asdict(self), sort_keys=True).encode()

    @classmethod
    def from_json(cls, data: bytes) -> Record:
        """Read a record, leaving out keys that a later version added.

        Raises:
            ValueError: If it is no JSON object or lacks a needed key.
        """
        document = json.loads(data)
        known = {f.name for f in fields(cls)}
        try:
            return cls(**{name: value for name, value in document.items() if name in known})
        except (TypeError, AttributeError) as error:
            raise ValueError(f"not a commit record: {error}") from error


def render_key(input_sha256: str, settings: dict[str, Any]) -> str:
    """Return the hash over all that decides the pixels of a result.

    Args:
        input_sha256: Hash of the input's content.
        settings: Everything else that changes pixels: content hashes of styles, precision, sizes, format.
            Device, chunk size, priority and package version do not belong here.
    """
    document = {"pixels_version": PIXELS_VERSION, "input": input_sha256, "settings": settings}
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()
