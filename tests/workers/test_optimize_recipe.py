"""What a manifest says of a render is what the engine is given; what does not go together is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from jobs.errors import FarmError, UsageError
from jobs.optimize import PRESETS, AssetRef, OptimizePayload
from tests.workers.rendering import network_bytes
from workers.nst.color import ColorRule
from workers.nst.inits import Init
from workers.nst.lbfgs import LbfgsSettings
from workers.nst.loss_networks import NetworkMetadata
from workers.nst.multiscale import Scale, StyleSize
from workers.nst.optimizers import AdamSettings
from workers.nst.presets import preset
from workers.nst.stopping import Stopping
from workers.optimize_recipe import (
    check_network,
    color_of,
    is_own_network,
    network_note,
    read_network,
    recipe_of,
    scales_of,
    stopping_of,
)

ASSET = {"name": "n", "sha256": "0" * 64}


def payload(**said: Any) -> OptimizePayload:
    return OptimizePayload.model_validate({"styles": [ASSET], "network": ASSET, **said})


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_of_which_nothing_is_changed_is_the_preset(name: str) -> None:
    said = payload(preset=name)
    assert recipe_of(said) == preset(name)
    assert scales_of(said, recipe_of(said)) == preset(name).schedule.scales(512)


def test_every_choice_reaches_the_recipe() -> None:
    recipe = recipe_of(
        payload(
            preset="gatys",
            content_weight=2,
            style_weight=0,
            tv_weight=3,
            tv_form="squared",
            content_layers={"relu3_1": 1},
            style_layers={"relu1_1": 4},
            pooling="avg",
            style_blend="losses",
            average_decay=0.5,
            style_scale={"factor": 2, "size_px": 99, "match": "width", "enlarge": False},
            init={"kind": "uniform", "noise_blend": 0.25, "sigma": 0.5},
        )
    )
    assert (recipe.content_weight, recipe.style_weight, recipe.tv_weight, recipe.tv_form) == (
        2,
        0,
        3,
        "squared",
    )
    assert (recipe.content_layers, recipe.style_layers) == ({"relu3_1": 1}, {"relu1_1": 4})
    assert (recipe.pooling, recipe.blend, recipe.average_decay) == ("avg", "losses", 0.5)
    assert recipe.style_size == StyleSize("width", 2, 99, enlarge=False)
    assert recipe.init == Init("uniform", 0.5, 0.25)


def test_an_init_that_is_asked_for_has_no_noise_of_the_preset_in_it() -> None:
    assert recipe_of(payload(preset="anish", init={"kind": "content"})).init.noise_blend == 0
    noise = recipe_of(payload(preset="neural-style", init={"kind": "noise"})).init
    assert noise == preset("neural-style").init
    assert recipe_of(payload(init={"kind": "noise"})).init == Init("noise", 1.0)


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("kind", ["adam", "lbfgs"])
def test_any_preset_takes_either_optimizer(name: str, kind: str) -> None:
    """Of the same kind it stays the preset's; of another one it suits the range of the pixels."""
    recipe, base = recipe_of(payload(preset=name, optimizer={"kind": kind})), preset(name)
    if type(recipe.optimizer) is type(base.optimizer):
        assert recipe == base
    elif isinstance(recipe.optimizer, AdamSettings):
        assert recipe.optimizer.learning_rate == pytest.approx(0.02 * base.pixel_range)
        assert (recipe.optimizer.clamp, recipe.centered) == (base.pixel_range, False)
    else:
        assert recipe.optimizer == LbfgsSettings()
        assert recipe.centered


def test_settings_of_an_optimizer_without_its_kind_are_for_that_of_the_preset() -> None:
    optimizer = recipe_of(payload(optimizer={"history": 40, "line_search": "strong-wolfe"})).optimizer
    assert optimizer == LbfgsSettings(1.0, 40, "strong-wolfe", longest_move=0.1)
    adam = recipe_of(payload(preset="crowson", optimizer={"beta1": 0.0, "learning_rate": 0.1})).optimizer
    assert adam == AdamSettings(0.1, (0.0, 0.99), clamp=1.0, warm_start=True)
    clamped = recipe_of(payload(preset="anish", optimizer={"clamp": True}))
    assert isinstance(clamped.optimizer, AdamSettings)
    assert (clamped.optimizer.clamp, clamped.centered) == (255.0, False)
    no_search = {"preset": "inetwork", "optimizer": {"line_search": "none"}}
    assert recipe_of(payload(**no_search)).optimizer == LbfgsSettings(1.0, 10)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"optimizer": {"kind": "lbfgs", "beta1": 0.5}}, "optimizer: beta1 is not of lbfgs"),
        ({"optimizer": {"history": 5}, "preset": "crowson"}, "optimizer: history is not of adam"),
    ],
)
def test_what_does_not_go_together_is_refused_by_its_key(said: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        recipe_of(payload(**said))


def test_scales_are_those_that_are_said_or_a_ladder() -> None:
    explicit = [{"size_px": 100, "iterations": 7, "style_weight": 2}, {"size_px": 200, "iterations": 3}]
    said = payload(scales=explicit)
    assert scales_of(said, recipe_of(said)) == (Scale(100, 7, style=2), Scale(200, 3))
    ladder = payload(size_px=400, smallest_px=200, iterations=40)
    sizes = scales_of(ladder, recipe_of(ladder))
    assert [scale.longest_px for scale in sizes] == [200, 283, 400]
    assert sum(scale.iterations for scale in sizes) == 40
    one = payload(size_px=400, smallest_px=400)
    assert [scale.longest_px for scale in scales_of(one, recipe_of(one))] == [400]
    few = payload(size_px=4096, iterations=3)
    with pytest.raises(UsageError, match="iterations: 3 iterations for 11 scales"):
        scales_of(few, recipe_of(few))


def test_stopping_and_colors() -> None:
    stop = {"improvement": 0.01, "window": 5, "loss": 2, "seconds": 9}
    assert stopping_of(payload(stop=stop)) == Stopping(0.01, 5, 2, 9)
    assert stopping_of(payload()) == Stopping()
    extended = payload(stop=stop, extends={"job": "j", "iterations": [1]})
    assert stopping_of(extended) == Stopping(), "iterations that were asked for are done"
    assert color_of(payload()) is None
    assert color_of(payload(colors={"method": "hsv"})) == ColorRule("hsv", "after")


def test_a_network_that_lacks_a_layer_is_refused_by_the_key_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "net").write_bytes(network_bytes(convolutions=9))
    network, _ = read_network(tmp_path / "net", "short")
    ref = AssetRef(name="short", sha256="0" * 64)
    with pytest.raises(UsageError, match="style_layers: the file of the loss network short ends at relu4_1"):
        check_network(recipe_of(payload()), network, ref)
    shallow = {"style_layers": {"relu1_1": 1, "relu9_1": 0.0}, "content_layers": {"relu3_1": 1}}
    check_network(recipe_of(payload(**shallow)), network, ref)
    with pytest.raises(UsageError, match="content_layers: vgg19 has no layer 'relu9_1'"):
        check_network(recipe_of(payload(**shallow | {"content_layers": {"relu9_1": 1}})), network, ref)


def test_a_file_that_is_no_network_is_refused_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "net").write_bytes(b"no network")
    with pytest.raises(FarmError, match="the loss network mine cannot be loaded") as raised:
        read_network(tmp_path / "net", "mine")
    assert "farm weights add" in raised.value.hint


def test_the_note_on_a_network_says_whether_it_is_the_presets_own() -> None:
    default = preset("default")
    assert network_note(default, NetworkMetadata("vgg19", "torchvision")) == "vgg19 of torchvision"
    assert network_note(default, NetworkMetadata("vgg16", "caffe", channel_scaled=True)) == (
        "vgg16 of caffe, channels scaled, not the preset's own, vgg19 of torchvision"
    )


OUT_OF_BALANCE = ", whose activations its weights are for: style and content may be out of balance"


@pytest.mark.parametrize(
    ("name", "metadata", "note"),
    [
        ("gatys", NetworkMetadata("vgg19", "caffe"), "vgg19 of caffe"),
        (
            "gatys",
            NetworkMetadata("vgg19", "caffe", channel_scaled=True),
            f"vgg19 of caffe, channels scaled, not the preset's own, vgg19 of caffe as it is{OUT_OF_BALANCE}",
        ),
        (
            "crowson",
            NetworkMetadata("vgg19", "caffe"),
            f"vgg19 of caffe, not the preset's own, vgg19 of torchvision{OUT_OF_BALANCE}",
        ),
    ],
)
def test_a_preset_that_was_tuned_for_a_networks_activations_says_so_beside_another(
    name: str, metadata: NetworkMetadata, note: str
) -> None:
    """With Caffe's channels scaled to one, gatys hardly changes the photograph."""
    recipe = preset(name)
    assert network_note(recipe, metadata) == note
    assert is_own_network(recipe, metadata) is (note == "vgg19 of caffe")
