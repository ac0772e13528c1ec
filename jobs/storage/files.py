"""Files on a disk that appear whole or not at all, and folders that are listed safely."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jobs.errors import FarmError, StorageError, UsageError
from jobs.paths import natural_key
from jobs.storage.base import Entry

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_NO_LINKS = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})
_NEVER = frozenset(
    {
        errno.EACCES,
        errno.EPERM,
        errno.EROFS,
        errno.ENAMETOOLONG,
        errno.ENOTDIR,
        errno.EISDIR,
        errno.EEXIST,
        errno.ELOOP,
        errno.EINVAL,
    }
)


def explain(error: OSError, path: str | Path, size_bytes: int = 0) -> FarmError:
    """Return what a person should read instead of `error`: a UsageError if trying again cannot help."""
    if error.errno in _FULL:
        return StorageError(
            f"the disk is full: {size_bytes} bytes for {path} could not be written",
            "free some space, or choose an output on another disk",
        )
    what = f"{path}: {error.strerror or error}"
    if error.errno in _NEVER:
        return UsageError(what, "check the name, who owns the folder, and whether the disk is read-only")
    return StorageError(what, "check the disk or the network share")


@contextmanager
def explained(path: str | Path, size_bytes: int = 0) -> Iterator[None]:
    """Turn every OSError of the block into what a person should read."""
    try:
        yield
    except OSError as error:
        raise explain(error, path, size_bytes) from error


def make_folder(folder: Path) -> None:
    """Make `folder` and its parents; each that is new survives a power cut.

    Raises:
        UsageError: If a file stands where one of them should be.
    """
    if folder.is_dir():
        return
    make_folder(folder.parent)
    try:
        folder.mkdir(exist_ok=True)
    except FileExistsError as error:
        raise UsageError(f"{folder} is there and is no folder", "choose another name") from error
    sync_folder(folder.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_new(path: Path, data: bytes | Path) -> None:
    """Make a file that was not there and force it to the disk; after an error nothing is left of it."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        with os.fdopen(descriptor, "wb") as target:
            if isinstance(data, Path):
                with data.open("rb") as source:
                    shutil.copyfileobj(source, target, 1 << 20)
            else:
                target.write(data)
            target.flush()
            os.fsync(target.fileno())
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def link_new(source: Path, target: Path) -> bool:
    """Give the file at `source` a second name; return False if that name belongs to another file already.

    Exactly one of several callers with different sources succeeds. On a network share the reply to a link
    that was made can be lost, so a name that exists is compared with the source.

    Raises:
        UsageError: If the file system has no hard links.
        FileNotFoundError: If `source` is gone.
    """
    try:
        os.link(source, target, follow_symlinks=False)
    except FileExistsError:
        return _same_file(source, target)
    except OSError as error:
        if error.errno in _NO_LINKS:
            raise UsageError(
                f"{target}: no hard link could be made, and results are made safe by them",
                "choose a folder on a file system that has them, where all workers are one user",
            ) from error
        raise
    return True


def _same_file(source: Path, target: Path) -> bool:
    try:
        return os.path.samestat(source.lstat(), target.lstat())
    except FileNotFoundError:
        source.lstat()  # raises if it is the source that is gone: then there is nothing to link
        return False


def sha256_of(path: Path) -> str:
    """Return the hash of a file's content, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_file(path: Path, limit_bytes: int | None) -> bytes | None:
    """Return the content of a regular file, or None if it is larger than `limit_bytes`.

    Raises:
        FileNotFoundError: If there is no regular file.
    """
    try:
        details = path.stat()
        if not stat.S_ISREG(details.st_mode):  # opening a pipe would wait forever
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
        if limit_bytes is not None and details.st_size > limit_bytes:
            return None
        return path.read_bytes()
    except NotADirectoryError as error:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path)) from error


def entry_of(key: str, details: os.stat_result) -> Entry:
    """Return a file as a listing shows it."""
    return Entry(key, details.st_size, str(details.st_mtime_ns))


def walk(
    folder: Path, key: str, *, recursive: bool, above: tuple[tuple[int, int], ...] = ()
) -> Iterator[Entry]:
    """Yield the regular files in `folder` in natural order; its key is `key`, empty for the root.

    Links are followed, except to a folder that is being listed already; a folder that is not there is empty.

    Raises:
        UsageError: If a folder cannot be read.
    """
    try:
        here = folder.stat()
        with os.scandir(folder) as scan:
            entries = sorted(scan, key=lambda entry: natural_key(entry.name))
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise explain(error, folder) from error
    identity = (here.st_dev, here.st_ino)
    if identity in above:
        return
    for entry in entries:
        name = f"{key}/{entry.name}" if key else entry.name
        try:
            details = entry.stat()
        except OSError as error:
            if error.errno in {errno.ENOENT, errno.ELOOP}:  # a dangling link, or removed since
                continue
            raise explain(error, entry.path) from error
        if stat.S_ISREG(details.st_mode):
            yield entry_of(name, details)
        elif recursive and stat.S_ISDIR(details.st_mode):
            yield from walk(Path(entry.path), name, recursive=True, above=(*above, identity))
