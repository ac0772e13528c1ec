"""From what a manifest says of a training to what the engine is given: recipe, sizes of paintings."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from jobs.optimize import AssetRef
from jobs.train import OWN_SIZE, TrainPayload
from workers.nst.features import LossNetwork
from workers.nst.multiscale import LARGEST_SIDE_PX, Size, fit, resize
from workers.nst.training_data import CropRule
from workers.nst.training_presets import TrainingRecipe, training_preset
from workers.optimize_recipe import check_layers, named

MAX_MEGAPIXELS = 400.0
"""Photographs with more pixels are left out before they are decoded."""

_SAME_NAME = (
    "steps",
    "batch",
    "content_layers",
    "style_layers",
    "content_weight",
    "style_weight",
    "tv_weight",
    "style_target",
)

_NOT_OF_THE_ENGINE = {"steps", "extends", "stop", "validation", "validation_data"}


def recipe_of(payload: TrainPayload) -> TrainingRecipe:
    """Return the preset's recipe with all that the payload says instead, and the steps of all extensions.

    Raises:
        UsageError: Naming the key whose value does not go with the others.
    """
    base = training_preset(payload.preset).for_width(payload.width)
    said: dict[str, Any] = {name: getattr(payload, name) for name in _SAME_NAME}
    said["style_size_px"] = payload.style_size_px
    if payload.pyramid is not None:
        said |= {"pyramid_levels": payload.pyramid.levels, "pyramid_decay": payload.pyramid.decay}
    if payload.optimizer is not None:
        said |= payload.optimizer.model_dump(include={"learning_rate", "decay_every", "decay_factor"})
    changes = {name: value for name, value in said.items() if value is not None}
    # What a manifest says by 0, the engine says by None.
    for name, nothing in (("style_size_px", OWN_SIZE), ("decay_every", 0)):
        if changes.get(name) == nothing:
            changes[name] = None
    with named("crop"):
        changes["crop"] = _crop_rule(payload, base.crop)
    with named("preset"):
        return replace(base, **{**changes, "steps": payload.total_steps})


def check_network(recipe: TrainingRecipe, network: LossNetwork, ref: AssetRef) -> None:
    """Check that a loss network has all layers that a recipe looks at, and crops are large enough for it.

    Raises:
        UsageError: Naming the key that is wrong.
    """
    active = {
        key: [layer for layer, weight in layers.items() if weight]
        for key, layers in (
            ("style_layers", recipe.style_layers),
            ("content_layers", recipe.content_layers),
        )
    }
    check_layers(active, network, ref)
    smallest_px = recipe.crop.side_px >> (recipe.pyramid_levels - 1)
    with named("pyramid" if recipe.pyramid_levels > 1 else "crop_px"):
        network.check_size(smallest_px, smallest_px, recipe.objective.layers)


def painting_size(recipe: TrainingRecipe, size: Size, crop: str | None) -> Size:
    """Return the height and width at which a painting is learned.

    Args:
        recipe: Says how large it may be.
        size: Height and width of its file.
        crop: `center` for the middle square of it.
    """
    if crop == "center":
        size = (min(size), min(size))
    return fit(size, recipe.style_size_px or LARGEST_SIDE_PX, enlarge=False)


def sized_painting(recipe: TrainingRecipe, pixels: Tensor, crop: str | None) -> Tensor:
    """Return a painting as it is learned, float32 `[1, 3, H, W]` in 0..1.

    Args:
        recipe: Says how large it may be.
        pixels: uint8 `[H, W, 3]`.
        crop: `center` for the middle square of it.
    """
    height, width = pixels.shape[0], pixels.shape[1]
    if crop == "center":
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        pixels = pixels[top : top + side, left : left + side]
    rgb = pixels.permute(2, 0, 1).unsqueeze(0).to(torch.float32) / 255
    return resize(rgb, painting_size(recipe, (height, width), crop)).clamp(0, 1)


def fingerprint(payload: TrainPayload) -> str:
    """Return a hash of all that decides a training but how long it is: states of others are no use to it."""
    said = {key: value for key, value in payload.settings().items() if key not in _NOT_OF_THE_ENGINE}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def _crop_rule(payload: TrainPayload, base: CropRule) -> CropRule:
    side_px = payload.crop_px or base.side_px
    kind = payload.crop or ("random" if payload.resize_px is not None else base.kind)
    zoom = base.largest_zoom
    if payload.resize_px is not None:
        zoom = (payload.resize_px + 0.5) / side_px  # rounded down, it is the size that was asked for
    return CropRule(side_px, kind, zoom)
