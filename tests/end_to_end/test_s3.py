"""Pictures from S3 to S3 through the real farm: on SeaweedFS, and on rclone, which ignores conditions."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from PIL import Image

from tests.end_to_end.awkward import after_jpeg, difference, photos, picture, rendered_plainly
from tests.end_to_end.conftest import AddStyle, SeededStyle
from tests.end_to_end.real_farm import RealFarm, running_farm, wait_until
from tests.end_to_end.renders import add_network
from tests.end_to_end.renders import picture as painted
from tests.end_to_end.trainings import manifest, train_step
from tests.servers import Server, rclone, seaweedfs

pytestmark = pytest.mark.slow

SIZE_PX = (48, 32)


@pytest.fixture(scope="module")
def weed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A store that keeps every promise; the farm finds its account in the environment."""
    with seaweedfs(tmp_path_factory.mktemp("weed")) as server:
        server.make_bucket("assets")
        yield server


@pytest.fixture(scope="module")
def careless(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A store that ignores conditions; the farm finds its account in a profile."""
    with rclone(tmp_path_factory.mktemp("rclone")) as server:
        yield server


@pytest.fixture(scope="module")
def farm(
    weed: Server, careless: Server, tmp_path_factory: pytest.TempPathFactory, add_style: AddStyle
) -> Iterator[RealFarm]:
    """A farm that keeps its styles in S3 too, so that they reach its workers by content hash alone."""
    accounts = tmp_path_factory.mktemp("aws") / "credentials"
    accounts.write_text(
        f"[careless]\naws_access_key_id={careless.access_key}\naws_secret_access_key={careless.secret_key}\n"
    )
    environment = {**weed.environment, "AWS_SHARED_CREDENTIALS_FILE": str(accounts)}
    with running_farm("--store", "s3://assets/farm", workers=2, **environment) as farm:
        add_style(farm, STYLE)
        yield farm


STYLE = SeededStyle("waves", width=2, seed=0)


def upload(server: Server, bucket: str, prefix: str, folder: Path) -> None:
    """Put the files of a folder under a prefix."""
    client = server.client()
    for path in folder.rglob("*"):
        if path.is_file():
            key = f"{prefix}/{path.relative_to(folder)}"
            client.put_object(Bucket=bucket, Key=key, Body=path.read_bytes())


def objects(server: Server, bucket: str, prefix: str) -> dict[str, dict[str, Any]]:
    """Return what a listing of a prefix shows, by the rest of the key."""
    pages = server.client().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=f"{prefix}/")
    found = [entry for page in pages for entry in page.get("Contents", [])]
    return {entry["Key"].removeprefix(f"{prefix}/"): entry for entry in found}


def results(server: Server, bucket: str, prefix: str) -> dict[str, str]:
    """Return the etags of the results under a prefix, by key."""
    found = objects(server, bucket, prefix)
    return {key: entry["ETag"] for key, entry in found.items() if not key.startswith(".farm/")}


def read(server: Server, bucket: str, key: str) -> bytes:
    """Return the content of an object."""
    body: bytes = server.client().get_object(Bucket=bucket, Key=key)["Body"].read()
    return body


def assert_rendered(source: Path, result: bytes) -> None:
    """The result is the picture that plain PyTorch makes of its input, but for what JPEG loses."""
    plain = rendered_plainly(np.array(Image.open(source)), STYLE.width, STYLE.seed)
    assert difference(np.array(Image.open(io.BytesIO(result))), after_jpeg(plain))[1] <= 1


def test_a_prefix_is_rendered_to_a_prefix_and_a_second_time_nothing_is(
    farm: RealFarm, weed: Server, tmp_path: Path
) -> None:
    """With folders, broken ones and names that URLs trip over; records and report lie beside the results."""
    weed.make_bucket("photos")
    weed.make_bucket("renders")
    folder = photos(tmp_path / "photos", 6, *SIZE_PX)
    photos(folder / "sub folder", 1, *SIZE_PX)
    picture(*SIZE_PX, seed=50).save(folder / "ünï +&%41#?.jpg")
    (folder / "broken.jpg").write_bytes((folder / "photo1.jpg").read_bytes()[:300])
    upload(weed, "photos", "july", folder)
    render = ("render", "s3://photos/july", "--style", STYLE.name, "--output", "s3://renders/by date/july")

    first = farm.run(*render, check=False)
    assert first.returncode == 3
    assert "s3://photos/july/broken.jpg" in first.stdout
    assert "ignores conditional writes" not in first.stdout
    made = results(weed, "renders", "by date/july")
    sources = {str(p.relative_to(folder)): p for p in folder.rglob("*.jpg") if p.name != "broken.jpg"}
    assert set(made) == set(sources)
    for key, source in sources.items():
        assert_rendered(source, read(weed, "renders", f"by date/july/{key}"))
    report = json.loads(read(weed, "renders", "by date/july/.farm/report.json"))
    assert report["totals"]["done"] == len(sources)
    assert [item["input"] for item in report["items"] if item["state"] == "failed"] == [
        "s3://photos/july/broken.jpg"
    ]
    assert {item["output"] for item in report["items"] if item["state"] == "done"} == {
        f"s3://renders/by date/july/{key}" for key in sources
    }

    assert farm.run(*render, check=False).returncode == 3
    report = json.loads(read(weed, "renders", "by date/july/.farm/report.json"))
    assert (report["totals"]["skipped"], report["totals"]["failed"]) == (len(sources), 1)
    assert results(weed, "renders", "by date/july") == made, "nothing is written again"
    left = [key for key in objects(weed, "renders", "by date/july/.farm") if key.startswith("probe-")]
    assert left == []


def test_an_object_that_the_farm_did_not_make_is_left_alone(
    farm: RealFarm, weed: Server, tmp_path: Path
) -> None:
    """From a local folder; a single object and a glob of S3 are inputs as well."""
    weed.make_bucket("mixed")
    folder = photos(tmp_path / "photos", 3, *SIZE_PX)
    upload(weed, "mixed", "in", folder)
    weed.client().put_object(Bucket="mixed", Key="out/photo1.jpg", Body=b"somebody's own work")
    to = ("--style", STYLE.name, "--output", "s3://mixed/out")
    done = farm.run("render", folder, *to, check=False)
    assert done.returncode == 3
    assert "s3://mixed/out/photo1.jpg exists and was not made by the farm" in done.stdout
    assert read(weed, "mixed", "out/photo1.jpg") == b"somebody's own work"
    assert set(results(weed, "mixed", "out")) == {"photo1.jpg", "photo2.jpg", "photo3.jpg"}

    farm.run("render", "s3://mixed/in/photo1.jpg", *to, "--on-existing", "rename")
    assert read(weed, "mixed", "out/photo1.jpg") == b"somebody's own work"
    assert_rendered(folder / "photo1.jpg", read(weed, "mixed", "out/photo1-1.jpg"))
    farm.run("render", "s3://mixed/in/*1.jpg", *to, "--on-existing", "replace")
    assert_rendered(folder / "photo1.jpg", read(weed, "mixed", "out/photo1.jpg"))
    farm.run("render", "s3://mixed/in/photo[23].jpg", *to, "--precision", "bf16", "--sheet")
    sheets = [key for key in objects(weed, "mixed", "out/.farm/jobs") if key.endswith("contact-sheet.jpg")]
    assert len(sheets) == 1


@pytest.mark.timeout(300)
def test_a_style_is_trained_from_photographs_in_s3_whatever_happens_to_its_worker(
    farm: RealFarm, weed: Server, tmp_path: Path
) -> None:
    """States and traces lie beside the style; the losses are those of a training from local files."""
    add_network(farm)
    weed.make_bucket("training")
    folder = photos(tmp_path / "photos", 8, *SIZE_PX)
    photos(folder / "more", 3, *SIZE_PX)
    (folder / "photo3.jpg").write_bytes((folder / "photo1.jpg").read_bytes()[:300])
    upload(weed, "training", "photos", folder)
    painting = painted(tmp_path / "painting.png", 64, 56)
    said: dict[str, Any] = {
        "steps": 60,
        "checkpoint": {"steps": 4},
        "validation": {"pictures": 3, "every": 1000},
        "replace": True,
    }

    kept = train_step("s3://training/photos", painting, style="distant", **said)
    number = farm.submit(manifest("s3://training/out", kept))
    states = f"out/.farm/jobs/{number}/checkpoints"
    wait_until(
        lambda: any(key.endswith(".data") for key in objects(weed, "training", states)), "a state is kept"
    )
    victim = next(worker for worker in farm.workers() if worker["job"] == number)
    psutil.Process(victim["pid"]).kill()
    job = farm.wait(number)
    assert job["state"] == "completed", job
    assert [attempt["outcome"] for attempt in farm.attempts(number)] == ["lost", "finished"]
    assert set(results(weed, "training", "out")) == {"distant.safetensors"}
    assert not objects(weed, "training", states), "states are removed with the end of the training"
    left_out = [event["text"] for event in farm.events(number, "message")]
    assert any("photo3.jpg (" in text for text in left_out)

    local = farm.wait(
        farm.submit(manifest(tmp_path / "out", train_step(folder, painting, style="near", **said)))
    )
    assert local["state"] == "completed", local
    for suffix in ("", "-validation"):
        near = tmp_path / f"out/.farm/jobs/{local['id']}/traces/near{suffix}.jsonl"
        distant = read(weed, "training", f"out/.farm/jobs/{number}/traces/distant{suffix}.jsonl")
        assert distant == near.read_bytes()
    farm.run("render", "s3://training/photos/more", "--style", "distant", "--output", "s3://training/renders")
    assert len(results(weed, "training", "renders")) == 3


def test_a_store_that_ignores_conditions_is_noticed_and_said(
    farm: RealFarm, careless: Server, tmp_path: Path
) -> None:
    """On rclone, with an account from a profile: results are right, and the weaker promise is no secret."""
    careless.make_bucket("photos")
    folder = photos(tmp_path / "photos", 4, *SIZE_PX)
    upload(careless, "photos", "in", folder)
    render = (
        *("render", "s3://photos/in", "--style", STYLE.name, "--output", "s3://photos/out"),
        *("--s3-endpoint-url", careless.endpoint_url, "--s3-profile", "careless"),
    )
    first = farm.run(*render)
    assert "s3://photos/out ignores conditional writes" in first.stdout
    made = results(careless, "photos", "out")
    assert set(made) == {f"photo{n}.jpg" for n in range(1, 5)}
    for key in made:
        assert_rendered(folder / key, read(careless, "photos", f"out/{key}"))
    report = json.loads(read(careless, "photos", "out/.farm/report.json"))
    assert "ignores conditional writes" in report["notes"][0]

    submitted = farm.run("submit", *render[1:])
    assert "note: s3://photos/out ignores conditional writes" in submitted.stderr
    farm.run("wait", submitted.stdout.strip())
    assert farm.job(submitted.stdout.strip())["items"]["skipped"] == 4
    assert results(careless, "photos", "out") == made

    careless.client().put_object(Bucket="photos", Key="out/photo1.jpg", Body=b"somebody's own work")
    assert farm.run(*render, check=False).returncode == 3
    assert read(careless, "photos", "out/photo1.jpg") == b"somebody's own work"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["s3://nothing-here/in"], "NoSuchBucket"),
        (["s3://assets/nothing"], "there is nothing in s3://assets/nothing"),
        (["{photo}", "--output", "s3://nothing-here/out"], "NoSuchBucket"),
        (["{photo}", "--output", "s3://assets/out", "--s3-profile", "nobody"], "nobody"),
        (
            ["{photo}", "--output", "s3://assets/out", "--s3-endpoint-url", "http://127.0.0.1:1"],
            "127.0.0.1:1",
        ),
        (["{photo}", "--output", "s3://assets/out", "--s3-profile", "careless"], "SignatureDoesNotMatch"),
        (["s3://assets/in", "--output", "s3://assets/in/out"], "lies inside the input"),
    ],
)
def test_what_s3_cannot_do_is_one_line_with_a_hint(
    farm: RealFarm, tmp_path: Path, options: list[str], says: str
) -> None:
    photo = photos(tmp_path / "photos", 1, *SIZE_PX) / "photo1.jpg"
    words = [option.format(photo=photo) for option in options]
    done = farm.run("render", *words, "--style", STYLE.name, check=False)
    assert done.returncode == 2, done.stdout + done.stderr
    *errors, hint = done.stderr.splitlines()
    assert any(line.startswith("error: ") and says in line for line in errors)
    assert hint.startswith("hint: ")


def test_no_secret_is_written_down_or_shown(
    farm: RealFarm, weed: Server, careless: Server, tmp_path: Path
) -> None:
    """Not in the ledger, the logs of Ray and of the farm, state files, answers, or what `ps` shows."""
    weed.make_bucket("secret")
    folder = photos(tmp_path / "photos", 2, *SIZE_PX)
    done = farm.run("render", folder, "--style", STYLE.name, "--output", "s3://secret/out", "--json")
    refused = farm.run("render", folder, "-s", STYLE.name, "-o", "s3://secret2/out", check=False)
    job = json.loads(done.stdout)["id"]
    said = "".join(part.stdout + part.stderr for part in (done, refused, farm.run("logs", job)))
    said += json.dumps([farm.job(job), farm.items(job), farm.client.manifest(job), farm.client.health()])
    shown = [" ".join(process.cmdline()) for process in farm.processes()]
    assert any("raylet" in line for line in shown)
    said += "".join(shown)
    said += "".join(
        read(weed, "secret", f"out/{key}").decode("latin-1") for key in objects(weed, "secret", "out")
    )
    places = [farm.home, Path(farm.file()["temp_dir"]), Path(farm.file()["log_dir"])]
    files = {path for place in places for path in place.rglob("*") if path.is_file()}
    assert any(path.name.startswith("ledger.sqlite") for path in files)
    assert any(path.name.startswith("raylet") for path in files)
    for secret in (weed.secret_key, careless.secret_key):
        assert secret not in said
        assert [path for path in files if secret.encode() in path.read_bytes()] == []
