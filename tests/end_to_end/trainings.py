"""Manifests of small trainings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.end_to_end.renders import NETWORK

CROP_PX, BATCH = 32, 2


def train_step(photographs: Path | str, painting: Path, **said: Any) -> dict[str, Any]:
    """Return a step that trains a style named for its painting; what is not said is small."""
    return {
        "name": f"train-{painting.stem}",
        "kind": "train",
        "data": [str(photographs)],
        "style": painting.stem,
        "style_images": [str(painting)],
        "loss_network": NETWORK,
        "network": "slim8",
        "style_layers": {"relu1_1": 1, "relu2_1": 1},
        "content_layers": {"relu2_2": 1},
        "steps": 24,
        "batch": BATCH,
        "crop_px": CROP_PX,
        "threads": 1,
        "validation": {"pictures": 3, "every": 12},
        **said,
    }


def manifest(output: Path | str, *steps: dict[str, Any]) -> dict[str, Any]:
    """Return a manifest of some steps."""
    return {"version": 1, "name": "styles", "output": str(output), "steps": [*steps]}
