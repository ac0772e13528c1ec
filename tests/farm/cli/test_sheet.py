"""Contact sheets of jobs, from real pictures."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from farm.cli import sheet
from tests.farm.cli.conftest import Cli
from tests.farm.cli.played import PlayedFarm, ended_job

RED, BLUE = (255, 0, 0), (0, 0, 255)


@pytest.fixture
def job(farm_cli: Cli, played: PlayedFarm, tmp_path: Path) -> dict[str, Any]:
    """Return a job with a red and a blue result, and one each that failed, is gone, and is to come."""
    output = tmp_path / "renders"
    output.mkdir()
    items = []
    for name, color in (("red [1].png", RED), ("blue.jpg", BLUE)):
        Image.new("RGB", (640, 480), color).save(output / name)
        items.append(
            {"output": str(output / name), "state": "done", "input": name, "style": "candy", "reason": ""}
        )
    items += [
        {
            "output": str(output / "gone.png"),
            "state": "skipped",
            "input": "g",
            "style": "candy",
            "reason": "",
        },
        {
            "output": "",
            "state": "failed",
            "input": "/p/bad.jpg",
            "style": "candy",
            "reason": "the file is cut off",
        },
        {"output": "", "state": "pending", "input": "/p/later.jpg", "style": "candy", "reason": ""},
    ]
    made = ended_job("completed with errors", failed=1, output=str(output))
    played.has_job(made)
    played.on("GET", "/v1/jobs/j7/items", {"items": items, "total": len(items)})
    return made


def colors(picture: Image.Image) -> set[tuple[int, ...]]:
    found = picture.convert("RGB").getcolors(1 << 24) or []
    return {color for count, color in found if count > 5000 and isinstance(color, tuple)}


def test_a_sheet_lies_beside_the_report_and_shows_the_results(farm_cli: Cli, job: dict[str, Any]) -> None:
    result = farm_cli("sheet", "j7")
    assert result.exit_code == 0, result.stderr
    place = Path(result.stdout.strip())
    assert place == Path(job["output"]) / ".farm" / "jobs" / "j7" / "contact-sheet.jpg"
    with Image.open(place) as picture:
        near = {tuple(round(value / 255) * 255 for value in color) for color in colors(picture)}
    assert {RED, BLUE} <= near


@pytest.mark.usefixtures("job")
def test_a_sheet_can_lie_elsewhere_in_another_format(farm_cli: Cli, machine: Path) -> None:
    assert farm_cli("sheet", "j7", "--output", "sheet.png").stdout.strip() == str(machine / "sheet.png")
    with Image.open(machine / "sheet.png") as picture:
        assert picture.format == "PNG"
        assert {RED} <= colors(picture)
    assert not (machine / ".farm").exists(), "a folder of one sheet does not look like one of results"


@pytest.mark.usefixtures("job")
@pytest.mark.parametrize("name", ["sheet.txt", "sheet"])
def test_a_name_that_is_no_picture_is_a_usage_error(farm_cli: Cli, name: str) -> None:
    result = farm_cli("sheet", "j7", "--output", name)
    assert result.exit_code == 2
    assert "hint: name a .jpg or .png file" in result.stderr


def test_a_job_without_results_has_no_sheet(farm_cli: Cli, played: PlayedFarm) -> None:
    played.has_job(ended_job())
    played.on("GET", "/v1/jobs/j7/items", {"items": [], "total": 0})
    result = farm_cli("sheet", "j7")
    assert result.exit_code == 2
    assert "no results" in result.stderr


@pytest.mark.usefixtures("job")
def test_a_sheet_of_very_many_shows_some_of_them_and_says_so(
    farm_cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sheet, "_MOST_TILES", 2)
    assert "1 of 2 of the 4 items" in farm_cli("sheet", "j7").stderr


def test_render_makes_a_sheet_when_asked(farm_cli: Cli, played: PlayedFarm, job: dict[str, Any]) -> None:
    played.on("POST", "/v1/jobs", job, status=201)
    result = farm_cli("render", "missing.jpg", "--style", "candy", "--sheet")
    assert result.exit_code == 3
    assert f"contact sheet: {job['output']}/.farm/jobs/j7/contact-sheet.jpg" in result.stderr


def test_a_sheet_that_cannot_be_made_does_not_change_the_exit_code(
    farm_cli: Cli, played: PlayedFarm, job: dict[str, Any]
) -> None:
    Path(job["output"], ".farm").write_text("in the way")
    played.on("POST", "/v1/jobs", job, status=201)
    result = farm_cli("render", "missing.jpg", "--style", "candy", "--sheet")
    assert result.exit_code == 3
    assert "no contact sheet" in result.stderr


def test_small_thumbnails_are_kept_of_large_pictures() -> None:
    file = io.BytesIO()
    Image.new("RGB", (4000, 100), RED).save(file, "PNG")
    with Image.open(io.BytesIO(sheet._thumbnail(file.getvalue()))) as picture:
        assert picture.size == (192, 5)
    assert sheet._thumbnail(b"broken") == b"broken"
