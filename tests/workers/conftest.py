"""What the tests of workers share: the toy kind of work, and a worker to give tasks to."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.workers.bench import Bench
from workers.kinds import KINDS, load_kind


@pytest.fixture
def toy_kind(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Know the toy kind of work, and forget afterwards what the test has registered."""
    monkeypatch.setenv("FARM_KINDS", "tests.toy")
    load_kind("toy")
    before = dict(KINDS)
    yield
    KINDS.clear()
    KINDS.update(before)


@pytest.fixture
def bench(toy_kind: None, tmp_path: Path) -> Iterator[Bench]:
    """Return a worker that runs."""
    bench = Bench(tmp_path)
    yield bench
    bench.close()
