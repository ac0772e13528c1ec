"""The contracts of docs/architecture.md, shown by a toy kind of work on a real farm."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from jobs.library import Library
from jobs.storage import open_store
from tests.end_to_end.real_farm import (
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


@pytest.fixture(scope="module")
def shared() -> Iterator[RealFarm]:
    with running_farm(FARM_LEASE_S=str(LEASE_S)) as farm:
        yield farm


@pytest.fixture
def farm(shared: RealFarm) -> RealFarm:
    """The farm once both its workers are there: the test before may have killed some."""
    wait_until(lambda: len(shared.workers()) == 2, "both workers are back")
    return shared


def texts(output: Path) -> dict[str, str]:
    """Return the content of the results in an output by key."""
    return {key: path.read_text() for key, path in results(output).items()}


def check_records(output: Path, generations: int = 1) -> None:
    """Hold each result to the last of its records, of which there is one for each generation."""
    files = results(output)
    assert records(output).keys() == files.keys()
    for key, found in records(output).items():
        assert [record.generation for record in found] == list(range(1, generations + 1))
        assert hashlib.sha256(files[key].read_bytes()).hexdigest() == found[-1].sha256
    assert staged(output) == []


# --- 1. a kind of work with checkpoints -------------------------------------------------------------


@pytest.mark.parametrize("victim", ["its worker", "the controller"])
def test_a_long_task_whose_process_is_killed_goes_on_from_its_checkpoint(farm, tmp_path, victim):
    log, output = tmp_path / "log", tmp_path / "out"
    job = farm.submit(toy_manifest(output, items=1, count=40, seconds=0.05, log=str(log)))
    wait_until(lambda: log.exists() and len(log.read_text().splitlines()) >= 8, "it counted to 8")
    if victim == "its worker":
        psutil.Process(next(w["pid"] for w in farm.workers() if w["job"] == job)).kill()
    else:
        farm.controller().kill()
    assert farm.wait(job)["state"] == "completed"
    assert texts(output) == {"count-0.txt": "toy 40 "}
    check_records(output)
    lines = [re.findall(r"\d+", line.removeprefix("count-0.txt")) for line in log.read_text().splitlines()]
    counts = [(int(attempt), int(count)) for count, attempt, *_ in lines]
    first, second = ([c for a, c in counts if a == attempt] for attempt in (1, 2))
    assert {attempt for attempt, _ in counts} == {1, 2}
    assert len({pid for *_, pid in lines}) == 2
    assert first == list(range(len(first)))
    # The count that was cut off is counted again, and none before it.
    assert second == list(range(second[0], 40))
    assert len(first) - 2 <= second[0] <= len(first)
    assert len(farm.attempts(job)) == 2


def test_what_a_kind_emits_can_be_read_while_it_runs_and_after(farm, tmp_path):
    job = farm.submit(toy_manifest(tmp_path / "out", count=3))
    farm.wait(job)
    assert [event["data"]["loss"] for event in farm.events(job, "loss")] == [1.0, 0.5, 1 / 3]


# --- 3. assets and files ----------------------------------------------------------------------------


def test_an_asset_travels_to_the_workers_by_the_hash_of_its_content(farm, tmp_path):
    library = Library(open_store(farm.file()["store"]), tmp_path / "cache")
    output = tmp_path / "out"
    for generation, content in enumerate((b"one", b"two"), start=1):
        sha256 = library.put(content)
        assert sha256 == hashlib.sha256(content).hexdigest()
        farm.wait(farm.submit(toy_manifest(output, items=3, asset=sha256)))
        assert set(texts(output).values()) == {f"toy 1 {content.decode()}"}
        check_records(output, generation)


def test_an_asset_that_nobody_has_fails_its_items_with_its_hash_in_the_reason(farm, tmp_path):
    job = farm.submit(toy_manifest(tmp_path / "out", asset="0" * 64))
    assert farm.wait(job)["state"] == "completed with errors"
    assert "0" * 64 in farm.items(job)[0]["reason"]
    assert results(tmp_path / "out") == {}


def test_a_job_whose_files_the_workers_cannot_see_is_refused_at_once(farm, tmp_path):
    """Commands and workers see the same folders here; one that only the manifest has is what differs."""
    manifest = stylize_manifest(tmp_path / "nowhere", tmp_path / "out", "candy")
    with pytest.raises(Exception, match="nowhere"):
        farm.submit(manifest)


# --- 4. finished means recorded ---------------------------------------------------------------------


def test_what_is_recorded_is_skipped_by_another_job(farm, tmp_path):
    output = tmp_path / "out"
    farm.wait(farm.submit(toy_manifest(output, items=6, chunk=3)))
    written = set(stamps(output))
    more = farm.submit(toy_manifest(output, items=8, chunk=2, job_priority=99))
    done = farm.wait(more)
    assert (done["state"], done["items"]["skipped"], done["items"]["done"]) == ("completed", 6, 2)
    assert written <= set(stamps(output))
    check_records(output)


def test_results_with_other_settings_are_replaced_as_the_next_generation(farm, tmp_path):
    output = tmp_path / "out"
    for generation, word in enumerate(("one", "two", "one"), start=1):
        done = farm.wait(farm.submit(toy_manifest(output, items=4, word=word)))
        assert done["items"]["done"] == 4
        assert set(texts(output).values()) == {f"{word} 1 "}
        check_records(output, generation)


@pytest.mark.parametrize("rule", ["fail", "rename", "replace"])
def test_a_file_that_the_farm_did_not_make_is_treated_by_the_rule(farm, tmp_path, rule):
    output = tmp_path / "out"
    output.mkdir()
    foreign = output / "count-1.txt"
    foreign.write_text("mine")
    before = foreign.stat()
    job = farm.submit(toy_manifest(output, items=3, job_on_existing=rule))
    done = farm.wait(job)
    assert done["items"]["done"] == (2 if rule == "fail" else 3)
    if rule == "replace":
        assert foreign.read_text() == "toy 1 "
        return
    after = foreign.stat()
    assert foreign.read_text() == "mine"
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    made = {"count-0.txt", "count-2.txt"} | ({"count-1-1.txt"} if rule == "rename" else set())
    assert records(output).keys() == made
    if rule == "fail":
        assert done["state"] == "completed with errors"
        [failed] = [item for item in farm.items(job) if item["state"] == "failed"]
        assert "was not made by the farm" in failed["reason"]
        foreign.unlink()
        farm.run("retry", job)
        assert farm.wait(job)["state"] == "completed"
        check_records(output)


# --- 5. late values ---------------------------------------------------------------------------------


def two_steps(output: Path, word: str, **first: object) -> dict[str, object]:
    manifest = toy_manifest(output)
    manifest["steps"] = [
        {"name": "second", "kind": "toy", "needs": ["first"], "word": {"from": "first"}, "items": 3},
        {"name": "first", "kind": "toy", "word": word, "items": 2, **first},
    ]
    return manifest


def test_a_step_takes_what_an_earlier_step_made_and_is_known_by_it(farm, tmp_path):
    output = tmp_path / "out"
    job = farm.submit(two_steps(output, "word"))
    assert farm.wait(job)["state"] == "completed"
    found = texts(output)
    assert {found[f"second-{n}.txt"] for n in range(3)} == {"WORD 1 "}
    steps = {step["name"]: step for step in farm.job(job)["steps"]}
    assert steps["first"]["result"]["word"] == "WORD"
    last_of_first = max(a["ended_at"] for a in farm.attempts(job)[:2])
    assert all(a["started_at"] >= last_of_first for a in farm.attempts(job)[2:])
    again = farm.wait(farm.submit(two_steps(output, "word")))
    assert again["items"]["skipped"] == 5
    other = farm.wait(farm.submit(two_steps(output, "other")))
    assert other["items"]["done"] == 5
    assert texts(output)["second-0.txt"] == "OTHER 1 "
    check_records(output, 2)


def test_a_late_value_survives_the_controller(farm, tmp_path):
    output, gate = tmp_path / "out", tmp_path / "gate"
    gate.touch()
    job = farm.submit(two_steps(output, "word", gate=str(gate)))
    wait_until(lambda: farm.attempts(job), "the first step runs")
    farm.controller().kill()
    gate.unlink()
    assert farm.wait(job)["state"] == "completed"
    assert texts(output)["second-2.txt"] == "WORD 1 "
    check_records(output)


def test_a_step_that_fails_takes_those_that_need_it_with_it_and_no_other(farm, tmp_path):
    manifest = two_steps(tmp_path / "out", "word", asset="0" * 64)
    manifest["steps"] = [*manifest["steps"], {"name": "alone", "kind": "toy"}]  # type: ignore[misc]
    job = farm.submit(manifest)
    assert farm.wait(job)["state"] == "completed with errors"
    steps = {step["name"]: step for step in farm.job(job)["steps"]}
    assert [steps[name]["state"] for name in ("first", "second", "alone")] == ["failed", "failed", "done"]
    assert "first" in steps["second"]["reason"]
    assert results(tmp_path / "out").keys() == {"alone-0.txt"}


# --- several nodes ----------------------------------------------------------------------------------


class Cluster:
    """A Ray cluster of two nodes with one core each on this machine, which is not the farm's own."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.folder = folder
        self.environment = environment
        # A loopback address for each, because Ray replaces 127.0.0.1 by one that others can reach.
        with socket.create_server(("127.0.0.2", 0)) as probe:
            self.address = f"127.0.0.2:{probe.getsockname()[1]}"
        self.nodes: list[subprocess.Popen[bytes]] = []

    def add_node(self, *arguments: str) -> subprocess.Popen[bytes]:
        options = [f"--node-ip-address=127.0.0.{2 + len(self.nodes)}", "--num-cpus=1", "--num-gpus=0"]
        options += ["--object-store-memory=100000000", "--disable-usage-stats", "--block"]
        options += [f"--{kind}-port=0" for kind in ("node-manager", "object-manager", "runtime-env-agent")]
        options += [f"--dashboard-agent-{kind}-port=0" for kind in ("listen", "grpc")]
        with (self.folder / f"node{len(self.nodes)}.log").open("wb") as log:
            node = subprocess.Popen(
                [sys.executable, "-m", "ray.scripts.scripts", "start", *arguments, *options],
                env=self.environment,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.nodes.append(node)
        return node

    def running(self) -> int:
        """Return how many nodes have joined."""
        logs = [path.read_text() for path in self.folder.glob("node*.log")]
        return sum("Ray runtime started" in log for log in logs)

    def raylets(self) -> dict[int, psutil.Process]:
        """Return the raylets by process id."""
        found = {}
        for node in self.nodes:
            with contextlib.suppress(psutil.NoSuchProcess):
                for process in psutil.Process(node.pid).children(recursive=True):
                    with contextlib.suppress(psutil.NoSuchProcess):
                        if process.name() == "raylet" and process.status() != psutil.STATUS_ZOMBIE:
                            found[process.pid] = process
        return found

    def end(self) -> None:
        """End all processes of all nodes."""
        for node in self.nodes:
            below = []
            with contextlib.suppress(psutil.NoSuchProcess):
                below = psutil.Process(node.pid).children(recursive=True)
            for process in below:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            with contextlib.suppress(ProcessLookupError):
                os.killpg(node.pid, signal.SIGKILL)
            node.wait()


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """A cluster that knows our toy; only who has its token may use it."""
    with tempfile.TemporaryDirectory(prefix="sf-", dir="/tmp") as name:
        folder = Path(name)
        (folder / "token").write_text(secrets.token_hex(32))
        environment = RealFarm(
            folder / "home",
            FARM_LEASE_S=str(LEASE_S),
            RAY_AUTH_MODE="token",
            RAY_AUTH_TOKEN_PATH=str(folder / "token"),
            RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER="1",
        ).environment
        cluster = Cluster(folder, environment)
        try:
            port = cluster.address.partition(":")[2]
            cluster.add_node(
                "--head", f"--port={port}", f"--temp-dir={folder}/r", "--include-dashboard=false"
            )
            wait_until(lambda: can_connect(cluster.address), "the head listens")
            cluster.add_node(f"--address={cluster.address}")
            wait_until(lambda: cluster.running() == 2, "both nodes are there")
            yield cluster
        finally:
            cluster.end()


def can_connect(address: str) -> bool:
    host, _, port = address.partition(":")
    with contextlib.suppress(OSError), socket.create_connection((host, int(port)), timeout=1):
        return True
    return False


def test_workers_on_two_nodes_render_one_folder_and_one_node_may_die(cluster, tmp_path):
    home = cluster.folder / "home"
    home.mkdir()
    farm = RealFarm(home)
    farm.environment = cluster.environment
    farm.up("--ray-address", cluster.address)
    try:
        farm.add_style("slow", width=8)
        nodes = {worker["id"]: psutil.Process(worker["pid"]).ppid() for worker in farm.workers()}
        assert set(nodes.values()) == set(cluster.raylets())
        pictures, output = photos(tmp_path / "in", 24, side_px=256), tmp_path / "out"
        job = farm.submit(stylize_manifest(pictures, output, "slow"))
        wait_until(lambda: len({i["worker"] for i in farm.items(job)} - {""}) == 2, "both workers made some")
        home_node = farm.controller().ppid()
        lost_worker, lost_node = next((w, node) for w, node in nodes.items() if node != home_node)
        written = {stamp for stamp in stamps(output) if stamp[0] in records(output)}
        cluster.raylets()[lost_node].kill()
        done = farm.wait(job)
        assert (done["state"], done["items"]["total"]) == ("completed", 24)
        assert written <= set(stamps(output))
        check_records(output)
        lost = {a["worker"] for a in farm.attempts(job) if a["outcome"] == "lost"}
        assert lost <= {lost_worker}
        assert farm.json("workers")["workers"]
    finally:
        farm.down()
    left = [
        p
        for raylet in cluster.raylets().values()
        for p in raylet.children()
        if "Actor" in " ".join(p.cmdline())
    ]
    assert left == []
