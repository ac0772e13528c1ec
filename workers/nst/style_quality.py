"""How good a trained style is, as two numbers that no weight of its training can move.

With one loss network for all styles: how much of the photograph is left, and how near the painting the
pictures come. Both are compared with what doing nothing would give.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from workers.nst.features import LossNetwork

CONTENT_LAYER = "relu4_2"
STYLE_LAYERS = ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1")


@dataclass(frozen=True, slots=True)
class StyleQuality:
    """Means over some photographs.

    Attributes:
        content_error: Squared difference of the features at relu4_2 between picture and photograph, divided
            by the photograph's: 0 is the photograph itself.
        style_error: Squared differences of the Gram matrices at five layers between picture and painting,
            each divided by the painting's, added up; divided by the same of the untouched photograph: 1 is
            the photograph itself, 0 has the painting's Gram matrices.
        photographs: How many there were.
    """

    content_error: float
    style_error: float
    photographs: int


def style_quality(
    network: LossNetwork,
    render: Callable[[Tensor], Tensor],
    photographs: Sequence[Tensor],
    painting: Tensor,
) -> StyleQuality:
    """Measure a style.

    Args:
        network: The same for all that is to be compared: a VGG-19, normalized by channel.
        render: Returns a photograph, uint8 `[H, W, 3]`, in the style, of the same shape.
        photographs: Not trained with; uint8 `[H, W, 3]` at one size, such as 384 px.
        painting: uint8 `[H, W, 3]`, at the size that its strokes are compared at, such as 512 px.

    Raises:
        ValueError: If there is no photograph, or a picture is too small for the network.
    """
    if not photographs:
        raise ValueError("a style cannot be measured without photographs")
    content, style, untouched = 0.0, 0.0, 0.0
    with torch.no_grad():
        wanted = _grams(_taps(network, painting))
        for photograph in photographs:
            before, after = _taps(network, photograph), _taps(network, render(photograph))
            difference = after[CONTENT_LAYER] - before[CONTENT_LAYER]
            content += float(difference.square().sum() / before[CONTENT_LAYER].square().sum())
            style += _distance(_grams(after), wanted)
            untouched += _distance(_grams(before), wanted)
    return StyleQuality(content / len(photographs), style / untouched, len(photographs))


def _taps(network: LossNetwork, pixels: Tensor) -> dict[str, Tensor]:
    rgb = pixels.to(network.device).permute(2, 0, 1).unsqueeze(0).float() / 255
    found = network.taps(network.preprocess(rgb), [CONTENT_LAYER, *STYLE_LAYERS])
    return {name: features.float() for name, features in found.items()}


def _grams(taps: dict[str, Tensor]) -> dict[str, Tensor]:
    flat = {name: taps[name][0].flatten(1) for name in STYLE_LAYERS}
    return {name: features @ features.T / features.shape[1] for name, features in flat.items()}


def _distance(grams: dict[str, Tensor], wanted: dict[str, Tensor]) -> float:
    return sum(
        float((grams[name] - wanted[name]).square().sum() / wanted[name].square().sum())
        for name in STYLE_LAYERS
    )
