"""How a render is laid out: its scales, in one piece or in tiles, over how many workers, in how much memory.

The render itself, the check at submit and the dry run ask here, so that they say the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from jobs import tiles
from jobs.errors import DeviceMemoryError, UsageError
from jobs.optimize import OptimizePayload
from jobs.tiles import CUT_PX, Device, Tile, TileMemory
from workers.nst.features import LossNetwork
from workers.nst.lbfgs import LbfgsSettings
from workers.nst.multiscale import Scale, Size, fit
from workers.nst.recipes import Recipe
from workers.nst.regions import Region, plan_tile
from workers.nst.tiled import TV_REACH_PX
from workers.nst.tiled_stage import Cut
from workers.nst.tiled_state import PART_BYTES
from workers.nst.tiling import Tiling
from workers.optimize_recipe import recipe_of, scales_of

TILE_PX = 1024
LARGE_TILE_PX = 2048
"""Largest tiles, unless told, on workers with less memory than `LARGE_MEMORY_BYTES` and with more."""

LARGE_MEMORY_BYTES = 16 << 30

MOST_TILES = 2048
"""Every tile looks at all others, to find its neighbors."""

_PICTURE_BYTES = 12
_PICTURES = 4
"""Copies of the whole picture that every worker has beside its tiles: content, what is gathered, enlarged."""

_PART_COPIES = 4
"""Of a part of a state, while it is packed, sent, received and written: no tile is computed meanwhile."""

_SEEN_BYTES = {"fp32": 700, "tf32": 700, "bf16": 350}
"""For each pixel of a painting in one piece, while the network looks at it and no graph is kept."""


@dataclass(frozen=True, slots=True)
class ScaleLayout:
    """One scale.

    Attributes:
        scale: Its iterations and weights.
        size: Height and width in pixels.
        rows: Of tiles; 1 in one piece.
        columns: Of tiles.
        margin_px: How far a tile reads beyond its core; 0 in one piece.
        memory_bytes: What the worker that holds most needs at least.
        read_px: What all tiles read in one evaluation, margins included.
        busiest_px: What the worker that holds most reads of that.
    """

    scale: Scale
    size: Size
    rows: int
    columns: int
    margin_px: int
    memory_bytes: int
    read_px: int
    busiest_px: int

    @property
    def pixel_evaluations(self) -> int:
        """Pixels times iterations."""
        return self.size[0] * self.size[1] * self.scale.iterations

    @property
    def tiles(self) -> int:
        """How many there are."""
        return self.rows * self.columns


@dataclass(frozen=True, slots=True)
class Layout:
    """How a render is done.

    Attributes:
        scales: From coarse to fine.
        tile_px: Longest side of tiles; None in one piece.
        workers: Over which the tiles are dealt.
    """

    scales: tuple[ScaleLayout, ...]
    tile_px: int | None
    workers: int

    @property
    def memory_bytes(self) -> int:
        """What the worker that holds most needs at least."""
        return max(scale.memory_bytes for scale in self.scales)

    @property
    def pixel_evaluations(self) -> int:
        """Pixels times iterations, over all scales."""
        return sum(scale.pixel_evaluations for scale in self.scales)

    @property
    def last(self) -> ScaleLayout:
        """The scale of the result."""
        return self.scales[-1]


def lay_out(  # noqa: PLR0913 - what is rendered, and where
    payload: OptimizePayload,
    content_size: Size,
    network: LossNetwork,
    workers: int,
    device: Device,
    memory_bytes: int,
    *,
    style_sizes: Sequence[Size] = (),
) -> Layout:
    """Return how a render is laid out.

    Tiles are of the size that the payload says. If it says none, one worker renders in one piece what fits
    its memory; else tiles are as large as fits, up to a limit, and so many that every worker has one.

    Args:
        payload: What is asked for.
        content_size: Height and width of the picture.
        network: The loss network, as it was loaded.
        workers: How many render it together.
        device: Theirs.
        memory_bytes: Of the one that has least; 0 if that is not known: then everything fits.
        style_sizes: Height and width of the paintings.

    Raises:
        DeviceMemoryError: If it does not fit.
        UsageError: If values do not go together, or there would be too many tiles.
    """
    recipe = recipe_of(payload)
    prepared = recipe.prepare(network)
    plan = _Plan(
        recipe,
        [(scale, fit(content_size, scale.longest_px)) for scale in scales_of(payload, recipe)],
        tuple(style_sizes),
        tiles.tile_memory(payload.precision, recipe.pooling),
        _SEEN_BYTES[payload.precision],
        margin_px(prepared, recipe),
        workers,
    )
    budget = tiles.usable_bytes(memory_bytes, device) if memory_bytes else None
    if payload.tile_px is not None:
        layout = plan.tiled(payload.tile_px)
        _check_fits(layout, budget, plan.largest_tile(budget))
        return layout
    if workers == 1:
        whole = plan.whole()
        if budget is None or whole.memory_bytes <= budget:
            return whole
    large = bool(memory_bytes) and memory_bytes >= LARGE_MEMORY_BYTES
    side = min(plan.largest_tile(budget), LARGE_TILE_PX if large else TILE_PX)
    layout = plan.tiled(plan.shared_tile(side))
    _check_fits(layout, budget, plan.largest_tile(budget))
    return layout


def tile_cut(tile_px: int) -> Cut:
    """Return the function that cuts a picture of some height and width into tiles."""
    return lambda height_px, width_px: tiles.grid(height_px, width_px, tile_px)


def graphs_px(memory: TileMemory, needed_bytes: int, device: Device, memory_bytes: int) -> int:
    """Return of how many pixels, margins included, a worker can keep the graphs from pass to pass.

    Args:
        memory: What tiles need.
        needed_bytes: By the layout; what is left is for graphs.
        device: Of the worker.
        memory_bytes: Of its device.
    """
    return max(0, tiles.usable_bytes(memory_bytes, device) - needed_bytes) // memory.resident_bytes


def margin_px(prepared: LossNetwork, recipe: Recipe) -> int:
    """Return how far a tile reads beyond its core, at most.

    Args:
        prepared: The loss network, no deeper than the recipe needs it.
        recipe: Of the render.
    """
    layers = [*recipe.active_content_layers, *recipe.active_style_layers]
    reach = TV_REACH_PX if recipe.tv_terms else 0
    core = Region(2048, 2048, 4096, 4096)
    plan = plan_tile(prepared.layers if layers else (), layers, Region(0, 0, 6144, 6144), core, reach)
    reads = plan.pixels
    return max(
        core.top - reads.top, core.left - reads.left, reads.bottom - core.bottom, reads.right - core.right
    )


def too_small(
    prepared: LossNetwork, recipe: Recipe, scales: Sequence[Scale], content: Size, styles: Sequence[Size]
) -> str:
    """Return what is too small for the loss network at which scale, or nothing.

    Args:
        prepared: The loss network, as the recipe has it.
        recipe: Of the render.
        scales: From coarse to fine.
        content: Height and width of the picture.
        styles: Height and width of the paintings.
    """
    layers = [*recipe.active_content_layers, *recipe.active_style_layers]
    if not layers:
        return ""
    deepest = prepared.deepest(layers)
    least_px = prepared.stride(deepest)
    for scale in scales:
        size = fit(content, scale.longest_px)
        named = {"the picture": size}
        if recipe.active_style_layers:
            named |= {f"painting {n}": recipe.style_size.of(style, size) for n, style in enumerate(styles, 1)}
        for name, (height_px, width_px) in named.items():
            if min(height_px, width_px) < least_px:
                return (
                    f"at the scale of {scale.longest_px} px {name} has {width_px}x{height_px} px, "
                    f"and {deepest} needs {least_px} px a side"
                )
    return ""


@dataclass(frozen=True, slots=True)
class _Plan:
    """What a layout is made from."""

    recipe: Recipe
    sizes: Sequence[tuple[Scale, Size]]
    styles: tuple[Size, ...]
    memory: TileMemory
    seen_bytes: int
    margin_px: int
    workers: int

    def whole(self) -> Layout:
        """Return the layout in one piece."""
        scales = []
        for scale, size in self.sizes:
            area = size[0] * size[1]
            seen = self.seen_bytes * max(self._style_areas(size), default=0)
            need = max(self._working(area, area, size), seen) + self._kept(area, size)
            scales.append(ScaleLayout(scale, size, 1, 1, 0, need, area, area))
        return Layout(tuple(scales), None, self.workers)

    def tiled(self, tile_px: int) -> Layout:
        """Return the layout in tiles.

        Raises:
            UsageError: If there would be too many.
        """
        _, (height_px, width_px) = self.sizes[-1]
        most = len(tiles.grid(height_px, width_px, tile_px))
        if most > MOST_TILES:
            raise UsageError(
                f"tiles of {tile_px} px cut {width_px}x{height_px} px into {most} pieces, "
                f"more than {MOST_TILES}",
                "use larger tiles",
            )
        scales = []
        for scale, size in self.sizes:
            cores = tiles.grid(*size, tile_px)
            read = [self._read(core, size) for core in cores]
            holders = Tiling.dealt(*size, cores, self.workers).holders
            busiest = _most(holders, read)
            own = _most(holders, [Region(*core).area for core in cores])
            largest = max(Region(*core).area for core in cores)
            need = self._working(max(read), largest, size) + self._kept(own, size)
            rows = len({core.top for core in cores})
            scales.append(
                ScaleLayout(scale, size, rows, len(cores) // rows, self.margin_px, need, sum(read), busiest)
            )
        return Layout(tuple(scales), tile_px, self.workers)

    def largest_tile(self, budget: int | None) -> int:
        """Return the largest side of tiles for which there is memory.

        Raises:
            DeviceMemoryError: If there is too little for any.
        """
        _, size = self.sizes[-1]
        most = LARGE_TILE_PX
        if budget is None:
            return most

        def fits(side: int) -> bool:
            own = size[0] * size[1] // self.workers + side * side
            working = self._working((side + 2 * self.margin_px) ** 2, side * side, size)
            return working + self._kept(min(own, size[0] * size[1]), size) <= budget

        side = _largest(most // CUT_PX, lambda count: fits(count * CUT_PX)) * CUT_PX
        if side == 0:
            need = self._working((CUT_PX + 2 * self.margin_px) ** 2, CUT_PX**2, size)
            need += self._kept(size[0] * size[1] // self.workers, size)
            raise DeviceMemoryError(
                f"{size[1]}x{size[0]} px on {_workers(self.workers)} need {need / 2**30:.1f} GiB on each, "
                f"even in the smallest tiles, and {budget / 2**30:.1f} GiB can be used",
                "use a smaller size, more workers, workers with more memory, or less history of lbfgs",
            )
        return side

    def shared_tile(self, side: int) -> int:
        """Return the side of tiles, no more than `side`, that shares the work best at the end.

        Every worker holds a tile. Tiles smaller than needed for that are tried down to half their side: more
        of them can be shared more evenly, and read more.
        """
        _, size = self.sizes[-1]
        best, least_px, lowest = CUT_PX, math.inf, CUT_PX
        while side >= lowest:
            cores = tiles.grid(*size, side)
            holders = Tiling.dealt(*size, cores, self.workers).holders if len(cores) >= self.workers else ()
            if len(set(holders)) == self.workers:
                if least_px == math.inf:
                    lowest = side // 2
                busiest_px = _most(holders, [self._read(core, size) for core in cores])
                if busiest_px < least_px:
                    best, least_px = side, busiest_px
            side -= CUT_PX
        return best

    def _read(self, core: Tile, size: Size) -> int:
        return Region(*core).grow(self.margin_px).clip(Region(0, 0, *size)).area

    def _working(self, read_px: int, core_px: int, size: Size) -> int:
        """Return what a worker needs for a while: to compute a tile, or to pass a part of the state on.

        Args:
            read_px: What the tile that reads most reads.
            core_px: Of the largest tile, whose tensors are parts by themselves if they are large.
            size: Of the picture: its state may be smaller than a part.
        """
        part = min(self._state(size[0] * size[1]), max(PART_BYTES, tiles.PAIR_BYTES * core_px))
        return max(self.memory.passing_bytes * read_px, _PART_COPIES * part)

    def _kept(self, own_px: int, size: Size) -> int:
        """Return what a worker keeps throughout: state of its tiles, and copies of whole pictures."""
        whole_px = _PICTURES * size[0] * size[1] + sum(self._style_areas(size))
        return tiles.held_bytes(own_px, self._state(own_px)) + _PICTURE_BYTES * whole_px

    def _state(self, pixels: int) -> int:
        optimizer = self.recipe.optimizer
        history = optimizer.history if isinstance(optimizer, LbfgsSettings) else 0
        return tiles.state_bytes(pixels, history=history, averaged=self.recipe.average_decay > 0)

    def _style_areas(self, size: Size) -> list[int]:
        sizes = [self.recipe.style_size.of(style, size) for style in self.styles]
        return [height * width for height, width in sizes]


def _check_fits(layout: Layout, budget: int | None, largest_px: int) -> None:
    if budget is None or layout.memory_bytes <= budget:
        return
    raise DeviceMemoryError(
        f"tiles of {layout.tile_px} px need {layout.memory_bytes / 2**30:.1f} GiB on each of "
        f"{_workers(layout.workers)}, and {budget / 2**30:.1f} GiB can be used",
        f"use tile_px {largest_px} or less, precision bf16, or workers with more memory",
    )


def _most(holders: Sequence[int], amounts: Sequence[int]) -> int:
    """Return what the member that has most has."""
    sums: dict[int, int] = {}
    for holder, amount in zip(holders, amounts, strict=True):
        sums[holder] = sums.get(holder, 0) + amount
    return max(sums.values())


def _largest(most: int, fits: Callable[[int], bool]) -> int:
    """Return the largest number up to `most` that fits, 0 if not even 1 does; what is larger needs more."""
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low


def _workers(count: int) -> str:
    return f"{count} worker{'s' if count > 1 else ''}"
