"""From options and manifest files to the jobs that are handed in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from farm import client
from farm.cli import connect
from farm.local import FarmOptions
from jobs.errors import NoFarmError
from tests.farm.cli.conftest import Cli
from tests.farm.cli.played import TOKEN, PlayedFarm, ended_job, make_job
from tests.jobs.test_manifest import BAD, with_value


def submitted(played: PlayedFarm) -> dict[str, Any]:
    """Return the manifest that was handed in, the only one."""
    (request,) = played.asked("POST", "/v1/jobs")
    manifest: dict[str, Any] = request.body["manifest"]
    return manifest


def given(document: dict[str, Any], wanted: dict[str, Any]) -> dict[str, Any]:
    """Return of a document what `wanted` speaks of."""
    return {
        key: given(document[key], v) if isinstance(v, dict) else document[key] for key, v in wanted.items()
    }


def test_submit_prints_the_id_alone_and_the_plan_beside(
    farm_cli: Cli, played: PlayedFarm, photos: Path
) -> None:
    played.on("POST", "/v1/jobs", make_job(state="planning", plan=None), status=201)
    played.has_job(make_job(state="planning", plan=None), make_job(notes=["about [this]"]))
    result = farm_cli("submit", str(photos), "--style", "candy")
    assert result.exit_code == 0
    assert result.stdout == "j7\n"
    assert "10 items in 3 tasks" in result.stderr
    assert "about [this]" in result.stderr
    assert "/renders/july" in result.stderr


def test_submit_says_why_planning_refused(farm_cli: Cli, played: PlayedFarm, photos: Path) -> None:
    played.on("POST", "/v1/jobs", make_job(state="planning"), status=201)
    played.has_job(ended_job("failed", reason="a.gif and a.png would both become a.png", plan=None))
    result = farm_cli("submit", str(photos), "--style", "candy")
    assert result.exit_code == 2, "it cannot be done as asked, like all that is refused at once"
    assert result.stderr.splitlines()[0] == "error: a.gif and a.png would both become a.png"


def test_submit_says_that_a_job_failed_at_once(farm_cli: Cli, played: PlayedFarm, photos: Path) -> None:
    played.on("POST", "/v1/jobs", make_job(state="planning"), status=201)
    played.has_job(ended_job("failed", 2, reason="2 items failed, more than max_failed: 1 allows"))
    result = farm_cli("submit", str(photos), "--style", "candy")
    assert result.exit_code == 4
    assert "more than max_failed" in result.stderr


def test_submit_json_is_the_job(farm_cli: Cli, played: PlayedFarm, photos: Path) -> None:
    played.on("POST", "/v1/jobs", make_job(), status=201)
    assert json.loads(farm_cli("submit", str(photos), "-s", "candy", "--json").stdout) == make_job()


def test_every_submission_has_a_token_of_its_own(farm_cli: Cli, played: PlayedFarm, photos: Path) -> None:
    played.on("POST", "/v1/jobs", make_job(), status=201)
    farm_cli("submit", str(photos), "-s", "candy")
    farm_cli("submit", str(photos), "-s", "candy")
    first, second = (request.body["client_token"] for request in played.asked("POST", "/v1/jobs"))
    assert first != second


def test_without_options_the_manifest_says_its_own_defaults(
    farm_cli: Cli, played: PlayedFarm, photos: Path
) -> None:
    """Results go beside the input, the job is called after both, and the user is the one of the system."""
    played.on("POST", "/v1/jobs", make_job(), status=201)
    farm_cli("submit", "photos", "-s", "candy")
    wanted = {
        "version": 1,
        "name": "photos-candy",
        "user": "ada",
        "output": f"{photos}-candy",
        "priority": 50,
        "tier": "default",
        "on_existing": "fail",
        "max_failed": None,
    }
    manifest = submitted(played)
    assert given(manifest, wanted) == wanted
    (step,) = manifest["steps"]
    assert step["inputs"] == [str(photos)]
    assert step["styles"] == ["candy"]
    assert step["max_megapixels"] == 400


OPTIONS: list[tuple[list[str], dict[str, Any]]] = [
    (["--output", "out"], {"output": "{home}/out"}),
    (["--output", "s3://b/p"], {"output": "s3://b/p"}),
    (["--priority", "7"], {"priority": 7}),
    (["--tier", "rush"], {"tier": "rush"}),
    (["--user", "eve"], {"user": "eve"}),
    (["--name", "[july] renders"], {"name": "[july] renders"}),
    (["--max-failed", "3"], {"max_failed": 3}),
    (["--max-failed", "5%"], {"max_failed": "5%"}),
    (["--on-existing", "rename"], {"on_existing": "rename"}),
    (["--s3-endpoint-url", "http://127.0.0.1:8333"], {"s3": {"endpoint_url": "http://127.0.0.1:8333"}}),
    (["--s3-region", "eu-1"], {"s3": {"region": "eu-1"}}),
    (["--s3-profile", "renders"], {"s3": {"profile": "renders"}}),
    (["--s3-path-style"], {"s3": {"path_style": True}}),
    (["--no-s3-path-style"], {"s3": {"path_style": False}}),
]
STEP_OPTIONS: list[tuple[list[str], dict[str, Any]]] = [
    (["--style", "mosaic"], {"styles": ["candy", "mosaic"]}),
    (["--no-recursive"], {"recursive": False}),
    (["--pattern", "{style}/{name}.{ext}"], {"pattern": "{style}/{name}.{ext}"}),
    (["--format", "png"], {"format": "png"}),
    (["--quality", "80"], {"quality": 80}),
    (["--max-size", "1024"], {"max_size_px": 1024}),
    (["--max-megapixels", "2.5"], {"max_megapixels": 2.5}),
    (["--precision", "bf16"], {"precision": "bf16"}),
    (["--device", "cpu"], {"device": "cpu"}),
    (["--threads", "2"], {"threads": 2}),
    (["--chunk-items", "5"], {"chunk": {"items": 5}}),
    (["--workers", "1"], {"workers": {"min": 1, "max": 1}}),
    (["--set", "chunk.seconds=1e1"], {"chunk": {"seconds": 10}}),
]


@pytest.mark.parametrize(("options", "wanted"), OPTIONS, ids=" ".join)
def test_every_option_of_the_job_reaches_the_manifest(
    farm_cli: Cli, played: PlayedFarm, photos: Path, options: list[str], wanted: dict[str, Any]
) -> None:
    played.on("POST", "/v1/jobs", make_job(), status=201)
    assert farm_cli("submit", "photos", "-s", "candy", *options).exit_code == 0
    wanted = json.loads(json.dumps(wanted).replace("{home}", str(photos.parent)))
    assert given(submitted(played), wanted) == wanted


@pytest.mark.usefixtures("photos")
@pytest.mark.parametrize(("options", "wanted"), STEP_OPTIONS, ids=" ".join)
def test_every_option_of_the_step_reaches_the_manifest(
    farm_cli: Cli, played: PlayedFarm, options: list[str], wanted: dict[str, Any]
) -> None:
    played.on("POST", "/v1/jobs", make_job(), status=201)
    assert farm_cli("submit", "photos", "-s", "candy", *options).exit_code == 0
    (step,) = submitted(played)["steps"]
    assert given(step, wanted) == wanted


def test_a_render_for_a_painting_is_handed_in_whole(
    farm_cli: Cli, played: PlayedFarm, photos: Path, machine: Path
) -> None:
    """With paths that hold anywhere, a name of picture and painting, and a folder beside the picture."""
    played.on("POST", "/v1/jobs", make_job(), status=201)
    options = ["--scales", "64:20,128:10", "--workers", "2", "--init", "start.png", "--set", "stop.loss=0.5"]
    assert farm_cli("submit", "photos/a.jpg", "--style-image", "art/night.v2.jpg", *options).exit_code == 0
    manifest = submitted(played)
    assert (manifest["name"], manifest["output"]) == ("a-night.v2", f"{photos}/a-night.v2")
    (step,) = manifest["steps"]
    assert [style["image"] for style in step["style_images"]] == [f"{machine}/art/night.v2.jpg"]
    wanted = {
        "kind": "optimize",
        "inputs": [f"{photos}/a.jpg"],
        "size_px": 128,
        "workers": {"min": 2, "max": 2},
        "init": {"kind": "picture", "image": f"{machine}/start.png"},
        "stop": {"loss": 0.5},
    }
    assert given(step, wanted) == wanted


@pytest.mark.parametrize("stem", ["画" * 78, " blank"])
def test_a_file_of_any_name_gives_a_job_a_name(
    farm_cli: Cli, played: PlayedFarm, photos: Path, stem: str
) -> None:
    played.on("POST", "/v1/jobs", make_job(), status=201)
    photo = (photos / "a.jpg").rename(photos / f"{stem}.jpg")
    farm_cli("submit", str(photo), "--style", "candy")
    name = submitted(played)["name"]
    assert name.endswith(f"{stem[-1]}-candy")
    assert len(name.encode()) <= 80
    assert name == name.strip()


@pytest.mark.parametrize(("place", "value", "says"), BAD, ids=lambda value: str(value)[:40])
def test_a_wrong_value_in_a_manifest_is_one_line_with_its_place_and_a_hint(
    farm_cli: Cli, played: PlayedFarm, machine: Path, place: str, value: Any, says: str
) -> None:
    (machine / "job.json").write_text(json.dumps(with_value(place, value)))
    result = farm_cli("render", "job.json")
    assert result.exit_code == 2
    assert not played.requests, "nothing wrong is handed in"
    error, hint = result.stderr.splitlines()
    assert error.startswith(f"error: {says}")
    assert hint.startswith("hint: ")
    assert result.stdout == ""


def test_all_mistakes_are_said_at_once(farm_cli: Cli) -> None:
    result = farm_cli("render", "photos", "-s", "candy", "--quality", "0", "--threads", "0")
    assert [line.split(":")[1].strip() for line in result.stderr.splitlines()[:2]] == [
        "--quality",
        "--threads",
    ]


@pytest.mark.parametrize("command", ["render", "submit"])
def test_a_job_needs_an_input_and_a_style(farm_cli: Cli, command: str) -> None:
    assert "INPUT" in farm_cli(command).stderr
    result = farm_cli(command, "photos")
    assert result.exit_code == 2
    assert "--style" in result.stderr


def test_what_the_farm_refuses_is_said_in_the_words_of_the_options(
    farm_cli: Cli, played: PlayedFarm, photos: Path
) -> None:
    message = (
        "steps[0].styles[1]: there is no style 'cand'\nsteps[0].inputs[0]: no such folder\nother: wrong\n"
        "steps[0]: quality: too low\nsteps[0]: it is in vain: sorry"
    )
    played.refuse("POST", "/v1/jobs", "ManifestError", message, status=422)
    result = farm_cli("render", str(photos), "-s", "candy", "-s", "cand")
    assert result.exit_code == 2
    assert result.stderr.splitlines()[:-1] == [
        "error: --style: there is no style 'cand'",
        "error: INPUT: no such folder",
        "error: other: wrong",
        "error: --quality: too low",
        "error: it is in vain: sorry",
    ]


MANIFEST = """
version: 1
name: from-file
steps:
  - {name: render, kind: stylize, inputs: [../photos, 's3://bucket/in'], styles: [candy]}
"""


@pytest.fixture
def manifest_file(photos: Path) -> Path:
    path = photos.parent / "manifests" / "job.yaml"
    path.parent.mkdir()
    path.write_text(MANIFEST)
    return path


def test_a_manifest_file_is_handed_in_with_its_paths_beside_it(
    farm_cli: Cli, played: PlayedFarm, manifest_file: Path, photos: Path
) -> None:
    played.on("POST", "/v1/jobs", make_job(), status=201)
    assert farm_cli("submit", str(manifest_file)).exit_code == 0
    manifest = submitted(played)
    assert manifest["steps"][0]["inputs"] == [str(photos), "s3://bucket/in"]
    assert manifest["user"] == "ada"
    assert manifest["output"] == f"{photos}-candy"


def test_options_about_the_whole_job_replace_what_the_manifest_says(
    farm_cli: Cli, played: PlayedFarm, manifest_file: Path, photos: Path
) -> None:
    played.on("POST", "/v1/jobs", make_job(), status=201)
    manifest_file.write_text(f"{MANIFEST}output: /elsewhere\ns3: {{region: eu-1, profile: a}}\n")
    farm_cli("submit", str(manifest_file), "--output", "out", "--name", "mine", "--s3-profile", "b")
    wanted = {"output": f"{photos.parent}/out", "name": "mine", "s3": {"region": "eu-1", "profile": "b"}}
    assert given(submitted(played), wanted) == wanted


@pytest.mark.parametrize("options", [["--style", "candy"], ["--quality", "80"], ["more.jpg"]])
def test_options_about_pictures_do_not_go_with_a_manifest(
    farm_cli: Cli, manifest_file: Path, options: list[str]
) -> None:
    result = farm_cli("submit", str(manifest_file), *options)
    assert result.exit_code == 2
    assert "manifest" in result.stderr


@pytest.mark.parametrize(
    "text",
    ["", "[1, 2]", "{", "version: 2", "version: 1\nname: x\nsteps: []", "version: 1\nversion: 1", "\x00"],
)
def test_a_wrong_manifest_is_said_with_its_places(farm_cli: Cli, manifest_file: Path, text: str) -> None:
    manifest_file.write_text(text)
    result = farm_cli("render", str(manifest_file))
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")


def test_a_manifest_that_is_not_there_is_a_usage_error(farm_cli: Cli) -> None:
    result = farm_cli("render", "missing.yaml")
    assert result.exit_code == 2
    assert "missing.yaml" in result.stderr


def test_wrong_things_are_said_before_a_farm_is_started(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("farm.local.up", lambda: pytest.fail("a farm was started"))
    result = cli("render", "missing-folder", "-s", "missing-style")
    assert result.exit_code == 2
    assert "INPUT: " in result.stderr
    assert "--style: " in result.stderr


def test_a_farm_that_ends_itself_at_that_moment_is_started_again(
    cli: Cli, played: PlayedFarm, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "FIRST_PATIENCE_S", 0.0)
    played.on("POST", "/v1/jobs", make_job(), status=201)
    farms = [client.Farm("http://127.0.0.1:1", TOKEN, here=True)] * 2
    monkeypatch.setattr(client, "find", lambda: farms.pop() if farms else None)
    monkeypatch.setattr(connect, "start", lambda _: client.Farm(played.url, TOKEN, here=True))
    assert cli("submit", str(photos), "-s", "candy").stdout == "j7\n"


@pytest.mark.usefixtures("machine")
def test_a_farm_that_is_started_has_room_for_the_workers_of_one_picture(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else a farm of this machine would start with one worker and refuse the picture."""
    asked: list[FarmOptions | None] = []

    def up(options: FarmOptions | None) -> None:
        asked.append(options)
        raise NoFarmError("this is as far as it goes")

    monkeypatch.setattr("farm.local.up", up)
    for together in (2, 1):
        with pytest.raises(NoFarmError):
            connect.start(together)
    assert asked == [FarmOptions(max_workers=2), None]
