"""From what a manifest says of a render to the recipe of the engine."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from jobs.errors import UsageError
from jobs.optimize import OptimizePayload
from workers.nst.lbfgs import LbfgsSettings
from workers.nst.optimizers import AdamSettings
from workers.nst.presets import PRESETS
from workers.nst.recipes import Recipe
from workers.optimize_recipe import recipe_of


def recipe(**said: Any) -> Recipe:
    asset = {"name": "any", "sha256": "0" * 64}
    return recipe_of(OptimizePayload.model_validate({"styles": [asset], "network": asset, **said}))


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_alone_is_what_it_is(name: str) -> None:
    assert recipe(preset=name) == PRESETS[name]


@pytest.mark.parametrize(("name", "said"), [("default", {"history": 40}), ("crowson", {"beta1": 0.5})])
def test_a_setting_of_the_optimizer_alone_leaves_its_kind_to_the_preset(
    name: str, said: dict[str, Any]
) -> None:
    own = PRESETS[name]
    changed = {"betas": (0.5, own.optimizer.betas[1])} if isinstance(own.optimizer, AdamSettings) else said
    assert recipe(preset=name, optimizer=said) == replace(own, optimizer=replace(own.optimizer, **changed))


@pytest.mark.parametrize(
    ("name", "said", "says"),
    [
        ("default", {"beta1": 0.5}, "optimizer: beta1 is not of lbfgs"),
        ("crowson", {"history": 40}, "optimizer: history is not of adam"),
        ("crowson", {"kind": "lbfgs", "clamp": True}, "optimizer: clamp is not of lbfgs"),
    ],
)
def test_a_setting_of_the_other_optimizer_is_refused(name: str, said: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        recipe(preset=name, optimizer=said)


def test_another_optimizer_brings_its_own_settings() -> None:
    assert isinstance(recipe(preset="default", optimizer={"kind": "adam"}).optimizer, AdamSettings)
    assert isinstance(recipe(preset="crowson", optimizer={"kind": "lbfgs"}).optimizer, LbfgsSettings)
