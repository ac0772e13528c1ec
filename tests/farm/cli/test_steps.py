"""From options to the one step that they describe, without a manifest around it."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from farm.cli import steps
from farm.cli.render_options import RenderOptions
from jobs.errors import UsageError
from jobs.optimize_step import OptimizeStep

pytestmark = pytest.mark.usefixtures("machine")


def step_of(*, image: str = "painting.jpg", **said: Any) -> dict[str, Any]:
    return steps.step_of(RenderOptions(inputs=["photo.jpg"], style_image=[image], **said).given())


SAID: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"preset": "gatys"}, {"preset": "gatys"}),
    ({"loss_network": "mine"}, {"loss_network": "mine"}),
    ({"optimizer": "adam"}, {"optimizer": {"kind": "adam"}}),
    ({"size": 4096}, {"size_px": 4096}),
    ({"iterations": 500}, {"iterations": 500}),
    ({"smallest": 128}, {"smallest_px": 128}),
    ({"scales": "256:200, 512:100"}, {"scales": [
        {"size_px": 256, "iterations": 200}, {"size_px": 512, "iterations": 100}]}),
    ({"tile": 512}, {"tile_px": 512}),
    ({"save_every": 50}, {"save_every": 50}),
    ({"content_weight": 5.0}, {"content_weight": 5.0}),
    ({"style_weight": 100.0}, {"style_weight": 100.0}),
    ({"tv_weight": 0.0}, {"tv_weight": 0.0}),
    ({"style_scale": 1.5}, {"style_scale": {"factor": 1.5}}),
    ({"init": "noise"}, {"init": {"kind": "noise"}}),
    ({"init": "sketch.png"}, {"init": {"kind": "picture", "image": "{home}/sketch.png"}}),
    ({"init": "s3://b/start"}, {"init": {"kind": "picture", "image": "s3://b/start"}}),
    ({"colors": "yuv"}, {"colors": {"method": "yuv"}}),
    ({"seed": 7}, {"seed": 7}),
    ({"precision": "tf32"}, {"precision": "tf32"}),
    ({"threads": 2}, {"threads": 2}),
    ({"workers": "2"}, {"workers": {"min": 2, "max": 2}}),
    ({"workers": "2-4"}, {"workers": {"min": 2, "max": 4}}),
    ({"settings": ["optimizer.history=40", "stop.improvement=1e-3"]},
     {"optimizer": {"history": 40}, "stop": {"improvement": 1e-3}}),
    ({"optimizer": "lbfgs", "settings": ["optimizer.history=40"]},
     {"optimizer": {"kind": "lbfgs", "history": 40}}),
    ({"settings": ["style_layers={relu1_1: 1, relu2_1: 0.5}"]},
     {"style_layers": {"relu1_1": 1, "relu2_1": 0.5}}),
    ({"settings": ["keep_state=false"]}, {"keep_state": False}),
]  # fmt: skip


@pytest.mark.parametrize(("said", "wanted"), SAID, ids=str)
def test_every_option_of_an_optimization_is_a_key_of_its_step(
    machine: Path, said: dict[str, Any], wanted: dict[str, Any]
) -> None:
    if "init" in wanted and "image" in wanted["init"]:
        wanted = {"init": {**wanted["init"], "image": wanted["init"]["image"].format(home=machine)}}
    base = {
        "name": "render",
        "kind": "optimize",
        "inputs": ["photo.jpg"],
        "style_images": [{"image": str(machine / "painting.jpg")}],
    }
    assert step_of(**said) == base | wanted


def test_the_step_takes_every_value_that_the_options_above_give() -> None:
    for said, _ in SAID:
        step = step_of(**said)
        assert OptimizeStep.model_validate(step).model_fields_set >= step.keys(), said


def test_every_option_is_shown_above() -> None:
    own = {f.name for f in fields(RenderOptions)} & steps.STEP_FIELDS
    elsewhere = {"inputs", "style", "style_image", "style_weights", "max_size", "chunk_items"}
    shared = {"recursive", "pattern", "format", "quality", "max_megapixels", "device"}
    assert own - elsewhere - shared == {name for said, _ in SAID for name in said}


def test_paintings_have_absolute_paths_and_weights_in_their_order(machine: Path) -> None:
    options = RenderOptions(inputs=["p.jpg"], style_image=["a.jpg", "s3://b/b.jpg"], style_weights="75, 25")
    assert steps.step_of(options.given())["style_images"] == [
        {"image": str(machine / "a.jpg"), "weight": 75},
        {"image": "s3://b/b.jpg", "weight": 25},
    ]


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"style_weights": "1,2"}, "--style-weights: 2 weights for 1 paintings"),
    ({"style_weights": "much"}, "--style-weights: 'much'"),
    ({"scales": "256"}, "--scales: '256'"),
    ({"scales": "256:"}, "--scales: '256:'"),
    ({"scales": "256:10,"}, "--scales: ''"),
    ({"init": "nose"}, "--init: 'nose' is neither a kind nor a file, did you mean noise?"),
    ({"init": "picture"}, "--init: 'picture' is neither a kind nor a file"),
    ({"workers": "2-"}, "--workers: '2-'"),
    ({"workers": "-2"}, "--workers: '-2'"),
    ({"chunk_items": 5}, "--chunk-items goes with --style, not with --style-image"),
    ({"max_size": 5}, "--max-size goes with --style, not with --style-image"),
    ({"style": ["candy"]}, "--style renders with trained styles"),
    ({"settings": ["size_px"]}, "--set: 'size_px' is not KEY=VALUE"),
    ({"settings": ["=1"]}, "--set: '=1' is not KEY=VALUE"),
    ({"settings": ["a..b=1"]}, "--set: 'a..b=1' is not KEY=VALUE"),
    ({"settings": ["stop={"]}, "--set stop: '{' is no value"),
    ({"settings": ["kind=stylize"]}, "--set kind: kind is said already"),
    ({"settings": ["size_px=2"], "size": 3}, "--set size_px: size_px is said already"),
    ({"settings": ["seed=2", "seed=3"]}, "--set seed: seed is said already"),
    ({"settings": ["seed.deep=2"], "seed": 1}, "--set seed.deep: seed.deep is said already"),
]


@pytest.mark.parametrize(("said", "says"), WRONG, ids=str)
def test_what_does_not_fit_is_refused_by_the_name_of_its_option(said: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError) as refused:
        step_of(**said)
    assert refused.value.message.startswith(says)
    assert refused.value.hint


def test_options_of_an_optimization_without_a_painting_say_what_is_missing() -> None:
    options = RenderOptions(inputs=["photo.jpg"], preset="gatys", size=512)
    with pytest.raises(UsageError, match="--preset, --size without a painting") as refused:
        steps.step_of(options.given())
    assert "--style-image" in refused.value.hint


@pytest.mark.parametrize(
    ("place", "option"),
    [
        ("size_px", "--size"),
        ("scales[1].size_px", "--scales"),
        ("style_images[0].image", "--style-image"),
        ("style_images[1].weight", "--style-weights"),
        ("optimizer.kind", "--optimizer"),
        ("optimizer.history", "--set optimizer.history"),
        ("style_scale.factor", "--style-scale"),
        ("init.image", "--init"),
        ("workers.min", "--workers"),
        ("inputs[3]", "INPUT"),
        ("stop.loss", None),
    ],
)
def test_a_mistake_is_said_of_the_option_that_it_came_from(place: str, option: str | None) -> None:
    assert steps.option_of(place, {"settings": ["optimizer.history=1000"]}) == option
