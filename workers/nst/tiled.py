"""The objective over a picture in tiles, on the members of a group: the very loss and gradient of the whole.

Every distance of style is a function of sums over positions. So each tile adds up its own positions, the
sums of all tiles give the derivatives by the moments, and each tile carries these back to the pixels that it
read, its neighbors' among them, who add what they get. Nothing is blended, nothing is cut off.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from workers.nst.exact_sums import ExactSums
from workers.nst.features import LossNetwork
from workers.nst.losses import ContentTerm, Objective, StyleTerm, Sums, WeightedStyle
from workers.nst.regions import Region
from workers.nst.slopes import Slope, add_style_gradient, style_slopes
from workers.nst.stages import Heard, unheard
from workers.nst.tile_features import Tap, pull_back
from workers.nst.tiled_network import LayerVectors, TiledNetwork
from workers.nst.tiling import Share
from workers.nst.variation import TvTerm, Window, total_variation

TV_REACH_PX = 1
"""How far the differences of a pixel look beyond it."""

EXACT_TERMS = frozenset({StyleTerm, ContentTerm, TvTerm})
"""What can be computed in tiles: functions of sums over positions, and of pixels within `TV_REACH_PX`."""

_LOSSES = "losses"


@dataclass(frozen=True, slots=True, eq=False)
class TiledEvaluation:
    """What one evaluation of an objective gave; loss and terms have the same bits on every member.

    Attributes:
        loss: The sum of all terms.
        gradients: Of the loss, for each tile of this member, with its shape and dtype.
        terms: Each term by name, as `WholePicture` names them.
    """

    loss: float
    gradients: dict[int, Tensor]
    terms: dict[str, float]


class TiledPicture:
    """An objective bound to its targets, evaluated over the tiles of a picture.

    Loss, terms and gradients have the same bits for every number of members and whoever holds which tile.
    Sums and distances of style are float64; features have the dtype of the network, pixels their own.

    Args:
        network: The loss network, on the device of the tiles.
        objective: What is minimized.
        content: This member's tiles of what the content terms compare with, RGB in 0..1, `[1, 3, h, w]`.
        styles: Weight and moments of each style, float64 on the network's device; of member 0 they count.
        share: The tiles of this member; all members make the same calls.
        resident_px: The graphs of the first pass are kept for the second for tiles of this member that read
            no more pixels than this together. The others are computed once more: the same bits in less
            memory and more time. None keeps all.
        heard: Called with each tile and layer.

    Raises:
        ValueError: If the picture is too small, a layer is not known, styles are missing, or a term is not
            exact in tiles.
    """

    def __init__(  # noqa: PLR0913 - an objective, and where and how it is evaluated
        self,
        network: LossNetwork,
        objective: Objective,
        content: dict[int, Tensor],
        styles: Sequence[WeightedStyle],
        share: Share,
        *,
        resident_px: int | None = None,
        heard: Heard = unheard,
    ) -> None:
        check_exact(objective)
        self._heard = heard
        self._objective = objective
        self._share = share
        self._tiles = TiledNetwork(
            network, objective.layers, share, reach_px=TV_REACH_PX if objective.tv else 0, heard=heard
        )
        self._resident = self._tiles.within(resident_px)
        self._distances = objective.distances(styles) if objective.style else []
        self._vectors = LayerVectors({t.layer: self._tiles.channels[t.layer] for t in objective.style})
        content_layers = sorted({term.layer for term in objective.content})
        self._targets = self._content_targets(content, content_layers)
        self._factors = self._content_factors(content_layers)
        self._sums = ExactSums(
            share.group,
            len(share.tiling.cores),
            self._vectors.lengths,
            [*content_layers, *map(_tv_name, range(len(objective.tv)))],
        )

    def __call__(self, tiles: dict[int, Tensor]) -> TiledEvaluation:
        """Return loss and gradient at a picture.

        Args:
            tiles: Of this member, `[1, 3, h, w]` in 0..`pixel_range`.

        Raises:
            ValueError: If a sum is not finite.
        """
        crops = self._tiles.borders.spread(tiles)
        resident: dict[int, list[Tap]] = {}
        vectors, numbers = {}, {}
        for tile, crop in crops.items():
            taps = self._taps(tile, crop, graph=tile in self._resident)
            vectors[tile], numbers[tile] = self._measure(tile, crop, taps)
            if tile in self._resident:
                resident[tile] = taps
            del taps
        sums, added = self._sums.add(vectors, numbers)
        terms, slopes = self._coordinate(sums, added)
        gradients = {}
        for tile, crop in crops.items():
            taps = resident.pop(tile) if tile in resident else self._taps(tile, crop, graph=True)
            gradients[tile] = self._back(tile, crop, taps, slopes)
        return TiledEvaluation(sum(terms.values()), self._tiles.borders.collect(gradients), terms)

    def _taps(self, tile: int, crop: Tensor, *, graph: bool) -> list[Tap]:
        return self._tiles.taps(tile, crop / self._objective.pixel_range, graph=graph)

    def _measure(
        self, tile: int, crop: Tensor, taps: list[Tap]
    ) -> tuple[dict[str, Tensor], dict[str, float]]:
        """Return what a tile adds to the sums: vectors of style, numbers of content and of variation."""
        numbers = dict.fromkeys(self._factors, 0.0)
        targets = self._targets[tile]
        for tap in taps:
            if tap.layer in targets:
                numbers[tap.layer] = float((tap.own - targets[tap.layer]).double().square().sum())
        near, window, _ = self._near(tile, crop)
        for index, term in enumerate(self._objective.tv):
            numbers[_tv_name(index)] = float(total_variation(term.form, near, window))
        return self._vectors.of_taps(taps), numbers

    def _near(self, tile: int, crop: Tensor) -> tuple[Tensor, Window, tuple[slice, slice]]:
        """Return the pixels that a tile's total variation looks at, float64, and their place in the crop."""
        whole, core = self._share.tiling.whole, self._share.tiling.cores[tile]
        reached = Region(core.top, core.left, core.bottom + TV_REACH_PX, core.right + TV_REACH_PX).clip(whole)
        place = reached.slices(self._tiles.plans[tile].pixels)
        return crop[(..., *place)].double(), Window(*core, whole.height, whole.width), place

    def _coordinate(
        self, sums: dict[str, Tensor], numbers: dict[str, float]
    ) -> tuple[dict[str, float], dict[str, Slope]]:
        """Return all terms, and the derivatives by the sums of each layer; member 0 computes them for all."""
        lengths = {_LOSSES: len(self._distances)} | self._vectors.lengths
        message = torch.empty(sum(lengths.values()), dtype=torch.float64)
        if self._share.group.rank == 0:
            message = torch.cat(self._style(sums))
        parts = torch.split(self._share.group.broadcast(message), list(lengths.values()))
        vectors = dict(zip(lengths, parts, strict=True))
        terms: dict[str, float] = {}
        for (term, _), loss in zip(self._distances, vectors.pop(_LOSSES).tolist(), strict=True):
            _note(terms, f"style {term.layer}", loss)
        for layer, factor in self._factors.items():
            _note(terms, f"content {layer}", factor * numbers[layer])
        for index, variation in enumerate(self._objective.tv):
            _note(terms, f"tv {variation.form}", variation.weight * numbers[_tv_name(index)])
        return terms, self._vectors.unpack(vectors)

    def _style(self, sums: dict[str, Tensor]) -> list[Tensor]:
        """Return the terms of style and the vectors of their derivatives by the sums, float64 on the CPU."""
        device = self._tiles.network.device
        on_device = {
            layer: Sums(second.to(device), first.to(device), self._tiles.positions(layer))
            for layer, (second, first) in self._vectors.unpack(sums).items()
        }
        losses, slopes = style_slopes(self._distances, on_device)
        on_cpu = {layer: (second.cpu(), first.cpu()) for layer, (second, first) in slopes.items()}
        return [torch.tensor(losses, dtype=torch.float64), *self._vectors.pack(on_cpu).values()]

    def _back(self, tile: int, crop: Tensor, taps: list[Tap], slopes: dict[str, Slope]) -> Tensor:
        """Return the gradient by all pixels that a tile reads, of what it owns; the taps are used up."""
        targets = self._targets[tile]

        def add(tap: Tap, gradient: Tensor) -> None:
            self._heard()
            if tap.layer in slopes:
                add_style_gradient(gradient, tap.own, slopes[tap.layer])
            if tap.layer in targets:
                gradient.add_(tap.own - targets[tap.layer], alpha=2 * self._factors[tap.layer])

        gradient = pull_back(self._tiles.network, taps, crop, add) / self._objective.pixel_range
        if self._objective.tv:
            near, window, place = self._near(tile, crop)
            near.requires_grad_()
            terms = [total_variation(term.form, near, window) * term.weight for term in self._objective.tv]
            (by_pixels,) = torch.autograd.grad(torch.stack(terms).sum(), near)
            gradient[(..., *place)] += by_pixels
        return gradient

    def _content_targets(
        self, content: dict[int, Tensor], layers: Sequence[str]
    ) -> dict[int, dict[str, Tensor]]:
        """Return the content's features, for each tile of this member its own of the layers of content."""
        targets: dict[int, dict[str, Tensor]] = {}
        for tile, crop in self._tiles.borders.spread(content).items():
            taps = self._tiles.taps(tile, crop) if layers else []
            targets[tile] = {tap.layer: tap.own.clone() for tap in taps if tap.layer in layers}
        return targets

    def _content_factors(self, layers: Sequence[str]) -> dict[str, float]:
        """Return what the sum of squared differences of each layer is multiplied with."""
        if not layers:
            return {}
        energies = {
            tile: {
                layer: float(owned[layer].double().square().sum()) if layer in owned else 0.0
                for layer in layers
            }
            for tile, owned in self._targets.items()
        }
        _, energy = ExactSums(self._share.group, len(self._share.tiling.cores), {}, layers).add({}, energies)
        factors = dict.fromkeys(layers, 0.0)
        for term in self._objective.content:
            elements = self._tiles.channels[term.layer] * self._tiles.positions(term.layer)
            factors[term.layer] += term.factor(elements, energy[term.layer])
        return factors


def check_exact(objective: Objective) -> None:
    """Check that every term is exact in tiles: a function of sums over positions, or of near pixels.

    Raises:
        ValueError: Naming the first that is not.
    """
    for term in (*objective.style, *objective.content, *objective.tv):
        if type(term) not in EXACT_TERMS:
            raise ValueError(f"{term} is not exact in tiles: render it in one piece")


def _note(terms: dict[str, float], name: str, loss: float) -> None:
    terms[name] = terms.get(name, 0.0) + loss


def _tv_name(index: int) -> str:
    return f"total variation {index}"
