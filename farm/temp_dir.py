"""Ray's temporary folder: made with a path that is short enough, and removed with its farm."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from jobs.errors import UsageError

# The path of a Unix socket has at most 107 bytes, and Ray appends
# /session_2026-01-31_23-59-59_999999_4194304/sockets/plasma_store to its temporary folder.
_LONGEST_BYTES = 107 - 64
_PREFIX = "stylefarm-"


def make(state_dir: Path, farm: str) -> Path:
    """Make an empty private folder for the Ray head of `farm`.

    That is `ray` in `state_dir`, or else one with the name of the farm in the system's folder for temporary
    files.

    Raises:
        UsageError: If there is none with a short path.
    """
    virtual_environment = os.environ.get("VIRTUAL_ENV", "")
    for path in (state_dir / "ray", *(parent / f"{_PREFIX}{farm}" for parent in _parents())):
        short = len(os.fsencode(path)) <= _LONGEST_BYTES
        # Ray refuses a folder inside the virtual environment.
        if not short or (virtual_environment and path.is_relative_to(virtual_environment)):
            continue
        try:
            # Never one that is there already: in a folder for everybody it may be somebody else's.
            path.mkdir(mode=0o700)
        except OSError as error:
            raise UsageError(
                f"cannot make the folder {path} for Ray: {error.strerror}",
                "set TMPDIR to a folder you can write",
            ) from error
        return path
    raise UsageError(
        f"no folder with a path of at most {_LONGEST_BYTES} bytes for Ray's sockets",
        "set TMPDIR to one with a short path",
    )


def remove_all(state_dir: Path, owner: str, recorded: str, logs: Path) -> None:
    """Remove the folders of all farms of `state_dir`, which have ended, but move Ray's logs to `logs`.

    Args:
        state_dir: The state folder.
        owner: The beginning of the ids of its farms.
        recorded: The folder that the last farm used, or empty: TMPDIR may have changed since.
        logs: The folder for the logs of the last session, which replace those of the one before.
    """
    for path in {state_dir / "ray", Path(recorded), *_leftovers(owner)}:
        named_by_us = path == state_dir / "ray" or path.name.startswith(f"{_PREFIX}{owner}")
        if not named_by_us or not _is_own_folder(path):
            continue
        for session_logs in path.glob("session_2*/logs"):
            shutil.rmtree(logs, ignore_errors=True)
            shutil.move(session_logs, logs)
        shutil.rmtree(path)


def _leftovers(owner: str) -> Iterator[Path]:
    for parent in _parents():
        yield from parent.glob(f"{_PREFIX}{owner}*")


def _parents() -> list[Path]:
    return [Path(tempfile.gettempdir()), Path("/tmp")]  # noqa: S108 - the last resort if TMPDIR is long


def _is_own_folder(path: Path) -> bool:
    """Return whether a path is a folder of this user, and no link to one."""
    try:
        status = path.lstat()
    except FileNotFoundError:
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid()
