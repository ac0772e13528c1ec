"""Workers, controllers and nodes that are killed or frozen in the middle of jobs, with real signals."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.end_to_end import stopping
from tests.end_to_end.real_farm import (
    LONG_S,
    ROOT,
    RealFarm,
    photos,
    records,
    results,
    running_farm,
    staged,
    stamps,
    stylize_manifest,
    toy_manifest,
    wait_until,
)

pytestmark = pytest.mark.slow

LEASE_S = 1.5
SCRIPT = Path(__file__).with_name("script_attempt.py")


@pytest.fixture(scope="module")
def shared(tmp_path_factory) -> Iterator[RealFarm]:
    """A farm of two workers with a short lease, and a style that takes some time on a small picture."""
    orders = tmp_path_factory.mktemp("orders") / "stop"
    kinds = "tests.toy,tests.end_to_end.stopping"
    with running_farm(FARM_LEASE_S=str(LEASE_S), STOP_ONCE=str(orders), FARM_KINDS=kinds) as farm:
        farm.add_style("slow", width=8)
        yield farm


@pytest.fixture
def farm(shared: RealFarm) -> RealFarm:
    """The farm once both its workers are there: the test before may have killed some."""
    wait_until(lambda: len(shared.workers()) == 2, "both workers are back")
    return shared


@pytest.fixture
def folder_job(farm, tmp_path) -> Callable[[], tuple[str, Path]]:
    """Submit a folder of pictures; return the job and where its results go."""
    numbers = itertools.count()

    def submit() -> tuple[str, Path]:
        number = next(numbers)
        pictures = photos(tmp_path / f"in{number}", 24, side_px=256)
        output = tmp_path / f"out{number}"
        return farm.submit(stylize_manifest(pictures, output, "slow")), output

    return submit


def at_work(farm: RealFarm, job: str) -> dict[str, Any]:
    """Return a worker that is at a task of a job."""
    found: dict[str, Any] = wait_until(
        lambda: next((worker for worker in farm.workers() if worker["job"] == job), None),
        f"a worker is at {job}",
    )
    return found


def check_output(farm: RealFarm, job: str, output: Path, total: int) -> None:
    """Hold an output to what is promised, whatever happened on the way.

    Each result has one record, and is what that names; nothing temporary is left; the job, its items and its
    report say the same; whoever is recorded is an attempt that the ledger knows.
    """
    state = farm.job(job)
    assert (state["state"], state["items"]["total"]) == ("completed", total)
    assert state["items"]["done"] + state["items"]["skipped"] == total
    assert state["items"]["pending"] == state["items"]["failed"] == 0
    found, files = records(output), results(output)
    assert found.keys() == files.keys()
    assert len(files) == total
    numbers = {(attempt["task"], attempt["number"]) for attempt in farm.attempts(job)}
    for key, [record] in found.items():
        assert hashlib.sha256(files[key].read_bytes()).hexdigest() == record.sha256
        assert (record.job, record.generation) == (job, 1)
        assert (record.task, record.attempt) in numbers
    assert {item["sha256"] for item in farm.items(job)} == {record.sha256 for [record] in found.values()}
    assert staged(output) == []
    report = json.loads((output / ".farm/jobs" / job / "report.json").read_bytes())
    assert len(report["items"]) == total
    assert {item["output"] for item in report["items"]} == {str(path) for path in files.values()}


def lost(farm: RealFarm, job: str) -> list[dict[str, Any]]:
    return [attempt for attempt in farm.attempts(job) if attempt["outcome"] == "lost"]


# --- killed -----------------------------------------------------------------------------------------


def test_a_job_survives_kill_9_of_a_worker(farm, folder_job):
    job, output = folder_job()
    farm.wait_done(job, 2)
    victim = at_work(farm, job)
    psutil.Process(victim["pid"]).kill()
    farm.wait(job)
    check_output(farm, job, output, 24)
    assert {attempt["worker"] for attempt in lost(farm, job)} == {victim["id"]}
    assert {attempt["failure"] for attempt in lost(farm, job)} == {"worker_lost"}
    again = {(attempt["task"], attempt["number"]) for attempt in farm.attempts(job)}
    assert again >= {(attempt["task"], attempt["number"] + 1) for attempt in lost(farm, job)}
    [*events] = farm.events(job, "worker lost")
    assert any(victim["id"] in event["text"] for event in events)
    assert victim["id"] not in {worker["id"] for worker in farm.workers()}


def test_a_job_survives_kill_9_of_the_controller_and_nothing_finished_is_rendered_again(farm, folder_job):
    """Ray starts it again on the same port with the same token; a command that waits does not notice."""
    before = farm.file()
    job, output = folder_job()
    farm.wait_done(job, 3)
    waiting = farm.start("wait", job)
    controller, workers = farm.controller(), [psutil.Process(w["pid"]) for w in farm.workers()]
    finished = {record.key for [record] in records(output).values()}
    written = {stamp for stamp in stamps(output) if stamp[0] in finished}
    assert len(written) >= 3
    controller.kill()
    said, complained = waiting.communicate(timeout=LONG_S)
    assert waiting.returncode == 0, complained
    assert f"{job}: completed, 24 of 24" in said
    check_output(farm, job, output, 24)
    assert written <= set(stamps(output))
    assert farm.file() == before
    assert farm.controller().pid != controller.pid
    wait_until(lambda: not any(map(is_alive, [controller, *workers])), "the dead controller's workers ended")
    assert {attempt["failure"] for attempt in lost(farm, job)} == {"preempted"}


def is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_job_survives_kill_9_of_controller_and_worker_at_once(farm, folder_job):
    job, output = folder_job()
    farm.wait_done(job, 2)
    controller, victim = farm.controller(), at_work(farm, job)
    psutil.Process(victim["pid"]).kill()
    controller.kill()
    farm.wait(job)
    check_output(farm, job, output, 24)


def test_a_command_that_starts_while_the_controller_is_away_waits_for_it(farm, tmp_path):
    job = farm.submit(toy_manifest(tmp_path / "out", items=4, seconds=0.01))
    farm.wait(job)
    farm.controller().kill()
    assert farm.run("wait", job).stdout.startswith(f"{job}: completed")
    farm.controller().kill()
    assert farm.run("workers").returncode == 0


@pytest.mark.parametrize("process", ["raylet/raylet", "gcs_server"])
def test_a_job_goes_on_with_the_next_farm_up_after_ray_itself_is_killed(farm, tmp_path, process):
    output, gate = tmp_path / "out", tmp_path / "gate"
    job = farm.submit(toy_manifest(output, items=60, chunk=10, seconds=0.02, gate=str(gate)))
    farm.wait_done(job, 3)
    gate.touch()
    farm.kill(process)
    wait_until(lambda: farm.run("wait", job, check=False).returncode == 7, "the farm is found to be gone")
    [shown] = farm.json("status", job)["jobs"]
    assert shown["state"] == "active"
    written = {stamp for stamp in stamps(output) if stamp[0] in records(output)}
    gate.unlink()
    farm.up()
    farm.wait(job)
    check_output(farm, job, output, 60)
    assert len(written) >= 3
    assert written <= set(stamps(output))


# --- frozen -----------------------------------------------------------------------------------------


def test_the_work_of_a_frozen_worker_is_done_by_another_and_its_process_ended(farm, folder_job):
    job, output = folder_job()
    farm.wait_done(job, 2)
    victim = at_work(farm, job)
    os.kill(victim["pid"], signal.SIGSTOP)
    farm.wait(job)
    check_output(farm, job, output, 24)
    assert {attempt["worker"] for attempt in lost(farm, job)} == {victim["id"]}
    assert "did not answer for longer than a lease" in lost(farm, job)[0]["reason"]
    process = psutil.Process(victim["pid"]) if psutil.pid_exists(victim["pid"]) else None
    wait_until(lambda: process is None or not is_alive(process), "the frozen process is ended")


def stop_at(farm: RealFarm, key: str, point: str, signal_name: str) -> Callable[[], int]:
    """Let the first worker at this point of this result stop itself; return what waits for that."""
    orders = Path(farm.environment["STOP_ONCE"])
    for old in orders.parent.iterdir():
        old.unlink()
    orders.write_text(f"{key} {point} {signal_name}")

    def stopped() -> int:
        found = wait_until(lambda: list(orders.parent.glob("stop.*")), f"a worker came to {point} of {key}")
        return int(found[0].suffix[1:])

    return stopped


def test_a_worker_frozen_between_its_lease_check_and_its_commit_is_ended_and_changes_nothing(farm, tmp_path):
    """What it would do if it woke up is shown below, where nobody ends it."""
    stopped = stop_at(farm, "count-0.txt", "checked", "SIGSTOP")
    output = tmp_path / "out"
    job = farm.submit(toy_manifest(output, items=6, chunk=3))
    pid = stopped()
    farm.wait(job)
    wait_until(lambda: not psutil.pid_exists(pid) or not is_alive(psutil.Process(pid)), "it ended")
    check_output(farm, job, output, 6)
    [record] = records(output)["count-0.txt"]
    assert record.attempt > 1


@pytest.mark.parametrize("point", stopping.POINTS)
def test_a_worker_killed_within_a_commit_leaves_one_record_and_nothing_temporary(farm, tmp_path, point):
    """What it had recorded is adopted and published as it is; what it had not is made again."""
    stopped = stop_at(farm, "count-1.txt", point, "SIGKILL")
    output = tmp_path / "out"
    job = farm.submit(toy_manifest(output, items=6, chunk=3))
    stopped()
    farm.wait(job)
    check_output(farm, job, output, 6)
    [record] = records(output)["count-1.txt"]
    assert record.attempt == (1 if point == "recorded" else 2)


class Attempt:
    """An attempt in a process of its own that nobody ends: a worker without a controller."""

    def __init__(self, folder: Path, number: int, stop: str = "") -> None:
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "FARM_KINDS": "tests.toy,tests.end_to_end.stopping",
            "STOP_ONCE": str(folder / "stop") if stop else os.devnull,
        }
        if stop:
            (folder / "stop").write_text(stop)
        command = [sys.executable, str(SCRIPT), str(folder), str(number), str(LEASE_S if stop else LONG_S)]
        self._process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        self.pid = self._process.pid

    def end(self) -> None:
        """End it if it has not ended."""
        self._process.kill()
        self._process.communicate()

    def wait_frozen(self) -> None:
        def frozen() -> bool:
            return psutil.Process(self.pid).status() == psutil.STATUS_STOPPED

        wait_until(frozen, "it came to the point where it freezes")

    def outcome(self) -> dict[str, Any]:
        """Return what it said of its item and of itself in the end."""
        said, _ = self._process.communicate(timeout=LONG_S)
        assert self._process.returncode == 0
        found: dict[str, Any] = json.loads(said)
        return found


@pytest.fixture
def frozen(tmp_path, request) -> Iterator[Attempt]:
    """The first attempt at an item, frozen at a point of its commit."""
    attempt = Attempt(tmp_path, 1, f"item.txt {request.param} SIGSTOP")
    try:
        attempt.wait_frozen()
        yield attempt
    finally:
        attempt.end()


@pytest.mark.parametrize(
    ("frozen", "winner"), [("checked", 2), ("staged", 2), ("recorded", 1)], indirect=["frozen"]
)
def test_a_frozen_attempt_that_nobody_ends_finds_its_item_finished_when_it_wakes(tmp_path, frozen, winner):
    output = tmp_path / "out"
    other = Attempt(tmp_path, 2).outcome()
    written = set(stamps(output))
    [record] = records(output)["item.txt"]
    assert record.attempt == winner
    assert other["sha256"] == record.sha256
    os.kill(frozen.pid, signal.SIGCONT)
    late = frozen.outcome()
    assert late["sha256"] == record.sha256
    assert set(stamps(output)) == written
    assert records(output)["item.txt"] == [record]
    assert hashlib.sha256(results(output)["item.txt"].read_bytes()).hexdigest() == record.sha256
    assert staged(output) == []


# --- blamed -----------------------------------------------------------------------------------------


def test_an_item_that_kills_its_worker_each_time_fails_alone(farm, tmp_path):
    output = tmp_path / "out"
    manifest = toy_manifest(output, items=8, chunk=4, deadly="count-2.txt")
    job = farm.submit(manifest)
    assert farm.wait(job)["state"] == "completed with errors"
    failed = [item for item in farm.items(job) if item["state"] == "failed"]
    assert [(item["failure"], item["output"]) for item in failed] == [("worker_lost", "")]
    assert results(output).keys() == {f"count-{n}.txt" for n in range(8) if n != 2}
    assert all(len(found) == 1 for found in records(output).values())
    assert staged(output) == []
    report = json.loads((output / ".farm/jobs" / job / "report.json").read_bytes())
    [blamed] = [item for item in report["items"] if item["state"] == "failed"]
    assert "died" in blamed["reason"]
    blamed_attempts = [a for a in farm.attempts(job) if a["failure"] == "worker_lost"]
    assert len(blamed_attempts) >= 3
    assert farm.run("wait", job, check=False).returncode == 3
