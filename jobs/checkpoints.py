"""Resumable state of a training or an optimization, which only the latest attempt of its task can go on with.

Every state has a number, and a number is made by exactly one attempt (`Store.create`). An attempt that takes
over claims the next number at once, for the state that it found: an earlier attempt that wakes up later gets
no number any more, and so learns that it has lost its lease.

A state may be larger than what a process has room for. So it may come in parts, which are written, checked
and read one at a time.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import sys
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace

from jobs.errors import FarmError, LeaseLostError, StorageError
from jobs.storage.base import FARM_PREFIX, Store

KEPT_STATES = 2
"""Different states that are kept: if the newest is damaged, the one before it is taken."""

log = logging.getLogger(__name__)

_FILE = re.compile(r"([0-9]+-[0-9]+-[0-9a-f]{8})\.(?:data|[0-9]+\.part)")
"""Files of states: attempt, number and a word of chance name a state; its data, or one of its parts."""


@dataclass(frozen=True, slots=True)
class _Mark:
    """One number: which attempt made it, and the state it stands for (`data` is empty if there is none).

    Attributes:
        parts: Hash of each part of the state.
    """

    attempt: int
    data: str = ""
    size_bytes: int = 0
    sha256: str = ""
    parts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Saved:
    """A state as it was kept.

    Attributes:
        data: What was kept of it in one piece.
        parts: Reads its parts, one at a time.
    """

    data: bytes
    parts: Callable[[], Iterator[bytes]]


class _PartGoneError(StorageError):
    """A part of a state was removed, by a later attempt or by hand."""


class States:
    """The states that attempts kept in a folder one after the other, as one attempt sees them.

    Args:
        store: The job's output.
        folder: Key of the folder, which nothing else lies in.
        attempt: Number of this attempt; a later attempt has a higher one.
    """

    def __init__(self, store: Store, folder: str, attempt: int) -> None:
        self._store = store
        self._attempt = attempt
        self._folder = folder
        self._number = 0

    def is_there(self) -> bool:
        """Return whether some attempt kept a state, damaged or not."""
        return bool(self._listing()[1])

    def take_over(self) -> Saved | None:
        """Return the latest undamaged state, or None, and end the right of earlier attempts to save one.

        Raises:
            LeaseLostError: If a later attempt has taken over already.
        """
        while True:
            numbers, _ = self._listing()
            mark, saved = self._latest(numbers)
            number = numbers[0] + 1 if numbers else 1
            claim = replace(mark, attempt=self._attempt)
            if self._store.create(self._path(number), _encode(claim)):
                self._number = number
                self._prune()
                return saved

    def read(self) -> Saved | None:
        """Return the latest undamaged state, or None, and take nothing over.

        Raises:
            LeaseLostError: If a later attempt has taken over.
        """
        numbers, _ = self._listing()
        return self._latest(numbers)[1]

    def save(self, data: bytes, parts: Iterable[bytes] = ()) -> None:
        """Keep the newest state; the first save takes over if that was not done.

        Args:
            data: What of it is small.
            parts: The rest, if any. Each is written before the next one is asked for; what was written of a
                state that could not be kept whole is removed.

        Raises:
            LeaseLostError: If another attempt has taken over, or the states were cleared.
        """
        if not self._number:
            self.take_over()
        number = self._number + 1
        name = f"{self._attempt}-{number}-{uuid.uuid4().hex[:8]}"
        mark = self._write(name, data, parts)
        if not self._store.create(self._path(number), _encode(mark)):
            self._remove(mark)
            raise self._lost()
        self._check_held(number, mark)
        self._number = number
        self._prune()

    def clear(self) -> None:
        """Remove all states: nobody will go on from them."""
        numbers, files = self._listing()
        for number in reversed(numbers):
            self._store.delete(self._path(number))
        for file in files:
            self._store.delete(f"{self._folder}/{file}")

    def _write(self, name: str, data: bytes, parts: Iterable[bytes]) -> _Mark:
        """Write a state that has no number yet."""
        mark = _Mark(self._attempt, f"{name}.data", len(data), _sha256(data))
        try:
            for number, part in enumerate(parts, 1):
                self._store.write(f"{self._folder}/{_part_name(mark, number)}", part)
                mark = replace(mark, parts=(*mark.parts, _sha256(part)))
            self._store.write(f"{self._folder}/{mark.data}", data)
        except BaseException:
            with suppress(FarmError):  # what is left of it, the next one that is kept removes
                self._remove(mark)
            raise
        return mark

    def _remove(self, mark: _Mark) -> None:
        for file in (mark.data, *_part_names(mark)):
            self._store.delete(f"{self._folder}/{file}")

    def _check_held(self, number: int, mark: _Mark) -> None:
        """Make sure that the number this attempt just made was the next one.

        It may have been made and pruned before, while this attempt was stopped; then the number before it,
        which is pruned first, is gone too. If it was the next one, whoever took over since goes on from it.
        """
        numbers, _ = self._listing()
        if number - 1 not in numbers:
            self._store.delete(self._path(number))
            if numbers == [number]:  # else the latest holder prunes it
                self._remove(mark)
            raise self._lost()
        if numbers[0] != number:
            raise self._lost()

    def _latest(self, numbers: list[int]) -> tuple[_Mark, Saved | None]:
        """Return the newest undamaged state of these numbers, newest first."""
        for number in numbers:
            mark = self._mark(number)
            if mark is None:
                continue
            if mark.attempt > self._attempt:
                raise self._lost()
            saved = self._saved(mark)
            if saved is not None:
                return mark, saved
        return _Mark(self._attempt), None

    def _saved(self, mark: _Mark) -> Saved | None:
        """Return the state that `mark` stands for, or None if there is none or it is damaged."""
        if not mark.data:
            return None
        try:
            data = self._store.read(f"{self._folder}/{mark.data}")
            hashes = tuple(map(_sha256, self._parts(mark)))
        except (FileNotFoundError, _PartGoneError):
            data, hashes = b"", ()
        if (len(data), _sha256(data), hashes) == (mark.size_bytes, mark.sha256, mark.parts):
            return Saved(data, lambda: self._parts(mark))
        log.warning("%s/%s/%s is damaged: going back further", self._store.url, self._folder, mark.data)
        return None

    def _parts(self, mark: _Mark) -> Iterator[bytes]:
        for file in _part_names(mark):
            try:
                yield self._store.read(f"{self._folder}/{file}")
            except FileNotFoundError as error:
                raise _PartGoneError(f"{self._store.url}/{self._folder}/{file} was removed") from error

    def _mark(self, number: int) -> _Mark | None:
        """Read one number; None if it is gone or damaged."""
        try:
            document = json.loads(self._store.read(self._path(number)))
            said = {field.name: document[field.name] for field in fields(_Mark)}
            return _Mark(**{**said, "parts": tuple(said["parts"])})
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError) as error:
            log.warning("%s/%s is damaged: %s", self._store.url, self._path(number), error)
            return None

    def _prune(self) -> None:
        """Remove what is older than the states to keep; the two newest numbers always stay."""
        numbers, files = self._listing()
        kept: set[str] = set()
        count = 0
        for number in numbers:
            if count >= 2 and len(kept) >= KEPT_STATES:
                break
            mark = self._mark(number)
            if mark is not None and mark.attempt > self._attempt:
                return  # the next save will say so
            if mark is not None and mark.data:
                kept.add(_state_of(mark.data))
            count += 1
        for number in reversed(numbers[count:]):
            self._store.delete(self._path(number))
        for file in files:
            # A later attempt may be about to give its state a number.
            if _state_of(file) not in kept and int(file.partition("-")[0]) <= self._attempt:
                self._store.delete(f"{self._folder}/{file}")

    def _listing(self) -> tuple[list[int], list[str]]:
        """Return the numbers that were made, highest first, and the files of the states."""
        numbers, files = [], []
        for entry in self._store.list(self._folder, recursive=False):
            name = entry.key.removeprefix(f"{self._folder}/")
            if re.fullmatch(r"[0-9]+\.json", name):
                numbers.append(int(name.removesuffix(".json")))
            elif _FILE.fullmatch(name):
                files.append(name)
        return sorted(numbers, reverse=True), files

    def _path(self, number: int) -> str:
        return f"{self._folder}/{number:08d}.json"

    def _lost(self) -> LeaseLostError:
        return LeaseLostError(f"attempt {self._attempt} has lost {self._folder}: another one goes on")


class Checkpoints(States):
    """The states of one task, as one attempt sees them.

    Args:
        store: The job's output.
        job: Id of the job.
        task: Number of the task.
        attempt: Number of this attempt.
    """

    def __init__(self, store: Store, job: str, task: int, attempt: int) -> None:
        super().__init__(store, f"{FARM_PREFIX}/jobs/{job}/checkpoints/{task}", attempt)


def latest_state(store: Store, job: str, task: int) -> Saved | None:
    """Return the newest undamaged state of a task, or None; its attempts lose nothing.

    Args:
        store: The job's output.
        job: Id of the job.
        task: Number of the task.
    """
    return Checkpoints(store, job, task, attempt=sys.maxsize).read()


def kept_states(store: Store, job: str, name: str, attempt: int = sys.maxsize) -> States:
    """Return the states that a job keeps under a name beside its results, beyond its end.

    Args:
        store: The job's output.
        job: Id of the job.
        name: Below the job's own folder.
        attempt: That keeps one, or none that looks only.
    """
    return States(store, f"{FARM_PREFIX}/jobs/{job}/{name}", attempt)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _state_of(file: str) -> str:
    """Return which state a file belongs to."""
    return file.partition(".")[0]


def _part_name(mark: _Mark, number: int) -> str:
    return f"{_state_of(mark.data)}.{number}.part"


def _part_names(mark: _Mark) -> list[str]:
    return [_part_name(mark, number) for number in range(1, len(mark.parts) + 1)]


def _encode(mark: _Mark) -> bytes:
    return json.dumps(asdict(mark), sort_keys=True).encode()
