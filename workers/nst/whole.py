"""The objective over a whole picture in one piece: loss, gradient, and each term by itself."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from workers.nst.features import LossNetwork
from workers.nst.losses import ContentTerm, Moments, Objective, WeightedStyle, layer_sums
from workers.nst.optimizers import total_alone
from workers.nst.variation import Window, total_variation


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """What one evaluation of an objective gave.

    Attributes:
        loss: The sum of all terms.
        gradient: Of the loss, with the picture's shape and dtype.
        terms: Each term by name: `style relu1_1`, `content relu4_2`, `tv absolute`.
    """

    loss: float
    gradient: Tensor
    terms: dict[str, float]

    @property
    def gradients(self) -> dict[int, Tensor]:
        """The gradient of the only tile, as optimizers take it."""
        return {0: self.gradient}


def style_moments(
    network: LossNetwork, rgb: Tensor, layers: Iterable[str], dtype: torch.dtype = torch.float64
) -> dict[str, Moments]:
    """Return the moments of a style image at some layers, in the dtype of the statistics.

    Args:
        network: The loss network.
        rgb: `[1, 3, H, W]` in 0..1.
        layers: Names of layers; none give nothing.
        dtype: Of the moments.

    Raises:
        ValueError: If a layer is not known or the image is too small for it.
    """
    wanted = list(layers)
    if not wanted:
        return {}
    with torch.no_grad():
        features = network.taps(network.preprocess(rgb), wanted)
        return {name: layer_sums(value, dtype).moments() for name, value in features.items()}


class WholePicture:
    """An objective bound to its targets, evaluated over the whole picture at once.

    The sums of style, and all that is made of them, are in `statistics`; features are in the dtype of the
    network, pixels in their own.

    Args:
        network: The loss network, on the device of the pictures.
        objective: What is minimized.
        content: RGB in 0..1, `[1, 3, H, W]`: what the content terms compare with, and the size.
        styles: Weight and moments of each style, as `style_moments` gives them; in `statistics`.
        statistics: Dtype of sums and distances.

    Raises:
        ValueError: If the picture is too small, a layer is not known, or styles are missing.
    """

    def __init__(
        self,
        network: LossNetwork,
        objective: Objective,
        content: Tensor,
        styles: Sequence[WeightedStyle],
        *,
        statistics: torch.dtype = torch.float64,
    ) -> None:
        self._network = network
        self._objective = objective
        self._statistics = statistics
        self._window = Window.whole(*content.shape[-2:])
        self._distances = objective.distances(styles) if objective.style else []
        self._content = self._content_targets(content)

    @torch.enable_grad()
    def __call__(self, picture: Tensor) -> Evaluation:
        """Return loss and gradient at a picture of `[1, 3, H, W]` in 0..`pixel_range`."""
        leaf = picture.detach().requires_grad_()
        terms: dict[str, float] = {}
        gradients: dict[str, Tensor] = {}
        features: dict[str, Tensor] = {}
        if self._objective.layers:
            rgb = leaf / self._objective.pixel_range
            features = self._network.taps(self._network.preprocess(rgb), self._objective.layers)
        with torch.no_grad():
            self._add_style(features, gradients, terms)
            self._add_content(features, gradients, terms)
        if gradients:
            torch.autograd.backward([features[name] for name in gradients], list(gradients.values()))
        for term in self._objective.tv:
            variation = total_variation(term.form, leaf, self._window) * term.weight
            torch.autograd.backward(variation)
            _note(terms, f"tv {term.form}", float(variation.detach()))
        gradient = torch.zeros_like(picture) if leaf.grad is None else leaf.grad
        return Evaluation(sum(terms.values()), gradient, terms)

    def _content_targets(self, content: Tensor) -> list[tuple[ContentTerm, Tensor, float]]:
        layers = {term.layer for term in self._objective.content}
        if not layers:
            return []
        with torch.no_grad():
            features = self._network.taps(self._network.preprocess(content), layers)
        targets = []
        for term in self._objective.content:
            target = features[term.layer]
            factor = term.factor(target.numel(), float(target.to(self._statistics).square().sum()))
            targets.append((term, target, factor))
        return targets

    def _add_style(
        self, features: dict[str, Tensor], gradients: dict[str, Tensor], terms: dict[str, float]
    ) -> None:
        """Add the terms of style; the gradient of a feature needs the derivatives by the moments alone."""
        for term, distance in self._distances:
            value = features[term.layer]
            moments = layer_sums(value, self._statistics).moments()
            with torch.enable_grad():
                second = moments.second.requires_grad_()
                first = moments.first.requires_grad_()
                loss = distance(Moments(second, first)) * term.weight
                by_second, by_first = torch.autograd.grad(loss, (second, first), allow_unused=True)
            _note(terms, f"style {term.layer}", float(loss.detach()))
            _add(gradients, term.layer, _feature_gradient(value, by_second, by_first))

    def _add_content(
        self, features: dict[str, Tensor], gradients: dict[str, Tensor], terms: dict[str, float]
    ) -> None:
        for term, target, factor in self._content:
            difference = features[term.layer] - target
            loss = factor * float(difference.to(self._statistics).square().sum())
            _note(terms, f"content {term.layer}", loss)
            _add(gradients, term.layer, difference.mul_(2 * factor))


def _feature_gradient(features: Tensor, by_second: Tensor | None, by_first: Tensor | None) -> Tensor:
    """Return the gradient of a function of the moments by the features, `[1, C, H, W]`.

    Args:
        features: `[1, C, H, W]`.
        by_second: Derivative by the mean of `F F^T`, `[C, C]`, or None where the function ignores it.
        by_first: Derivative by the mean of `F`, `[C]`, or None.
    """
    positions = features.shape[-2] * features.shape[-1]
    gradient = torch.zeros_like(features)
    if by_second is not None:
        symmetric = ((by_second + by_second.T) / positions).to(features.dtype)
        by_position = features[0].permute(1, 2, 0).flatten(0, 1)
        rows = (by_position @ symmetric).view(1, *features.shape[-2:], features.shape[1])
        gradient = rows.permute(0, 3, 1, 2)
    if by_first is not None:
        gradient += (by_first / positions).to(features.dtype).view(1, -1, 1, 1)
    return gradient


def _add(gradients: dict[str, Tensor], name: str, gradient: Tensor) -> None:
    gradients[name] = gradients[name] + gradient if name in gradients else gradient


def _note(terms: dict[str, float], name: str, loss: float) -> None:
    """Add a loss under its name: two terms of one kind at one layer are one line of a trace."""
    terms[name] = terms.get(name, 0.0) + loss


class WholeStage:
    """A scale that is rendered in one piece: tile 0 is the picture."""

    def __init__(
        self,
        network: LossNetwork,
        objective: Objective,
        content: Tensor,
        styles: Sequence[tuple[float, Tensor]],
        *,
        statistics: torch.dtype = torch.float64,
    ) -> None:
        layers = [term.layer for term in objective.style]
        moments = [(weight, style_moments(network, rgb, layers, statistics)) for weight, rgb in styles]
        self._objective = WholePicture(network, objective, content, moments, statistics=statistics)

    def begin(self, picture: Tensor) -> dict[int, Tensor]:
        """Return the picture as the only tile."""
        return {0: picture.clone(memory_format=torch.contiguous_format)}

    def evaluate(self, tiles: dict[int, Tensor]) -> Evaluation:
        """Return loss and gradient."""
        return self._objective(tiles[0])

    def total(self, partial: dict[int, Tensor]) -> list[float]:
        """Return the numbers of the only tile."""
        return total_alone(partial)

    def gather(self, tiles: dict[int, Tensor]) -> Tensor:
        """Return the only tile."""
        return tiles[0]

    def agree(self, numbers: list[float]) -> list[float]:
        """Return the numbers: there is one worker."""
        return numbers
