"""Commit as one attempt, as soon as the standard input ends; print whether it won.

Usage: script_commit.py FOLDER ATTEMPT
"""

from __future__ import annotations

import sys

from jobs.storage.local import LocalStore
from tests.jobs.storage.results import KEY, commit

if __name__ == "__main__":
    store, attempt = LocalStore(sys.argv[1]), int(sys.argv[2])
    found = store.find(KEY)
    print("ready", flush=True)
    sys.stdin.read()
    print(commit(store, b"%d" % attempt * 100_000, found=found, attempt=attempt).won)
