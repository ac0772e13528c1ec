"""What plans must know of presets agrees with the presets themselves."""

from __future__ import annotations

from typing import get_args

from jobs.optimize import LBFGS_HISTORY, PRESETS, PresetFacts, PresetName
from workers.nst.lbfgs import LbfgsSettings
from workers.nst.presets import PRESETS as RECIPES
from workers.nst.recipes import Recipe


def facts(recipe: Recipe) -> PresetFacts:
    family = "" if recipe.family == "torchvision" else f"-{recipe.family}"
    schedule = recipe.schedule
    return PresetFacts(
        f"{recipe.network}{family}",
        schedule.smallest_px,
        schedule.iterations,
        schedule.first_iterations,
        history=recipe.optimizer.history if isinstance(recipe.optimizer, LbfgsSettings) else 0,
        averaged=recipe.average_decay > 0,
    )


def test_the_table_of_presets_is_that_of_their_recipes():
    assert {name: facts(recipe) for name, recipe in RECIPES.items()} == PRESETS
    assert LbfgsSettings().history == LBFGS_HISTORY


def test_every_preset_can_be_asked_for():
    assert get_args(PresetName) == tuple(RECIPES)
