"""What people do while jobs run: priorities, pause, cancel, retry, looking from another terminal."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.end_to_end.real_farm import (
    LONG_S,
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


@pytest.fixture(scope="module")
def farm() -> Iterator[RealFarm]:
    """A farm of two workers that all tests of this module share."""
    with running_farm() as farm:
        farm.add_style("tiny")
        yield farm


def name_of(tmp_path: Path) -> str:
    """Return a name for the job of a test, which no other test of the farm uses."""
    return f"job-{tmp_path.name}"[:60]


# --- jobs that share the workers ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"job_priority": 20}, {"job_priority": 80}),
        ({"job_tier": "batch", "job_priority": 100}, {"job_tier": "default", "job_priority": 0}),
        ({"job_tier": "default"}, {"job_tier": "rush"}),
    ],
    ids=["priority", "default before batch", "rush before default"],
)
def test_while_the_more_urgent_job_waits_nothing_of_the_other_starts(farm, tmp_path, first, second):
    slow = farm.submit(toy_manifest(tmp_path / "a", items=40, seconds=0.05, job_user="ann", **first))
    farm.wait_done(slow, 2)
    urgent = farm.submit(toy_manifest(tmp_path / "b", items=12, seconds=0.05, job_user="ann", **second))
    farm.wait(urgent)
    assert farm.job(slow)["state"] == "active"
    farm.wait(slow)
    [planned] = farm.events(urgent, "planned")
    last = farm.attempts(urgent)[-1]["started_at"]
    between = [a for a in farm.attempts(slow) if planned["at"] < a["started_at"] < last]
    assert between == []
    assert max(a["started_at"] for a in farm.attempts(slow)) > last


def test_two_users_share_the_workers_whoever_came_first(farm, tmp_path):
    """The second user first catches up, then both get turns."""
    users = [f"{name}-{uuid.uuid4().hex[:6]}" for name in ("ann", "bob")]
    early, late = (
        toy_manifest(tmp_path / user, items=40, seconds=0.05, job_user=user, job_priority=priority)
        for user, priority in zip(users, (100, 0), strict=True)
    )
    first = farm.submit(early)
    farm.wait_done(first, 4)
    second = farm.submit(late)
    farm.wait(first)
    farm.wait(second)
    began = farm.attempts(second)[0]["started_at"]
    both = sorted(farm.attempts(first) + farm.attempts(second), key=lambda a: a["started_at"])
    together = [a["job"] for a in both if a["started_at"] >= began][:40]
    assert 10 <= together.count(first) <= 24
    ended = [farm.job(job)["finished_at"] for job in (first, second)]
    assert max(a["started_at"] for a in farm.attempts(first)) > farm.attempts(second)[20]["started_at"]
    assert all(ended)


# --- acting on a job ------------------------------------------------------------------------------------


def test_a_canceled_job_stops_within_its_chunk_and_commits_nothing_after_the_confirmation(farm, tmp_path):
    output = tmp_path / "out"
    job = farm.submit(toy_manifest(output, items=200, chunk=100, seconds=0.05))
    farm.wait_done(job, 2)
    assert farm.run("cancel", job).stdout.startswith(f"{job}: cancel")
    canceled = farm.wait(job, "canceled")
    written, known = set(stamps(output)), set(records(output))
    assert canceled["items"]["done"] == len(written) == len(known) < 100
    assert canceled["items"]["canceled"] == 200 - len(written)
    assert {a["outcome"] for a in farm.attempts(job)} == {"stopped"}
    # Whatever the workers may still have had of it is over when they have done another job.
    farm.wait(farm.submit(toy_manifest(tmp_path / "other", items=8, seconds=0.02)))
    assert (set(stamps(output)), set(records(output)), staged(output)) == (written, known, [])
    assert farm.run("wait", job, check=False).returncode == 5
    assert farm.run("retry", job, check=False).returncode == 2
    report = json.loads((output / ".farm/jobs" / job / "report.json").read_bytes())
    assert report["state"] == "canceled"


def test_a_job_that_waits_is_canceled_at_once(farm, tmp_path, gate):
    blocking = farm.submit(toy_manifest(tmp_path / "a", items=4, gate=str(gate), job_tier="rush"))
    wait_until(lambda: farm.job(blocking)["state"] == "active", "it runs")
    job = farm.submit(toy_manifest(tmp_path / "b", items=4))
    farm.run("cancel", job)
    assert farm.wait(job)["state"] == "canceled"
    assert results(tmp_path / "b") == {}
    gate.unlink()
    assert farm.wait(blocking)["state"] == "completed"


def test_a_task_that_does_not_ask_whether_to_stop_is_canceled_by_ending_its_worker(farm, tmp_path):
    """One count that takes longer than anybody waits: it is ended after a grace of two seconds."""
    log = tmp_path / "log"
    job = farm.submit(toy_manifest(tmp_path / "out", items=1, seconds=10 * LONG_S, log=str(log)))
    wait_until(log.exists, "it counts")
    worker = next(w for w in farm.workers() if w["job"] == job)
    farm.run("cancel", job)
    assert farm.wait(job)["state"] == "canceled"
    wait_until(lambda: not psutil.pid_exists(worker["pid"]), "its worker is gone")
    assert results(tmp_path / "out") == {}
    wait_until(lambda: len(farm.workers()) == 2, "another worker took its place")


def test_a_paused_job_stops_within_its_chunk_lets_others_through_and_goes_on(farm, tmp_path):
    output, log = tmp_path / "out", tmp_path / "log"
    job = farm.submit(toy_manifest(output, items=60, chunk=30, count=2, seconds=0.03, log=str(log)))
    farm.wait_done(job, 2)
    farm.run("pause", job)
    paused = farm.wait(job, "paused")
    assert 2 <= paused["items"]["done"] < 60
    written = set(stamps(output))
    farm.wait(farm.submit(toy_manifest(tmp_path / "other", items=8, seconds=0.02)))
    assert set(stamps(output)) == written
    assert farm.job(job)["state"] == "paused"
    assert farm.run("wait", job, "--timeout", "0.2", check=False).returncode == 6
    farm.run("resume", job)
    assert farm.wait(job)["items"]["done"] == 60
    assert written <= set(stamps(output))
    counts = [tuple(line.split()[:2]) for line in log.read_text().splitlines()]
    # Two items were in flight; a count that had begun may be counted again.
    assert len(set(counts)) == 120
    assert len(counts) <= 122


def test_retry_makes_what_failed_and_nothing_else(farm, tmp_path):
    pictures, output = photos(tmp_path / "in", 4), tmp_path / "out"
    good = (pictures / "p001.png").read_bytes()
    (pictures / "p001.png").write_bytes(good[:-40])
    job = farm.submit(stylize_manifest(pictures, output, "tiny"))
    assert farm.wait(job)["state"] == "completed with errors"
    assert farm.run("wait", job, check=False).returncode == 3
    written = set(stamps(output))
    assert len(written) == 3
    again = farm.run("retry", job)
    assert again.stdout.startswith(job)
    assert farm.wait(job)["items"]["failed"] == 1
    (pictures / "p001.png").write_bytes(good)
    farm.run("retry", job)
    done = farm.wait(job)
    assert (done["state"], done["items"]["done"], done["items"]["failed"]) == ("completed", 4, 0)
    assert len(set(stamps(output)) - written) == 1
    assert written <= set(stamps(output))
    assert all(len(found) == 1 for found in records(output).values())
    refused = farm.run("retry", job, check=False)
    assert refused.returncode == 2
    assert "nothing to try again" in refused.stderr


def test_wait_tells_by_its_exit_code_what_became_of_a_job(farm, tmp_path):
    pictures = photos(tmp_path / "in", 3)
    (pictures / "p001.png").write_text("no picture")
    ended = {}
    for name, limit in (("errors", None), ("failed", 0)):
        manifest = stylize_manifest(pictures, tmp_path / name, "tiny", max_failed=limit)
        ended[name] = farm.run("wait", farm.submit(manifest), check=False).returncode
    ended["completed"] = farm.run("wait", farm.submit(toy_manifest(tmp_path / "out"))).returncode
    ended["no such job"] = farm.run("wait", "nothing-like-it", check=False).returncode
    assert ended == {"errors": 3, "failed": 4, "completed": 0, "no such job": 2}


# --- looking from another terminal ------------------------------------------------------------------------


def test_other_terminals_are_told_the_truth_while_a_job_runs(farm, tmp_path, gate):
    name = name_of(tmp_path)
    output = tmp_path / "out"
    farm.wait(farm.submit(stylize_manifest(photos(tmp_path / "in", 6), tmp_path / "warm", "tiny")))
    watching = None
    job = farm.submit(toy_manifest(output, name, items=6, chunk=2, gate=str(gate)))
    try:
        wait_until(lambda: sum(w["job"] == job for w in farm.workers()) == 2, "both workers are at it")
        watching = farm.start("watch", job)
        [shown] = farm.json("status", job)["jobs"]
        assert (shown["id"], shown["name"], shown["state"]) == (job, name, "active")
        assert shown["items"] == {
            "total": 6, "done": 0, "skipped": 0, "failed": 0, "canceled": 0, "pending": 6,
        }  # fmt: skip
        tasks = farm.json("tasks", job)["tasks"]
        assert [task["state"] for task in tasks] == ["leased"] * 3
        workers = farm.json("workers")["workers"]
        check_workers(farm, job, workers, {task["id"]: task["worker"] for task in tasks})
        assert job in farm.run("status").stdout
        # A worker says with its next heartbeat what it holds.
        wait_until(
            lambda: "tiny" in {style for worker in farm.workers() for style in worker["styles"]},
            "a worker says that it holds the style",
        )
    finally:
        gate.unlink()
        said, complained = watching.communicate(timeout=LONG_S) if watching else ("", "")
    assert watching.returncode == 0, complained
    assert "completed" in said
    assert "active" in complained
    [over] = farm.json("status", job)["jobs"]
    assert (over["state"], over["items"]["done"]) == ("completed", 6)
    assert {task["state"] for task in farm.json("tasks", job)["tasks"]} == {"done"}
    wait_until(lambda: {w["task"] for w in farm.workers()} == {None}, "the workers are idle")
    assert {w["state"] for w in farm.json("workers")["workers"]} == {"idle"}


def check_workers(farm: RealFarm, job: str, workers: list[dict[str, Any]], leased: dict[int, str]) -> None:
    """Hold what `farm workers --json` says to the processes and the tasks that there are."""
    ours = {process.pid: process for process in farm.processes("WorkerActor")}
    assert {worker["pid"] for worker in workers} == set(ours)
    for worker in workers:
        assert worker["device"] == "cpu"
        assert worker["state"] == "busy"
        assert worker["job"] == job
        assert leased[worker["task"]] == worker["id"]
        assert worker["node"] == os.uname().nodename


def test_logs_follow_a_job_to_its_end(farm, tmp_path, gate):
    job = farm.submit(toy_manifest(tmp_path / "out", items=2, gate=str(gate)))
    following = farm.start("logs", job, "--follow", "--json")
    assert following.stdout
    first = json.loads(following.stdout.readline())
    assert (first["type"], first["job"]) == ("submitted", job)
    gate.unlink()
    said, _ = following.communicate(timeout=LONG_S)
    assert following.returncode == 0
    assert json.loads(said.splitlines()[-1])["type"] == "finished"


# --- the farm's own beginning and end -----------------------------------------------------------------------


def using(home: Path) -> set[int]:
    """Return the ids of all living processes that have to do with a folder, whatever their mark says."""
    found = set()
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            traces = [*process.cmdline(), process.cwd(), *process.environ().values()]
            traces += [file.path for file in process.open_files()]
            alive = process.status() != psutil.STATUS_ZOMBIE and process.pid != os.getpid()
            if alive and any(str(home) in trace for trace in traces):
                found.add(process.pid)
    return found


def test_down_in_the_middle_leaves_no_process_keeps_the_history_and_up_goes_on(farm, tmp_path):
    output, name = tmp_path / "out", name_of(tmp_path)
    before = {process.pid for process in farm.processes()}
    job = farm.submit(toy_manifest(output, name, items=80, chunk=20, seconds=0.02))
    farm.wait_done(job, 5)
    assert len(before) >= 6
    said = farm.down().stdout
    assert "the farm is down" in said
    assert using(farm.home) == set()
    assert farm.processes() == []
    assert not any(psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie" for pid in before)
    [history] = farm.json("status", job)["jobs"]
    assert (history["name"], history["state"], history["items"]["total"]) == (name, "active", 80)
    assert name in farm.run("status").stdout
    assert farm.json("tasks", job)["tasks"]
    written = {stamp for stamp in stamps(output) if stamp[0] in records(output)}
    for command in ("wait", "watch"):
        assert farm.run(command, job, check=False).returncode == 7
    assert farm.run("workers", check=False).returncode == 7
    assert "no farm was running" in farm.down().stdout
    farm.up()
    done = farm.wait(job)
    assert done["state"] == "completed"
    assert done["items"]["done"] + done["items"]["skipped"] == 80
    assert written <= set(stamps(output))
    assert all(len(found) == 1 for found in records(output).values())
    assert staged(output) == []


def test_two_farms_side_by_side_do_not_meet_and_an_idle_one_ends_itself(farm, tmp_path, gate):
    with tempfile.TemporaryDirectory(prefix="sf-", dir="/tmp") as folder:
        other = RealFarm(Path(folder))
        try:
            other.up("--idle-exit", 6, workers=1)
            job = other.submit(toy_manifest(tmp_path / "out", items=2, gate=str(gate)))
            mine, its = farm.file(), other.file()
            own = ("farm", "api_url", "ray_address", "ledger", "store", "temp_dir")
            assert not {mine[key] for key in own} & {its[key] for key in own}
            headers = {"Authorization": f"Bearer {farm.token}"}
            with httpx.Client(trust_env=False) as client:
                assert client.get(f"{its['api_url']}/v1/health", headers=headers).status_code == 401
            assert all(style["bundled"] for style in other.json("styles", "list")["styles"])
            assert farm.run("status", job, check=False).returncode == 2
            assert not {p.pid for p in other.processes()} & {p.pid for p in farm.processes()}
            gate.unlink()
            wait_until(lambda: not using(other.home), "the idle farm ended itself")
            wait_until(lambda: not (other.home / "state/stylefarm/farm.json").exists(), "and said so")
            [history] = other.json("status", job)["jobs"]
            assert history["state"] == "completed"
            assert farm.wait(farm.submit(toy_manifest(tmp_path / "mine")))["state"] == "completed"
        finally:
            other.down()
