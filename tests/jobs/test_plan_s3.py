"""Plans from and to real S3 servers: one that keeps conditions, one that ignores them."""

from __future__ import annotations

from typing import Any

import pytest

from jobs.errors import ManifestError
from jobs.inputs import Ignored
from jobs.plan import begin_planning, plan_step, validate_plan
from tests.jobs.plans import keys_of, manifest_of
from tests.servers import rclone, seaweedfs

pytestmark = pytest.mark.slow

KEYS = [
    "in/img10.jpg",
    "in/img2.jpg",
    "in/sub/a.gif",
    "in/notes.txt",
    "in/.farm/b.jpg",
    "in2/c.jpg",
    "in/[d].png",
]


@pytest.fixture
def at(monkeypatch):
    """Return a function that points manifests to a server, with a bucket of pictures."""

    def point(server: Any, bucket: str) -> dict[str, Any]:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        server.make_bucket(bucket)
        for key in KEYS:
            server.client().put_object(Bucket=bucket, Key=key, Body=key.encode())
        return {"endpoint_url": server.endpoint_url, "path_style": True}

    return point


def test_a_bucket_is_planned_as_a_folder_is(tmp_path, library, at):
    """Prefixes, objects and globs; the refusals too."""
    with seaweedfs(tmp_path) as server:
        s3 = at(server, "photos")
        step = {"inputs": ["s3://photos/in/", "s3://photos/in2/c.jpg", "s3://photos/in/[d].png"]}
        manifest = manifest_of(step, output="s3://photos/out", s3=s3)
        checked = validate_plan(manifest, library)
        assert checked.notes == ()
        planning = begin_planning(manifest, checked)
        tasks = list(plan_step(manifest.steps[0], planning))
        assert keys_of(tasks) == ["[d].png", "img2.jpg", "img10.jpg", "sub/a.png", "c.jpg"]
        first = tasks[0].items[0]
        assert (first.input, first.size_bytes) == ("s3://photos/in/[d].png", len("in/[d].png"))
        assert first.stamp
        assert planning.ignored == Ignored(
            1, ["s3://photos/in/notes.txt (not a type of picture that is read)"], {"s3://photos/in/notes.txt"}
        )
        wrong = manifest_of(
            {
                "inputs": [
                    "s3://photos/missing",
                    "s3://photos/in/*.bmp",
                    "s3://no-such-bucket/x",
                    "s3://photos",
                ]
            },
            output="s3://photos/out",
            s3=s3,
        )
        with pytest.raises(ManifestError) as caught:
            validate_plan(wrong, library)
        lines = caught.value.message.splitlines()
        assert [line.partition(": ")[0] for line in lines] == [f"steps[0].inputs[{n}]" for n in range(4)]
        assert "no-such-bucket" in lines[2]
        assert "s3://photos/out lies inside the input s3://photos" in lines[3]


def test_a_store_that_ignores_conditions_is_told_at_submit(tmp_path, library, at):
    with rclone(tmp_path) as server:
        s3 = at(server, "photos")
        manifest = manifest_of({"inputs": ["s3://photos/in2"]}, output="s3://photos/out", s3=s3)
        (note,) = validate_plan(manifest, library).notes
        assert note.startswith("s3://photos/out ignores conditional writes")
