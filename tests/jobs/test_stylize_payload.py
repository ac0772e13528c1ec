"""What decides pixels is in a render key, and nothing else is."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from jobs.stylize import StylizePayload

STYLE = {"name": "candy", "sha256": "a" * 64}


def payload(**more: Any) -> StylizePayload:
    return StylizePayload.model_validate({"style": STYLE, **more})


@pytest.mark.parametrize(
    "change",
    [
        {"style": {"name": "candy", "sha256": "b" * 64}},
        {"precision": "bf16"},
        {"max_size_px": 512},
        {"quality": 80},
    ],
)
def test_what_changes_pixels_changes_the_settings(change: dict[str, Any]) -> None:
    assert payload(**change).settings() != payload().settings()


@pytest.mark.parametrize(
    "change",
    [
        {"style": {"name": "sweets", "sha256": "a" * 64}},
        {"device": "cpu"},
        {"batch": 4},
        {"threads": 2},
        {"max_megapixels": 10},
    ],
)
def test_what_changes_no_pixels_changes_no_settings(change: dict[str, Any]) -> None:
    assert payload(**change).settings() == payload().settings()


@pytest.mark.parametrize(
    "wrong",
    [
        {"style": {"name": "candy", "sha256": "short"}},
        {"style": {"name": "", "sha256": "a" * 64}},
        {"precision": "fp16"},
        {"quality": 0},
        {"quality": 101},
        {"max_size_px": 0},
        {"max_megapixels": 0},
        {"batch": 0},
        {"threads": 0},
        {"device": "tpu"},
        {"format": "gif"},
        {"strength": 0.5},
    ],
)
def test_wrong_values_and_unknown_keys_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        payload(**wrong)


def test_a_payload_survives_json() -> None:
    full = payload(max_size_px=100, batch=2, format="webp")
    assert StylizePayload.model_validate(full.model_dump(mode="json")) == full
