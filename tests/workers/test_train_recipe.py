"""What a manifest says of a training reaches the engine; what it leaves out is the preset's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from jobs.train import TrainPayload
from tests.workers.studying import School
from workers.nst.training_data import CropRule, Pick, crop
from workers.nst.training_presets import PRESETS, training_preset
from workers.train_recipe import fingerprint, painting_size, recipe_of, sized_painting

BARE = ("network", "steps", "batch", "crop_px", "style_layers", "content_layers")


@pytest.fixture
def school(tmp_path: Path) -> School:
    return School(tmp_path)


def payload(school: School, **said: Any) -> TrainPayload:
    rest = {key: value for key, value in school.payload().items() if key not in BARE}
    return TrainPayload.model_validate({**rest, **said})


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_taken_as_it_is(school: School, name: str) -> None:
    """With the rate that it has for the width of the network."""
    for network, width in (("slim16", 16), ("reference", 32)):
        recipe = recipe_of(payload(school, preset=name, network=network))
        assert recipe == training_preset(name).for_width(width)


def test_all_that_is_said_counts(school: School) -> None:
    recipe = recipe_of(
        payload(
            school,
            preset="texture-nets",
            steps=70,
            batch=3,
            crop_px=64,
            resize_px=101,
            style_size_px=300,
            content_layers={"relu1_1": 2.0},
            style_layers={"relu2_1": 3.0},
            content_weight=4.0,
            style_weight=5.0,
            tv_weight=6.0,
            style_target="mean",
            pyramid={"levels": 2, "decay": 0.5},
            optimizer={"learning_rate": 0.01, "decay_every": 9, "decay_factor": 0.25},
        )
    )
    assert (recipe.steps, recipe.batch, recipe.style_size_px) == (70, 3, 300)
    assert (recipe.content_layers, recipe.style_layers) == ({"relu1_1": 2.0}, {"relu2_1": 3.0})
    assert (recipe.content_weight, recipe.style_weight, recipe.tv_weight) == (4.0, 5.0, 6.0)
    assert (recipe.style_target, recipe.pyramid_levels, recipe.pyramid_decay) == ("mean", 2, 0.5)
    assert (recipe.learning_rate, recipe.decay_every, recipe.decay_factor) == (0.01, 9, 0.25)
    assert (recipe.crop.side_px, recipe.crop.kind) == (64, "random")


def test_nothing_is_said_by_zero(school: School) -> None:
    recipe = recipe_of(payload(school, preset="texture-nets", style_size_px=0, optimizer={"decay_every": 0}))
    assert (recipe.style_size_px, recipe.decay_every) == (None, None)


@pytest.mark.parametrize("resize_px", [16, 17, 29, 31, 44])
def test_random_crops_are_of_at_most_the_size_that_was_said(school: School, resize_px: int) -> None:
    """One corner of the largest crop lies where that of the picture at this size does."""
    rule = recipe_of(payload(school, crop_px=16, resize_px=resize_px)).crop
    ramp = torch.arange(100, dtype=torch.uint8).repeat(100, 1)[..., None].repeat(1, 1, 3)
    got = crop(ramp, rule, Pick(0, 1.0, 1.0, 0.0))
    same = CropRule(resize_px, "center")
    assert torch.equal(got, crop(ramp, same, Pick(0, 1.0, 0.5, 0.5))[:, :16, -16:])


def test_extensions_add_steps(school: School) -> None:
    said = payload(school, steps=10, extends={"job": "j", "steps": [5, 6]})
    assert recipe_of(said).steps == 21
    assert fingerprint(said) == fingerprint(payload(school, steps=10))
    assert fingerprint(said) != fingerprint(payload(school, steps=10, seed=2))


def test_paintings_are_sized_and_cropped(school: School) -> None:
    recipe = recipe_of(payload(school, style_size_px=20))
    assert painting_size(recipe, (100, 50), None) == (20, 10)
    assert painting_size(recipe, (100, 50), "center") == (20, 20)
    assert painting_size(recipe, (12, 16), None) == (12, 16), "never enlarged"
    halves = torch.zeros(100, 50, 3, dtype=torch.uint8)
    halves[25:75] = 255
    assert float(sized_painting(recipe, halves, "center").min()) > 0.999
    assert tuple(sized_painting(recipe, halves, None).shape) == (1, 3, 20, 10)
