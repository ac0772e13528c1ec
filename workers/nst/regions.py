"""Which pixels and features a tile needs: walked back through a network's layers, and written down nowhere.

A tile *owns* the positions of a layer whose first pixel lies in its core, so that every position has exactly
one owner at every size and every cut. To compute what it owns, it needs more: a convolution one position on
each side, a pooling layer the four beneath. At the border of the picture there is nothing to need.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from workers.nst.features import Layer


class Region(NamedTuple):
    """A rectangle of positions, `[top, bottom)` by `[left, right)`."""

    top: int
    left: int
    bottom: int
    right: int

    @property
    def height(self) -> int:
        """Rows, 0 if there is none."""
        return max(0, self.bottom - self.top)

    @property
    def width(self) -> int:
        """Columns, 0 if there is none."""
        return max(0, self.right - self.left)

    @property
    def area(self) -> int:
        """Positions."""
        return self.height * self.width

    def grow(self, by: int) -> Region:
        """Return the region with `by` more positions on each side."""
        return Region(self.top - by, self.left - by, self.bottom + by, self.right + by)

    def scale(self, factor: int) -> Region:
        """Return the positions that lie under this region where there are `factor` times as many a side."""
        return Region(*(factor * side for side in self))

    def clip(self, other: Region) -> Region:
        """Return what lies in both; its area is 0 if nothing does."""
        return Region(
            max(self.top, other.top),
            max(self.left, other.left),
            min(self.bottom, other.bottom),
            min(self.right, other.right),
        )

    def hull(self, other: Region) -> Region:
        """Return the smallest region that holds both; one that is empty counts for nothing."""
        if not self.area or not other.area:
            return self if self.area else other
        return Region(
            min(self.top, other.top),
            min(self.left, other.left),
            max(self.bottom, other.bottom),
            max(self.right, other.right),
        )

    def slices(self, inside: Region) -> tuple[slice, slice]:
        """Return the rows and columns of this region in a tensor that holds the region `inside`."""
        return (
            slice(self.top - inside.top, self.bottom - inside.top),
            slice(self.left - inside.left, self.right - inside.left),
        )


EMPTY = Region(0, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class TilePlan:
    """What one tile reads, computes and owns.

    Attributes:
        core: The pixels that are its own.
        pixels: The pixels that it reads, its own among them.
        outputs: What it computes of each layer, in order, up to the last of which it needs anything.
        owned: Its positions of each tapped layer; may be empty in a small tile.
    """

    core: Region
    pixels: Region
    outputs: tuple[Region, ...]
    owned: dict[str, Region]


def plan_tile(
    layers: Sequence[Layer], taps: Iterable[str], whole: Region, core: Region, reach_px: int = 0
) -> TilePlan:
    """Return what a tile must read and compute so that its own features are those of the whole picture.

    Args:
        layers: Of the network, in order.
        taps: Names of the layers whose features are wanted.
        whole: The picture in pixels, from `(0, 0)`.
        core: The tile's own pixels.
        reach_px: How far terms on the pixels themselves look beyond a pixel.
    """
    wanted = set(taps)
    owned: dict[str, Region] = {}
    sizes = [whole]  # of what goes into each layer, and of what comes out of the last
    stride = 1
    for layer in layers:
        if layer.kind == "pool":
            stride *= 2
        sizes.append(Region(0, 0, whole.bottom // stride, whole.right // stride))
        if layer.name in wanted:
            owned[layer.name] = _owned(core, stride, sizes[-1])
    outputs: list[Region] = []
    needed = EMPTY
    for position in reversed(range(len(layers))):
        needed = needed.hull(owned.get(layers[position].name, EMPTY))
        outputs.append(needed)
        if needed.area:
            needed = reads(layers[position], needed).clip(sizes[position])
    computed = tuple(region for region in reversed(outputs) if region.area)
    return TilePlan(core, needed.hull(core.grow(reach_px).clip(whole)), computed, owned)


def reads(layer: Layer, output: Region) -> Region:
    """Return the input that a layer reads for a region of its output, beyond the border as well."""
    if layer.kind == "conv":
        return output.grow(1)
    return output.scale(2) if layer.kind == "pool" else output


def check_partition(cores: Sequence[Region], whole: Region) -> None:
    """Check that tiles cover a picture, each pixel once.

    Raises:
        ValueError: Naming the tile that is empty, outside, or over another one; or saying what is left over.
    """
    for tile, core in enumerate(cores):
        if not core.area or core.clip(whole) != core:
            raise ValueError(f"tile {tile}, {tuple(core)}, is not inside the picture {tuple(whole)}")
        for other, earlier in enumerate(cores[:tile]):
            if core.clip(earlier).area:
                raise ValueError(f"tiles {other} and {tile} overlap: {tuple(earlier)}, {tuple(core)}")
    missing = whole.area - sum(core.area for core in cores)
    if missing:
        raise ValueError(f"the tiles leave {missing} px of {whole.area} px to no one")


def _owned(core: Region, stride: int, size: Region) -> Region:
    """Return the positions whose first pixel lies in the core and that are there at all."""
    return Region(*(-(-side // stride) for side in core)).clip(size)
