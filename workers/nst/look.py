"""The look of a picture: its Gram matrices at a size that pictures of all sizes are brought to first.

The same strokes give other Gram matrices at another resolution, because a neuron sees a fixed number of
pixels. At a common size, a large render can be compared with a small one, and any render with a painting.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from workers.nst.features import LossNetwork
from workers.nst.losses import Moments, blend
from workers.nst.multiscale import fit, resize
from workers.nst.whole import style_moments

LOOK_PX = 512
"""Longest side at which looks are compared."""

_SMALLEST_ENERGY = 1e-30


def look_distance(
    network: LossNetwork, layers: Iterable[str], picture: Tensor, reference: Tensor, longest_px: int = LOOK_PX
) -> float:
    """Return how far the look of a picture is from that of another one: 0 for the same, 1 for black features.

    The mean over the layers, each weighing the same whatever its weight in a render, of the squared distance
    of the Gram matrices divided by the sum of the squared entries of the reference's.

    Args:
        network: The loss network as it was loaded: colors are RGB in 0..1, pooling and padding its own.
        layers: Names of layers: those of style of the preset.
        picture: `[1, 3, H, W]`, RGB in 0..1, on any device.
        reference: The same of another picture, of any size.
        longest_px: Both are reduced to this longest side, or to that of the smaller one if it has less.

    Raises:
        ValueError: If no layer is named, one is not known, or a picture is too small for it.
    """
    return style_distance(network, layers, picture, [(1.0, reference)], longest_px)


def style_distance(
    network: LossNetwork,
    layers: Iterable[str],
    picture: Tensor,
    styles: Sequence[tuple[float, Tensor]],
    longest_px: int = LOOK_PX,
) -> float:
    """Return how far the look of a picture is from the blend of several, as `look_distance` does from one.

    Args:
        network: As for `look_distance`.
        layers: As for `look_distance`.
        picture: As for `look_distance`.
        styles: Weight and picture of each style; the Gram matrices are blended, the weights divided by their
            sum.
        longest_px: As for `look_distance`.

    Raises:
        ValueError: As `look_distance`, or if the weights have no positive sum.
    """
    names = list(dict.fromkeys(layers))
    total = sum(weight for weight, _ in styles)
    if not names:
        raise ValueError("a look needs layers to be compared at: none is named")
    if total <= 0:
        raise ValueError(f"the weights of the styles add up to {total}: there must be a positive one")
    side_px = min(longest_px, *(max(rgb.shape[-2:]) for rgb in (picture, *(rgb for _, rgb in styles))))
    have = _reduced_moments(network, names, picture, side_px)
    targets = [_reduced_moments(network, names, rgb, side_px) for _, rgb in styles]
    weights = [weight / total for weight, _ in styles]
    distances = []
    for name in names:
        wanted = blend([moments[name] for moments in targets], weights).second
        energy = max(float(wanted.square().sum()), _SMALLEST_ENERGY)
        distances.append(float((have[name].second - wanted).square().sum()) / energy)
    return sum(distances) / len(distances)


def _reduced_moments(
    network: LossNetwork, layers: Sequence[str], rgb: Tensor, side_px: int
) -> dict[str, Moments]:
    size = fit((rgb.shape[-2], rgb.shape[-1]), side_px)
    dtype = torch.promote_types(network.dtype, torch.float32)
    reduced = resize(rgb.to(network.device, dtype), size).clamp(0, 1)
    return style_moments(network, reduced, layers)
