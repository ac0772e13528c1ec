"""`--dry-run`: what a job would do, with and without a farm."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from farm import folders
from farm.cli import styles
from jobs.library import StyleEntry
from tests.farm.cli.conftest import Cli
from tests.farm.cli.played import PlayedFarm


@pytest.fixture
def candy(machine: Path) -> None:
    """Give the library of this machine a style."""
    library = styles.library()
    sha256 = library.put(b"never opened here")
    library.add_style(StyleEntry("candy", sha256, "stylefarm", 32, 17, 0.0))


def files_below(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file()}


@pytest.mark.usefixtures("candy")
@pytest.mark.parametrize("command", ["render", "submit"])
def test_a_dry_run_says_what_would_be_done_and_does_nothing(
    cli: Cli, photos: Path, machine: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setattr("farm.local.up", lambda _=None: pytest.fail("a farm was started"))
    (photos / "notes.txt").write_text("no picture")
    before = files_below(machine.parent)
    result = cli(command, "photos", "--style", "candy", "--dry-run")
    assert result.exit_code == 0
    for part in ("photos-candy", "render (stylize)", "1 items in 1 tasks", "1 files ignored", "notes.txt"):
        assert part in result.stdout
    assert files_below(machine.parent) == before
    assert not Path(f"{photos}-candy").exists()


@pytest.mark.usefixtures("candy")
def test_a_dry_run_as_json_has_the_plan_of_each_step(cli: Cli, photos: Path) -> None:
    document = json.loads(cli("render", "photos", "-s", "candy", "--dry-run", "--json").stdout)
    assert document["output"] == f"{photos}-candy"
    (step,) = document["steps"]
    assert {key: step[key] for key in ("name", "kind", "planned", "items", "tasks")} == {
        "name": "render",
        "kind": "stylize",
        "planned": True,
        "items": 1,
        "tasks": 1,
    }


@pytest.mark.usefixtures("photos")
def test_what_is_refused_at_submit_is_refused_in_the_same_words(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("farm.local.up", lambda _=None: pytest.fail("a farm was started"))
    wrong = ["render", "photos", "missing", "-s", "cand"]
    dry, real = cli(*wrong, "--dry-run"), cli(*wrong)
    assert (dry.exit_code, dry.stderr) == (real.exit_code, real.stderr)
    assert dry.exit_code == 2
    assert "--style: there is no style 'cand'" in dry.stderr


@pytest.mark.usefixtures("candy", "photos")
def test_a_mistake_in_a_manifest_keeps_its_place(cli: Cli, machine: Path) -> None:
    step = {"name": "a", "kind": "stylize", "inputs": ["photos"], "styles": ["mosaic"]}
    (machine / "job.json").write_text(json.dumps({"version": 1, "name": "x", "steps": [step]}))
    result = cli("render", "job.json", "--dry-run")
    assert result.exit_code == 2
    assert "steps[0].styles[0]: there is no style 'mosaic'" in result.stderr


@pytest.mark.usefixtures("photos")
def test_a_farm_elsewhere_knows_styles_that_are_not_here(farm_cli: Cli, played: PlayedFarm) -> None:
    result = farm_cli("render", "photos", "-s", "candy", "--dry-run")
    assert result.exit_code == 2
    assert "FARM_ADDRESS" in result.stderr
    assert not played.asked("POST", "/v1/jobs")


def test_files_that_a_dry_run_reads_are_not_kept_by_the_farm(machine: Path, tmp_path: Path) -> None:
    aside = styles.library(aside=tmp_path / "aside")
    sha256 = aside.put(b"a painting")
    assert aside.path(sha256).read_bytes() == b"a painting"
    assert not styles.library().has(sha256)
    assert not (folders.data_dir() / "store").exists()
