"""Commit in a process that ends at once before its nth file operation, for every n.

Usage: script_crash.py FOLDER first|replacing|over_foreign

Leaves a store for each n in FOLDER/n and prints how many there are.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from jobs.storage.local import LocalStore
from tests.jobs.storage.results import KEY, commit
from tests.jobs.storage.steps import at_step

CRASHED = 9


def crash_at(step: int, store: LocalStore, scenario: str) -> bool:
    """Return whether the commit ended before that step."""
    child = os.fork()
    if child == 0:
        found = store.find(KEY)
        with at_step(step, lambda: os._exit(CRASHED)):
            commit(
                store, b"new", found=found, on_existing="replace" if scenario == "over_foreign" else "fail"
            )
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status not in {0, CRASHED}:
        raise SystemExit(f"step {step} ended with {status}")
    return status == CRASHED


def main(folder: Path, scenario: str) -> int:
    """Return the number of steps of a commit."""
    step = 0
    crashed = True
    while crashed:
        step += 1
        store = LocalStore(folder / str(step))
        if scenario == "replacing":
            commit(store, b"old")
        if scenario == "over_foreign":
            store.write(KEY, b"mine")
        crashed = crash_at(step, store, scenario)
    return step - 1


if __name__ == "__main__":
    print(main(Path(sys.argv[1]), sys.argv[2]))
