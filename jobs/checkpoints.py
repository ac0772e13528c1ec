"""Resumable state of a training or an optimization, which only the latest attempt of its task can go on with.

Every state has a number, and a number is made by exactly one attempt (`Store.create`). An attempt that takes
over claims the next number at once, for the state that it found: an earlier attempt that wakes up later gets
no number any more, and so learns that it has lost its lease.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import sys
import uuid
from dataclasses import asdict, dataclass, fields, replace

from jobs.errors import LeaseLostError
from jobs.storage.base import FARM_PREFIX, Store

KEPT_STATES = 2
"""Different states that are kept: if the newest is damaged, the one before it is taken."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Mark:
    """One number: which attempt made it, and the state it stands for (`data` is empty if there is none)."""

    attempt: int
    data: str = ""
    size_bytes: int = 0
    sha256: str = ""


class Checkpoints:
    """The states of one task, as one attempt sees them.

    Args:
        store: The job's output.
        job: Id of the job.
        task: Number of the task.
        attempt: Number of this attempt; a later attempt has a higher one.
    """

    def __init__(self, store: Store, job: str, task: int, attempt: int) -> None:
        self._store = store
        self._attempt = attempt
        self._folder = f"{FARM_PREFIX}/jobs/{job}/checkpoints/{task}"
        self._number = 0

    def take_over(self) -> bytes | None:
        """Return the latest undamaged state, or None, and end the right of earlier attempts to save one.

        Raises:
            LeaseLostError: If a later attempt has taken over already.
        """
        while True:
            numbers, _ = self._listing()
            state, data = self._latest(numbers)
            number = numbers[0] + 1 if numbers else 1
            claim = replace(state, attempt=self._attempt)
            if self._store.create(self._path(number), _encode(claim)):
                self._number = number
                self._prune()
                return data

    def read(self) -> bytes | None:
        """Return the latest undamaged state, or None, and take nothing over.

        Raises:
            LeaseLostError: If a later attempt has taken over.
        """
        numbers, _ = self._listing()
        return self._latest(numbers)[1]

    def save(self, data: bytes) -> None:
        """Keep `data` as the newest state; the first save takes over if that was not done.

        Raises:
            LeaseLostError: If another attempt has taken over, or the states were cleared.
        """
        if not self._number:
            self.take_over()
        number = self._number + 1
        blob = f"{self._attempt}-{number}-{uuid.uuid4().hex[:8]}.data"
        self._store.write(f"{self._folder}/{blob}", data)
        mark = _Mark(self._attempt, blob, len(data), hashlib.sha256(data).hexdigest())
        if not self._store.create(self._path(number), _encode(mark)):
            self._store.delete(f"{self._folder}/{blob}")
            raise self._lost()
        self._check_held(number, blob)
        self._number = number
        self._prune()

    def clear(self) -> None:
        """Remove all states of the task: its job is done."""
        numbers, blobs = self._listing()
        for number in reversed(numbers):
            self._store.delete(self._path(number))
        for blob in blobs:
            self._store.delete(f"{self._folder}/{blob}")

    def _check_held(self, number: int, blob: str) -> None:
        """Make sure that the number this attempt just made was the next one.

        It may have been made and pruned before, while this attempt was stopped; then the number before it,
        which is pruned first, is gone too. If it was the next one, whoever took over since goes on from it.
        """
        numbers, _ = self._listing()
        if number - 1 not in numbers:
            self._store.delete(self._path(number))
            if numbers == [number]:  # else the latest holder prunes it
                self._store.delete(f"{self._folder}/{blob}")
            raise self._lost()
        if numbers[0] != number:
            raise self._lost()

    def _latest(self, numbers: list[int]) -> tuple[_Mark, bytes | None]:
        """Return the newest undamaged state of these numbers, newest first."""
        for number in numbers:
            mark = self._mark(number)
            if mark is None:
                continue
            if mark.attempt > self._attempt:
                raise self._lost()
            data = self._data(mark)
            if data is not None:
                return mark, data
        return _Mark(self._attempt), None

    def _data(self, mark: _Mark) -> bytes | None:
        """Return the state that `mark` stands for, or None if there is none or it is damaged."""
        if not mark.data:
            return None
        try:
            data = self._store.read(f"{self._folder}/{mark.data}")
        except FileNotFoundError:
            data = b""
        if len(data) == mark.size_bytes and hashlib.sha256(data).hexdigest() == mark.sha256:
            return data
        log.warning("%s/%s/%s is damaged: going back further", self._store.url, self._folder, mark.data)
        return None

    def _mark(self, number: int) -> _Mark | None:
        """Read one number; None if it is gone or damaged."""
        try:
            document = json.loads(self._store.read(self._path(number)))
            return _Mark(**{field.name: document[field.name] for field in fields(_Mark)})
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError) as error:
            log.warning("%s/%s is damaged: %s", self._store.url, self._path(number), error)
            return None

    def _prune(self) -> None:
        """Remove what is older than the states to keep; the two newest numbers always stay."""
        numbers, blobs = self._listing()
        kept: set[str] = set()
        count = 0
        for number in numbers:
            if count >= 2 and len(kept) >= KEPT_STATES:
                break
            mark = self._mark(number)
            if mark is not None and mark.attempt > self._attempt:
                return  # the next save will say so
            if mark is not None and mark.data:
                kept.add(mark.data)
            count += 1
        for number in reversed(numbers[count:]):
            self._store.delete(self._path(number))
        for blob in blobs:
            # A later attempt may be about to give its state a number.
            if blob not in kept and int(blob.partition("-")[0]) <= self._attempt:
                self._store.delete(f"{self._folder}/{blob}")

    def _listing(self) -> tuple[list[int], list[str]]:
        """Return the numbers that were made, highest first, and the names of the states."""
        numbers, blobs = [], []
        for entry in self._store.list(self._folder, recursive=False):
            name = entry.key.removeprefix(f"{self._folder}/")
            if re.fullmatch(r"[0-9]+\.json", name):
                numbers.append(int(name.removesuffix(".json")))
            elif re.fullmatch(r"[0-9]+-[0-9]+-[0-9a-f]{8}\.data", name):
                blobs.append(name)
        return sorted(numbers, reverse=True), blobs

    def _path(self, number: int) -> str:
        return f"{self._folder}/{number:08d}.json"

    def _lost(self) -> LeaseLostError:
        return LeaseLostError(f"attempt {self._attempt} has lost {self._folder}: another one goes on")


def latest_state(store: Store, job: str, task: int) -> bytes | None:
    """Return the newest undamaged state of a task, or None; its attempts lose nothing.

    Args:
        store: The job's output.
        job: Id of the job.
        task: Number of the task.
    """
    return Checkpoints(store, job, task, attempt=sys.maxsize).read()


def _encode(mark: _Mark) -> bytes:
    return json.dumps(asdict(mark), sort_keys=True).encode()
