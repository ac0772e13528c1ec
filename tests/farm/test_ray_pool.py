"""Workers as Ray actors, with a real Ray: whatever ends them is noticed, and none lives on unnoticed."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
from ray.exceptions import ActorUnavailableError

from farm import ray_pool
from farm.ray_pool import PoolOptions, RayPool
from jobs.tasks import Event, Item, Progress, TaskEnded, TaskMessage, WorkerReport
from tests.farm import script_blocks
from tests.farm.homes import wait_for

pytestmark = pytest.mark.slow

LONG_S = 90.0


class Ear:
    """Stands where the controller is: takes what workers say."""

    def __init__(self) -> None:
        self.heard: list[Event] = []

    def worker_says(self, _worker: str, events: list[Event]) -> None:
        """Keep it."""
        self.heard += events

    def all(self) -> list[Event]:
        """Return everything that was said."""
        return self.heard


@pytest.fixture(scope="module")
def trouble() -> Iterator[Path]:
    """A Ray of two cores, and the file with the trouble that its workers make."""
    with (
        tempfile.TemporaryDirectory(prefix="sf-", dir="/tmp") as folder,
        pytest.MonkeyPatch.context() as patch,
    ):
        orders = Path(folder) / "trouble"
        patch.setenv("WORKER_TROUBLE", str(orders))
        patch.setenv("FARM_KINDS", "tests.toy,tests.farm.script_worker,tests.farm.script_blocks")
        ray.init(
            address="local",
            num_cpus=2,
            include_dashboard=False,
            object_store_memory=80 << 20,
            log_to_driver=False,
            _temp_dir=folder,
        )
        yield orders
        ray.shutdown()


class Recorder:
    """A listener that remembers who came and went."""

    def __init__(self) -> None:
        self.joined: list[WorkerReport] = []
        self.left: list[tuple[str, bool]] = []
        self._changed = asyncio.Condition()
        self._notices: set[asyncio.Task[None]] = set()

    def worker_joined(self, report: WorkerReport) -> None:
        """Remember it."""
        self.joined.append(report)
        self._notice()

    def worker_left(self, worker: str, _reason: str, *, certain: bool) -> None:
        """Remember it."""
        self.left.append((worker, certain))
        self._notice()

    def worker_says(self, worker: str, events: Sequence[Event]) -> None:
        """Never asked here: what workers say goes to the `Ear`."""
        raise AssertionError((worker, events))

    def _notice(self) -> None:
        async def notify() -> None:
            async with self._changed:
                self._changed.notify_all()

        notice = asyncio.ensure_future(notify())
        self._notices.add(notice)
        notice.add_done_callback(self._notices.discard)

    async def until(self, happened: Callable[[], bool]) -> None:
        """Wait until it has happened."""
        async with self._changed:
            await asyncio.wait_for(self._changed.wait_for(happened), LONG_S)


@asynccontextmanager
async def one_worker(folder: Path) -> AsyncIterator[tuple[RayPool, Recorder, Any]]:
    """Run a pool of one worker, once that has joined."""
    ear = ray.remote(Ear).options(num_cpus=0).remote()
    pool, recorder = RayPool(PoolOptions(1, None, 1, "cpu", str(folder / "store")), ear), Recorder()
    assert pool.start(recorder) == 1
    await recorder.until(lambda: bool(recorder.joined))
    try:
        yield pool, recorder, ear
    finally:
        await pool.close()


def lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_worker_that_is_frozen_is_killed_at_once_and_known_to_be_dead(trouble, tmp_path):
    """Ray calls it dead at once, and would end its process some seconds later."""

    async def run() -> None:
        async with one_worker(tmp_path) as (pool, recorder, _):
            [report] = recorder.joined
            process = psutil.Process(report.pid)
            os.kill(report.pid, signal.SIGSTOP)
            pool.kill("w1")
            await recorder.until(lambda: bool(recorder.left))
            assert not lives(process)
            assert recorder.left == [("w1", True)]
            await recorder.until(lambda: len(recorder.joined) == 2)
            assert recorder.joined[1].worker == "w2"

    asyncio.run(run())


def test_a_worker_whose_loop_ends_is_killed_and_not_taken_for_dead(trouble, tmp_path):
    trouble.write_text("raise")

    async def run() -> None:
        async with one_worker(tmp_path) as (_, recorder, _ear):
            process = psutil.Process(recorder.joined[0].pid)
            await recorder.until(lambda: bool(recorder.left))
            trouble.unlink()
            assert recorder.left[0] == ("w1", False)
            await asyncio.to_thread(wait_for, lambda: not lives(process))
            await recorder.until(lambda: len(recorder.joined) > len(recorder.left))

    asyncio.run(run())


def test_a_death_is_told_also_when_ray_does_not_say_which_nodes_live(trouble, tmp_path, monkeypatch):
    def no_answer() -> list[dict[str, Any]]:
        raise RuntimeError("the head does not answer")

    async def run() -> None:
        async with one_worker(tmp_path) as (_, recorder, _ear):
            monkeypatch.setattr(ray, "nodes", no_answer)
            os.kill(recorder.joined[0].pid, signal.SIGKILL)
            await recorder.until(lambda: bool(recorder.left))
            assert recorder.left == [("w1", False)]
            await recorder.until(lambda: len(recorder.joined) == 2)

    asyncio.run(run())


def test_workers_that_die_at_once_come_back_ever_later_until_one_is_of_use(trouble, tmp_path, monkeypatch):
    pauses: list[float] = []
    sleep = asyncio.sleep

    async def noted(seconds: float) -> None:
        if seconds in ray_pool._RESPAWN_S:
            pauses.append(seconds)
            await sleep(0)
        else:
            await sleep(seconds)

    monkeypatch.setattr(asyncio, "sleep", noted)
    trouble.write_text("exit")

    async def run() -> None:
        async with one_worker(tmp_path) as (pool, recorder, ear):
            await recorder.until(lambda: len(recorder.left) == 2)
            trouble.unlink()
            await recorder.until(lambda: len(recorder.joined) > len(recorder.left))
            assert pauses == [0.5, 2.0, 5.0][: len(recorder.left)]
            name = recorder.joined[-1].worker
            message = toy(tmp_path)
            pool.send(name, message)
            while message.task not in (await pool.renew(name, {})).tasks:
                await sleep(0.02)
            (tmp_path / "gate").unlink()
            while (await pool.renew(name, {})).tasks:
                await sleep(0.02)
            async with asyncio.timeout(60):  # events travel a little behind the report
                while not any(isinstance(event, Progress) for event in await ear.all.remote()):
                    await sleep(0.02)
            os.kill(recorder.joined[-1].pid, signal.SIGKILL)
            deaths = len(recorder.left)
            await recorder.until(lambda: len(recorder.left) > deaths)
            await recorder.until(lambda: len(recorder.joined) > len(recorder.left))
            assert pauses[deaths] == 0.0

    asyncio.run(run())


def toy(folder: Path) -> TaskMessage:
    """Return a task that ends when the file `gate` is gone."""
    gate = folder / "gate"
    gate.touch()
    payload = {
        "count": 1,
        "seconds": 0,
        "word": "hi",
        "asset": "",
        "log": "",
        "die_at": -1,
        "gate": str(gate),
    }
    items = (Item(1, "", -1, "", "a.txt"),)
    return TaskMessage("j", "s", 7, 1, "toy", LONG_S, str(folder / "out"), payload, items)


def test_a_worker_knows_its_kinds_of_work_before_it_joins(trouble, tmp_path):
    """So that the first task does not wait for them: Pillow is loaded, which only `stylize` needs."""

    async def run() -> None:
        async with one_worker(tmp_path) as (_, recorder, _ear):
            process = psutil.Process(recorder.joined[0].pid)
            libraries = {Path(library.path).name for library in process.memory_maps()}
            assert any(name.startswith("_imaging.") for name in libraries)

    asyncio.run(run())


def test_a_worker_keeps_the_memory_of_large_tensors(trouble, tmp_path):
    """In the thread that renders, beside Ray's own: else the kernel clears each of them anew."""

    async def run() -> None:
        async with one_worker(tmp_path) as (pool, _recorder, ear):
            items, output = (Item(1, "", -1, "", "a.txt"),), str(tmp_path / "out")
            pool.send("w1", TaskMessage("j", "s", 7, 1, script_blocks.KIND, LONG_S, output, {}, items))
            ended: list[TaskEnded] = []
            async with asyncio.timeout(LONG_S):
                while not ended:
                    await asyncio.sleep(0.02)
                    ended = [event for event in await ear.all.remote() if isinstance(event, TaskEnded)]
            assert ended[0].outcome == "finished", ended[0].reason
            pages = script_blocks.BLOCK_BYTES // resource.getpagesize()
            assert ended[0].result["faults"] < pages / 10

    asyncio.run(run())


def test_what_cannot_be_told_now_is_told_again(trouble, monkeypatch):
    ear: Any = ray.remote(Ear).options(num_cpus=0).remote()
    get, failures = ray.get, iter([ActorUnavailableError("no route", None)] * 2)
    monkeypatch.setattr(ray_pool, "_TELL_AGAIN_S", 0.0)

    def unsteady(answer: Any) -> Any:
        for failure in failures:
            raise failure
        return get(answer)

    monkeypatch.setattr(ray, "get", unsteady)
    ray_pool.tell(ear, "w1", [Progress(1, 1, 0.5)])
    assert Progress(1, 1, 0.5) in get(ear.all.remote())
    assert next(failures, None) is None
    with pytest.raises(TypeError):
        ray_pool.tell(ear, "w1", [Progress(1, 1, 0.5, threading.Lock())])  # type: ignore[arg-type]
