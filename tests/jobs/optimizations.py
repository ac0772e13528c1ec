"""Manifests of one `optimize` step."""

from __future__ import annotations

from typing import Any

from jobs.manifest import Manifest
from jobs.optimize_step import OptimizeStep

STEP: dict[str, Any] = {
    "name": "render",
    "kind": "optimize",
    "inputs": ["photos"],
    "style_images": ["night.jpg"],
}

GOOD: list[dict[str, Any]] = [
    {},
    {"style_images": ["a.jpg", {"image": "s3://b/c.png", "weight": 2}, {"image": "d.jpg", "weight": 0}]},
    {"preset": "neural-style", "loss_network": "vgg19", "size_px": 1024, "iterations": 500},
    {"smallest_px": 64, "size_px": 64},
    {"scales": [{"size_px": 256, "iterations": 9}, {"size_px": 700, "iterations": 1, "tv_weight": 0}]},
    {"scales": [{"size_px": 256, "iterations": 9}], "size_px": 256},
    {"content_layers": {"relu4_2": 1, "relu5_2": -0.5}, "style_layers": {"relu1_1": 0.2}, "pooling": "l2"},
    {"optimizer": {"kind": "adam", "learning_rate": 1, "beta1": 0.5, "clamp": True}, "average_decay": 0.9},
    {"optimizer": {"kind": "lbfgs", "history": 100, "line_search": "strong-wolfe"}},
    {"init": {"kind": "picture", "image": "begin.png"}},
    {"init": {"kind": "content", "sigma": 0.1, "noise_blend": 0.5}, "seed": 2**63 - 1},
    {"colors": {"method": "histogram", "when": "before"}, "style_scale": {"match": "width", "factor": 2}},
    {"stop": {"improvement": 0.01, "seconds": 60}, "checkpoint": {"iterations": 5}, "preview_s": 0},
    {"tile_px": 512, "workers": {"min": 2, "max": 4}, "precision": "bf16", "keep_state": False},
    {"extends": {"job": "260101-1-abcd", "iterations": [200, 100]}},
]
"""What a step may say."""


def document(**said: Any) -> dict[str, Any]:
    return {"version": 1, "name": "job", "output": "out", "steps": [{**STEP, **said}]}


def step_of(manifest: Manifest) -> OptimizeStep:
    (step,) = manifest.steps
    assert isinstance(step, OptimizeStep)
    return step
