"""`farm train`: from options to the step, what is refused, what it shows, and where the style goes."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from farm.cli import steps, styles
from farm.cli.train_options import TrainOptions
from jobs import train_step
from jobs.library import NetworkEntry, StyleEntry
from jobs.manifest import load_manifest
from jobs.steps import StepKind, step_kinds
from jobs.train_step import TrainStep
from tests.farm.cli.conftest import Cli
from tests.farm.cli.played import PlayedFarm, ended_job, make_job


@pytest.fixture(autouse=True)
def _unexamined(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a training be checked without the kind of work, which would load torch to look at it."""
    step_kinds()
    kind = StepKind("train", TrainStep, train_step.plan, train_step.check, makes_style=True)
    monkeypatch.setitem(__import__("jobs.steps", fromlist=["_KINDS"])._KINDS, "train", kind)


@pytest.fixture
def data(machine: Path) -> Path:
    """A folder of twenty photographs and a painting in the home of the user."""
    folder = machine / "train2014"
    folder.mkdir()
    for number in range(20):
        (folder / f"{number}.jpg").write_bytes(b"only listed, never opened here")
    (machine / "wave.jpg").write_bytes(b"a painting")
    return folder


@pytest.fixture
def vgg19(machine: Path) -> None:
    """Give the library of this machine the loss network of the default preset."""
    library = styles.library()
    sha256 = library.put(b"weights")
    library.add_network(NetworkEntry("vgg19", sha256, "vgg19", "torchvision", False, "relu5_4", 7, 0.0))


# --- from options to the step -----------------------------------------------------------------------


def step_of(**said: Any) -> dict[str, Any]:
    asked = {"style_image": ["wave.jpg"], "name": "wave", **said}
    return steps.step_of(TrainOptions(inputs=["photos"], **asked).given())


SAID: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"preset": "lengstrom"}, {"preset": "lengstrom"}),
    ({"loss_network": "mine"}, {"loss_network": "mine"}),
    ({"network": "slim16"}, {"network": "slim16"}),
    ({"steps": 200}, {"steps": 200}),
    ({"batch": 8}, {"batch": 8}),
    ({"crop": 128}, {"crop_px": 128}),
    ({"style_size": 0}, {"style_size_px": 0}),
    ({"content_weight": 5.0}, {"content_weight": 5.0}),
    ({"style_weight": 100.0}, {"style_weight": 100.0}),
    ({"tv_weight": 0.0}, {"tv_weight": 0.0}),
    ({"learning_rate": 0.01}, {"optimizer": {"learning_rate": 0.01}}),
    ({"precision": "bf16"}, {"precision": "bf16"}),
    ({"seed": 7}, {"seed": 7}),
    ({"begin_with": "candy"}, {"begin_with": "candy"}),
    ({"test_image": ["me.jpg", "you.jpg"]}, {"test_images": ["me.jpg", "you.jpg"]}),
    ({"validation": 0}, {"validation": {"pictures": 0}}),
    ({"checkpoint_steps": 50}, {"checkpoint": {"steps": 50}}),
    ({"license": "CC0", "source": "Hokusai"}, {"license": "CC0", "source": "Hokusai"}),
    ({"onnx": True}, {"onnx": True}),
    ({"replace": True}, {"replace": True}),
    ({"recursive": False}, {"recursive": False}),
    ({"device": "cpu"}, {"device": "cpu"}),
    ({"threads": 2}, {"threads": 2}),
    ({"workers": "2-4"}, {"workers": {"min": 2, "max": 4}}),
    ({"settings": ["crop=center", "optimizer.decay_every=2000"], "learning_rate": 0.1},
     {"crop": "center", "optimizer": {"learning_rate": 0.1, "decay_every": 2000}}),
]  # fmt: skip


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize(("said", "wanted"), SAID, ids=str)
def test_every_option_is_a_key_of_the_step(said: dict[str, Any], wanted: dict[str, Any]) -> None:
    made = step_of(**said)
    assert {key: made[key] for key in wanted} == wanted
    load_manifest({"version": 1, "name": "j", "steps": [made]})


@pytest.mark.usefixtures("machine")
def test_every_option_about_the_step_is_shown_above() -> None:
    shown = {field for said, _ in SAID for field in said} | {"inputs", "style_image", "name", "style_weights"}
    about_the_job = {"output", "on_existing", "priority", "tier", "user", "max_failed"}
    can_be_said = {f.name for f in fields(TrainOptions)} - TrainOptions.LEFT_OUT
    assert {name for name in can_be_said if not name.startswith("s3_")} == shown | about_the_job


@pytest.mark.usefixtures("machine")
def test_paintings_have_weights_in_their_order(machine: Path) -> None:
    made = step_of(style_image=["a.jpg", "b.jpg"], style_weights="75,25")
    assert made["style_images"] == [
        {"image": f"{machine}/a.jpg", "weight": 75.0},
        {"image": f"{machine}/b.jpg", "weight": 25.0},
    ]


WAVE = ("--style-image", "wave.jpg", "--name", "w")

# --- what is refused --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "line"),
    [
        (["--name", "wave"], "no painting is named"),
        (["--style-image", "wave.jpg"], "the style has no name"),
        (["--style-image", "wave.jpg", "--name", "The Wave"], "--name: 'The Wave' cannot be the name of"),
        (["--style-image", "no.jpg", "--name", "wave"], "--style-image: there is no file"),
        (["--style-image", "wave.jpg", "--name", "candy"], "--name: there is another style named 'candy'"),
        ([*WAVE, "--crop", "30"], "--crop: 30 is no multiple of 4"),
        ([*WAVE, "--batch", "13"], "--batch: 13 pictures a step, and"),
        ([*WAVE, "--validation", "20"], "--validation: 20 pictures are"),
        ([*WAVE, "--begin-with", "cand"], "--begin-with: there is no st"),
        ([*WAVE, "--preset", "pytorch-examples"], "--loss-network: there is"),
        ([*WAVE, "--set", "pyramid.levels=0"], "--set pyramid.levels: 0"),
        ([*WAVE, "--set", "steps=x"], "--set steps: 'x' is not a whole"),
    ],
    ids=str,
)
@pytest.mark.parametrize("dry", [True, False])
@pytest.mark.usefixtures("vgg19")
def test_mistakes_are_one_line_in_the_words_of_the_options(
    cli: Cli, data: Path, monkeypatch: pytest.MonkeyPatch, args: list[str], line: str, dry: bool
) -> None:
    """They are told before a farm is started for it."""
    monkeypatch.setattr("farm.local.up", lambda _=None: pytest.fail("a farm was started"))
    library = styles.library()
    library.add_style(StyleEntry("candy", library.put(b"candy"), "stylefarm", 32, 5, 0.0))
    result = cli("train", str(data), *args, *(["--dry-run"] if dry else []))
    assert result.exit_code == 2
    (error, *_) = result.stderr.splitlines()
    assert error.startswith(f"error: {line}")
    assert not Path(f"{data}-wave-style").exists()


@pytest.mark.usefixtures("vgg19")
def test_data_that_is_not_there_is_named(cli: Cli, data: Path, machine: Path) -> None:
    (machine / "empty").mkdir()
    for place, line in (("nothing", "there is no file or folder"), ("empty", "there is nothing in")):
        result = cli("train", place, "--style-image", "wave.jpg", "--name", "wave", "--dry-run")
        assert result.exit_code == 2
        assert result.stderr.splitlines()[0] == f"error: DATA: {line} {machine / place} (check the path)"


def test_the_command_that_gets_a_missing_network_is_named(cli: Cli, data: Path) -> None:
    result = cli("train", str(data), "--style-image", "wave.jpg", "--name", "wave", "--dry-run")
    assert result.exit_code == 2
    for part in ("--loss-network: there is no loss network 'vgg19'", "farm weights fetch vgg19"):
        assert part in result.stderr


def test_a_manifest_stands_alone(cli: Cli, machine: Path) -> None:
    (machine / "job.yaml").write_text("version: 1\nname: j\nsteps: []\n")
    result = cli("train", "job.yaml", "--name", "wave", "--style-image", "wave.jpg")
    assert result.exit_code == 2
    assert "--style-image cannot be combined with a manifest" in result.stderr


# --- what is handed in, and what is shown -----------------------------------------------------------


def test_a_training_is_handed_in_with_defaults_for_all_the_rest(
    farm_cli: Cli, played: PlayedFarm, data: Path, machine: Path
) -> None:
    played.on("POST", "/v1/jobs", make_job(state="planning"), status=201)
    played.has_job(ended_job())
    result = farm_cli("train", "train2014", "--style-image", "wave.jpg", "--name", "wave", "--steps", "200")
    assert result.exit_code == 0
    (request,) = played.asked("POST", "/v1/jobs")
    manifest = request.body["manifest"]
    assert (manifest["name"], manifest["output"]) == ("wave", f"{data}-wave-style")
    (step,) = manifest["steps"]
    assert (step["name"], step["kind"], step["style"], step["steps"]) == ("train", "train", "wave", 200)
    assert step["data"] == [str(data)]
    assert step["style_images"][0]["image"] == f"{machine}/wave.jpg"
    assert step["network"] == "reference"


@pytest.mark.parametrize(("state", "code"), [("completed", 0), ("completed with errors", 3), ("canceled", 5)])
def test_the_end_says_what_was_trained_and_where_everything_is(
    farm_cli: Cli, played: PlayedFarm, data: Path, state: str, code: int
) -> None:
    made = {
        "output": "/renders/july/wave.safetensors", "kind": "train", "style": "wave", "state": "done",
        "preset": "default", "steps": 200, "loss": 1.25, "validation_loss": 1.5, "seconds": 90.0,
    }  # fmt: skip
    running = {
        "task": 7, "state": "leased", "workers": ["w1"], "fraction": 0.25, "item": "wave.safetensors",
        "message": "step 50 of 200", "scale": 0, "loss": 2.5, "validation_loss": 3.0,
        "preview": "previews/wave.jpg",
    }  # fmt: skip
    played.on("POST", "/v1/jobs", make_job(), status=201)
    played.has_job(*[make_job(running=[running])] * 2, ended_job(state, renders=[made]))
    result = farm_cli("train", str(data), "--style-image", "wave.jpg", "--name", "wave")
    assert result.exit_code == code
    seen = "wave.safetensors: 25 %, step 50 of 200, loss 2.5, 3 on pictures held out"
    assert seen in result.stderr
    assert result.stderr.count("to look at: /renders/july/.farm/jobs/j7/previews/wave.jpg") == 1
    told = "preset default, 200 steps, loss 1.25, 1.5 on pictures held out, 1 min 30 s"
    assert f"style wave, /renders/july/wave.safetensors: {told}" in result.stdout
    for part in (
        "/renders/july",
        "/renders/july/.farm/jobs/j7/previews",
        "/renders/july/.farm/jobs/j7/traces",
    ):
        assert part in result.stdout


def test_json_is_the_ended_job_alone(farm_cli: Cli, played: PlayedFarm, data: Path) -> None:
    played.on("POST", "/v1/jobs", make_job(), status=201)
    played.has_job(ended_job())
    out = farm_cli("train", str(data), "--style-image", "wave.jpg", "--name", "wave", "--json").stdout
    assert json.loads(out) == ended_job()


def test_it_can_be_left_to_the_farm(farm_cli: Cli, played: PlayedFarm, data: Path) -> None:
    played.on("POST", "/v1/jobs", make_job(), status=201)
    played.has_job(make_job())
    result = farm_cli("train", str(data), "--style-image", "wave.jpg", "--name", "wave", "--no-wait")
    assert (result.exit_code, result.stdout) == (0, "j7\n")


# --- dry runs ---------------------------------------------------------------------------------------


@pytest.mark.usefixtures("vgg19")
def test_a_dry_run_says_what_would_be_trained_and_writes_nothing(cli: Cli, data: Path, machine: Path) -> None:
    before = {path for path in machine.parent.rglob("*") if path.is_file()}
    args = ("train", str(data), "--style-image", "wave.jpg", "--name", "wave", "--steps", "200", "--dry-run")
    result = cli(*args)
    assert result.exit_code == 0, result.stderr
    for part in (
        f"{data}-wave-style",
        "train (train)",
        "wave, a file of about 6.7 MB",
        "wave.jpg (100%)",
        "12 pictures to train on, 8 held out to judge by",
        "200 steps of 4 pictures of 256x256 px",
        "vgg19",
        "a guess for a few CPU cores",
    ):
        assert part in result.stdout
    (step,) = json.loads(cli(*args, "--json").stdout)["steps"]
    assert (step["training"]["pictures"], step["training"]["held_out"]) == (12, 8)
    assert {path for path in machine.parent.rglob("*") if path.is_file()} == before


@pytest.mark.usefixtures("vgg19")
def test_a_dry_run_plans_what_does_not_wait_for_a_style(cli: Cli, data: Path, machine: Path) -> None:
    manifest = {
        "version": 1,
        "name": "styles",
        "output": "out",
        "steps": [
            {
                "name": "train-wave",
                "kind": "train",
                "data": ["train2014"],
                "style": "wave",
                "style_images": ["wave.jpg"],
            },
            {
                "name": "render",
                "kind": "stylize",
                "inputs": ["train2014"],
                "styles": [{"from": "train-wave"}],
            },
        ],
    }
    (machine / "job.json").write_text(json.dumps(manifest))
    result = cli("submit", "job.json", "--dry-run")
    assert result.exit_code == 0, result.stderr
    assert "2000 steps of 4 pictures" in result.stdout
    assert "made when train-wave is done" in result.stdout
