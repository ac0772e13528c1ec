"""What is minimized: style, content and their weights, as functions that whole pictures and tiles share.

Style is compared through sums over positions (`Sums`): they add up over tiles, and every distance here is a
function of them alone. An `Objective` is data; an engine evaluates it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

import torch
from torch import Tensor

from workers.nst.matrix_roots import root_trace, square_root
from workers.nst.variation import TvTerm

CHUNK_POSITIONS = 1 << 16
"""Positions in one product of float32; the products are added in the dtype of the statistics, which keeps
the error of a large picture that of a small one."""

_SMALLEST_ENERGY = 1e-30


@dataclass(frozen=True, slots=True, eq=False)
class Sums:
    """What the features of one layer add up to over positions.

    Attributes:
        second: Sum of `F F^T`, `[C, C]`.
        first: Sum of `F`, `[C]`.
        positions: How many there are.
    """

    second: Tensor
    first: Tensor
    positions: int

    def moments(self) -> Moments:
        """Return the means over positions."""
        return Moments(self.second / self.positions, self.first / self.positions)


@dataclass(frozen=True, slots=True, eq=False)
class Moments:
    """Means over the positions of one layer: of `F F^T` (`[C, C]`) and of `F` (`[C]`). They mix linearly."""

    second: Tensor
    first: Tensor

    @property
    def channels(self) -> int:
        """Of the layer."""
        return self.first.shape[0]

    def covariance(self, floor: float) -> Tensor:
        """Return the covariance of the channels, `floor` added to the diagonal."""
        eye = torch.eye(self.channels, dtype=self.second.dtype, device=self.second.device)
        return self.second - torch.outer(self.first, self.first) + floor * eye


def layer_sums(features: Tensor, dtype: torch.dtype = torch.float64, *, means: bool = True) -> Sums:
    """Return the sums over all positions of one picture's features.

    Args:
        features: `[1, C, H, W]`, any floating dtype.
        dtype: Of the sums. Products are taken in the features' dtype, at least float32.
        means: Whether the sum of `F` is wanted; else it is zero.
    """
    by_position = features[0].permute(1, 2, 0).flatten(0, 1)
    channels = by_position.shape[1]
    second = torch.zeros(channels, channels, dtype=dtype, device=features.device)
    first = torch.zeros(channels, dtype=dtype, device=features.device)
    for chunk in torch.split(by_position, CHUNK_POSITIONS):
        exact = chunk if chunk.dtype.itemsize >= 4 else chunk.float()
        second = second + (exact.T @ exact).to(dtype)
        if means:
            first = first + exact.sum(0).to(dtype)
    return Sums(second, first, by_position.shape[0])


def blend(moments: Sequence[Moments], weights: Sequence[float]) -> Moments:
    """Return the weighted sum of the moments of several styles (the weights should add up to 1)."""
    pairs = list(zip(moments, weights, strict=True))
    return Moments(
        sum((m.second * w for m, w in pairs[1:]), pairs[0][0].second * pairs[0][1]),
        sum((m.first * w for m, w in pairs[1:]), pairs[0][0].first * pairs[0][1]),
    )


Distance = Callable[[Moments], Tensor]
"""From the moments of the picture to a scalar of their dtype."""


class StyleLoss(Protocol):
    """A way to compare the style of two pictures at one layer."""

    @property
    def looks_at_means(self) -> bool:
        """Whether it looks at `Moments.first`."""
        ...

    def against(self, target: Moments) -> Distance:
        """Return the distance to `target`; what depends on the target alone is computed here, once."""
        ...


@dataclass(frozen=True, slots=True)
class Gram:
    """Mean squared difference of the Gram matrices, each divided by its number of positions.

    Attributes:
        shift: Subtracted from every feature first (1 in INetwork).
        relative: Divide by the mean square of the target: then one weight suits every network and painting.
    """

    shift: float = 0.0
    relative: bool = False

    @property
    def looks_at_means(self) -> bool:
        """Only a shift needs the means of the features."""
        return self.shift != 0

    def against(self, target: Moments) -> Distance:
        """Return the distance to `target`."""
        wanted = self._gram(target)
        scale = _inverse_energy(wanted) if self.relative else 1.0
        return lambda moments: (self._gram(moments) - wanted).square().mean() * scale

    def _gram(self, moments: Moments) -> Tensor:
        if self.shift == 0:
            return moments.second
        column = (moments.first * self.shift).unsqueeze(1)
        return moments.second - column - column.T + self.shift**2


@dataclass(frozen=True, slots=True)
class GramMeanStd:
    """Mean squared differences of the Gram matrices, of the means and of the standard deviations, added.

    Attributes:
        mean_weight: Of the means, beside the Gram matrices.
        std_weight: Of the standard deviations.
        relative: Divide each of the three by the mean square of its target.
    """

    mean_weight: float = 1.0
    std_weight: float = 1.0
    relative: bool = False
    looks_at_means: ClassVar[bool] = True

    def against(self, target: Moments) -> Distance:
        """Return the distance to `target`."""
        wanted = (target.second, target.first, _deviations(target))
        weights = (1.0, self.mean_weight, self.std_weight)
        scales = [_inverse_energy(value) if self.relative else 1.0 for value in wanted]

        def distance(moments: Moments) -> Tensor:
            given = (moments.second, moments.first, _deviations(moments))
            terms = [
                (have - want).square().mean() * (scale * weight)
                for have, want, scale, weight in zip(given, wanted, scales, weights, strict=True)
            ]
            return terms[0] + terms[1] + terms[2]

        return distance


@dataclass(frozen=True, slots=True)
class Wasserstein2:
    """Squared Wasserstein-2 distance of the Gaussians with these moments, per channel.

    `mean((mu - mu')^2) + mean(diag(S + S' - 2 (S'^1/2 S S'^1/2)^1/2))`. Rounding may bring it slightly below
    zero near its minimum.

    Attributes:
        floor: Added to the diagonals of both covariances; times the mean second moment of the target if
            `relative`.
        iterations: Newton-Schulz steps of each matrix root.
        relative: Divide by the mean second moment of the target's channels.
    """

    floor: float = 1e-4
    iterations: int = 12
    relative: bool = False
    looks_at_means: ClassVar[bool] = True

    def against(self, target: Moments) -> Distance:
        """Return the distance to `target`."""
        energy = max(float(target.second.diagonal().mean()), _SMALLEST_ENERGY)
        floor = self.floor * energy if self.relative else self.floor
        scale = 1 / energy if self.relative else 1.0
        wanted = target.covariance(floor)
        root = square_root(wanted, self.iterations)

        def distance(moments: Moments) -> Tensor:
            covariance = moments.covariance(floor)
            cross = root_trace(root @ covariance @ root, self.iterations)
            spread = (wanted.trace() + covariance.trace() - 2 * cross) / moments.channels
            return ((moments.first - target.first).square().mean() + spread) * scale

        return distance


def _deviations(moments: Moments) -> Tensor:
    variances = moments.second.diagonal() - moments.first.square()
    # A channel that is dead everywhere has no slope: the root of zero has an infinite one.
    alive = variances > torch.finfo(variances.dtype).eps * moments.second.diagonal()
    return torch.where(alive, torch.where(alive, variances, 1.0).sqrt(), 0.0)


def _inverse_energy(target: Tensor) -> float:
    return 1 / max(float(target.square().mean()), _SMALLEST_ENERGY)


@dataclass(frozen=True, slots=True)
class StyleTerm:
    """`weight` times the distance of style at one layer."""

    layer: str
    weight: float
    loss: StyleLoss


@dataclass(frozen=True, slots=True)
class ContentTerm:
    """`weight` times the squared differences of features at one layer.

    Attributes:
        reduction: `mean` over all features, `sum` of them, or `relative`: the sum divided by the sum of the
            squares of the target.
    """

    layer: str
    weight: float
    reduction: Literal["mean", "sum", "relative"] = "mean"

    def factor(self, elements: int, energy: float) -> float:
        """Return what the sum of squared differences is multiplied with.

        Args:
            elements: Features of the whole picture at this layer, `C * H * W`.
            energy: Sum of the squares of the content's features at this layer.
        """
        if self.reduction == "mean":
            return self.weight / elements
        return self.weight / max(energy, _SMALLEST_ENERGY) if self.reduction == "relative" else self.weight


BlendRule = Literal["targets", "losses"]

WeightedStyle = tuple[float, dict[str, Moments]]
"""The weight of a style image and its moments by layer."""


@dataclass(frozen=True, slots=True)
class Objective:
    """Everything that is minimized, as data.

    Attributes:
        style: Terms of style.
        content: Terms of content.
        tv: Terms of total variation.
        pixel_range: Value of white where the optimizer and the total variation see it; black is 0.
        blend: Of several styles: the distance to their blended moments (`targets`), or the blend of the
            distances to each (`losses`).
    """

    style: tuple[StyleTerm, ...] = ()
    content: tuple[ContentTerm, ...] = ()
    tv: tuple[TvTerm, ...] = ()
    pixel_range: float = 255.0
    blend: BlendRule = "targets"

    @property
    def layers(self) -> frozenset[str]:
        """Of the loss network, that some term looks at."""
        return frozenset([term.layer for term in self.style] + [term.layer for term in self.content])

    def distances(self, styles: Sequence[WeightedStyle]) -> list[tuple[StyleTerm, Distance]]:
        """Return each term of style with the distance that it measures, blended by the objective's rule.

        Args:
            styles: Weight of each style (they are divided by their sum) and its moments by layer.

        Raises:
            ValueError: If there is no style, or the weights have no positive sum.
        """
        total = sum(weight for weight, _ in styles)
        if not styles or total <= 0:
            raise ValueError(f"the weights of the styles add up to {total}: there must be a positive one")
        weights = [weight / total for weight, _ in styles]
        bound = []
        for term in self.style:
            targets = [moments[term.layer] for _, moments in styles]
            if self.blend == "targets" or len(targets) == 1:
                bound.append((term, term.loss.against(blend(targets, weights))))
            else:
                bound.append((term, _weighted([term.loss.against(t) for t in targets], weights)))
        return bound


def _weighted(distances: Sequence[Distance], weights: Sequence[float]) -> Distance:
    def distance(moments: Moments) -> Tensor:
        terms = [one(moments) * weight for one, weight in zip(distances, weights, strict=True)]
        return torch.stack(terms).sum()

    return distance
