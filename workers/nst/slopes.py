"""The way back of style: from the distances to the sums over positions, and from these to features.

A distance is a function of two small tensors of each layer, so its derivatives by them are all that a
feature needs to know of the rest of the picture. What is carried back is linear in the feature itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from workers.nst.losses import Distance, StyleTerm, Sums

Slope = tuple[Tensor, Tensor]
"""The derivatives by the sums of a layer: by the sum of `F F^T`, `[C, C]`, added to its own transpose; by the
sum of `F`, `[C]`, zero where no distance looks at it."""


def style_slopes(
    distances: Sequence[tuple[StyleTerm, Distance]], sums: Mapping[str, Sums]
) -> tuple[list[float], dict[str, Slope]]:
    """Return each term of style, and the derivatives of their total by the sums of each layer.

    Args:
        distances: As `Objective.distances` gives them.
        sums: Of each layer that they look at; the dtype and device of all that is returned.
    """
    with torch.enable_grad():
        leaves = {
            layer: (value.second.detach().requires_grad_(), value.first.detach().requires_grad_())
            for layer, value in sums.items()
        }
        moments = {layer: Sums(*leaves[layer], value.positions).moments() for layer, value in sums.items()}
        terms = [distance(moments[term.layer]) * term.weight for term, distance in distances]
        if terms:
            torch.autograd.backward(terms)
    slopes = {}
    for layer, pair in leaves.items():
        second, first = (torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for leaf in pair)
        slopes[layer] = (second + second.T, first)
    return [float(term.detach()) for term in terms], slopes


def add_style_gradient(gradient: Tensor, features: Tensor, slope: Slope) -> None:
    """Add, in place, the gradient of style by features.

    Args:
        gradient: `[1, C, h, w]`; a window of a larger tensor costs a copy more.
        features: `[1, C, h, w]` of the same dtype, channels-last.
        slope: Of their layer, in any dtype, on any device.
    """
    second, first = (tensor.to(features.device, features.dtype) for tensor in slope)
    into, rows = (tensor[0].permute(1, 2, 0) for tensor in (gradient, features))
    if into.is_contiguous() and rows.is_contiguous():
        into.flatten(0, 1).addmm_(rows.flatten(0, 1), second)
    else:
        into += (rows.flatten(0, 1) @ second).view(into.shape)
    if bool(slope[1].any()):
        into += first
