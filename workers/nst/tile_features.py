"""The features that a tile owns, the very ones that the whole picture has there, and the way back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from workers.nst.features import LossNetwork
from workers.nst.regions import EMPTY, Region, TilePlan, reads
from workers.nst.winograd import Border


@dataclass(frozen=True, slots=True, eq=False)
class Tap:
    """A tapped layer in one tile, and the piece of the network before it as a graph by itself.

    Pieces in place of one graph let a gradient be carried back piece by piece, what is behind it be freed,
    and what a tap adds be added to it in place.

    Attributes:
        layer: Its name.
        source: What the features are computed from: the network's input, or the features of the tap before.
        features: All that the tile computes of the layer, `[1, C, h, w]`.
        window: Rows and columns of its own positions among them.
    """

    layer: str
    source: Tensor
    features: Tensor
    window: tuple[slice, slice]

    @property
    def own(self) -> Tensor:
        """The tile's own features, without a graph."""
        return self.features.detach()[(..., *self.window)]


@torch.enable_grad()
def tap_features(network: LossNetwork, plan: TilePlan, rgb: Tensor, *, graph: bool) -> list[Tap]:
    """Return the tapped layers of which a tile owns anything, in order.

    Convolutions pad only where the picture ends. Nothing is computed of which nothing is needed.

    Args:
        network: The loss network of the plan.
        plan: Of the tile.
        rgb: The pixels that the tile reads, in 0..1, `[1, 3, h, w]`.
        graph: Whether `pull_back` will be asked for a gradient.
    """
    taps: list[Tap] = []
    features = network.preprocess(rgb).detach().contiguous(memory_format=torch.channels_last)
    source = features.requires_grad_(graph)
    region = plan.pixels
    kept = True  # for someone else, so it may not be changed in place
    waiting = False
    for position, (layer, output) in enumerate(zip(network.layers, plan.outputs, strict=False)):
        owned = plan.owned.get(layer.name, EMPTY)
        window = reads(layer, output).clip(region)
        if window != region:  # a slice of everything would be copied on the way back
            features = features[(..., *window.slices(region))]
        if layer.kind == "conv":
            features = network.convolve(layer, features, _missing(reads(layer, output), window))
        elif layer.kind == "relu":
            waiting = not owned.area and _may_wait(network, position)
            if not waiting:
                features = functional.relu(features) if kept else functional.relu_(features)
        else:
            features = network.pool(features)
            if waiting:
                features = functional.relu_(features)
        region = output
        kept = owned.area > 0
        if kept:
            taps.append(Tap(layer.name, source, features, owned.slices(region)))
            source = features = features.detach().requires_grad_(features.requires_grad)
    return taps


def _may_wait(network: LossNetwork, position: int) -> bool:
    """Return whether a ReLU may come after the pooling behind it: the same of a quarter of the features.

    The maximum of what is cut off at zero is the maximum, cut off at zero.
    """
    behind = network.layers[position + 1 : position + 2]
    return network.pooling == "max" and network.pool_scale > 0 and any(each.kind == "pool" for each in behind)


def pull_back(
    network: LossNetwork, taps: list[Tap], pixels: Tensor, add: Callable[[Tap, Tensor], None]
) -> Tensor:
    """Return the gradient by RGB, with the shape and dtype of `pixels`, of what depends on a tile's features.

    Args:
        network: That the taps are of.
        taps: As `tap_features` gave them, with graphs; they are used up, the last one first. Without any, the
            gradient is zero.
        pixels: All that the tile reads, `[1, 3, h, w]`.
        add: Adds, in place, the derivative by a tap's own features, `[1, C, h, w]`.
    """
    gradient: Tensor | None = None
    while taps:
        tap = taps.pop()
        if gradient is None:
            gradient = torch.zeros_like(tap.features)
        add(tap, gradient[(..., *tap.window)])
        (gradient,) = torch.autograd.grad(tap.features, tap.source, gradient)
    if gradient is None:
        return torch.zeros_like(pixels)
    return network.preprocessing.pull_back(gradient).to(pixels.dtype)


def _missing(wanted: Region, present: Region) -> Border:
    """Return how many columns are missing on the left and on the right, and rows above and below."""
    return (
        present.left - wanted.left,
        wanted.right - present.right,
        present.top - wanted.top,
        wanted.bottom - present.bottom,
    )
