"""Where the results of an attempt go: the key that each item gets, what stands there, and the commit."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from jobs.errors import ConflictError, StorageError
from jobs.records import Record, render_key
from jobs.storage import Committed, Found, Store
from jobs.tasks import Item, TaskMessage
from workers.kinds import Kind, Produced

log = logging.getLogger(__name__)

_RENAMED_FROM = "renamed_from"
"""Fact of a result that had to take another name: the one that was planned for it."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where an item's result goes, what stands there, and what is known of its input."""

    key: str
    found: Found
    render_key: str
    input_sha256: str

    @property
    def finished(self) -> Record | None:
        """The record of the result that stands there, if rendering again would give the same."""
        record = self.found.record if self.found.ours else None
        return record if record and self.render_key and record.render_key == self.render_key else None


class Output:
    """The output of one attempt.

    Args:
        message: The attempt.
        kind: Its kind of work.
        store: Returns the store of the output.
        check_lease: Raises LeaseLostError when nothing may be committed any more.
    """

    def __init__(
        self, message: TaskMessage, kind: Kind, store: Callable[[], Store], check_lease: Callable[[], None]
    ) -> None:
        self._message = message
        self._kind = kind
        self._store = store
        self._check_lease = check_lease
        self._rename = message.on_existing == "rename"

    def target(self, item: Item, content: Callable[[], bytes]) -> Target:
        """Return where an item's result goes and what it would be; the input is read only if it has to be.

        Raises:
            ConflictError: If a file that the farm did not make is there and may neither be replaced nor stay
                under its name beside the result.
        """
        key, found = self._free(item)
        input_sha256, wanted = "", ""
        if item.input:
            input_sha256 = _unchanged(item, found.record) or hashlib.sha256(content()).hexdigest()
        if self._kind.settings:
            settings = self._kind.settings(self._message.payload)
            wanted = render_key(input_sha256, {**settings, "suffix": PurePosixPath(key).suffix.lower()})
        return Target(key, found, wanted, input_sha256)

    def read(self, target: Target) -> bytes:
        """Return the finished result that stands at a target.

        Raises:
            StorageError: If it is not what its record says, or not there any more.
        """
        record = target.found.record
        try:
            data = self._store().read(target.key)
        except FileNotFoundError:
            data = b""
        if record is None or hashlib.sha256(data).hexdigest() != record.sha256:
            raise StorageError(
                f"{self._message.output}/{target.key} is not what was written there", "remove it, and retry"
            )
        return data

    def commit(self, item: Item, target: Target, produced: Produced) -> Committed:
        """Make what was produced the result at its target, for exactly one attempt.

        Where renaming is allowed, a name that another item or program took meanwhile is left to it.

        Raises:
            ConflictError: If a file that the farm did not make is in the way and may not be replaced.
            StorageError: If another job makes the same result with other settings at this moment.
            LeaseLostError: If the lease ended.
        """
        on_existing = "replace" if self._message.on_existing == "replace" else "fail"
        while True:
            self._check_lease()
            record = self._record(item, target, produced)
            try:
                committed = self._store().commit(record, produced.data, target.found, on_existing=on_existing)
            except ConflictError:
                if not self._rename:
                    raise
            else:
                if committed.won or not self._rename or _is_for(item, committed.record):
                    return _settled(record, committed)
            log.info("%s was taken meanwhile: %s goes elsewhere", target.key, item.output_key)
            key, found = self._free(item)
            target = replace(target, key=key, found=found)
            if target.finished:
                return Committed(won=False, record=target.finished)

    def _record(self, item: Item, target: Target, produced: Produced) -> Record:
        before = target.found.record
        renamed = {} if target.key == item.output_key else {_RENAMED_FROM: item.output_key}
        return Record(
            key=target.key,
            generation=before.generation + 1 if before else 1,
            job=self._message.job,
            task=self._message.task,
            attempt=self._message.attempt,
            render_key=target.render_key,
            size_bytes=len(produced.data),
            sha256=hashlib.sha256(produced.data).hexdigest(),
            input=item.input,
            input_size_bytes=item.size_bytes,
            input_stamp=item.stamp,
            input_sha256=target.input_sha256,
            extra={**produced.facts, **renamed},
        )

    def _free(self, item: Item) -> tuple[str, Found]:
        """Return the key to write to under the rule `on_existing`, and what stands there."""
        store, path, number = self._store(), PurePosixPath(item.output_key), 0
        key = item.output_key
        while True:
            found = store.find(key)
            if not self._taken(item, found):
                return key, found
            if not self._rename:
                raise ConflictError(
                    f"{self._message.output}/{key} exists and was not made by the farm",
                    "choose another output, or on_existing: rename or replace",
                )
            number += 1
            key = str(path.with_name(f"{path.stem}-{number}{path.suffix}"))

    def _taken(self, item: Item, found: Found) -> bool:
        """Return whether what stands at a key keeps this item from it."""
        foreign = found.exists and not found.ours
        if self._rename:
            return foreign or (found.record is not None and not _is_for(item, found.record))
        return foreign and self._message.on_existing != "replace"


def _is_for(item: Item, record: Record) -> bool:
    """Return whether a result was made for this item, in this job or one before.

    Under a name that was planned, the farm replaces what it made before from whatever input; a name that was
    given because another was taken belongs to the input that was given it.
    """
    planned = record.extra.get(_RENAMED_FROM, record.key)
    return bool(planned == item.output_key and (record.key == planned or record.input == item.input))


def _settled(record: Record, committed: Committed) -> Committed:
    """Return how a commit ended if the result that stands is the one that was wanted."""
    if not committed.won and committed.record.render_key != record.render_key:
        raise StorageError(
            f"job {committed.record.job} wrote {record.key} with other settings at the same time",
            "give each job an output of its own",
        )
    return committed


def _unchanged(item: Item, record: Record | None) -> str:
    """Return the content hash from the last record if the input is the same file as then, else nothing."""
    same = (
        record
        and item.stamp
        and (record.input, record.input_size_bytes, record.input_stamp)
        == (item.input, item.size_bytes, item.stamp)
    )
    return record.input_sha256 if record and same else ""
