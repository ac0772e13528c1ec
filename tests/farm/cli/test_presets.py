"""`farm presets`: what each recipe sets, and whether its loss network is there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from jobs.optimize import PRESETS
from tests.farm.cli.conftest import Cli
from tests.workers.nst.network_files import torchvision_state


def documents(cli: Cli, *args: str) -> list[dict[str, Any]]:
    result = cli("presets", *args, "--json")
    assert result.exit_code == 0, result.stderr
    presets = json.loads(result.stdout)["presets"]
    assert isinstance(presets, list)
    return presets


def test_every_preset_has_a_line(cli: Cli) -> None:
    lines = cli("presets").stdout.splitlines()[1:]
    assert [line.split()[0] for line in lines] == list(PRESETS)
    assert all("(not there)" in line for line in lines)


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_shows_all_its_keys_with_values(cli: Cli, name: str) -> None:
    (preset,) = documents(cli, name)
    assert preset["name"] == name
    shown = cli("presets", name).stdout
    for layer, weight in preset["settings"]["style_layers"].items():
        assert any(line.split() == [f"style_layers.{layer}", f"{weight:g}"] for line in shown.splitlines()), (
            layer
        )
    assert f"optimizer.kind           {preset['settings']['optimizer']['kind']}" in shown
    assert preset["summary"] in shown


def test_it_is_seen_whether_the_loss_network_is_there_and_of_which_family(cli: Cli, machine: Path) -> None:
    torch.save(torchvision_state(), machine / "w.pth")
    assert documents(cli, "crowson")[0]["loss_network"]["found"] is None
    assert cli("weights", "add", "vgg19", "w.pth", "--preprocessing", "caffe").exit_code == 0
    assert documents(cli, "crowson")[0]["loss_network"]["found"]["family"] == "caffe"
    assert "vgg19 (there, but of caffe)" in cli("presets", "crowson").stdout
    replaced = cli("weights", "add", "vgg19", "w.pth", "--preprocessing", "torchvision", "--replace")
    assert replaced.exit_code == 0
    shown = cli("presets", "crowson").stdout
    assert "loss network  vgg19, a vgg19 of torchvision" in shown


def test_presets_are_shown_for_a_farm_elsewhere_too(farm_cli: Cli) -> None:
    """Which networks it has is not known here, and nothing is said of it."""
    assert all("found" not in preset["loss_network"] for preset in documents(farm_cli))
    assert "not there" not in farm_cli("presets").stdout


def test_an_unknown_preset_is_a_usage_error_that_names_those_there_are(cli: Cli) -> None:
    result = cli("presets", "[dali]")
    assert result.exit_code == 2
    assert "[dali]" in result.stderr
    assert all(name in result.stderr for name in PRESETS)
