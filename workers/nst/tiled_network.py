"""A loss network over the tiles of a picture that a group holds, and the sums of its features."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import accumulate

import torch
from torch import Tensor

from workers.nst.exact_sums import ExactSums
from workers.nst.features import LossNetwork
from workers.nst.losses import Moments, Sums, layer_sums
from workers.nst.regions import plan_tile
from workers.nst.stages import Heard, unheard
from workers.nst.tile_features import Tap, tap_features
from workers.nst.tiling import Borders, Share


class TiledNetwork:
    """A loss network over the tiles of a picture that a group holds.

    Args:
        network: The loss network, on the device of the tiles.
        layers: Names of the layers that are looked at.
        share: The tiles of this member; all members make the same calls.
        reach_px: How far terms on the pixels themselves look beyond a pixel.
        heard: Called with each tile.

    Raises:
        ValueError: If a layer is not known or the picture is too small for it.
    """

    def __init__(
        self,
        network: LossNetwork,
        layers: Iterable[str],
        share: Share,
        *,
        reach_px: int = 0,
        heard: Heard = unheard,
    ) -> None:
        self._heard = heard
        self.layers = tuple(sorted(set(layers)))
        self.share = share
        self.network = network.up_to(self.layers) if self.layers else network
        self.strides = {name: network.stride(name) for name in self.layers}
        self.channels = {name: network.channels(name) for name in self.layers}
        whole = share.tiling.whole
        if self.layers:
            network.check_size(whole.height, whole.width, self.layers)
        self.plans = [
            plan_tile(self.network.layers, self.layers, whole, core, reach_px) for core in share.tiling.cores
        ]
        self.borders = Borders(share, self.plans)

    def positions(self, layer: str) -> int:
        """Return how many positions the whole picture has at a layer."""
        stride = self.strides[layer]
        return (self.share.tiling.whole.height // stride) * (self.share.tiling.whole.width // stride)

    def within(self, pixels: int | None) -> frozenset[int]:
        """Return tiles of this member that read no more than so many pixels together; None for all."""
        held = self.share.held
        if pixels is None:
            return frozenset(held)
        read = accumulate(self.plans[tile].pixels.area for tile in held)
        return frozenset(tile for tile, total in zip(held, read, strict=True) if total <= pixels)

    def taps(self, tile: int, rgb: Tensor, *, graph: bool = False) -> list[Tap]:
        """Return the layers of which a tile owns anything, in order.

        Args:
            tile: One of this member.
            rgb: All pixels that it reads, `[1, 3, h, w]` in 0..1.
            graph: Whether a gradient will be carried back through them.
        """
        self._heard()
        return tap_features(self.network, self.plans[tile], rgb, graph=graph) if self.layers else []

    def moments(self, tiles: dict[int, Tensor]) -> dict[str, Moments]:
        """Return the moments of a picture at all layers, float64: for style images too large for one piece.

        Args:
            tiles: Of this member, `[1, 3, h, w]`, RGB in 0..1.
        """
        if not self.layers:
            return {}
        layout = LayerVectors(self.channels)
        adder = ExactSums(self.share.group, len(self.share.tiling.cores), layout.lengths, ())
        crops = self.borders.spread(tiles)
        vectors = {tile: layout.of_taps(self.taps(tile, crop)) for tile, crop in crops.items()}
        added, _ = adder.add(vectors, {tile: {} for tile in tiles})
        moments = {}
        for name, (second, first) in layout.unpack(added).items():
            device = self.network.device
            moments[name] = Sums(second.to(device), first.to(device), self.positions(name)).moments()
        return moments


class LayerVectors:
    """Two tensors of each of some layers as vectors: `[C, C]`, half of it since it is symmetric, and `[C]`.

    Args:
        channels: Of each layer.
    """

    def __init__(self, channels: dict[str, int]) -> None:
        self._channels = channels
        self._names = {layer: (f"F F^T at {layer}", f"F at {layer}") for layer in channels}
        self.lengths: dict[str, int] = {}
        for layer, count in channels.items():
            second, first = self._names[layer]
            self.lengths |= {second: count * (count + 1) // 2, first: count}

    def of_taps(self, taps: Iterable[Tap]) -> dict[str, Tensor]:
        """Return the sums of a tile's own features; those of layers of which it owns none are zero."""
        vectors = {name: torch.zeros(length, dtype=torch.float64) for name, length in self.lengths.items()}
        sums = {tap.layer: layer_sums(tap.own) for tap in taps if tap.layer in self._channels}
        return vectors | self.pack({layer: (value.second, value.first) for layer, value in sums.items()})

    def pack(self, pairs: dict[str, tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
        """Return the vectors of some layers' pairs, by name."""
        vectors: dict[str, Tensor] = {}
        for layer, (second, first) in pairs.items():
            rows, columns = self._upper(layer)
            vectors |= dict(zip(self._names[layer], (second[rows, columns], first), strict=True))
        return vectors

    def unpack(self, vectors: dict[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
        """Return the pairs of all layers from their vectors."""
        pairs = {}
        for layer, count in self._channels.items():
            triangle, first = (vectors[name] for name in self._names[layer])
            rows, columns = self._upper(layer)
            second = triangle.new_empty(count, count)
            second[rows, columns] = triangle
            second[columns, rows] = triangle
            pairs[layer] = (second, first)
        return pairs

    def _upper(self, layer: str) -> Tensor:
        count = self._channels[layer]
        return torch.triu_indices(count, count)
