"""`farm weights`: without a farm that runs, on a library that is real."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torchvision.models import VGG19_Weights

from tests.farm.cli.conftest import Cli
from tests.workers.nst.network_files import NETWORK, gatys_state, named_by_hash, torchvision_state
from workers.nst.features import seeded


@pytest.fixture
def weights(machine: Path) -> Path:
    """Return a file of a very small VGG-19 with torchvision's keys."""
    path = machine / "tiny [v1].pth"
    torch.save(torchvision_state(), path)
    return path


def added(cli: Cli, *args: str) -> dict[str, Any]:
    result = cli("weights", "add", *args, "--json")
    assert result.exit_code == 0, result.stderr
    document = json.loads(result.stdout)
    assert isinstance(document, dict)
    return document


def listed(cli: Cli) -> list[dict[str, Any]]:
    networks = json.loads(cli("weights", "list", "--json").stdout)["networks"]
    assert isinstance(networks, list)
    return networks


def test_a_network_is_added_listed_and_removed(cli: Cli, weights: Path) -> None:
    assert listed(cli) == []
    made = added(cli, "vgg19-caffe", str(weights), "--preprocessing", "caffe")
    assert made.pop("added") is True
    assert (made["name"], made["architecture"], made["family"]) == ("vgg19-caffe", "vgg19", "caffe")
    assert (made["channel_scaled"], made["deepest_layer"], made["source"]) == (
        False,
        "relu5_4",
        "tiny [v1].pth",
    )
    assert listed(cli) == [made]
    shown = cli("weights", "list").stdout
    assert all(word in shown for word in ("vgg19-caffe", "relu5_4", "tiny [v1].pth", made["sha256"][:12]))
    assert cli("weights", "remove", "vgg19-caffe").exit_code == 0
    assert listed(cli) == []


def test_adding_the_same_again_succeeds_and_says_so(cli: Cli, weights: Path) -> None:
    command = ("weights", "add", "vgg19", str(weights), "--preprocessing", "torchvision")
    assert "was there already" not in cli(*command).stdout
    again = cli(*command)
    assert again.exit_code == 0
    assert "was there already" in again.stdout
    assert added(cli, *command[2:])["added"] is False


def test_another_network_of_that_name_needs_replace(cli: Cli, weights: Path, machine: Path) -> None:
    added(cli, "vgg19", str(weights), "--preprocessing", "torchvision")
    (before,) = listed(cli)
    refused = cli("weights", "add", "vgg19", str(weights), "--preprocessing", "caffe")
    assert refused.exit_code == 2
    assert "another loss network named 'vgg19'" in refused.stderr
    assert "--replace" in refused.stderr
    assert listed(cli) == [before]
    made = added(cli, "vgg19", str(weights), "--preprocessing", "caffe", "--replace")
    assert made["added"] is True
    assert [entry["sha256"] for entry in listed(cli)] == [made["sha256"]] != [before["sha256"]]


def test_channel_factors_and_architecture_can_be_said(cli: Cli, machine: Path) -> None:
    torch.save(torchvision_state(NETWORK.up_to(["relu2_1"])), machine / "early.pth")
    factors = {
        name: torch.ones(len(value))
        for name, value in ((key.removesuffix(".bias"), v) for key, v in torchvision_state().items())
        if value.dim() == 1
    }
    torch.save(factors, machine / "factors.pth")
    common = ("mine", "early.pth", "--preprocessing", "caffe", "--channel-scale", "factors.pth")
    assert "--architecture" in cli("weights", "add", *common).stderr
    made = added(cli, *common, "--architecture", "vgg16")
    assert (made["architecture"], made["channel_scaled"], made["deepest_layer"]) == ("vgg16", True, "relu2_1")


def test_keys_that_are_certain_need_no_preprocessing(cli: Cli, machine: Path) -> None:
    torch.save(gatys_state(), machine / "vgg_conv.pth")
    assert added(cli, "vgg19-caffe", "vgg_conv.pth")["family"] == "caffe"


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("vgg19", "missing.pth", "--preprocessing", "caffe"), "missing.pth"),
        (("vgg19", ".", "--preprocessing", "caffe"), "folder"),
        (("vgg19", "text.pth", "--preprocessing", "caffe"), "text.pth"),
        (("vgg19", "tiny [v1].pth"), "tiny [v1].pth"),
        (("vgg19", "tiny [v1].pth", "--preprocessing", "keras"), "keras"),
        (("vgg16", "tiny [v1].pth", "--preprocessing", "caffe"), "vgg16"),
        (("VGG 19", "tiny [v1].pth", "--preprocessing", "caffe"), "VGG 19"),
        (("vgg19", "tiny [v1].pth", "--preprocessing", "caffe", "--channel-scale", "x.pth"), "x.pth"),
    ],
)
def test_what_cannot_be_a_network_is_one_line_with_a_hint(
    cli: Cli, weights: Path, args: tuple[str, ...], said: str
) -> None:
    weights.with_name("text.pth").write_text("hello")
    result = cli("weights", "add", *args)
    assert result.exit_code == 2
    error, hint = result.stderr.splitlines()
    assert error.startswith("error: ")
    assert said in error
    assert hint.startswith("hint: ")
    assert listed(cli) == []


@pytest.fixture
def fetched(machine: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a file in torch's cache that torchvision takes for its VGG-19."""
    monkeypatch.setenv("TORCH_HOME", str(machine / "torch"))
    cache = machine / "torch" / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    file = named_by_hash(cache, "vgg19", torchvision_state())
    member = VGG19_Weights.IMAGENET1K_V1
    known = member.value
    url = f"http://nowhere.invalid/{file.name}"
    monkeypatch.setattr(member, "_value_", type(known)(url, known.transforms, known.meta))
    return file


def test_a_network_is_fetched_and_then_there(cli: Cli, fetched: Path) -> None:
    made = json.loads(cli("weights", "fetch", "vgg19", "--json").stdout)
    assert made["added"] is True
    assert (made["name"], made["family"], made["architecture"]) == ("vgg19", "torchvision", "vgg19")
    assert "torchvision" in made["source"]
    fetched.unlink()  # what is in the library is not looked for again
    again = cli("weights", "fetch", "vgg19")
    assert again.exit_code == 0
    assert "was there already" in again.stdout


def test_what_was_added_from_the_same_file_is_not_fetched_again(cli: Cli, fetched: Path) -> None:
    added(cli, "vgg19", str(fetched), "--preprocessing", "torchvision")
    fetched.unlink()
    assert "was there already" in cli("weights", "fetch", "vgg19").stdout


def test_a_taken_name_is_refused_before_anything_is_fetched(cli: Cli, fetched: Path, machine: Path) -> None:
    torch.save(torchvision_state(seeded("vgg19", 2, seed=5)), machine / "other.pth")
    added(cli, "vgg19", "other.pth", "--preprocessing", "torchvision")
    content = fetched.read_bytes()
    fetched.unlink()
    refused = cli("weights", "fetch", "vgg19")
    assert refused.exit_code == 2
    assert "--replace" in refused.stderr
    fetched.write_bytes(content)
    assert json.loads(cli("weights", "fetch", "vgg19", "--replace", "--json").stdout)["added"] is True


@pytest.mark.parametrize("command", [("remove", "[nothing]"), ("fetch", "[nothing]")])
def test_a_network_that_is_not_there_is_a_usage_error(cli: Cli, command: tuple[str, ...]) -> None:
    result = cli("weights", *command)
    assert result.exit_code == 2
    assert "[nothing]" in result.stderr


def test_networks_of_a_farm_elsewhere_are_not_mistaken_for_those_here(farm_cli: Cli) -> None:
    result = farm_cli("weights", "list")
    assert result.exit_code == 2
    assert "FARM_ADDRESS" in result.stderr


def test_the_weights_of_the_test_data_are_added_twice(cli: Cli, test_data: Path) -> None:
    """Scaled as `vgg19`, and as they are as `vgg19-caffe`."""
    folder = test_data / "vgg"
    common = (str(folder / "vgg19_features_caffe.fp16.pth"), "--preprocessing", "caffe")
    added(cli, "vgg19", *common, "--channel-scale", str(folder / "vgg19_channel_normaliser.pth"))
    added(cli, "vgg19-caffe", *common)
    assert [(entry["name"], entry["channel_scaled"]) for entry in listed(cli)] == [
        ("vgg19", True),
        ("vgg19-caffe", False),
    ]
