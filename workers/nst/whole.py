"""The objective over a whole picture in one piece: loss, gradient, and each term by itself."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from workers.nst.features import LossNetwork
from workers.nst.losses import ContentTerm, Moments, Objective, WeightedStyle, layer_sums
from workers.nst.optimizers import total_alone
from workers.nst.regions import Region, plan_tile
from workers.nst.slopes import add_style_gradient, style_slopes
from workers.nst.stages import Heard, unheard
from workers.nst.tile_features import Tap, pull_back, tap_features
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
        heard: Called with each layer that something is compared at.

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
        heard: Heard = unheard,
    ) -> None:
        self._heard = heard
        self._network = network
        self._objective = objective
        self._statistics = statistics
        height_px, width_px = content.shape[-2:]
        if objective.layers:
            network.check_size(height_px, width_px, objective.layers)
        self._window = Window.whole(height_px, width_px)
        whole = Region(0, 0, height_px, width_px)
        self._plan = plan_tile(network.layers, objective.layers, whole, whole)
        self._distances = objective.distances(styles) if objective.style else []
        self._content = self._content_targets(content)

    def __call__(self, picture: Tensor) -> Evaluation:
        """Return loss and gradient at a picture of `[1, 3, H, W]` in 0..`pixel_range`."""
        terms: dict[str, float] = {}
        gradient = self._by_features(picture, terms)
        for term in self._objective.tv:
            leaf = picture.detach().requires_grad_()
            with torch.enable_grad():
                variation = total_variation(term.form, leaf, self._window) * term.weight
            gradient += torch.autograd.grad(variation, leaf)[0]
            _note(terms, f"tv {term.form}", float(variation.detach()))
        return Evaluation(sum(terms.values()), gradient, terms)

    def _by_features(self, picture: Tensor, terms: dict[str, float]) -> Tensor:
        """Return the gradient of all terms on features, and note them: the picture is a single tile here."""
        white = self._objective.pixel_range
        taps = tap_features(self._network, self._plan, picture / white, graph=True)
        self._heard()
        features = {tap.layer: tap.own for tap in taps}
        layers = {term.layer for term, _ in self._distances}
        by_means = {term.layer for term, _ in self._distances if term.loss.looks_at_means}
        sums = {
            layer: layer_sums(features[layer], self._statistics, means=layer in by_means) for layer in layers
        }
        losses, slopes = style_slopes(self._distances, sums)
        for (style, _), loss in zip(self._distances, losses, strict=True):
            _note(terms, f"style {style.layer}", loss)
        for content, target, factor in self._content:
            length = torch.linalg.vector_norm(features[content.layer] - target, dtype=self._statistics)
            _note(terms, f"content {content.layer}", factor * float(length) ** 2)
        del features

        def add(tap: Tap, gradient: Tensor) -> None:
            self._heard()
            if tap.layer in slopes:
                add_style_gradient(gradient, tap.own, slopes[tap.layer])
            for content, target, factor in self._content:
                if content.layer == tap.layer:
                    gradient.add_(tap.own - target, alpha=2 * factor)

        return pull_back(self._network, taps, picture, add) / white

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


def _note(terms: dict[str, float], name: str, loss: float) -> None:
    """Add a loss under its name: two terms of one kind at one layer are one line of a trace."""
    terms[name] = terms.get(name, 0.0) + loss


class WholeStage:
    """A scale that is rendered in one piece: tile 0 is the picture; see `WholePicture`."""

    def __init__(
        self,
        network: LossNetwork,
        objective: Objective,
        content: Tensor,
        styles: Sequence[tuple[float, Tensor]],
        *,
        statistics: torch.dtype = torch.float64,
        heard: Heard = unheard,
    ) -> None:
        layers = [term.layer for term in objective.style]
        moments = []
        for weight, rgb in styles:
            moments.append((weight, style_moments(network, rgb, layers, statistics)))
            heard()
        self._objective = WholePicture(
            network, objective, content, moments, statistics=statistics, heard=heard
        )

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
