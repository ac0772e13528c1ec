"""What a store can do. The commit rules that every store keeps are in `docs/architecture.md`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from jobs.records import Record

FARM_PREFIX = ".farm"
"""Everything in an output that is not a result lies under this name."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One file as a listing shows it; `stamp` changes when its content does (mtime in ns, or etag)."""

    key: str
    size_bytes: int
    stamp: str


@dataclass(frozen=True, slots=True)
class Found:
    """What stands at an output key.

    Attributes:
        record: The latest commit record of the farm, if there is one.
        exists: Whether there is a file under the final name.
        ours: Whether that file is the one that `record` names. A file that exists and is not ours is foreign.
        stamp: mtime or etag of that file, to replace exactly that one.
    """

    record: Record | None = None
    exists: bool = False
    ours: bool = False
    stamp: str = ""


@dataclass(frozen=True, slots=True)
class Committed:
    """How a commit ended.

    Attributes:
        won: Whether this attempt's result is the one that is recorded and published.
        record: The record that stands: this attempt's, or the one that was there first.
    """

    won: bool
    record: Record


class Store(Protocol):
    """A folder or prefix. Keys are relative, with `/` between segments, and cannot leave it.

    Every method raises `jobs.errors.StorageError` when the store fails in a way that may pass,
    and `jobs.errors.UsageError` when it never can (no such bucket, no permission, no credentials).
    """

    url: str
    """The folder's absolute path, or `s3://bucket/prefix`."""

    honors_conditions: bool
    """Whether two writers cannot both create one key. False only for S3 stores that ignore conditions."""

    def list(self, prefix: str = "", *, recursive: bool = True) -> Iterator[Entry]:
        """Yield the files below the folder `prefix`, page by page, hidden ones and those in `.farm` too."""
        ...

    def stat(self, key: str) -> Entry | None:
        """Return the file at `key` as a listing would show it, or None."""
        ...

    def read(self, key: str, *, limit_bytes: int | None = None) -> bytes:
        """Return the content.

        Raises:
            FileNotFoundError: If there is none.
            BadInputError: If it is larger than `limit_bytes`.
        """
        ...

    def write(self, key: str, data: bytes | Path) -> None:
        """Put `data` (bytes, or the file at a path) under `key` whole or not at all, over what is there."""
        ...

    def create(self, key: str, data: bytes) -> bool:
        """Put `data` under `key` if nothing is there; return whether this caller did. Exactly one does."""
        ...

    def delete(self, key: str) -> None:
        """Remove `key`; it is no error if it is gone already."""
        ...

    def find(self, key: str) -> Found:
        """Return what stands at an output key, after finishing a publication that was cut off."""
        ...

    def commit(self, record: Record, data: bytes, found: Found, *, on_existing: str = "fail") -> Committed:
        """Make `data` the result at `record.key`, as generation `record.generation`, for exactly one attempt.

        Args:
            record: Its generation is one more than `found.record`'s, or 1.
            data: The encoded picture; `record.sha256` and `record.size_bytes` are of it.
            found: What `find` said before the work began; a file that came since is foreign.
            on_existing: `fail` or `replace`: what to do with a foreign file. (`rename` is settled by the
                caller, who chooses another key.)

        Raises:
            ConflictError: If a foreign file is in the way and may not be replaced.
        """
        ...

    def free_bytes(self) -> int | None:
        """Return the space that is left, or None where a store does not say."""
        ...

    def sweep(self, older_than_s: float) -> int:
        """Remove what attempts that died left in `.farm/`, such as staged files, and count it.

        A result that was recorded and not yet published is published first. What is younger may be at work;
        a store may keep what is older too, where an upload can take long.
        """
        ...

    def probe(self) -> None:
        """Prove that this process may write, read and delete in `.farm/`, and learn `honors_conditions`."""
        ...
