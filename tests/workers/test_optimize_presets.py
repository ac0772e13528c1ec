"""What `farm presets` shows of a preset is what a manifest can say, and what the engine does."""

from __future__ import annotations

import pytest

from jobs.optimize import AssetRef, OptimizePayload, RenderSettings, StyleImageRef
from workers.nst.presets import PRESETS, preset
from workers.optimize_presets import preset_facts, preset_settings
from workers.optimize_recipe import recipe_of


@pytest.mark.parametrize("name", PRESETS)
def test_settings_are_keys_of_a_manifest_with_values_that_it_takes(name: str) -> None:
    settings = preset_settings(preset(name))
    read = RenderSettings.model_validate({"preset": name, **settings})
    assert read.model_dump(mode="json", include=set(settings), exclude_none=True) == settings


@pytest.mark.parametrize("name", PRESETS)
def test_settings_that_are_said_in_a_manifest_are_those_of_the_preset(name: str) -> None:
    """Who copies them all from `farm presets NAME` renders as before."""
    said = OptimizePayload.model_validate(
        {
            "preset": name,
            "styles": [StyleImageRef(name="a.jpg", sha256="0" * 64)],
            "network": AssetRef(name="vgg19", sha256="1" * 64),
            **preset_settings(preset(name)),
        }
    )
    assert recipe_of(said) == preset(name)


@pytest.mark.parametrize(
    ("name", "style", "content"),
    [
        ("default", {"kind": "gram-mean-std", "relative": True}, "relative"),
        ("crowson", {"kind": "wasserstein-2", "floor": 1e-4, "iterations": 12}, "mean"),
        ("gatys", {"kind": "gram", "shift": 0.0}, "mean"),
        ("neural-style", {"kind": "gram", "shift": 0.0}, "mean"),
        ("anish", {"kind": "gram", "shift": 0.0}, "mean"),
        ("inetwork", {"kind": "gram", "shift": 1.0}, "sum"),
    ],
)
def test_losses_are_those_of_the_system(name: str, style: dict[str, object], content: str) -> None:
    losses = preset_facts(preset(name))["losses"]
    assert style.items() <= losses["style"].items()
    assert losses["content"] == content
