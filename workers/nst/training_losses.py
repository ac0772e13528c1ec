"""What a feedforward network is trained to make small: content, style and total variation of its pictures.

Perceptual losses of Johnson et al. 2016 (section 3.2), with the normalizations of the trainers that people
know. Every term is a mean over the pictures of a batch, so that a batch may be shared by several workers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from workers.nst.features import LossNetwork

Normalization = Literal["relative", "elements"]
StyleTarget = Literal["gram", "mean"]

_SMALLEST_ENERGY = 1e-30


@dataclass(frozen=True, slots=True)
class TrainingObjective:
    """All terms and their weights, as data.

    Attributes:
        content_layers: Weight of each layer of content.
        style_layers: Weight of each layer of style.
        content_weight: Of all content.
        style_weight: Of all style.
        tv_weight: Of `mean dx^2 + mean dy^2` of the picture, 0..255.
        normalization: `elements`: Gram matrices are divided by the number of features, and mean squared
            differences are taken, of Gram matrices and of content (pytorch/examples and others).
            `relative`: the squared differences are divided by the sum of squares of their target. Then one
            set of weights holds for every painting and every loss network.
        style_target: What is compared of a layer's features: their Gram matrix, or only their means
            (jcjohnson/fast-neural-style).
        pyramid_levels: At how many sizes a picture is looked at, each half of the one before (texture_nets).
        pyramid_decay: Weight of a level, relative to the one before.
    """

    content_layers: Mapping[str, float]
    style_layers: Mapping[str, float]
    content_weight: float
    style_weight: float
    tv_weight: float = 0.0
    normalization: Normalization = "relative"
    style_target: StyleTarget = "gram"
    pyramid_levels: int = 1
    pyramid_decay: float = 0.9

    @property
    def layers(self) -> frozenset[str]:
        """Of the loss network, that some term looks at."""
        return frozenset([*self._active(self.content_layers), *self._active(self.style_layers)])

    @property
    def content_names(self) -> frozenset[str]:
        """The layers at which the photographs themselves are looked at."""
        return frozenset(self._active(self.content_layers))

    @staticmethod
    def _active(layers: Mapping[str, float]) -> list[str]:
        return [name for name, weight in layers.items() if weight]


@dataclass(frozen=True, slots=True, eq=False)
class StyleTargets:
    """What the paintings are like at each layer, computed once.

    Attributes:
        by_layer: Gram matrix `[C, C]` or means `[C]`, float32, blended by the weights of the paintings.
    """

    by_layer: Mapping[str, Tensor]


def style_targets(
    objective: TrainingObjective, network: LossNetwork, styles: Sequence[tuple[float, Tensor]]
) -> StyleTargets:
    """Return the targets of style.

    Args:
        objective: What is compared.
        network: The loss network.
        styles: Weight of each painting and its RGB in 0..1, `[1, 3, H, W]`.

    Raises:
        ValueError: If there is no painting, their weights have no positive sum, or one is too small.
    """
    total = sum(weight for weight, _ in styles)
    if not styles or total <= 0:
        raise ValueError(f"the weights of the paintings add up to {total}: there must be a positive one")
    blended: dict[str, Tensor] = {}
    with torch.no_grad():
        for weight, rgb in styles:
            taps = network.taps(network.preprocess(rgb.to(network.device)), objective.style_layers)
            for layer, features in taps.items():
                share = _statistics(features, objective)[0] * (weight / total)
                blended[layer] = blended[layer] + share if layer in blended else share
    return StyleTargets(blended)


class BatchLoss:
    """The loss of a batch of pictures against their photographs.

    Args:
        objective: What is minimized.
        network: The loss network, frozen, on the device to compute on.
        targets: Of style.
    """

    def __init__(self, objective: TrainingObjective, network: LossNetwork, targets: StyleTargets) -> None:
        self._objective = objective
        self._network = network.up_to(objective.layers)
        self._targets = targets

    def __call__(self, pictures: Tensor, photographs: Tensor) -> dict[str, Tensor]:
        """Return each term by name, weighted, added up over the pictures: `content`, `style relu1_1`, `tv`.

        Args:
            pictures: What the network made, RGB around 0..255, `[N, 3, H, W]`, any floating dtype.
            photographs: What it was given, RGB 0..255, of the same shape.

        Raises:
            ValueError: If the pictures are too small for the loss network.
        """
        terms: dict[str, Tensor] = {}
        share = 1.0
        for level in range(self._objective.pyramid_levels):
            if level:
                pictures = functional.avg_pool2d(pictures, 2)
                photographs = functional.avg_pool2d(photographs, 2)
                share *= self._objective.pyramid_decay
            for name, value in self._at_one_size(pictures, photographs).items():
                terms[name] = terms[name] + share * value if name in terms else value
        if self._objective.tv_weight:
            terms["tv"] = self._objective.tv_weight * _total_variation(pictures.float()).sum()
        return terms

    def _at_one_size(self, pictures: Tensor, photographs: Tensor) -> dict[str, Tensor]:
        objective, network = self._objective, self._network
        with torch.no_grad():
            wanted = network.taps(network.preprocess(photographs / 255), objective.content_names)
        found = network.taps(network.preprocess(pictures / 255), objective.layers)
        content = [
            weight * self._content(found[layer], wanted[layer]).sum()
            for layer, weight in objective.content_layers.items()
            if weight
        ]
        terms = {"content": objective.content_weight * torch.stack(content).sum()} if content else {}
        for layer, weight in objective.style_layers.items():
            if weight:
                distance = self._style(found[layer], self._targets.by_layer[layer]).sum()
                terms[f"style {layer}"] = objective.style_weight * weight * distance
        return terms

    def _content(self, features: Tensor, target: Tensor) -> Tensor:
        """Return the distance of content of each picture, `[N]`."""
        squares = (features.float() - target.float()).square()
        if self._objective.normalization == "elements":
            return squares.mean(dim=(1, 2, 3))
        return squares.sum(dim=(1, 2, 3)) / _energy(target.float().square().sum(dim=(1, 2, 3)))

    def _style(self, features: Tensor, target: Tensor) -> Tensor:
        """Return the distance of style of each picture, `[N]`."""
        squares = (_statistics(features, self._objective) - target).square().flatten(1)
        if self._objective.normalization == "elements":
            return squares.mean(dim=1)
        return squares.sum(dim=1) / _energy(target.square().sum())


def _statistics(features: Tensor, objective: TrainingObjective) -> Tensor:
    """Return the Gram matrices `[N, C, C]`, or the means `[N, C]`, of features `[N, C, H, W]`, float32."""
    count, channels, height, width = features.shape
    by_position = features.permute(0, 2, 3, 1).reshape(count, height * width, channels).float()
    if objective.style_target == "mean":
        return by_position.mean(dim=1)
    per_channel = channels if objective.normalization == "elements" else 1
    products: Tensor = _Products.apply(by_position)
    return products / (height * width * per_channel)


class _Products(torch.autograd.Function):
    """`F^T F` of each picture, whose way back is one product: autograd makes two, and adds them up."""

    @staticmethod
    def forward(ctx: Any, by_position: Tensor) -> Tensor:
        """Return the products `[N, C, C]` of features `[N, P, C]`."""
        ctx.save_for_backward(by_position)
        return torch.bmm(by_position.transpose(1, 2), by_position)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        """Return the gradient by the features, `F (dG + dG^T)`."""
        (by_position,) = ctx.saved_tensors
        return torch.bmm(by_position, gradient + gradient.transpose(1, 2))


def _total_variation(pictures: Tensor) -> Tensor:
    """Return `mean dx^2 + mean dy^2` of each picture, `[N]`."""
    across = (pictures[..., 1:] - pictures[..., :-1]).square().mean(dim=(1, 2, 3))
    down = (pictures[..., 1:, :] - pictures[..., :-1, :]).square().mean(dim=(1, 2, 3))
    return across + down


def _energy(sum_of_squares: Tensor) -> Tensor:
    return sum_of_squares.clamp_min(_SMALLEST_ENERGY)
