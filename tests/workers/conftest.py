"""What the tests of workers share: the toy kind of work, and a worker to give tasks to."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.workers.bench import Bench
from tests.workers.rendering import Desk
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


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    """Return a job's output, inputs and assets."""
    return Desk(tmp_path)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Compute with one thread: nothing is large enough to be shared by more."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def no_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw no plots: they take longer than small renders."""
    monkeypatch.setattr(
        "workers.optimize_files.trace_plot", lambda trace, title: f"{title} {len(trace)}".encode()
    )
