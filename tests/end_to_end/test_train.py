"""Styles that are trained, through the real farm: the same bytes whatever happens to their workers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from PIL import Image

from tests.end_to_end.real_farm import RealFarm, results, running_farm, wait_until
from tests.end_to_end.renders import add_network, picture
from tests.end_to_end.trainings import BATCH, CROP_PX, manifest, train_step

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

STYLES = "wave", "night", "garden", "scream"


@pytest.fixture(scope="module")
def shared() -> Iterator[RealFarm]:
    """A farm of two workers and a small loss network."""
    with running_farm(workers=2) as farm:
        add_network(farm)
        yield farm


@pytest.fixture
def farm(shared: RealFarm) -> RealFarm:
    """The farm once its workers are there: the test before may have killed one."""
    wait_until(lambda: len(shared.workers()) == 2, "all workers are back")
    return shared


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve photographs in two folders, one of them cut off, and a file that is none."""
    folder = tmp_path_factory.mktemp("photographs")
    (folder / "more").mkdir()
    for number in range(12):
        picture(folder / ("more" if number % 2 else "") / f"p{number:02d}.png", 60, 48, seed=number)
    whole = (folder / "p04.png").read_bytes()
    (folder / "p04.png").write_bytes(whole[: len(whole) // 2])
    (folder / "README").write_text("photographs")
    return folder


@pytest.fixture(scope="module")
def paintings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("paintings")
    for number, style in enumerate(STYLES):
        picture(folder / f"{style}.png", 64, 56, seed=100 + number)
    (folder / "torn.jpg").write_bytes(b"\xff\xd8\xff no picture")
    return folder


def beside(output: Path, job: str, name: str) -> Path:
    return output / ".farm/jobs" / job / name


def lines(output: Path, job: str, name: str) -> list[dict[str, Any]]:
    text = beside(output, job, f"traces/{name}.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def test_one_manifest_trains_styles_side_by_side_and_renders_in_each(
    farm: RealFarm, photographs: Path, paintings: Path, tmp_path: Path
) -> None:
    """A style whose painting is broken fails alone; the others go into the library."""
    output, folder = tmp_path / "out", tmp_path / "folder"
    folder.mkdir()
    picture(folder / "me.png", 48, 40, seed=7)
    names = [*STYLES, "torn"]
    files = [paintings / f"{name}.png" for name in STYLES] + [paintings / "torn.jpg"]
    renders = [
        {
            "name": f"render-{name}",
            "kind": "stylize",
            "inputs": [str(folder)],
            "styles": [{"from": f"train-{name}"}],
        }
        for name in names
    ]
    trainings = [train_step(photographs, file) for file in files]
    job = farm.wait(farm.submit(manifest(output, *trainings, *renders)))
    number = job["id"]
    states = {step["name"]: step["state"] for step in job["steps"]}
    assert job["state"] == "completed with errors"
    assert [name for name, state in states.items() if state == "failed"] == ["train-torn", "render-torn"]
    [failure] = job["failures"]
    assert "torn.jpg: the file is cut off or damaged" in failure["reason"]
    assert {key for key in results(output) if "/" not in key} == {f"{name}.safetensors" for name in STYLES}
    assert len([key for key in results(output) if "/" in key]) == len(STYLES)
    assert len({attempt["worker"] for attempt in farm.attempts(number)}) == 2, "side by side"
    library = {style["name"]: style for style in farm.json("styles", "list")["styles"]}
    for name in STYLES:
        judged = [each["loss"] for each in lines(output, number, f"{name}-validation")]
        assert judged[-1] < 0.9 * judged[0]
        assert len(lines(output, number, name)) == 24
        with Image.open(beside(output, number, f"previews/{name}/step-000024-1.jpg")) as shown:
            assert shown.size == (60, 48)
        with Image.open(beside(output, number, f"previews/{name}.jpg")) as sheet:
            assert sheet.width > 256
        assert beside(output, number, f"traces/{name}.png").stat().st_size
        said = library[name]["metadata"]
        assert (said["job"], said["training"]["data"]["photographs"]) == (number, 9)
    previews = {event["data"]["item"] for event in farm.events(number, "preview")}
    assert previews == {f"{name}.safetensors" for name in STYLES}
    left_out = [event for event in farm.events(number, "message") if "p04.png" in event["text"]]
    assert left_out, "a photograph that is cut off is named"


def test_a_worker_that_is_killed_costs_at_most_one_checkpoint_and_no_bit(
    farm: RealFarm, photographs: Path, paintings: Path, tmp_path: Path
) -> None:
    """The losses of all steps, and the style itself, are those of a training that was left alone."""
    said: dict[str, Any] = {
        "steps": 80,
        "checkpoint": {"steps": 5},
        "validation": {"pictures": 3, "every": 1000},
        "style": "killed",
    }
    alone, killed = tmp_path / "alone", tmp_path / "killed"
    step = train_step(photographs, paintings / "wave.png", **said)
    number = farm.submit(manifest(killed, step))
    kept = beside(killed, number, "checkpoints")
    wait_until(lambda: list(kept.glob("*/*.data")), "a checkpoint is kept")
    victim = next(worker for worker in farm.workers() if worker["job"] == number)
    psutil.Process(victim["pid"]).kill()
    job = farm.wait(number)
    assert job["state"] == "completed", job
    assert [attempt["outcome"] for attempt in farm.attempts(number)] == ["lost", "finished"]
    whole = farm.wait(farm.submit(manifest(alone, {**step, "replace": True})))
    assert whole["state"] == "completed", whole
    for name in ("killed", "killed-validation"):
        expected = beside(alone, whole["id"], f"traces/{name}.jsonl").read_bytes()
        assert beside(killed, number, f"traces/{name}.jsonl").read_bytes() == expected
    [made], [undisturbed] = results(killed).values(), results(alone).values()
    assert made.read_bytes() == undisturbed.read_bytes()
    [item] = farm.items(number)
    went_on_at = 80 - item["pixel_evaluations"] / (BATCH * CROP_PX**2)
    assert went_on_at >= 5
    losses = [event["data"]["iteration"] for event in farm.events(number, "loss")]
    assert losses == sorted(losses), "what was drawn twice is there once"


def test_a_finished_style_is_trained_further(
    farm: RealFarm, photographs: Path, paintings: Path, tmp_path: Path
) -> None:
    """To the bytes of one that had all the steps at once, under the same name."""
    at_once, extended = tmp_path / "at-once", tmp_path / "extended"
    step = train_step(photographs, paintings / "night.png", style="longer")
    first = farm.wait(farm.submit(manifest(extended, {**step, "steps": 8})))
    farm.run("extend", first["id"], "--steps", 6)
    whole = farm.wait(farm.submit(manifest(at_once, {**step, "steps": 14, "replace": True})))
    [second] = [job["id"] for job in farm.client.jobs() if job["id"] not in {first["id"], whole["id"]}][:1]
    got = beside(extended, second, "traces/longer.jsonl").read_bytes()
    assert got == beside(at_once, whole["id"], "traces/longer.jsonl").read_bytes()
    assert len(got.splitlines()) == 14


def test_a_gang_trains_one_style_and_outlives_a_member(
    farm: RealFarm, photographs: Path, paintings: Path, tmp_path: Path
) -> None:
    step = train_step(
        photographs,
        paintings / "garden.png",
        style="shared",
        steps=60,
        checkpoint={"steps": 3},
        workers={"min": 2, "max": 2},
        validation={"pictures": 3, "every": 1000},
    )
    number = farm.submit(manifest(tmp_path, step))
    kept = beside(tmp_path, number, "checkpoints")
    wait_until(lambda: list(kept.glob("*/*.data")), "a checkpoint is kept")
    members = [worker for worker in farm.workers() if worker["job"] == number]
    assert len(members) == 2
    psutil.Process(members[1]["pid"]).kill()
    job = farm.wait(number)
    assert job["state"] == "completed", job
    assert [attempt["outcome"] for attempt in farm.attempts(number)] == ["lost", "finished"]
    assert len(lines(tmp_path, number, "shared")) == 60


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"data": ["/nowhere/at/all"]}, "/nowhere/at/all"),
        ({"loss_network": "nowhere"}, "farm weights"),
        ({"style_images": ["torn.jpg"]}, "torn.jpg: the file is cut off or damaged"),
        ({"crop_px": 16, "content_layers": {"pool5": 1}}, "steps[0].crop_px"),
        ({"batch": 12}, "steps[0].batch"),
    ],
)
def test_what_cannot_be_trained_is_refused_in_one_line(
    farm: RealFarm, photographs: Path, paintings: Path, tmp_path: Path, wrong: dict[str, Any], words: str
) -> None:
    (tmp_path / "torn.jpg").write_bytes(b"\xff\xd8\xff no picture")
    step = train_step(photographs, paintings / "wave.png", **{"style": "nothing", **wrong})
    file = tmp_path / "job.json"
    file.write_text(json.dumps(manifest(tmp_path / "out", step)))
    done = farm.run("submit", file, check=False)
    assert done.returncode == 2, done.stdout + done.stderr
    assert words in done.stderr
    assert not (tmp_path / "out").exists()
