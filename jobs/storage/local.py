"""A local folder, or a shared one that is mounted, as a store.

The lock of a commit is its record, linked to its name by exactly one attempt. Publishing consumes the staged
file that the record names: who comes late finds nothing to publish, and who finds a staged file of a recorded
result may publish it for an attempt that died.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import stat
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from jobs.errors import BadInputError, StorageError, UsageError
from jobs.records import Record
from jobs.storage import files
from jobs.storage.base import FARM_PREFIX, Committed, Entry, Found
from jobs.storage.rules import check_commit, conflict, record_key, result_key, safe_key, same_commit

STAGING = f"{FARM_PREFIX}/staging"
_DATA, _RECORD = ".data", ".record"
_STAGED_NAME = re.compile(r"[0-9a-f]{32}\.data")


class LocalStore:
    """A folder; see `jobs.storage.base.Store`."""

    def __init__(self, path: str | Path) -> None:
        with files.explained(path):
            self._root = Path(path).expanduser().resolve()
        self.url = str(self._root)
        self.honors_conditions = True

    # Files.

    def path(self, key: str) -> Path:
        """Return where `key` lies, whether or not it is there."""
        return self._root / safe_key(key)

    def list(self, prefix: str = "", *, recursive: bool = True) -> Iterator[Entry]:
        """Yield the files below the folder `prefix`, each folder in natural order."""
        prefix = prefix.rstrip("/")
        folder = self.path(prefix) if prefix else self._root
        return files.walk(folder, prefix, recursive=recursive)

    def stat(self, key: str) -> Entry | None:
        """Return the file at `key`, or None."""
        path = self.path(key)
        try:
            details = path.stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise files.explain(error, path) from error
        return files.entry_of(key, details) if stat.S_ISREG(details.st_mode) else None

    def read(self, key: str, *, limit_bytes: int | None = None) -> bytes:
        """Return the content."""
        path = self.path(key)
        try:
            data = files.read_file(path, limit_bytes)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise files.explain(error, path) from error
        if data is None:
            raise BadInputError(f"{path} is larger than {limit_bytes} bytes")
        return data

    def write(self, key: str, data: bytes | Path) -> None:
        """Put `data` under `key` whole or not at all."""
        target = self._target(key)
        with files.explained(target, _size_of(data)):
            staged = self._stage(data)
            try:
                staged.replace(target)
            except BaseException:
                staged.unlink(missing_ok=True)
                raise
            files.sync_folder(target.parent)

    def create(self, key: str, data: bytes) -> bool:
        """Put `data` under `key` if nothing is there; exactly one caller does."""
        target = self._target(key)
        with files.explained(target, len(data)):
            staged = self._stage(data)
            try:
                created = files.link_new(staged, target)
                files.sync_folder(target.parent)
            finally:
                staged.unlink(missing_ok=True)
        return created

    def delete(self, key: str) -> None:
        """Remove `key`."""
        target = self._inside(key)
        with files.explained(target), suppress(FileNotFoundError, NotADirectoryError):
            target.unlink()

    def free_bytes(self) -> int:
        """Return the space that is left on the disk of the folder, or of the one it will be made in."""
        folder = self._root
        while not folder.exists():
            folder = folder.parent
        with files.explained(folder):
            return shutil.disk_usage(folder).free

    def probe(self) -> None:
        """Prove that files can be made, linked, read and removed in the folder."""
        key, content = f"{FARM_PREFIX}/probe-{uuid.uuid4().hex}", os.urandom(16)
        try:
            if not self.create(key, content) or self.create(key, content) or self.read(key) != content:
                raise StorageError(f"{self.url} does not keep what is written", "choose another folder")
        finally:
            self.delete(key)

    # Results.

    def find(self, key: str) -> Found:
        """Return what stands at an output key; a result that was recorded and not published is published."""
        final = self.path(result_key(key))
        with files.explained(final):
            while True:
                record = self._latest(key)
                if record is not None:
                    # A staged file that is gone was published by another just now: nothing is left to do.
                    with suppress(FileNotFoundError):
                        self._publish(record, over_foreign=False)
                found = self._look(key, record)
                if self._generation(key) == _generation_of(record):
                    return found  # else the file may be of a generation that was recorded in between

    def commit(self, record: Record, data: bytes, found: Found, *, on_existing: str = "fail") -> Committed:
        """Make `data` the result at `record.key`, for exactly one attempt."""
        key, over_foreign = check_commit(record, data, found), on_existing == "replace"
        final = self._target(key)
        with files.explained(final, len(data)):
            latest = self._latest(key)
            if latest is not None and latest.generation >= record.generation:
                mine = self._at(key, record.generation)
                if mine is not None and not same_commit(mine, record):
                    mine = None
            else:
                self._clear_the_way(final, key, latest, over_foreign=over_foreign)
                mine = self._record(record, data)
            if mine is None:
                return self._superseded(key)
            return self._finish(mine, final, over_foreign=over_foreign)

    def sweep(self, older_than_s: float) -> int:
        """Publish what is recorded, then remove staged files that nobody has touched for `older_than_s`."""
        folder, before_ns = self._root / STAGING, time.time_ns() - int(older_than_s * 1e9)
        with files.explained(folder):
            old = [e for e in files.walk(folder, "", recursive=False) if int(e.stamp) <= before_ns]
            for entry in old:
                if entry.key.endswith(_RECORD):
                    # One that is torn or gone was never linked, or is done with.
                    with suppress(FileNotFoundError, ValueError):
                        self.find(Record.from_json((folder / entry.key).read_bytes()).key)
            for entry in old:
                (folder / entry.key).unlink(missing_ok=True)
        return len(old)

    # The steps of a commit.

    def _clear_the_way(self, final: Path, key: str, latest: Record | None, *, over_foreign: bool) -> None:
        """Settle the generation before, and refuse what could not be published, before anything is recorded.

        The generation before is published, or loses its staged file so that it never will be.
        """
        if latest is not None:
            with suppress(FileNotFoundError):
                if not self._publish(latest, over_foreign=False):
                    self._discard(latest)
        if not os.path.lexists(final):
            return
        is_folder = final.is_dir() and not final.is_symlink()
        if not is_folder and (over_foreign or self._of_farm(final, key, latest)):
            return
        if self._generation(key) == _generation_of(latest):
            raise conflict(str(final))  # else it is of the attempt that was faster, and recording will tell

    def _record(self, record: Record, data: bytes) -> Record | None:
        """Stage `data` and link its record to its name; return None and clean up if another was first."""
        staged = self._stage(data)
        private = staged.with_suffix(_RECORD)
        made = False
        try:
            full = replace(record, staged=staged.name, stamp=str(staged.stat().st_mtime_ns))
            files.write_new(private, full.to_json())
            files.sync_folder(staged.parent)
            target = self._target(record_key(record.key, record.generation))
            made = files.link_new(private, target)
            files.sync_folder(target.parent)
        finally:
            if not made:
                staged.unlink(missing_ok=True)
                private.unlink(missing_ok=True)
        return full if made else None

    def _publish(self, record: Record, *, over_foreign: bool) -> bool:
        """Give the staged file of `record` its final name; return False if a foreign file is in the way.

        Raises:
            FileNotFoundError: If there is nothing to publish (any more).
        """
        staged = self._staged(record)
        final = self._target(record.key)
        if not files.link_new(staged, final):
            if not over_foreign and not self._of_farm(final, record.key, record):
                staged.lstat()  # if it is gone, the file is of a later generation
                return False
            staged.replace(final)
        files.sync_folder(final.parent)
        self._discard(record)
        return True

    def _staged(self, record: Record) -> Path:
        """Return the staged file of `record`, which is there."""
        if not _STAGED_NAME.fullmatch(record.staged):  # a record that another kind of store made
            raise FileNotFoundError(errno.ENOENT, "nothing is staged", record.key)
        staged = self._root / STAGING / record.staged
        staged.lstat()
        return staged

    def _discard(self, record: Record) -> None:
        for suffix in (_DATA, _RECORD):
            (self._root / STAGING / record.staged).with_suffix(suffix).unlink(missing_ok=True)

    def _finish(self, record: Record, final: Path, *, over_foreign: bool) -> Committed:
        """Publish a result that this attempt has recorded."""
        try:
            if not self._publish(record, over_foreign=over_foreign):
                self._discard(record)
                raise conflict(str(final))
        except FileNotFoundError:
            # While this attempt was stopped, another published its result, or took it away.
            latest = self._latest(record.key)
            if latest is not None and latest.generation > record.generation:
                return Committed(won=False, record=latest)
            if not _is_of(final, record):
                raise StorageError(f"the staged file of {final} was removed", "try again") from None
        return Committed(won=True, record=record)

    def _superseded(self, key: str) -> Committed:
        """Return the result that stands, published if need be."""
        record = self.find(key).record
        if record is None:
            raise StorageError(f"the records of {key} disappeared", f"leave {FARM_PREFIX}/ to the farm")
        return Committed(won=False, record=record)

    # Records and what they name.

    def _latest(self, key: str) -> Record | None:
        generation = self._generation(key)
        return self._at(key, generation) if generation else None

    def _generation(self, key: str) -> int:
        """Return the highest generation that is recorded, or 0; there are no gaps below it."""
        generation = 0
        while os.path.lexists(self.path(record_key(key, generation + 1))):
            generation += 1
        return generation

    def _at(self, key: str, generation: int) -> Record | None:
        path = self.path(record_key(key, generation))
        try:
            record = _parse(path)
        except FileNotFoundError:
            return None
        if record.key != key:
            raise StorageError(
                f"{path} is the record of {record.key!r}", f"choose another output for {key!r}"
            )
        return record

    def _look(self, key: str, record: Record | None) -> Found:
        final = self.path(key)
        try:
            details = final.lstat()
        except (FileNotFoundError, NotADirectoryError):
            return Found(record=record)
        ours = record is not None and _is_of(final, record)
        return Found(record=record, exists=True, ours=ours, stamp=str(details.st_mtime_ns))

    def _of_farm(self, final: Path, key: str, latest: Record | None) -> bool:
        """Return whether the file, which is read, is what the latest record or one before it names."""
        for generation in range(_generation_of(latest), 0, -1):
            record = self._at(key, generation)
            if record is not None and _is_of(final, record, read=True):
                return True
        return False

    # Paths.

    def _inside(self, key: str) -> Path:
        """Return where `key` lies if that is in this folder, links followed.

        Raises:
            UsageError: If a link leads elsewhere.
        """
        path = self.path(key)
        with files.explained(path):
            parent = path.parent.resolve()
        if not parent.is_relative_to(self._root):
            raise UsageError(f"{path} leads outside of {self.url}, to {parent}", "remove the link")
        return path

    def _target(self, key: str) -> Path:
        """Return where to write `key`; its folder is made."""
        path = self._inside(key)
        with files.explained(path.parent):
            files.make_folder(path.parent)
        return path

    def _stage(self, data: bytes | Path) -> Path:
        """Put `data` on this file system under a name of its own, forced to the disk."""
        staged = self._target(f"{STAGING}/{uuid.uuid4().hex}{_DATA}")
        files.write_new(staged, data)
        return staged


def _size_of(data: bytes | Path) -> int:
    return data.stat().st_size if isinstance(data, Path) else len(data)


def _generation_of(record: Record | None) -> int:
    return record.generation if record else 0


def _parse(path: Path) -> Record:
    try:
        return Record.from_json(path.read_bytes())
    except ValueError as error:
        raise StorageError(f"{path} is damaged: {error}", "remove it to make its result again") from error


def _is_of(path: Path, record: Record, *, read: bool = False) -> bool:
    """Return whether `path` is the file that `record` names.

    Its size and mtime say so without `read`; when only the mtime differs (a copied folder), its content does.
    """
    try:
        details = path.lstat()
        if not stat.S_ISREG(details.st_mode) or details.st_size != record.size_bytes:
            return False
        if not read and str(details.st_mtime_ns) == record.stamp:
            return True
        return files.sha256_of(path) == record.sha256
    except FileNotFoundError:
        return False
