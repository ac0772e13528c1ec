"""Renders that are optimized, through the real farm: the same bytes whatever happens to their workers."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from PIL import Image

from tests.end_to_end.real_farm import (
    Job,
    RealFarm,
    photos,
    results,
    running_farm,
    stylize_manifest,
    wait_until,
)
from tests.end_to_end.renders import add_network, optimize_manifest, picture

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

LEASE_S = 2.0
TILED: dict[str, Any] = {"size_px": 160, "smallest_px": 112, "iterations": 16, "tile_px": 64}
"""Two scales, six tiles at the first, six at the second."""


@pytest.fixture(scope="module")
def shared() -> Iterator[RealFarm]:
    """A farm of three workers with a short lease and a small loss network."""
    with running_farm(workers=3, FARM_LEASE_S=str(LEASE_S)) as farm:
        add_network(farm)
        farm.add_style("quick")
        yield farm


@pytest.fixture
def farm(shared: RealFarm) -> RealFarm:
    """The farm once its workers are there: the test before may have killed some."""
    wait_until(lambda: len(shared.workers()) == 3, "all workers are back")
    return shared


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return picture(tmp_path_factory.mktemp("photo") / "town.png", 160, 120, seed=1)


@pytest.fixture(scope="module")
def painting(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return picture(tmp_path_factory.mktemp("painting") / "night.png", 96, 110, seed=2)


@pytest.fixture(scope="module")
def expected(
    shared: RealFarm, photo: Path, painting: Path, tmp_path_factory: pytest.TempPathFactory
) -> bytes:
    """The picture that one worker makes when nothing happens to it."""
    output = tmp_path_factory.mktemp("expected")
    job = shared.wait(shared.submit(optimize_manifest(photo, painting, output, **TILED)))
    return rendered(job, output)


def rendered(job: Job, output: Path) -> bytes:
    """Return the pixels of the only result of a job that went well."""
    assert (job["state"], job["items"]["done"]) == ("completed", 1), job
    [path] = results(output).values()
    with Image.open(path) as image:
        return np.array(image).tobytes()


def at_work(farm: RealFarm, job: str, members: int) -> list[dict[str, Any]]:
    """Return the workers of a gang, by rank, once it has kept a checkpoint."""

    def working() -> list[dict[str, Any]]:
        found = [worker for worker in farm.workers() if worker["job"] == job]
        return found if len(found) == members and farm.events(job, "loss") else []

    found: list[dict[str, Any]] = wait_until(working, f"{members} workers are at {job}")
    return found


@pytest.mark.parametrize("workers", [2, 3])
def test_the_number_of_workers_does_not_change_a_byte(
    farm: RealFarm, photo: Path, painting: Path, tmp_path: Path, expected: bytes, workers: int
) -> None:
    said = {**TILED, "workers": {"min": workers, "max": workers}}
    job = farm.wait(farm.submit(optimize_manifest(photo, painting, tmp_path, **said)))
    assert rendered(job, tmp_path) == expected
    [item] = farm.items(job["id"])
    assert (item["workers"], item["tile_px"]) == (workers, 64)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_gang_member_that_is_killed_costs_no_byte(
    farm: RealFarm, photo: Path, painting: Path, tmp_path: Path, expected: bytes, rank: int
) -> None:
    """Resumed from the last checkpoint, on as many workers as there are then."""
    said = {**TILED, "workers": {"min": 1, "max": 3}, "checkpoint": {"iterations": 2}}
    number = farm.submit(optimize_manifest(photo, painting, tmp_path, **said))
    victim = at_work(farm, number, 3)[rank]
    psutil.Process(victim["pid"]).kill()
    job = farm.wait(number)
    assert rendered(job, tmp_path) == expected
    attempts = farm.attempts(number)
    assert [attempt["outcome"] for attempt in attempts] == ["lost", "finished"]
    assert len(json.loads(attempts[0]["members"])) == 3
    assert list((tmp_path / ".farm/jobs" / number / "checkpoints").glob("*/*")) == []
    trace = (tmp_path / ".farm/jobs" / number / "traces/town.png.jsonl").read_text().splitlines()
    assert len(trace) == 16


def test_a_pause_in_the_middle_costs_no_byte_and_no_iteration(
    farm: RealFarm, photo: Path, painting: Path, tmp_path: Path, expected: bytes
) -> None:
    said = {**TILED, "workers": {"min": 2, "max": 2}, "checkpoint": {"seconds": 3600}}
    number = farm.submit(optimize_manifest(photo, painting, tmp_path, **said))
    at_work(farm, number, 2)
    farm.client.pause(number)
    farm.wait(number, "paused")
    farm.client.resume(number)
    job = farm.wait(number)
    assert rendered(job, tmp_path) == expected
    losses = [event["data"] for event in farm.events(number, "loss")]
    seen = [(loss["scale"], loss["iteration"]) for loss in losses]
    assert len(seen) == len(set(seen)), "what was paused went on where it was"


def test_a_canceled_job_that_is_submitted_again_goes_on_from_its_checkpoint(
    farm: RealFarm, photo: Path, painting: Path, tmp_path: Path, expected: bytes
) -> None:
    """To the same bytes, by another number of workers."""
    said = {**TILED, "checkpoint": {"iterations": 2}}
    number = farm.submit(optimize_manifest(photo, painting, tmp_path, **said, workers={"min": 2, "max": 2}))
    kept = tmp_path / ".farm/jobs" / number / "checkpoints"
    wait_until(lambda: list(kept.glob("*/*.data")), "a checkpoint is kept")
    farm.client.cancel(number)
    farm.wait(number, "canceled")
    assert list(kept.glob("*/*.data"))
    again = farm.wait(farm.submit(optimize_manifest(photo, painting, tmp_path, **said)))
    assert rendered(again, tmp_path) == expected
    first = farm.events(again["id"], "loss")[0]["data"]
    assert (first["scale"], first["iteration"]) >= (0, 3), "what had a checkpoint is not done again"
    assert list((tmp_path / ".farm/jobs").glob("*/checkpoints/*/*")) == []


def test_more_iterations_for_a_finished_picture(
    farm: RealFarm, photo: Path, painting: Path, tmp_path: Path
) -> None:
    """On one scale, extending is the same as asking for all iterations at once."""
    said: dict[str, Any] = {"size_px": 96, "smallest_px": 96, "tile_px": 64}
    at_once, extended = tmp_path / "at-once", tmp_path / "extended"
    whole = farm.wait(farm.submit(optimize_manifest(photo, painting, at_once, iterations=9, **said)))
    first = farm.wait(farm.submit(optimize_manifest(photo, painting, extended, iterations=4, **said)))
    before = rendered(first, extended)
    farm.run("extend", first["id"], "--iterations", 5)
    assert rendered(whole, at_once) != before
    [path] = results(extended).values()
    with Image.open(path) as image:
        assert np.array(image).tobytes() == rendered(whole, at_once)


def test_two_renders_and_a_folder_share_three_workers(
    farm: RealFarm, photo: Path, painting: Path, tmp_path: Path
) -> None:
    """All end; while a gang waits for its workers, the folder goes on."""
    said = {**TILED, "workers": {"min": 2, "max": 2}}
    gangs = [
        farm.submit(optimize_manifest(photo, painting, tmp_path / name, **said)) for name in ("one", "two")
    ]
    pictures = photos(tmp_path / "in", 24, side_px=64)
    folder = farm.submit(stylize_manifest(pictures, tmp_path / "folder", "quick"))
    ended = [farm.wait(number) for number in (*gangs, folder)]
    assert [job["state"] for job in ended] == ["completed"] * 3
    began = [attempt["started_at"] for number in (*gangs, folder) for attempt in farm.attempts(number)]
    assert len([a for number in gangs for a in farm.attempts(number)]) == 2
    assert min(began[2:]) < max(job["finished_at"] for job in ended[:2]), "the folder did not wait for both"


Wrong = Callable[[Path], dict[str, Any]]


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"loss_network": "nowhere"}, "farm weights"),
        ({"loss_network": None, "preset": "inetwork"}, "loss_network"),
        ({"style_images": ["no-such.png"]}, "no-such.png"),
        ({"size_px": 8}, "steps[0].size_px"),
        ({"tile_px": 100}, "112"),
        ({"style_layers": {"relu9_1": 1}}, "relu9_1"),
        ({"iterations": 0}, "steps[0].iterations"),
        ({"workers": {"min": 500, "max": 500}}, "500"),
        ({"preset": "gatis"}, "gatys"),
        ({"size_px": 16, "smallest_px": 16}, "16"),
    ],
)
def test_what_cannot_be_done_is_refused_in_one_line_before_any_work(
    farm: RealFarm, photo: Path, painting: Path, tmp_path: Path, wrong: dict[str, Any], words: str
) -> None:
    said = {key: value for key, value in wrong.items() if value is not None}
    manifest = optimize_manifest(photo, painting, tmp_path / "out", **said)
    for key, value in wrong.items():
        if value is None:
            del manifest["steps"][0][key]
    file = tmp_path / "job.json"
    file.write_text(json.dumps(manifest))
    done = farm.run("submit", file, check=False)
    assert done.returncode == 2, done.stdout + done.stderr
    assert words in done.stderr
    assert not (tmp_path / "out").exists()


def test_an_unreadable_painting_is_refused(farm: RealFarm, photo: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"\xff\xd8\xff no picture")
    done = farm.run("render", photo, "--style-image", broken, "--loss-network", "tiny", check=False)
    assert done.returncode == 2
    assert "broken.jpg" in done.stderr
