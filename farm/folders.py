"""Where the farm keeps its things on this machine: the XDG folders, private to their user."""

from __future__ import annotations

import os
from pathlib import Path
from typing import IO

from jobs.errors import UsageError

_NAME = "stylefarm"


def data_dir() -> Path:
    """Return the folder of what must be kept: ledger, store of styles and weights."""
    return _folder("XDG_DATA_HOME", ".local/share")


def config_dir() -> Path:
    """Return the folder of what the user writes."""
    return _folder("XDG_CONFIG_HOME", ".config")


def state_dir() -> Path:
    """Return the folder of the running farm: state file, tokens, logs."""
    return _folder("XDG_STATE_HOME", ".local/state")


def cache_dir() -> Path:
    """Return the folder of what can be made again."""
    return _folder("XDG_CACHE_HOME", ".cache")


def private(path: Path) -> Path:
    """Make the folder `path`, for its user alone, where it is missing, and return it.

    Raises:
        UsageError: If it cannot be made.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"cannot make the folder {path}: {error.strerror}",
            "set XDG_DATA_HOME, XDG_CONFIG_HOME, XDG_STATE_HOME and XDG_CACHE_HOME to folders you can write",
        ) from error
    return path


def _folder(variable: str, default: str) -> Path:
    given = Path(os.environ.get(variable, ""))
    # The XDG specification says to ignore a relative path.
    return private((given if given.is_absolute() else Path.home() / default) / _NAME)


def open_private(path: Path) -> IO[bytes]:
    """Open a file for writing, new and empty, that only its user can read."""
    path.unlink(missing_ok=True)
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")


def write_private(path: Path, text: str) -> None:
    """Write a whole file that only its user can read; readers see the old one or the new one."""
    new = path.with_name(f"{path.name}.new")
    with open_private(new) as file:
        file.write(text.encode())
    new.replace(path)
