"""What `farm presets` shows of a preset is what a manifest can say, and what the engine does."""

from __future__ import annotations

import pytest

from jobs.optimize import RenderSettings
from workers.nst.presets import PRESETS, preset
from workers.optimize_presets import preset_facts, preset_settings


@pytest.mark.parametrize("name", PRESETS)
def test_settings_are_keys_of_a_manifest_with_values_that_it_takes(name: str) -> None:
    settings = preset_settings(preset(name))
    read = RenderSettings.model_validate({"preset": name, **settings})
    assert read.model_dump(mode="json", include=set(settings), exclude_none=True) == settings


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
