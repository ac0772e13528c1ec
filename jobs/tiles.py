"""Pictures cut into tiles, and what tiles need of memory: rectangles and a table, no network.

How far a tile reads beyond its core follows from the network; whoever knows that says it (`margin_px`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, NamedTuple

from jobs.errors import FarmError, UsageError

CUT_PX = 16
"""Cuts lie on multiples of this, where the positions of deep features begin: elsewhere tiles read more."""

Device = Literal["cpu", "cuda"]
Pooling = Literal["max", "avg", "l2"]
Precision = Literal["fp32", "tf32", "bf16"]


class Tile(NamedTuple):
    """A rectangle of pixels, bottom and right not included."""

    top: int
    left: int
    bottom: int
    right: int


@dataclass(frozen=True, slots=True)
class TileMemory:
    """What a tile needs for each pixel that it reads, its margin included.

    Measured on VGG-19 to relu5_1, on a CPU whose freed blocks are kept for the next tile: live tensors alone
    are a third less.

    Attributes:
        passing_bytes: While it is computed forth and back, at the highest.
        resident_bytes: While the graph of its way forth is kept for the way back.
    """

    passing_bytes: int
    resident_bytes: int


_FP32, _FP32_L2 = TileMemory(2150, 1500), TileMemory(3400, 2750)
_BF16, _BF16_L2 = TileMemory(1300, 1000), TileMemory(1850, 1650)


def tile_memory(precision: Precision, pooling: Pooling) -> TileMemory:
    """Return what tiles need; pooling by roots of squares keeps the squares, at every size, as well."""
    plain, by_squares = (_BF16, _BF16_L2) if precision == "bf16" else (_FP32, _FP32_L2)
    return by_squares if pooling == "l2" else plain


_IMAGE_BYTES = 12
_CONTENT_BYTES = 32
PAIR_BYTES = 2 * _IMAGE_BYTES
"""Two moments of Adam; the last gradient and move of L-BFGS; a move and a change of the gradient."""


def held_bytes(pixels: int, state: int) -> int:
    """Return what a worker keeps of the tiles it holds, however they are computed.

    Args:
        pixels: Of all its tiles, margins not included.
        state: Their `state_bytes`.
    """
    return pixels * _CONTENT_BYTES + state


def state_bytes(pixels: int, *, history: int = 0, averaged: bool = False) -> int:
    """Return what the state of a picture has, in memory as in a checkpoint.

    Args:
        pixels: Of the picture, or of some of its tiles.
        history: Pairs that L-BFGS keeps; 0 for Adam.
        averaged: Whether a moving average of the picture is kept.
    """
    return pixels * (_IMAGE_BYTES + PAIR_BYTES + history * PAIR_BYTES + averaged * _IMAGE_BYTES)


def grid(height_px: int, width_px: int, tile_px: int) -> tuple[Tile, ...]:
    """Return tiles of about equal size and at most `tile_px` a side that cover a picture, row by row.

    Raises:
        FarmError: If the picture has no pixels.
        UsageError: If tiles cannot be of this size.
    """
    if min(height_px, width_px) < 1:
        raise FarmError(f"a picture of {width_px}x{height_px} px has no pixels", "give one that has")
    if tile_px < CUT_PX or tile_px % CUT_PX:
        nearest = max(CUT_PX, round(tile_px / CUT_PX) * CUT_PX)
        raise UsageError(f"tiles of {tile_px} px: the side must be a multiple of {CUT_PX}", f"use {nearest}")
    rows, columns = (list(pairwise(_cuts(length, tile_px))) for length in (height_px, width_px))
    return tuple(Tile(top, left, bottom, right) for top, bottom in rows for left, right in columns)


def passing_bytes(tile_px: int, margin_px: int, memory: TileMemory) -> int:
    """Return what a worker needs while it computes one tile with a margin on all sides."""
    return memory.passing_bytes * (tile_px + 2 * margin_px) ** 2


def largest_tile_px(budget_bytes: int, margin_px: int, memory: TileMemory) -> int:
    """Return the largest side of tiles that can be computed one after the other.

    Args:
        budget_bytes: Left for them, after what `held_bytes` says; see `usable_bytes`.
        margin_px: How far a tile reads beyond its core.
        memory: What tiles need.

    Raises:
        FarmError: If not even the smallest can.
    """
    side = math.isqrt(max(0, budget_bytes) // memory.passing_bytes) - 2 * margin_px
    if side < CUT_PX:
        needed = passing_bytes(CUT_PX, margin_px, memory)
        raise FarmError(
            f"{budget_bytes / 1e6:.0f} MB of memory are too few for any tile: the smallest needs "
            f"{needed / 1e6:.0f} MB",
            "use workers with more memory, precision bf16, or fewer deep layers",
        )
    return side // CUT_PX * CUT_PX


def resident_px(budget_bytes: int, tile_px: int, margin_px: int, memory: TileMemory) -> int:
    """Return of how many pixels, margins included, graphs can be kept while one more tile is computed."""
    left = budget_bytes - passing_bytes(tile_px, margin_px, memory)
    return max(0, left // memory.resident_bytes)


_RESERVES: dict[Device, tuple[int, float]] = {"cpu": (700_000_000, 0.15), "cuda": (1_500_000_000, 0.10)}


def usable_bytes(memory_bytes: int, device: Device) -> int:
    """Return what of a worker's memory tiles may use: a reserve is for libraries, scratch and fragments."""
    fixed, share = _RESERVES[device]
    return max(0, int((memory_bytes - fixed) * (1 - share)))


def _cuts(length_px: int, tile_px: int) -> list[int]:
    """Return where a side is cut, both ends included: about evenly, on multiples of `CUT_PX`."""
    count = -(-length_px // tile_px)
    steps = -(-length_px // CUT_PX)
    return [*(round(i * steps / count) * CUT_PX for i in range(count)), length_px]
