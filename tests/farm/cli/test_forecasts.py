"""`--dry-run`: what a job would do, with and without a farm."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from farm import folders
from farm.cli import styles
from farm.client import Farm
from jobs.library import NetworkEntry, StyleEntry
from tests.farm.cli.conftest import Cli
from tests.farm.cli.played import TOKEN, PlayedFarm
from workers.nst.speed import Speed


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


@pytest.mark.usefixtures("candy", "photos")
@pytest.mark.parametrize(("free_bytes", "told"), [(10, True), (10**9, False)])
def test_a_dry_run_says_if_the_disk_is_too_small(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, free_bytes: int, told: bool
) -> None:
    monkeypatch.setattr("jobs.storage.local.LocalStore.free_bytes", lambda _: free_bytes)
    result = cli("render", "photos", "-s", "candy", "--dry-run")
    assert result.exit_code == 0
    assert ("the output has 0.0 MB left" in result.stdout) is told


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


# --- an optimization, for real but for its tiny network --------------------------------------------


@pytest.fixture
def town(machine: Path) -> Path:
    """Return a folder with a picture and a painting, on a machine that has a narrow loss network."""
    from PIL import Image

    from workers.nst.features import seeded
    from workers.nst.loss_networks import NetworkMetadata, encode_loss_network

    data = encode_loss_network(seeded("vgg19", 2, 0), NetworkMetadata("vgg19", "torchvision"))
    library = styles.library()
    sha256 = library.put(data)
    entry = NetworkEntry("tiny", sha256, "vgg19", "torchvision", False, "relu5_4", len(data), 0.0)
    library.add_network(entry)
    for name, size in (("town.png", (160, 120)), ("night.png", (70, 90))):
        Image.new("RGB", size, "navy").save(machine / name)
    return machine


OPTIMIZE = ["town.png", "--style-image", "night.png", "--loss-network", "tiny", "--threads", "1"]


def test_an_optimization_is_told_scale_by_scale(
    cli: Cli, town: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("farm.local.up", lambda _=None: pytest.fail("a farm was started"))
    monkeypatch.setattr("workers.optimize_forecast._measured", lambda *_: Speed(64, 0.25))
    before = files_below(town.parent)
    options = ["--scales", "64:20,128:10", "--preset", "gatys", "--tile", "64", "--workers", "2"]
    result = cli("render", *OPTIMIZE, *options, "--dry-run")
    assert result.exit_code == 0, result.stderr
    assert files_below(town.parent) == before
    for part in (
        "town.png, 160x120 px; the result has 128x96 px",
        "night.png (100%)",
        "tiny: vgg19, torchvision, not the preset's own",
        "2 on cpu, fp32; memory needed",
        "64x48 px",
        "4: 2x2",
        "one evaluation of 64x64 px took 0.25 s",
    ):
        assert part in result.stdout
    document = json.loads(cli("render", *OPTIMIZE, *options, "--dry-run", "--json").stdout)
    (step,) = document["steps"]
    assert [(scale["width_px"], scale["iterations"]) for scale in step["scales"]] == [(64, 20), (128, 10)]
    assert step["seconds"] == step["seconds_in_all"] > 0
    assert step["scales"][0]["margin_px"] > 0
    assert any("not the preset's own" in note for note in document["notes"])


@pytest.mark.usefixtures("town")
@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--precision", "tf32"], "--precision: "),
        (["--size", "16"], "--size: "),
        (["--iterations", "1"], "--iterations: "),
        (["--device", "cuda"], "--device: "),
        (["--style-image", "missing.png"], "--style-image: "),
        (["--loss-network", "huge"], "--loss-network: "),
        (["--set", "style_layers={relu9_1: 1}"], "--set style_layers: "),
        (["--size", "65536", "--tile", "16384"], "--tile: "),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_done_is_said_of_its_option_before_any_work(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, options: list[str], said: str
) -> None:
    monkeypatch.setattr("workers.memory.device_bytes", lambda _: 8 << 30)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    result = cli("render", *OPTIMIZE, *options, "--dry-run")
    assert result.exit_code == 2
    error, _ = result.stderr.splitlines()
    assert error.startswith(f"error: {said}")


def test_a_farm_that_runs_says_what_it_has(
    cli: Cli, town: Path, played: PlayedFarm, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its workers and their memory count, not those of a farm that would be started."""
    monkeypatch.setattr("farm.client.find", lambda: Farm(played.url, TOKEN, here=True))
    monkeypatch.setattr("workers.optimize_forecast._measured", lambda *_: Speed(64, 0.25))
    worker = {"pid": 1, "node": "vm", "device": "cpu", "device_bytes": 6_000_000_000}
    played.on("GET", "/v1/workers", {"workers": [{"id": name, **worker} for name in ("w1", "w2")]})
    played.on("GET", "/v1/health", {"most_workers": 3})
    (step,) = json.loads(cli("render", *OPTIMIZE, "--dry-run", "--json").stdout)["steps"]
    assert (step["workers"], step["device_bytes"]) == (1, 3_000_000_000), "two share the memory"
    (step,) = json.loads(cli("render", *OPTIMIZE, "--workers", "3", "--dry-run", "--json").stdout)["steps"]
    assert (step["workers"], step["device_bytes"]) == (3, 2_000_000_000)
    result = cli("render", *OPTIMIZE, "--workers", "4", "--dry-run")
    assert result.exit_code == 2
    assert result.stderr.startswith("error: --workers: 4 workers at once")
    assert not town.joinpath("town-night").exists()
