"""The styles that come with the farm: a store of the library's layout inside the package, which is only read.

`examples/bundle_styles.py` fills it, and README.md beside this file says where each of them is from.
"""

from __future__ import annotations

from pathlib import Path

from jobs.storage.local import LocalStore

FOLDER = Path(__file__).resolve().parent
"""Of the store: files below `assets/`, entries below `styles/`."""


def bundled_store() -> LocalStore:
    """Return the store of what came with this very package, wherever that is installed."""
    return LocalStore(FOLDER)
