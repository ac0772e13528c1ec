"""Folders of pictures through the real farm, from the command to the files on the disk."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.awkward import (
    BROKEN,
    MAX_MEGAPIXELS,
    ODD,
    after_jpeg,
    as_seen,
    awkward_folder,
    difference,
    photos,
    picture,
    rendered_plainly,
)
from tests.end_to_end.conftest import AddStyle, SeededStyle
from tests.end_to_end.real_farm import RealFarm, records, results, staged, stamps, wait_until

pytestmark = pytest.mark.slow

COMPLETED, WITH_ERRORS = 0, 3


def report_of(output: Path) -> dict[str, Any]:
    """Return the report of the latest job of an output, its items by the name of their input."""
    report: dict[str, Any] = json.loads((output / ".farm/report.json").read_text())
    report["items"] = {Path(item["input"]).name: item for item in report["items"]}
    return report


def in_state(report: dict[str, Any], state: str) -> set[str]:
    """Return the names of the inputs whose items are in a state."""
    return {name for name, item in report["items"].items() if item["state"] == state}


def assert_rendered(source: Path, result: Path, style: SeededStyle) -> None:
    """The result shows, upright and at its own size, what plain PyTorch makes of its input."""
    seen, alpha = as_seen(source)
    made, made_alpha = as_seen(result)
    assert made.shape == seen.shape, source.name
    assert (alpha is None) == (made_alpha is None), source.name
    if alpha is not None and made_alpha is not None:
        assert (alpha == made_alpha).all()
    if min(seen.shape[:2]) < 5:
        return  # below what the plain network takes
    plain = rendered_plainly(seen, style.width, style.seed)
    if result.suffix == ".png":
        assert difference(made, plain)[0] <= 1, source.name
    else:
        # One level more or less becomes some in a block of 8 x 8 px; another turn makes more than 20.
        assert difference(made, after_jpeg(plain))[1] <= 1, source.name


@pytest.mark.timeout(180)
def test_an_awkward_folder_is_rendered_as_far_as_it_can_be_and_each_failure_is_named(
    farm: RealFarm, style: SeededStyle, tmp_path: Path
) -> None:
    folder, output = awkward_folder(tmp_path / "photos", photo_count=60), tmp_path / "out"
    render = ("render", folder, "--style", style.name, "--output", output, "--max-megapixels", MAX_MEGAPIXELS)
    good = {f"photo{n}.jpg" for n in range(1, 61)} | set(ODD)

    first = farm.run(*render, check=False)
    assert first.returncode == WITH_ERRORS
    report = report_of(output)
    assert in_state(report, "done") == good
    assert in_state(report, "failed") == set(BROKEN)
    assert report["totals"] == {
        "total": 73, "done": 67, "skipped": 0, "failed": 6, "canceled": 0, "pending": 0,
    }  # fmt: skip
    for name, why in BROKEN.items():
        reason = report["items"][name]["reason"]
        assert why in reason
        line = next(line for line in first.stdout.splitlines() if name in line)
        assert reason in line, "the summary says the same"
    assert report["items"]["animated.gif"]["reason"] == "first of 3 frames"
    assert f"first of 3 frames: {folder / 'animated.gif'}" in first.stdout

    names = {name: f"{Path(name).stem}.png" if name.endswith(".gif") else name for name in good}
    assert set(results(output)) == set(names.values())
    for name, result in names.items():
        assert_rendered(folder / name, output / result, style)

    before = set(stamps(output))
    second = farm.run(*render, check=False)
    assert second.returncode == WITH_ERRORS
    report = report_of(output)
    assert in_state(report, "skipped") == good
    assert in_state(report, "failed") == set(BROKEN), "what failed is tried again, and fails again"
    assert set(stamps(output)) == before, "nothing is rendered again"
    assert all(len(made) == 1 for made in records(output).values())
    assert staged(output) == []


def test_other_settings_and_other_styles_render_again_and_the_same_ones_do_not(
    farm: RealFarm, style: SeededStyle, add_style: AddStyle, tmp_path: Path
) -> None:
    add_style(farm, SeededStyle("stones", width=2, seed=7))
    folder, output = photos(tmp_path / "photos", 3), tmp_path / "out"
    generations = []
    for options in (
        ["--style", style.name],
        ["--style", style.name, "--precision", "bf16"],
        ["--style", "stones", "--precision", "bf16"],
        ["--style", "stones", "--precision", "bf16", "--threads", 2, "--chunk-items", 1, "--priority", 9],
        ["--style", "stones", "--precision", "bf16", "--quality", 80],
    ):
        farm.run("render", folder, "--output", output, *options)
        generations.append({len(made) for made in records(output).values()})
    assert generations == [{1}, {2}, {3}, {3}, {4}]
    for key, made in records(output).items():
        assert made[-1].size_bytes == (output / key).stat().st_size


def test_a_picture_that_changed_is_rendered_again_alone(
    farm: RealFarm, style: SeededStyle, tmp_path: Path
) -> None:
    folder, output = photos(tmp_path / "photos", 3), tmp_path / "out"
    render = ("render", folder, "--style", style.name, "--output", output)
    farm.run(*render)
    picture(30, 40, seed=99).save(folder / "photo2.jpg")
    (folder / "photo3.jpg").touch()
    farm.run(*render)
    report = report_of(output)
    assert in_state(report, "done") == {"photo2.jpg"}
    assert in_state(report, "skipped") == {"photo1.jpg", "photo3.jpg"}, "a new time alone is no new picture"
    assert_rendered(folder / "photo2.jpg", output / "photo2.jpg", style)


def test_a_file_that_the_farm_did_not_make_is_left_alone_unless_it_is_told(
    farm: RealFarm, style: SeededStyle, tmp_path: Path
) -> None:
    folder, output = photos(tmp_path / "photos", 2), tmp_path / "out"
    output.mkdir()
    foreign = output / "photo1.jpg"
    foreign.write_bytes(b"somebody's own work")
    before = (foreign.read_bytes(), foreign.stat().st_mtime_ns, foreign.stat().st_ino)
    render = ("render", folder, "--style", style.name, "--output", output)

    done = farm.run(*render, check=False)
    assert done.returncode == WITH_ERRORS
    assert in_state(report_of(output), "failed") == {"photo1.jpg"}
    assert f"{foreign} exists and was not made by the farm" in done.stdout
    assert before == (foreign.read_bytes(), foreign.stat().st_mtime_ns, foreign.stat().st_ino)

    farm.run(*render, "--on-existing", "rename")
    assert before == (foreign.read_bytes(), foreign.stat().st_mtime_ns, foreign.stat().st_ino)
    assert set(results(output)) == {"photo1.jpg", "photo1-1.jpg", "photo2.jpg"}
    assert_rendered(folder / "photo1.jpg", output / "photo1-1.jpg", style)
    farm.run(*render, "--on-existing", "rename")
    assert in_state(report_of(output), "skipped") == {"photo1.jpg", "photo2.jpg"}

    farm.run(*render, "--on-existing", "replace")
    assert_rendered(folder / "photo1.jpg", foreign, style)


def test_each_worker_loads_each_style_at_most_once(
    farm: RealFarm, add_style: AddStyle, tmp_path: Path
) -> None:
    """Three styles over one folder on two workers, in small tasks that come in any order."""
    names = [add_style(farm, SeededStyle(f"many{n}", width=2, seed=10 + n)).name for n in range(3)]
    loads_before = {worker["id"]: worker["loads"] for worker in farm.workers()}
    styles = [word for name in names for word in ("--style", name)]
    output = tmp_path / "out"
    farm.run("render", photos(tmp_path / "photos", 24), *styles, "--output", output, "--chunk-items", 3)

    items = json.loads((output / ".farm/report.json").read_text())["items"]
    assert set(results(output)) == {f"{name}/photo{n}.jpg" for name in names for n in range(1, 25)}
    rendered = {worker: {i["style"] for i in items if i["worker"] == worker} for worker in loads_before}
    assert all(rendered.values()), "both workers took part"

    def loads() -> dict[str, int]:
        return {w["id"]: w["loads"] - loads_before[w["id"]] for w in farm.workers()}

    wait_until(lambda: all(loads()[w] >= len(rendered[w]) for w in rendered), "the workers have reported")
    assert loads() == {worker: len(held) for worker, held in rendered.items()}


def test_several_inputs_of_each_form_keep_folders_and_names(
    farm: RealFarm, style: SeededStyle, tmp_path: Path
) -> None:
    """A nested folder with names that shells, globs and patterns trip over; a glob; a single file."""
    names = [
        "a b.jpg", "Ünï 漢字.jpg", "[x]*?.jpg", "-dash.jpg", "q'uote\".jpg", "{name}.jpg", "%41.jpg",
        "~x.jpg", "#1.jpg", "UPPER.JPG", "sub/photo.jpg", "sub/deeper still/photo.jpg",
    ]  # fmt: skip
    folder = tmp_path / "in [1]"
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        picture(12, 10, seed=number).save(folder / name, "JPEG")
    ignored = ["notes.txt", "line\nbreak.jpg", "back\\slash.jpg", "bytes\udcff.jpg"]
    for name in (*ignored, ".hidden.jpg", ".cache/photo.jpg"):
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy(folder / "a b.jpg", folder / name)
    more = photos(tmp_path / "more", 12, 10, 12)
    single = tmp_path / "-single.jpg"
    shutil.copy(folder / "a b.jpg", single)
    output = tmp_path / "the output"

    inputs = [folder, more / "photo1[0-2].jpg", more / "photo[!0-9]*", single]
    refused = farm.run("render", *inputs, "--style", style.name, "--output", output, check=False)
    assert refused.returncode == 2
    assert f"no file matches {more}/photo[!0-9]*" in refused.stderr
    assert not results(output)

    del inputs[2]
    done = farm.run("render", *inputs, "--style", style.name, "--output", output)
    assert set(results(output)) == {*names, "photo10.jpg", "photo11.jpg", "photo12.jpg", "-single.jpg"}
    assert "ignored    4 files" in done.stdout
    assert report_of(output)["ignored"]["count"] == 4
    for name, noted in zip(sorted(ignored), sorted(report_of(output)["ignored"]["names"]), strict=True):
        assert Path(noted).name.startswith(name.encode(errors="backslashreplace").decode())
    for name in ("notes.txt", "line\\nbreak.jpg", "back\\slash.jpg", "bytes\\udcff.jpg"):
        assert name in done.stdout
    farm.run("status")


def test_an_input_relative_to_the_working_folder_with_a_leading_dash(
    farm: RealFarm, style: SeededStyle, tmp_path: Path
) -> None:
    picture(12, 10).save(farm.home / "-dash.jpg")
    farm.run("render", "--style", style.name, "--output", tmp_path / "out", "--", "-dash.jpg")
    assert set(results(tmp_path / "out")) == {"-dash.jpg"}


def test_results_go_beside_the_input_where_no_output_is_named(
    farm: RealFarm, style: SeededStyle, tmp_path: Path
) -> None:
    folder = photos(tmp_path / "photos", 2)
    beside = tmp_path / f"photos-{style.name}"
    done = farm.run("render", folder, "--style", style.name)
    assert f"results    {beside}\n" in done.stdout
    assert f"results go to {beside}\n" in done.stderr
    assert set(results(beside)) == {"photo1.jpg", "photo2.jpg"}


def test_two_inputs_of_one_output_name_are_refused_and_both_are_named(
    farm: RealFarm, style: SeededStyle, tmp_path: Path
) -> None:
    folder, output = tmp_path / "photos", tmp_path / "out"
    folder.mkdir()
    for name in ("a.gif", "a.png", "b.png"):
        picture(12, 10).save(folder / name)
    for command in ("render", "submit"):
        done = farm.run(command, folder, "--style", style.name, "--output", output, check=False)
        assert done.returncode == 2
        error = next(line for line in done.stderr.splitlines() if line.startswith("error: "))
        assert str(folder / "a.gif") in error
        assert str(folder / "a.png") in error
    assert not results(output)
    apart = "{name}-{index}.{ext}"
    farm.run("render", folder, "--style", style.name, "--output", output, "--pattern", apart)
    assert set(results(output)) == {"a-1.png", "a-2.png", "b-3.png"}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["{photos}", "-o", "{photos}/out"], "lies inside the input"),
        (["{photos}", "-o", "{photos}"], "lies inside the input"),
        (["{photos}", "-o", "{photos}/../link/out"], "lies inside the input"),
        (["{photos}", "-o", "{out}", "-s", "no-such"], "there is no style 'no-such'"),
        (["{photos}/missing", "-o", "{out}"], "there is no file or folder {photos}/missing"),
        (["{photos}/*.png", "-o", "{out}"], "no file matches {photos}/*.png"),
        (["{empty}", "-o", "{out}"], "there is nothing in {empty}"),
        (["{photos}", "-o", "{file}/out"], "{file} is there and is no folder"),
        (["{photos}", "-o", "ftp://host/out"], "'ftp://host/out' is neither a path nor s3://bucket/prefix"),
    ],
)
def test_a_job_that_cannot_be_done_as_asked_is_one_line_with_a_hint(
    farm: RealFarm, style: SeededStyle, tmp_path: Path, options: list[str], says: str
) -> None:
    """The farm that runs refuses it; what it says is in the words of the options."""
    places = {name: str(tmp_path / name) for name in ("photos", "empty", "file", "out")}
    photos(tmp_path / "photos", 1)
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "photos")
    words = [option.format_map(places) for option in options]
    done = farm.run("render", *words, "--style", style.name, check=False)
    assert done.returncode == 2
    error, hint = done.stderr.splitlines()
    assert error.startswith(("error: INPUT: ", "error: --style: ", "error: --output: "))
    assert says.format_map(places) in error
    assert hint.startswith("hint: ")
    assert done.stdout == ""
    assert not (tmp_path / "out").exists()
    assert sorted(path.name for path in (tmp_path / "photos").iterdir()) == ["photo1.jpg"]
