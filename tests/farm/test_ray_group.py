"""Gangs over a real Ray: members get what threads get, and none waits for a dead one longer than it may."""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import torch

from farm.ray_group import Courier
from farm.ray_pool import PoolOptions, RayPool
from jobs.errors import Failure, FarmError, LeaseLostError
from jobs.tasks import Event, GangPlace, TaskEnded, TaskMessage, WorkerReport
from tests.farm import script_gang
from tests.farm.homes import wait_for
from workers.nst.group import Alone, Group
from workers.nst.thread_group import run_together

pytestmark = pytest.mark.slow

LONG_S = 90.0


class Ear:
    """Stands where the controller is: takes what workers say."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, Event]] = []

    def worker_says(self, worker: str, events: list[Event]) -> None:
        """Keep it."""
        self.heard += [(worker, event) for event in events]

    def ends(self, task: int) -> dict[str, TaskEnded]:
        """Return how a task ended, by worker."""
        return {w: event for w, event in self.heard if isinstance(event, TaskEnded) and event.task == task}


class Crew:
    """Three workers, and what becomes of the tasks that they run together. It lives while it is asked."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.reports: dict[str, WorkerReport] = {}
        self.left: list[str] = []
        self._tasks = 0
        self._ear: Any = ray.remote(Ear).options(num_cpus=0).remote()
        self._loop = asyncio.new_event_loop()
        self._pool = RayPool(PoolOptions(3, None, 1, "cpu", str(folder / "store")), self._ear)
        self._do(partial(self._pool.start, self))

    # What a pool tells a controller.

    def worker_joined(self, report: WorkerReport) -> None:
        """Note who is there."""
        self.reports[report.worker] = report

    def worker_left(self, worker: str, _reason: str, *, certain: bool) -> None:
        """Note who is not any more."""
        del self.reports[worker]
        self.left.append(worker)
        assert certain

    def worker_says(self, worker: str, events: Sequence[Event]) -> None:
        """Never asked here: what workers say goes to the `Ear`."""
        raise AssertionError((worker, events))

    # What tests ask.

    def members(self, count: int) -> tuple[str, ...]:
        """Return so many workers, once all are there."""
        self.until(lambda: len(self.reports) == 3)
        return tuple(sorted(self.reports)[:count])

    def submit(
        self,
        kind: str,
        workers: tuple[str, ...],
        ranks: Sequence[int] | None = None,
        *,
        seed: int = 0,
        lease_s: float = LONG_S,
    ) -> int:
        """Send an attempt to the members of a gang, last rank first; return its task."""
        self._tasks += 1
        payload = {"seed": seed, "folder": str(self.folder)}
        output = str(self.folder / "out")
        for rank in reversed(ranks if ranks is not None else range(len(workers))):
            place = GangPlace(rank, workers)
            message = TaskMessage("j", "s", self._tasks, 1, kind, lease_s, output, payload, (), gang=place)
            self._do(partial(self._pool.send, workers[rank], message))
        return self._tasks

    def stop(self, worker: str, task: int, *, at_once: bool) -> None:
        """Ask a member to stop."""
        self._do(partial(self._pool.stop, worker, task, 1, at_once=at_once))

    def outcomes(self, task: int, workers: Sequence[str]) -> list[str]:
        """Return how a task ended for some of its members, when it has."""
        self.until(lambda: set(workers) <= set(ray.get(self._ear.ends.remote(task))))
        ends = ray.get(self._ear.ends.remote(task))
        return [f"{ends[worker].outcome} {ends[worker].reason}".strip() for worker in workers]

    def text(self, task: int, rank: int) -> str:
        """Return what a member left."""
        path = self.folder / f"{task}-{rank}"
        return path.read_text() if path.exists() else ""

    def until(self, happened: Callable[[], bool]) -> None:
        """Wait, and let the pool do its work meanwhile."""

        def look() -> bool:
            self._loop.run_until_complete(asyncio.sleep(0.02))
            return happened()

        wait_for(look, LONG_S)

    def capacity(self) -> int:
        """Return how many workers there could be."""
        found: list[int] = []
        self._do(lambda: found.append(self._pool.capacity()))
        return found[0]

    def close(self) -> None:
        """End the workers."""
        self._loop.run_until_complete(self._pool.close())
        self._loop.close()

    def _do(self, work: Callable[[], object]) -> None:
        async def within() -> None:
            work()

        self._loop.run_until_complete(within())


@pytest.fixture(scope="module")
def crew() -> Iterator[Crew]:
    with (
        tempfile.TemporaryDirectory(prefix="sf-", dir="/tmp") as folder,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("FARM_KINDS", "tests.farm.script_gang")
        ray.init(
            address="local",
            num_cpus=2,
            include_dashboard=False,
            object_store_memory=80 << 20,
            log_to_driver=False,
            _temp_dir=folder,
        )
        crew = Crew(Path(folder))
        yield crew
        crew.close()
        ray.shutdown()


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("seed", range(3))
def test_any_program_gets_what_it_gets_from_threads(crew, size, seed):
    workers = crew.members(size)
    task = crew.submit("programs", workers, seed=seed)
    assert crew.outcomes(task, workers) == ["finished"] * size

    def program(group: Group) -> str:
        return script_gang.programs(group, seed)

    assert [crew.text(task, rank) for rank in range(size)] == run_together(size, program)


def test_a_picture_in_tiles_has_the_same_bytes_as_alone_and_over_threads(crew):
    expected = {script_gang.render(Alone(), 3)}
    expected |= set(run_together(2, lambda group: script_gang.render(group, 3)))
    for size in (2, 3):
        workers = crew.members(size)
        task = crew.submit("render", workers, seed=3)
        assert crew.outcomes(task, workers) == ["finished"] * size
        expected |= {crew.text(task, rank) for rank in range(size)}
    assert len(expected) == 1


def test_a_polite_stop_ends_all_members_after_the_same_round(crew):
    workers = crew.members(3)
    task = crew.submit("rounds", workers)
    crew.until(lambda: crew.text(task, 2).startswith("at"))
    for worker in reversed(workers):
        crew.stop(worker, task, at_once=False)
    assert crew.outcomes(task, workers) == ["finished"] * 3
    assert {crew.text(task, rank) for rank in range(3)} == {crew.text(task, 0)}
    assert crew.text(task, 0).startswith("stopped")


@pytest.mark.parametrize("rank", [0, 1])
def test_a_member_that_is_killed_leaves_others_that_stop_at_once(crew, rank):
    workers = crew.members(3)
    task = crew.submit("rounds", workers)
    crew.until(lambda: all(crew.text(task, r).startswith("at") for r in range(3)))
    os.kill(crew.reports[workers[rank]].pid, signal.SIGKILL)
    crew.until(lambda: workers[rank] in crew.left)
    rest = [worker for worker in workers if worker != workers[rank]]
    for worker in rest:
        crew.stop(worker, task, at_once=True)
    for outcome in crew.outcomes(task, rest):
        assert outcome.startswith("stopped")
        assert outcome.endswith("it was asked to stop")
    task = crew.submit("programs", tuple(rest), seed=1)
    assert crew.outcomes(task, rest) == ["finished"] * 2


def test_a_member_whose_gang_never_comes_stops_when_its_lease_runs_out(crew):
    workers = crew.members(2)
    task = crew.submit("rounds", workers, ranks=[1], lease_s=0.5)
    [outcome] = crew.outcomes(task, workers[1:])
    assert outcome.startswith("stopped")
    assert outcome.endswith("its lease ran out")


class Mailbox:
    """Takes in letters, or not."""

    def deliver(self, letter: str, _content: Any) -> None:
        """Refuse what says so."""
        if letter == "refuse":
            raise RuntimeError("no room")


def looked(courier: Courier, happened: Callable[[], object]) -> None:
    def look() -> bool:
        courier.look()
        return bool(happened())

    wait_for(look)


def test_a_letter_to_a_member_that_is_gone_is_logged_once_and_no_error(crew, caplog):
    actor: Any = ray.remote(Mailbox).options(num_cpus=0).remote()
    ray.kill(actor)
    courier = Courier([None, actor], ("w1", "w2"), lambda: None)
    for _ in range(3):
        courier.post({0: "letter", 1: "letter"}, np.zeros(1, np.uint8))  # type: ignore[dict-item]
    looked(courier, lambda: len(caplog.messages) == 2)
    courier.post({1: "letter"}, np.zeros(1, np.uint8))  # type: ignore[dict-item]
    courier.look()
    assert [message.split()[0] for message in caplog.messages] == ["w1", "w2"]


def test_a_letter_that_is_lost_though_its_recipient_lives_ends_the_attempt(crew):
    actor: Any = ray.remote(Mailbox).options(num_cpus=0).remote()
    courier = Courier([None, actor], ("w1", "w2"), lambda: None)
    courier.post({1: "letter"}, np.zeros(1, np.uint8))  # type: ignore[dict-item]
    courier.post({1: "refuse"}, np.zeros(1, np.uint8))  # type: ignore[dict-item]
    with pytest.raises(FarmError, match="a message to w2") as raised:
        looked(courier, lambda: False)
    assert raised.value.failure is Failure.WORKER_LOST


def test_a_member_that_sends_much_waits_until_it_arrives_and_can_be_interrupted(crew):
    """Its recipient takes nothing in: what is on its way stays bounded."""

    class Frozen:
        def deliver(self, _letter: str, _content: Any) -> None:
            threading.Event().wait()

    def interrupted() -> None:
        raise LeaseLostError("it was asked to stop")

    actor: Any = ray.remote(Frozen).options(num_cpus=0).remote()
    courier, content = Courier([actor], ("w1",), interrupted), np.zeros(10 << 20, np.uint8)
    for _ in range(6):
        courier.post({0: "letter"}, content)  # type: ignore[dict-item]
    with pytest.raises(LeaseLostError):
        courier.post({0: "letter"}, content)  # type: ignore[dict-item]
    ray.kill(actor)


def test_there_are_places_for_all_that_were_asked_for_on_fewer_cores(crew):
    assert crew.capacity() == 3
