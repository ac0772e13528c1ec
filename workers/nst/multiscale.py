"""Coarse to fine: the sizes of the scales, how long each is worked on, how a picture gets to the next."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor
from torch.nn import functional

Size = tuple[int, int]
"""Height and width in pixels."""

Filter = Literal["bicubic", "bilinear"]

LARGEST_SIDE_PX = 1 << 16


@dataclass(frozen=True, slots=True)
class Scale:
    """One scale of a render.

    Attributes:
        longest_px: Longest side of the picture.
        iterations: How long it is worked on: evaluations of the objective where a recipe counts these.
        content: Factor on the weight of content at this scale.
        style: Factor on the weight of style.
        tv: Factor on the weight of total variation.
    """

    longest_px: int
    iterations: int
    content: float = 1.0
    style: float = 1.0
    tv: float = 1.0

    def __post_init__(self) -> None:
        if not 1 <= self.longest_px <= LARGEST_SIDE_PX:
            raise ValueError(f"a longest side of {self.longest_px} px: 1 to {LARGEST_SIDE_PX} are possible")
        if self.iterations < 1:
            raise ValueError(
                f"{self.iterations} iterations at {self.longest_px} px: there must be at least one"
            )
        for name in ("content", "style", "tv"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                raise ValueError(f"a factor of {getattr(self, name)} on {name}: it must not be negative")


@dataclass(frozen=True, slots=True)
class Schedule:
    """How a recipe goes from coarse to fine.

    Attributes:
        smallest_px: Longest side of the first scale; None for one scale only.
        iterations: At each scale but the first.
        first_iterations: At the first scale.
    """

    smallest_px: int | None
    iterations: int
    first_iterations: int

    def scales(self, longest_px: int, total_iterations: int | None = None) -> tuple[Scale, ...]:
        """Return the scales that end at a size.

        Args:
            longest_px: Longest side of the result.
            total_iterations: Over all scales, spread as the recipe's own; None for the recipe's own.

        Raises:
            ValueError: If there are fewer iterations than scales, or a size is not possible.
        """
        sides = ladder(longest_px, self.smallest_px or longest_px)
        counts = [self.first_iterations, *[self.iterations] * (len(sides) - 1)]
        if total_iterations is not None:
            counts = spread(total_iterations, counts)
        return tuple(Scale(side, count) for side, count in zip(sides, counts, strict=True))


def ladder(longest_px: int, smallest_px: int) -> list[int]:
    """Return sides from about `smallest_px` up to `longest_px`, each the root of two times the one before."""
    sides = {longest_px}
    step = 1
    while (side := round(longest_px / 2 ** (step / 2))) >= max(1, smallest_px):
        sides.add(side)
        step += 1
    return sorted(sides)


def spread(total: int, shares: Sequence[int]) -> list[int]:
    """Return whole numbers in proportion to the shares, each at least one, that add up to the total.

    Raises:
        ValueError: If the total is smaller than the number of shares.
    """
    if total < len(shares):
        raise ValueError(f"{total} iterations for {len(shares)} scales: there must be one for each")
    rest = total - len(shares)
    exact = [rest * share / sum(shares) for share in shares]
    counts = [math.floor(value) for value in exact]
    by_remainder = sorted(range(len(shares)), key=lambda i: (counts[i] - exact[i], i))
    for i in by_remainder[: rest - sum(counts)]:
        counts[i] += 1
    return [count + 1 for count in counts]


def fit(size: Size, longest_px: int, *, enlarge: bool = True) -> Size:
    """Return the size with this longest side and the same proportions.

    Args:
        size: Height and width in pixels.
        longest_px: The longest side to be.
        enlarge: Whether a smaller size is enlarged, or left as it is.
    """
    if max(size) <= longest_px and not enlarge:
        return size
    return _scaled(size, longest_px / max(size))


@dataclass(frozen=True, slots=True)
class StyleSize:
    """How large a style image is at a scale.

    Attributes:
        match: What becomes equal to the picture's, times `factor`: the `longest` side, the `shortest`, the
            `width`; `stretch` takes both sides, whatever the proportions.
        factor: More shows a smaller part of a stroke to each neuron: larger strokes in the picture.
        longest_px: A fixed longest side at every scale instead.
        enlarge: Whether a style image may become larger than its file.
    """

    match: Literal["longest", "shortest", "width", "stretch"] = "longest"
    factor: float = 1.0
    longest_px: int | None = None
    enlarge: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.factor <= 64:
            raise ValueError(f"a style scale of {self.factor}: it must be above 0 and at most 64")
        if self.longest_px is not None and not 1 <= self.longest_px <= LARGEST_SIDE_PX:
            raise ValueError(f"a style size of {self.longest_px} px: 1 to {LARGEST_SIDE_PX} are possible")

    def of(self, style: Size, picture: Size) -> Size:
        """Return the size of a style image for a picture, both in pixels."""
        if self.longest_px is not None:
            return fit(style, self.longest_px, enlarge=self.enlarge)
        if self.match == "stretch":
            return _scaled(picture, self.factor)
        if self.match == "longest":
            return fit(style, max(1, round(max(picture) * self.factor)), enlarge=self.enlarge)
        ratio = min(picture) / min(style) if self.match == "shortest" else picture[1] / style[1]
        ratio *= self.factor
        return style if ratio >= 1 and not self.enlarge else _scaled(style, ratio)


def resize(image: Tensor, size: Size, kind: Filter = "bicubic") -> Tensor:
    """Return an image `[1, C, H, W]` at another size, low-passed where it gets smaller; the same if it fits.

    Bicubic values may leave the range of the image's.
    """
    if image.shape[-2:] == size:
        return image
    smaller = size[0] < image.shape[-2] or size[1] < image.shape[-1]
    return functional.interpolate(image, size, mode=kind, align_corners=False, antialias=smaller)


def _scaled(size: Size, ratio: float) -> Size:
    return max(1, round(size[0] * ratio)), max(1, round(size[1] * ratio))
