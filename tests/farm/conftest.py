"""What tests of steps that make styles share."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def brewing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Know the kind of work that makes styles, and try again without a pause."""
    monkeypatch.setenv("FARM_KINDS", "tests.brew")
    monkeypatch.setattr("jobs.scheduler._BACKOFF_S", {})
    monkeypatch.setattr("farm.registration._PAUSES_S", (0.0, 0.0))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Return a folder with two photographs."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("a.jpg", "b.jpg"):
        (folder / name).write_bytes(b"x")
    return folder
