"""What a plan knows of the ways to train is what the recipes themselves have."""

from __future__ import annotations

import pytest

from jobs.train import NETWORK_WIDTHS, PRESETS
from workers.nst import training_presets


def test_the_same_ways_and_networks_are_known():
    assert list(PRESETS) == list(training_presets.PRESETS)
    assert NETWORK_WIDTHS == training_presets.NETWORK_WIDTHS


@pytest.mark.parametrize("name", PRESETS)
def test_a_plan_knows_what_a_recipe_has(name):
    """Its loss network goes by architecture and family, as `farm weights add` names it."""
    recipe, facts = training_presets.PRESETS[name], PRESETS[name]
    network = recipe.network if recipe.family == "torchvision" else f"{recipe.network}-{recipe.family}"
    assert facts.network == network
    assert (facts.steps, facts.batch, facts.crop_px) == (recipe.steps, recipe.batch, recipe.crop.side_px)
