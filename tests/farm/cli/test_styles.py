"""`farm styles`: without a farm that runs, on a library that is real."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from farm.cli import styles
from jobs.bundled import bundled_store
from jobs.library import StyleEntry
from tests.farm.cli.conftest import Cli
from workers.nst.style_models import StyleMetadata, save_style_model
from workers.nst.transformer import TransformerNet


@pytest.fixture
def weights(machine: Path) -> Path:
    """Return a weights file of a very small network."""
    torch.manual_seed(7)
    path = machine / "tiny [v1].pth"
    torch.save(TransformerNet(width=2).state_dict(), path)
    return path


def listed(cli: Cli) -> list[dict[str, Any]]:
    """Return the styles that were added; those that came with the farm are always there."""
    styles = json.loads(cli("styles", "list", "--json").stdout)["styles"]
    return [style for style in styles if not style["bundled"]]


def add(cli: Cli, weights: Path, name: str = "tiny", *more: str) -> str:
    result = cli("styles", "add", str(weights), "--name", name, "--format", "pytorch-examples", *more)
    assert result.exit_code == 0, result.stderr
    return result.stdout


def test_a_style_is_added_listed_shown_and_removed(cli: Cli, weights: Path) -> None:
    assert listed(cli) == []
    added = json.loads(add(cli, weights, "tiny", "--license", "MIT", "--source", "https://x.org", "--json"))
    assert added.pop("added") is True
    assert added["license"] == "MIT"
    assert listed(cli) == [added]
    assert json.loads(cli("styles", "show", "tiny", "--json").stdout) == added
    assert {"name", "sha256", "format", "bundled"} <= set(added)
    assert cli("styles", "remove", "tiny").exit_code == 0
    assert listed(cli) == []


def test_adding_the_same_again_succeeds_and_says_so(cli: Cli, weights: Path) -> None:
    assert "was there already" not in add(cli, weights)
    assert "was there already" in add(cli, weights)
    assert json.loads(add(cli, weights, "tiny", "--json"))["added"] is False


def test_people_see_where_a_style_came_from(cli: Cli, weights: Path) -> None:
    add(cli, weights)
    assert "tiny [v1].pth" in cli("styles", "list").stdout
    assert "tiny [v1].pth" in cli("styles", "show", "tiny").stdout


def test_people_see_which_job_trained_a_style_and_from_what(cli: Cli) -> None:
    library = styles.library()
    training = {"paintings": [{"name": "a.jpg"}, {"name": "b.jpg"}], "data": {"photographs": 200}}
    metadata = {"job": "261129-4-abcd", "output": "/out", "training": training}
    entry = StyleEntry("wave", library.put(b"wave"), "trained", 16, 4, 0.0, "a.jpg", metadata=metadata)
    library.add_trained(entry)
    assert "a.jpg, job 261129-4-abcd" in cli("styles", "list").stdout
    shown = cli("styles", "show", "wave").stdout
    for part in ("trained", "261129-4-abcd", "a.jpg, b.jpg", "/out"):
        assert part in shown
    assert "training.data.photographs  200" in shown


def test_what_a_style_model_says_of_itself_is_shown(cli: Cli, machine: Path) -> None:
    """License and source in a file of ours are the style's, unless something else is said."""
    own = machine / "own.safetensors"
    save_style_model(own, TransformerNet(width=2), StyleMetadata("own", 2, license="CC0", source="by hand"))
    for name, more, expected in (("own", (), "CC0"), ("said", ("--license", "MIT"), "MIT")):
        command = ("styles", "add", str(own), "--name", name, "--format", "stylefarm", *more, "--json")
        added = json.loads(cli(*command).stdout)
        assert (added["license"], added["source"]) == (expected, "by hand")


def test_a_taken_name_is_refused(cli: Cli, weights: Path, machine: Path) -> None:
    add(cli, weights)
    other = machine / "other.pth"
    torch.save(TransformerNet(width=3).state_dict(), other)
    result = cli("styles", "add", str(other), "--name", "tiny", "--format", "pytorch-examples")
    assert result.exit_code == 2
    assert "another style" in result.stderr


@pytest.mark.parametrize(
    ("file", "name", "format_"),
    [
        ("missing.pth", "x", "pytorch-examples"),
        (".", "x", "pytorch-examples"),
        ("text.pth", "x", "pytorch-examples"),
        ("text.pth", "x", "stylefarm"),
        ("tiny [v1].pth", "x", "onnx"),
        ("tiny [v1].pth", "no/name", "pytorch-examples"),
        ("tiny [v1].pth", "", "pytorch-examples"),
    ],
)
def test_what_cannot_be_a_style_is_one_line_with_a_hint(
    cli: Cli, weights: Path, file: str, name: str, format_: str
) -> None:
    weights.with_name("text.pth").write_text("hello")
    result = cli("styles", "add", file, "--name", name, "--format", format_)
    assert result.exit_code == 2
    error, hint = result.stderr.splitlines()
    assert error.startswith("error: ")
    assert hint.startswith("hint: ")
    assert listed(cli) == []


@pytest.mark.parametrize("command", ["show", "remove"])
def test_a_style_that_is_not_there_is_a_usage_error(cli: Cli, command: str) -> None:
    result = cli("styles", command, "[nothing]")
    assert result.exit_code == 2
    assert "[nothing]" in result.stderr


def test_styles_of_a_farm_elsewhere_are_not_mistaken_for_those_here(farm_cli: Cli) -> None:
    result = farm_cli("styles", "list")
    assert result.exit_code == 2
    assert "FARM_ADDRESS" in result.stderr


def test_the_styles_that_come_with_the_farm_are_there_without_being_added(cli: Cli) -> None:
    [ink] = [s for s in json.loads(cli("styles", "list", "--json").stdout)["styles"] if s["name"] == "ink"]
    assert ink["bundled"] is True
    assert (ink["format"], ink["license"]) == ("stylefarm", "Apache-2.0")
    assert json.loads(cli("styles", "show", "ink", "--json").stdout) == ink
    shown = cli("styles", "show", "ink").stdout
    assert "came with the farm" in shown
    assert "examples/demo_style.py" in shown
    assert "1970" not in shown


def test_a_render_finds_them(cli: Cli, photos: Path) -> None:
    """What would be done is said without a farm; the library of this machine is left as it is."""
    result = cli("render", str(photos), "--style", "INK", "--dry-run", "--json")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["steps"]
    assert not (photos.parents[1] / "xdg/data/stylefarm/store").exists()


def test_a_style_that_came_with_the_farm_stays(cli: Cli) -> None:
    result = cli("styles", "remove", "Ink")
    assert result.exit_code == 2
    assert "came with the farm and stays" in result.stderr
    assert cli("styles", "show", "ink").exit_code == 0


def test_its_name_is_taken(cli: Cli, weights: Path) -> None:
    result = cli("styles", "add", str(weights), "--name", "ink", "--format", "pytorch-examples")
    assert result.exit_code == 2
    assert "another style named 'ink' came with the farm" in result.stderr
    assert "take another name" in result.stderr
    assert listed(cli) == []


def test_adding_its_own_file_says_that_it_is_there(cli: Cli, machine: Path) -> None:
    ink = json.loads(cli("styles", "show", "ink", "--json").stdout)
    file = bundled_store().path(f"assets/{ink['sha256'][:2]}/{ink['sha256']}")
    again = ("styles", "add", str(file), "--name", "ink", "--format", "stylefarm", "--json")
    assert json.loads(cli(*again).stdout) == {**ink, "added": False}
    assert listed(cli) == []


def test_a_style_of_the_same_name_from_before_is_told_apart(cli: Cli, weights: Path, machine: Path) -> None:
    """It was added when the farm did not come with the other one yet."""
    add(cli, weights, "mine")
    styles = machine.parent / "xdg/data/stylefarm/store/styles"
    styles.joinpath("ink.json").write_text(
        json.dumps({**json.loads((styles / "mine.json").read_text()), "name": "ink"})
    )
    assert [style["name"] for style in listed(cli)] == ["ink", "mine"]
    result = cli("styles", "show", "ink")
    assert result.exit_code == 2
    assert "two styles named 'ink'" in result.stderr
    assert "farm styles remove ink" in result.stderr
    assert "the one that came with the farm has the name" in cli("styles", "remove", "ink").stdout
    assert json.loads(cli("styles", "show", "ink", "--json").stdout)["bundled"] is True


def test_render_with_a_wrong_style_names_those_there_are(cli: Cli, weights: Path) -> None:
    add(cli, weights)
    (weights.parent / "photos").mkdir()
    (weights.parent / "photos" / "a.jpg").write_bytes(b"x")
    result = cli("render", "photos", "--style", "tyni")
    assert result.exit_code == 2
    assert result.stderr.splitlines()[0].startswith("error: --style: ")
    assert "tiny" in result.stderr
