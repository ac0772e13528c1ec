"""Stops the worker process that loads this module at one point of a commit: name it in FARM_KINDS.

The file that STOP_ONCE names says where, as `KEY POINT SIGNAL`: the worker that comes first to that point
with that result renames the file and sends itself the signal.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jobs.storage import files
from jobs.storage.local import LocalStore

POINTS = ("checked", "staged", "recorded")
"""The lease was checked; the bytes are staged; the record is there, but not yet the result under its name."""


def _stop_at(point: str, key: str) -> None:
    orders = Path(os.environ.get("STOP_ONCE", os.devnull))
    if orders.is_file():
        wanted_key, wanted_point, signal_name = orders.read_text().split()
        if (wanted_key, wanted_point) == (key, point):
            # Whoever renames it is the one.
            orders.rename(orders.with_suffix(f".{os.getpid()}"))
            # To this thread: one that is sent to the process may stop this thread a moment too late.
            signal.pthread_kill(threading.get_ident(), signal.Signals[signal_name])


def _stopping(point: str, original: Callable[..., Any], key_of: Callable[..., str]) -> Callable[..., Any]:
    def stopping(*arguments: Any, **options: Any) -> Any:
        _stop_at(point, key_of(*arguments))
        return original(*arguments, **options)

    return stopping


def _key_of_record_file(_: Path, target: Path) -> str:
    """Return `a.txt` for the record `a.txt.1.json`."""
    return target.name.rsplit(".", 2)[0]


LocalStore.commit = _stopping("checked", LocalStore.commit, lambda _, record, *__: record.key)  # type: ignore[method-assign]
files.link_new = _stopping("staged", files.link_new, _key_of_record_file)
LocalStore._publish = _stopping("recorded", LocalStore._publish, lambda _, record: record.key)  # type: ignore[method-assign]
