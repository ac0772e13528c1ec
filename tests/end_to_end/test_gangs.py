"""Tasks that several workers run together, shown by a toy kind of work on a real farm of three workers."""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from jobs.errors import UsageError
from tests.end_to_end.real_farm import (
    RealFarm,
    records,
    results,
    running_farm,
    staged,
    toy_manifest,
    wait_until,
)

pytestmark = pytest.mark.slow

LEASE_S = 1.5
COUNT = 40
TWO = {"min": 2, "max": 2}


@pytest.fixture(scope="module")
def shared() -> Iterator[RealFarm]:
    with running_farm(workers=3, FARM_LEASE_S=str(LEASE_S)) as farm:
        yield farm


@pytest.fixture
def farm(shared: RealFarm) -> RealFarm:
    """The farm once its workers are there and idle: the test before may have killed some."""
    wait_until(lambda: [w["state"] for w in shared.workers()] == ["idle"] * 3, "all workers are back")
    return shared


class Gang:
    """A job of one task that counts with several workers."""

    def __init__(self, farm: RealFarm, folder: Path, workers: dict[str, int], name: str = "gang") -> None:
        self._farm = farm
        self.log, self.output = folder / f"{name}.log", folder / name
        step = {"count": COUNT, "seconds": 0.05, "log": str(self.log), "workers": workers}
        self.job = farm.submit(toy_manifest(self.output, name, **step))

    def counts(self, attempt: int, rank: int = 0) -> list[int]:
        """Return what a member of an attempt has counted so far."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        found = [re.match(r"\S+ (\d+) attempt (\d+) rank (\d+)", line) for line in lines]
        return [int(m[1]) for m in found if m and (int(m[2]), int(m[3])) == (attempt, rank)]

    def members(self, counted: int = 8) -> list[dict[str, Any]]:
        """Return the workers that are at it, by rank, once they have counted for a while."""
        wait_until(lambda: len(self.counts(1)) >= counted, f"it counted to {counted}")
        mine = [worker for worker in self._farm.workers() if worker["job"] == self.job]
        return sorted(mine, key=lambda worker: worker["gang"]["rank"] if worker["gang"] else 0)

    def attempts(self) -> list[dict[str, Any]]:
        found = self._farm.attempts(self.job)
        return [{**attempt, "members": json.loads(attempt["members"])} for attempt in found]

    def check(self) -> None:
        """See that it ends well, with one result, made by the last of its attempts."""
        job = self._farm.wait(self.job)
        assert (job["state"], job["items"]["done"]) == ("completed", 1), job
        [path] = results(self.output).values()
        assert path.read_text() == f"toy {COUNT} "
        [[record]] = records(self.output).values()
        assert record.attempt == len(self.attempts())
        assert staged(self.output) == []

    def check_resumed(self, most_repeated: int = 2) -> None:
        """See that the second attempt went on where the first one had been, and all its members with it."""
        first, second = self.counts(1), self.counts(2)
        assert first == list(range(len(first)))
        assert second == list(range(second[0], COUNT))
        assert len(first) - most_repeated <= second[0] <= len(first)
        for rank in range(len(self.attempts()[1]["members"])):
            assert self.counts(2, rank) == second


def beside(farm: RealFarm, job: str, others: list[str]) -> list[tuple[str, int]]:
    """Return the attempts of other jobs that ran on a member of this job's only gang while that counted.

    Almost to the end: there one member is done a little before another, and free.
    """
    [gang] = farm.attempts(job)
    began, ended = gang["started_at"], farm.events(job, "loss")[-5]["at"]
    return [
        (attempt["worker"], attempt["task"])
        for attempt in itertools.chain.from_iterable(map(farm.attempts, others))
        if attempt["worker"] in json.loads(gang["members"])
        if attempt["started_at"] < ended and (attempt["ended_at"] or ended) > began
    ]


def stream(farm: RealFarm, folder: Path, **step: Any) -> str:
    """Submit far more short tasks than a test lasts."""
    items = {"items": 4000, "chunk": 2, "seconds": 0.02, **step}
    return farm.submit(toy_manifest(folder / "stream", "stream", **items))


def ended_while(farm: RealFarm, job: str, others: str) -> int:
    """Return how many tasks of a job ended while another job had workers."""
    [attempt] = farm.attempts(job)
    span = (attempt["started_at"], attempt["ended_at"])
    return sum(span[0] < (a["ended_at"] or 0) < span[1] for a in farm.attempts(others))


# --- beside others ----------------------------------------------------------------------------------


def test_a_gang_of_two_gets_its_workers_from_a_stream_of_single_tasks_and_has_them_for_itself(farm, tmp_path):
    others = stream(farm, tmp_path)
    farm.wait_done(others, 12)
    gang = Gang(farm, tmp_path, TWO)
    gang.check()
    assert farm.job(others)["state"] == "active"
    assert ended_while(farm, gang.job, others) > 0
    farm.client.cancel(others)
    farm.wait(others)
    assert len(gang.attempts()) == 1
    assert beside(farm, gang.job, [others]) == []


def test_two_gangs_of_two_on_three_workers_block_neither_each_other_nor_a_stream(farm, tmp_path):
    gangs = [Gang(farm, tmp_path, TWO, name) for name in ("first", "second")]
    others = stream(farm, tmp_path)
    for gang in gangs:
        gang.check()
        assert ended_while(farm, gang.job, others) > 0
    assert farm.job(others)["state"] == "active"
    farm.client.cancel(others)
    farm.wait(others)
    for gang in gangs:
        assert beside(farm, gang.job, [others]) == []


def test_a_gang_of_a_higher_priority_comes_before_one_that_waits_longer(farm, tmp_path, gate):
    """All workers are taken; both gangs wait until the gate opens."""
    busy = farm.submit(
        toy_manifest(tmp_path / "busy", "busy", items=3, exclusive=True, gate=str(gate), count=1)
    )
    wait_until(lambda: farm.job(busy)["tasks"]["leased"] == 3, "all workers are taken")
    step = {"count": 2, "workers": {"min": 3, "max": 3}}
    low, high = (
        farm.submit(toy_manifest(tmp_path / name, name, **step, job_priority=priority))
        for name, priority in (("low", 10), ("high", 90))
    )
    gate.unlink()
    for job in (low, high):
        assert farm.wait(job)["state"] == "completed"
    [first], [second] = farm.attempts(high), farm.attempts(low)
    assert first["ended_at"] <= second["started_at"]


# --- members that are lost --------------------------------------------------------------------------


@pytest.fixture
def third_worker_is_busy(farm, tmp_path, gate) -> Iterator[None]:
    """A task that has a worker for itself until the test is over."""
    job = farm.submit(toy_manifest(tmp_path / "busy", "busy", exclusive=True, gate=str(gate)))
    wait_until(lambda: farm.job(job)["tasks"]["leased"] == 1, "one worker is taken")
    yield
    gate.unlink()
    assert farm.wait(job)["state"] == "completed"


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("signal_", [signal.SIGKILL, signal.SIGSTOP])
@pytest.mark.usefixtures("third_worker_is_busy")
def test_a_gang_whose_member_is_killed_or_frozen_goes_on_with_fewer_from_its_checkpoint(
    farm, tmp_path, rank, signal_
):
    gang = Gang(farm, tmp_path, {"min": 1, "max": 2})
    members = gang.members()
    os.kill(members[rank]["pid"], signal_)
    gang.check()
    lost, finished = gang.attempts()
    assert lost["members"] == [member["id"] for member in members]
    assert (lost["outcome"], lost["failure"]) == ("lost", "worker_lost")
    assert finished["members"] == [members[1 - rank]["id"]]
    gang.check_resumed()
    assert not psutil.pid_exists(members[rank]["pid"])


def test_a_gang_of_two_that_lost_one_waits_for_the_next_worker(farm, tmp_path):
    gang = Gang(farm, tmp_path, {"min": 3, "max": 3})
    members = gang.members()
    psutil.Process(members[1]["pid"]).kill()
    gang.check()
    lost, finished = gang.attempts()
    assert members[1]["id"] in set(lost["members"]) - set(finished["members"])
    assert len(finished["members"]) == 3
    gang.check_resumed()


def test_a_gang_goes_on_after_kill_9_of_the_controller(farm, tmp_path):
    gang = Gang(farm, tmp_path, {"min": 2, "max": 3})
    gang.members()
    farm.controller().kill()
    gang.check()
    lost, finished = gang.attempts()
    assert (lost["outcome"], lost["failure"]) == ("lost", "preempted")
    assert len(finished["members"]) >= 2
    gang.check_resumed()


# --- what people ask --------------------------------------------------------------------------------


def test_a_gang_that_is_paused_repeats_nothing_when_it_goes_on(farm, tmp_path):
    gang = Gang(farm, tmp_path, TWO)
    members = gang.members()
    farm.client.pause(gang.job)
    assert farm.wait(gang.job, "paused")["tasks"]["queued"] == 1
    wait_until(lambda: {w["state"] for w in farm.workers()} == {"idle"}, "its workers are free")
    farm.client.resume(gang.job)
    gang.check()
    assert [attempt["outcome"] for attempt in gang.attempts()] == ["stopped", "finished"]
    gang.check_resumed(most_repeated=0)
    assert {member["pid"] for member in members} <= {worker["pid"] for worker in farm.workers()}


def test_a_gang_that_is_canceled_ends_without_the_end_of_its_workers(farm, tmp_path):
    gang = Gang(farm, tmp_path, TWO)
    members = gang.members()
    farm.client.cancel(gang.job)
    assert farm.wait(gang.job)["state"] == "canceled"
    assert results(gang.output) == {}
    assert {member["pid"] for member in members} <= {worker["pid"] for worker in farm.workers()}
    assert {attempt["outcome"] for attempt in gang.attempts()} == {"stopped"}


def test_workers_can_be_seen_to_be_a_gang(farm, tmp_path):
    gang = Gang(farm, tmp_path, {"min": 3, "max": 3})
    members = gang.members()
    names = [member["id"] for member in members]
    assert [member["gang"] for member in members] == [{"rank": n, "workers": names} for n in range(3)]
    farm.client.cancel(gang.job)
    farm.wait(gang.job)


# --- how many there are -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small() -> Iterator[RealFarm]:
    with running_farm(workers=1) as farm:
        yield farm


def test_a_farm_of_one_worker_grows_for_a_gang_of_two(small, tmp_path):
    gang = Gang(small, tmp_path, TWO)
    gang.check()
    assert len(small.workers()) == 2


def test_a_gang_that_the_machine_cannot_hold_is_refused_in_one_line(small, tmp_path):
    manifest = toy_manifest(tmp_path / "out", workers={"min": 1000, "max": 1000})
    with pytest.raises(UsageError, match=r"1000 workers at once .* this farm can have \d+"):
        small.submit(manifest)
