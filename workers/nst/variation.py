"""Total variation in its known forms, over a whole picture or over the part that a tile owns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor
from torch.nn import functional

TvForm = Literal["absolute", "squared", "interior", "power", "nine-point"]


@dataclass(frozen=True, slots=True)
class TvTerm:
    """`weight` times a total variation of the picture, in the range that the objective gives pixels.

    The forms, of the differences dx to the right and dy downwards, over all channels:

    - `absolute`: `sum |dx| + sum |dy|` (neural-style-pt)
    - `squared`: `mean dx^2 + mean dy^2` (anishathalye)
    - `interior`: `sum (dx^2 + dy^2) / 2` without the last row and column (jcjohnson)
    - `power`: `sum (dx^2 + dy^2)^1.25` without the last row and column (Keras, INetwork)
    - `nine-point`: the squared differences to all eight neighbors, mean (style-transfer-pytorch)
    """

    form: TvForm
    weight: float


@dataclass(frozen=True, slots=True)
class Window:
    """A rectangle of pixels in a picture of `height` x `width`: rows `top` to `bottom`, end excluded."""

    top: int
    left: int
    bottom: int
    right: int
    height: int
    width: int

    @classmethod
    def whole(cls, height: int, width: int) -> Window:
        """Return the window that is the picture."""
        return cls(0, 0, height, width, height, width)


def total_variation(form: TvForm, pixels: Tensor, own: Window) -> Tensor:
    """Return the part of a picture's total variation that belongs to a window: the parts add up to the whole.

    A difference belongs to where its first pixel is: upper, then left.

    Args:
        form: See `TvTerm`.
        pixels: The window and, where the picture goes on, one more row below and column to the right:
            `[1, C, rows, columns]`.
        own: The window in the whole picture.
    """
    edges = (own.left == 0, own.right == own.width, own.top == 0, own.bottom == own.height)
    left, right, top, bottom = map(int, edges)
    padded = functional.pad(pixels, (left, right, top, bottom), mode="replicate")
    inner = padded[..., top:, left:]
    here = inner[..., :-1, :-1]
    across, down = inner[..., :-1, 1:] - here, inner[..., 1:, :-1] - here
    channels = pixels.shape[1]
    if form == "absolute":
        return across.abs().sum() + down.abs().sum()
    if form == "squared":
        across_count = max(1, channels * own.height * (own.width - 1))
        down_count = max(1, channels * (own.height - 1) * own.width)
        return across.square().sum() / across_count + down.square().sum() / down_count
    if form in {"interior", "power"}:
        rows, columns = across.shape[-2] - bottom, across.shape[-1] - right
        squares = (across.square() + down.square())[..., :rows, :columns]
        return squares.pow(1.25).sum() if form == "power" else squares.sum() / 2
    if form == "nine-point":
        falling = padded[..., 1:, 1:] - padded[..., :-1, :-1]
        rising = padded[..., 1:, :-1] - padded[..., :-1, 1:]
        straight = (across.square().sum() + down.square().sum()) / (3 * channels * own.height * own.width)
        diagonal = falling.square().sum() + rising.square().sum()
        return 2 * (straight + diagonal / (12 * channels * (own.height + 1) * (own.width + 1)))
    raise ValueError(f"total variation {form!r} is not known")
