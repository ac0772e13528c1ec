"""Manifests of `train` steps."""

from __future__ import annotations

from typing import Any

from jobs.manifest import Manifest
from jobs.train_step import TrainStep

STEP: dict[str, Any] = {
    "name": "train-wave",
    "kind": "train",
    "data": ["photos"],
    "style": "wave",
    "style_images": ["wave.jpg"],
}

GOOD: list[dict[str, Any]] = [
    {},
    {"style_images": ["a.jpg", {"image": "s3://b/c.png", "weight": 2}, {"image": "d.jpg", "weight": 0}]},
    {"preset": "lengstrom", "loss_network": "mine", "network": "slim8", "steps": 500, "batch": 8},
    {"crop_px": 64, "crop": "random", "resize_px": 64},
    {"crop": "center", "crop_px": 128, "style_size_px": 0, "style_crop": "center"},
    {"content_layers": {"relu4_2": 1}, "style_layers": {"relu1_1": 0.2}, "style_target": "mean"},
    {"content_weight": 1e5, "style_weight": 1e10, "tv_weight": 0, "pyramid": {"levels": 3, "decay": 0.5}},
    {"optimizer": {"learning_rate": 0.01, "decay_every": 2000, "decay_factor": 0.8}, "precision": "bf16"},
    {"checkpoint": {"steps": 50}, "validation": {"data": ["held"], "pictures": 4, "every": 20}},
    {"validation": {"pictures": 0}, "test_images": ["me.jpg"], "seed": 2**63 - 1},
    {"stop": {"improvement": 0.01, "window": 3}, "onnx": True, "replace": True},
    {"license": "CC0-1.0", "source": "Hokusai, about 1831"},
    {"begin_with": "candy", "workers": {"min": 2, "max": 4}, "device": "cpu", "threads": 2},
    {"recursive": False, "extends": {"job": "260101-1-abcd", "steps": [200, 100]}},
]
"""What a step may say."""


def document(**said: Any) -> dict[str, Any]:
    return {"version": 1, "name": "job", "output": "out", "steps": [{**STEP, **said}]}


def step_of(manifest: Manifest) -> TrainStep:
    (step,) = manifest.steps
    assert isinstance(step, TrainStep)
    return step
