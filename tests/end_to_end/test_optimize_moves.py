"""Renders whose farm ends in the middle, and from S3 to S3: the same bytes as of one that was left alone."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from PIL import Image

from tests.end_to_end.real_farm import RealFarm, results, running_farm, wait_until
from tests.end_to_end.renders import add_network, optimize_manifest, picture
from tests.servers import seaweedfs

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

SAID: dict[str, Any] = {
    "size_px": 160,
    "smallest_px": 112,
    "iterations": 16,
    "tile_px": 64,
    "checkpoint": {"iterations": 2},
}


def pixels(data: bytes) -> str:
    """Return a hash of the pixels of a file."""
    with Image.open(io.BytesIO(data)) as image:
        return hashlib.sha256(np.array(image).tobytes()).hexdigest()


def alone(farm: RealFarm, photo: Path, painting: Path, output: Path) -> str:
    """Return the hash of the picture that one worker makes when nothing happens to it."""
    job = farm.wait(farm.submit(optimize_manifest(photo, painting, output, **SAID)))
    assert job["state"] == "completed"
    [path] = results(output).values()
    return pixels(path.read_bytes())


def begun(farm: RealFarm, job: str, least: int = 3) -> None:
    """Wait until a render has kept a checkpoint and goes on."""
    wait_until(lambda: len(farm.events(job, "loss")) >= least, f"{job} has begun")


def test_a_farm_that_is_stopped_and_started_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    """Started again with another number of workers; what is kept lies in the output."""
    photo = picture(tmp_path / "town.png", 160, 120, seed=1)
    painting = picture(tmp_path / "night.png", 96, 110, seed=2)
    with running_farm(workers=2) as farm:
        add_network(farm)
        expected = alone(farm, photo, painting, tmp_path / "alone")
        said = {**SAID, "workers": {"min": 1, "max": 2}}
        job = farm.submit(optimize_manifest(photo, painting, tmp_path / "out", **said))
        begun(farm, job)
        farm.down()
        assert results(tmp_path / "out") == {}
        farm.up(workers=1)
        assert farm.wait(job)["state"] == "completed"
        [path] = results(tmp_path / "out").values()
        assert pixels(path.read_bytes()) == expected
        members = [len(attempt["members"].split(",")) for attempt in farm.attempts(job)]
        assert (members[0], members[-1]) == (2, 1)
        trace = tmp_path / "out/.farm/jobs" / job / "traces/town.png.jsonl"
        assert len(trace.read_text().splitlines()) == 16, "no iteration is missing, none is there twice"


def test_from_s3_to_s3_the_bytes_are_the_same(tmp_path: Path) -> None:
    """The painting, the network and the states travel through the store; a killed worker changes nothing."""
    photo = picture(tmp_path / "town.png", 160, 120, seed=1)
    painting = picture(tmp_path / "night.png", 96, 110, seed=2)
    with seaweedfs(tmp_path / "weed") as server:
        for bucket in ("assets", "photos", "renders"):
            server.make_bucket(bucket)
        client = server.client()
        client.put_object(Bucket="photos", Key="town.png", Body=photo.read_bytes())
        client.put_object(Bucket="photos", Key="paintings/night.png", Body=painting.read_bytes())
        with running_farm("--store", "s3://assets/farm", workers=2, **server.environment) as farm:
            add_network(farm)
            expected = alone(farm, photo, painting, tmp_path / "alone")
            said = {
                **SAID,
                "workers": {"min": 1, "max": 2},
                "job_s3": {"endpoint_url": server.endpoint_url, "path_style": True},
            }
            job = farm.submit(
                optimize_manifest(
                    "s3://photos/town.png", "s3://photos/paintings/night.png", "s3://renders/r", **said
                )
            )
            begun(farm, job)
            victim = next(worker for worker in farm.workers() if worker["job"] == job)
            psutil.Process(victim["pid"]).kill()
            assert farm.wait(job)["state"] == "completed"
            body = client.get_object(Bucket="renders", Key="r/town.png")["Body"].read()
            assert pixels(body) == expected
            kept = client.list_objects_v2(Bucket="renders", Prefix=f"r/.farm/jobs/{job}/")
            names = {entry["Key"].removeprefix(f"r/.farm/jobs/{job}/") for entry in kept["Contents"]}
            assert {"traces/town.png.jsonl", "parameters/town.png.json"} <= names
            assert [name for name in names if name.startswith("final/town.png.state/")]
            assert not [name for name in names if name.startswith("checkpoints/")]
