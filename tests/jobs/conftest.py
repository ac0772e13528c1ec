"""What tests of plans start from: a few styles and a folder of photographs."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.library import Library, StyleEntry
from jobs.storage.memory import MemoryStore


@pytest.fixture
def library(tmp_path: Path) -> Library:
    """A library with the styles candy and mosaic."""
    library = Library(MemoryStore(), tmp_path / "cache")
    for name in ("candy", "mosaic"):
        sha256 = library.put(name.encode())
        library.add_style(StyleEntry(name, sha256, "pytorch-examples", 32, len(name), 0.0))
    return library


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder with ten photographs, a text file and a folder below."""
    folder = tmp_path / "photos"
    (folder / "sub").mkdir(parents=True)
    for number in range(1, 11):
        (folder / f"img{number}.jpg").write_bytes(b"x" * number)
    (folder / "sub/pic.gif").write_bytes(b"x" * 100)
    (folder / "notes.txt").write_text("notes")
    return folder
