"""Which photographs a training sees, and which part of each: a function of seed and position alone.

Nothing is remembered from step to step, so a training that goes on after a crash sees what it would have
seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

CropKind = Literal["random", "center"]

_WORD = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class Pick:
    """One photograph of a batch, and where its crop lies.

    Attributes:
        index: Of the photograph.
        zoom: 0..1: 0 shows as much of it as fits, 1 the finest detail that the rule allows.
        across: 0..1, from the left to the right end of where a crop may lie.
        down: 0..1, from the top to the bottom.
    """

    index: int
    zoom: float
    across: float
    down: float


@dataclass(frozen=True, slots=True)
class CropRule:
    """How a square is cut out of a photograph.

    Attributes:
        side_px: Of the square.
        kind: `random`: at any place, of the photograph at any size from its shorter side being `side_px` up
            to `largest_zoom` times that, but not enlarged. `center`: the middle, the shorter side being
            `side_px`, as pytorch/examples has it.
        largest_zoom: See `kind`.
    """

    side_px: int = 256
    kind: CropKind = "random"
    largest_zoom: float = 2.0

    def __post_init__(self) -> None:
        if self.side_px < 1 or self.largest_zoom < 1:
            raise ValueError(f"crops of {self.side_px} px at a zoom of {self.largest_zoom}: at least 1 each")


def pick(seed: int, position: int, count: int, again: int = 0) -> Pick:
    """Return what a training sees at a position: the number of pictures that it has seen before.

    Every photograph comes once before any comes again, each time in another order.

    Args:
        seed: Of the training.
        position: From 0: step times batch, and the place in the batch.
        count: How many photographs there are.
        again: How many photographs at this position could not be read: another is taken, any of them.

    Raises:
        ValueError: If there is no photograph.
    """
    if count < 1:
        raise ValueError("there is no photograph to train with")
    epoch, place = divmod(position, count)
    index = _order(seed, epoch, count)[place]
    if again:
        index = int(_fraction(seed, position, 8 + again) * count)
    zoom, across, down = (_fraction(seed, position, number) for number in range(3))
    return Pick(index, zoom, across, down)


def held_out(seed: int, count: int, pictures: int) -> tuple[list[int], list[int]]:
    """Part photographs into those to train with and those to validate with, by a shuffle.

    Args:
        seed: Of the training.
        count: How many photographs there are.
        pictures: How many to keep for validation.

    Raises:
        ValueError: If none would be left to train with.
    """
    if pictures >= count:
        raise ValueError(f"{pictures} of {count} photographs are held out: none is left to train with")
    order = _order(seed, -1, count)
    return sorted(order[: count - pictures]), sorted(order[count - pictures :])


def crop(pixels: Tensor, rule: CropRule, where: Pick) -> Tensor:
    """Return the square of a photograph that a pick shows, uint8 `[3, side, side]`.

    A photograph that is smaller than the square is enlarged. It is scaled by antialiased bilinear
    interpolation.

    Args:
        pixels: uint8 `[H, W, 3]`.
        rule: How squares are cut.
        where: What to show; for the rule `center` its place says nothing.
    """
    side = rule.side_px
    height, width = pixels.shape[0], pixels.shape[1]
    shorter = side
    if rule.kind == "random":
        largest = max(side, min(height, width, int(side * rule.largest_zoom)))
        shorter = side + round(where.zoom * (largest - side))
    ratio = shorter / min(height, width)
    size = (shorter, int(width * ratio)) if height <= width else (int(height * ratio), shorter)
    across, down = (where.across, where.down) if rule.kind == "random" else (0.5, 0.5)
    top, left = round(down * (size[0] - side)), round(across * (size[1] - side))
    picture = pixels.permute(2, 0, 1).unsqueeze(0)
    if size != (height, width):
        picture = functional.interpolate(picture, size, mode="bilinear", align_corners=False, antialias=True)
    return picture[0, :, top : top + side, left : left + side]


def stacked(crops: Sequence[Tensor]) -> Tensor:
    """Return crops of one size as a batch, uint8 `[N, 3, side, side]`."""
    return torch.stack(list(crops))


@lru_cache(maxsize=4)
def _order(seed: int, epoch: int, count: int) -> list[int]:
    generator = torch.Generator().manual_seed(_mixed(_mixed(seed) ^ (epoch & _WORD)))
    order: list[int] = torch.randperm(count, generator=generator).tolist()
    return order


def _fraction(seed: int, position: int, number: int) -> float:
    """Return a number in 0..1, 1 excluded, that seems random."""
    return _mixed(_mixed(_mixed(seed) ^ position) ^ number) / (1 << 64)


def _mixed(word: int) -> int:
    """Return the finalizer of SplitMix64 (Steele et al. 2014) of a word, 64 bits."""
    word = (word + 0x9E3779B97F4A7C15) & _WORD
    word = ((word ^ (word >> 30)) * 0xBF58476D1CE4E5B9) & _WORD
    word = ((word ^ (word >> 27)) * 0x94D049BB133111EB) & _WORD
    return word ^ (word >> 31)
