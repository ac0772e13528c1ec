"""Styles that steps make, on a real farm: into the library, rendered in, and failing by themselves."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.real_farm import RealFarm, photos, results, running_farm, stamps, wait_until

pytestmark = pytest.mark.slow

STYLES = "lake", "moor", "pond"


@pytest.fixture(scope="module")
def farm() -> Iterator[RealFarm]:
    with running_farm(FARM_KINDS="tests.brew") as farm:
        yield farm


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    return photos(tmp_path / "photos", 2)


def manifest(inputs: Path, output: Path, *styles: str, **changes: Any) -> dict[str, Any]:
    """Return a job that makes styles, and renders a folder in each; `changes` are of the steps by style."""
    steps: list[dict[str, Any]] = []
    for seed, style in enumerate(styles):
        make = {
            "name": f"make-{style}",
            "kind": "brew",
            "style": style,
            "seed": seed,
            **changes.get(style, {}),
        }
        late = {"from": make["name"]}
        steps += [
            make,
            {"name": f"render-{style}", "kind": "stylize", "inputs": [str(inputs)], "styles": [late]},
        ]
    return {"version": 1, "name": "styles", "output": str(output), "steps": steps}


def styles_of(farm: RealFarm) -> dict[str, dict[str, Any]]:
    return {style["name"]: style for style in farm.json("styles", "list")["styles"]}


def states(job: dict[str, Any]) -> dict[str, str]:
    return {step["name"]: step["state"] for step in job["steps"]}


def test_each_style_is_rendered_in_as_soon_as_it_is_there_and_a_bad_one_fails_alone(
    farm: RealFarm, inputs: Path, tmp_path: Path
) -> None:
    gate, output = tmp_path / "gate", tmp_path / "out"
    gate.touch()
    said = manifest(inputs, output, *STYLES, moor={"gate": str(gate)}, pond={"spoiled": True})
    job = farm.submit(said)
    seen = wait_until(
        lambda: (now := farm.job(job)) and states(now)["render-lake"] == "done" and now, "lake is rendered"
    )
    assert states(seen)["make-moor"] == "ready"
    assert states(seen)["render-moor"] == "blocked"
    gate.unlink()
    ended = farm.wait(job)
    assert ended["state"] == "completed with errors"
    assert [name for name, state in states(ended).items() if state == "failed"] == [
        "make-pond",
        "render-pond",
    ]
    assert (ended["items"]["done"], ended["items"]["failed"]) == (2 + 2 * 2, 1)
    (failure,) = ended["failures"]
    assert (failure["input"], failure["reason"]) == ("pond.safetensors", "the water is foul")
    kept = styles_of(farm)
    assert {"lake", "moor"} <= kept.keys()
    assert "pond" not in kept
    assert kept["lake"]["format"] == "trained"
    assert kept["lake"]["metadata"]["job"] == job
    assert kept["lake"]["metadata"]["file"] == str(output / "lake.safetensors")
    assert kept["lake"]["source"] == "a kettle"
    assert {key.partition("/")[0] for key in results(output) if "/" in key} == {"lake", "moor"}


def test_the_same_again_is_skipped_and_its_styles_can_be_named_by_other_jobs(
    farm: RealFarm, inputs: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    document = manifest(inputs, output, "heath")
    assert farm.wait(farm.submit(document))["state"] == "completed"
    before = set(stamps(output))
    farm.run("styles", "remove", "heath")
    again = farm.wait(farm.submit(document))
    assert (again["state"], again["items"]["skipped"]) == ("completed", 3)
    assert set(stamps(output)) == before
    assert styles_of(farm)["heath"]["metadata"]["job"] == again["id"]
    done = farm.run("render", inputs, "--style", "heath", "--output", tmp_path / "later")
    assert done.returncode == 0
    made = {path.name: path.read_bytes() for path in results(tmp_path / "later").values()}
    rendered = {path.name: path.read_bytes() for key, path in results(output).items() if "p0" in key}
    assert made == rendered
    assert len(made) == 2


def test_a_worker_that_dies_between_the_file_and_the_result_loses_nothing(
    farm: RealFarm, inputs: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    job = farm.submit(manifest(inputs, output, "tarn", tarn={"dies": True}))
    ended = farm.wait(job)
    assert ended["state"] == "completed"
    assert ended["items"]["done"] == 3
    makers = [each for each in farm.attempts(job) if each["outcome"] == "lost"]
    assert len(makers) == 1
    assert styles_of(farm)["tarn"]["metadata"]["job"] == job


def test_a_controller_that_dies_while_styles_are_made_goes_on_with_all_of_them(
    farm: RealFarm, inputs: Path, tmp_path: Path
) -> None:
    gate, output = tmp_path / "gate", tmp_path / "out"
    gate.touch()
    job = farm.submit(manifest(inputs, output, "fen", "bog", bog={"gate": str(gate)}))
    wait_until(lambda: states(farm.job(job))["make-fen"] == "done", "fen is there")
    farm.controller().kill()
    gate.unlink()
    assert farm.wait(job)["state"] == "completed"
    kept = styles_of(farm)
    assert [kept[name]["metadata"]["job"] for name in ("fen", "bog")] == [job, job]
