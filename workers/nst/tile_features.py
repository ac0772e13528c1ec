"""The features that a tile owns, the very ones that the whole picture has there."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from workers.nst.features import Layer, LossNetwork
from workers.nst.regions import EMPTY, Region, TilePlan, reads


def owned_features(network: LossNetwork, plan: TilePlan, inputs: Tensor) -> dict[str, Tensor]:
    """Return a tile's own features of each tapped layer of which it owns any, `[1, C, h, w]`.

    Convolutions pad only where the picture ends. Nothing is computed of which nothing is needed.

    Args:
        network: The loss network of the plan.
        plan: Of the tile.
        inputs: What `preprocess` makes of the pixels that the tile reads, `[1, 3, h, w]`.
    """
    found: dict[str, Tensor] = {}
    features = inputs.contiguous(memory_format=torch.channels_last)
    region = plan.pixels
    kept = True  # for someone else, so it may not be changed in place
    for layer, output in zip(network.layers, plan.outputs, strict=False):
        window = reads(layer, output).clip(region)
        features = features[(..., *window.slices(region))]
        if layer.kind == "relu":
            features = functional.relu(features) if kept else functional.relu_(features)
        elif layer.kind == "pool":
            features = network.pool(features)
        else:
            border = _missing(reads(layer, output), window)
            replicate = network.first_padding == "replicate" and layer is network.layers[0]
            features = _convolved(layer, features, border, "replicate" if replicate else "constant")
        region = output
        owned = plan.owned.get(layer.name, EMPTY)
        kept = owned.area > 0
        if kept:
            found[layer.name] = features[(..., *owned.slices(region))]
    return found


def _missing(wanted: Region, present: Region) -> tuple[int, int, int, int]:
    """Return how many columns are missing on the left and on the right, and rows above and below."""
    return (
        present.left - wanted.left,
        wanted.right - present.right,
        present.top - wanted.top,
        wanted.bottom - present.bottom,
    )


def _convolved(layer: Layer, features: Tensor, border: tuple[int, int, int, int], mode: str) -> Tensor:
    """Return a 3x3 convolution with padding on the sides of the border alone."""
    left, right, above, below = border
    if layer.weight is None:
        raise ValueError(f"{layer.name} has no weights")
    if mode == "constant" and left == right and above == below:  # without a copy
        return functional.conv2d(features, layer.weight, layer.bias, padding=(above, left))
    return functional.conv2d(functional.pad(features, border, mode=mode), layer.weight, layer.bias)
