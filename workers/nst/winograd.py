"""3x3 convolutions on a CPU by 4/9 of the multiplications: F(2x2, 3x3) of Lavin and Gray 2016, section 4.1.

Squares of 2x2 results are computed from the 4x4 inputs below them: these are transformed (by additions only),
multiplied by transformed weights as 16 products of matrices, and transformed back. Where there are many
channels a CPU is limited by multiplications, so this is faster than any direct convolution. In float32 the
result is the closer one: fewer terms are added up. In bfloat16 it is off by about twice as much, since the
transformed numbers are rounded too (`docs/adr/0009-winograd.md`).
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch
from torch import Tensor

Border = tuple[int, int, int, int]
"""Columns of zeros on the left and on the right, and rows above and below."""

LEAST_CHANNELS = 256
"""Of input and output: with fewer, the transforms take what the products save."""

_BAND_TILES = 512
"""Results are computed in bands of about so many squares, whose transforms stay in the caches."""

_FORTH, _BACK = (0, 1, 2, 3), (3, 1, 2, 0)
"""Places of the four transformed rows and columns. Weights that are turned by 180 degrees, as the way back
wants them, have the same transforms, the first and the last exchanged."""

_WEIGHTS = ((1.0, 0.0, 0.0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0.0, 0.0, 1.0))


class Winograd:
    """A frozen 3x3 convolution of stride 1, differentiable by its input.

    Args:
        weight: `[out, in, 3, 3]`. It is transformed when that is first needed, for 16/9 of its memory more.
    """

    def __init__(self, weight: Tensor) -> None:
        self._weight = weight

    def __call__(self, features: Tensor, bias: Tensor, border: Border) -> Tensor:
        """Return the convolution of `[N, in, H, W]`, channels-last.

        Args:
            features: On a CPU, in the dtype of the weight.
            bias: `[out]`.
            border: Of zeros, each at most 2 wide.
        """
        result: Tensor = _Convolution.apply(features, bias, self, border)
        return result

    @property
    def nbytes(self) -> int:
        """Of the transformed weights."""
        return self._weight.nbytes * 16 // 9

    @cached_property
    def products(self) -> Tensor:
        """The transformed weights, `[4, 4, in, out]`."""
        exact = self._weight.to(torch.promote_types(self._weight.dtype, torch.float32))
        by = exact.new_tensor(_WEIGHTS)
        return torch.einsum("ia,kcab,jb->ijck", by, exact, by).to(self._weight.dtype).contiguous()


def pays(weight: Tensor) -> bool:
    """Return whether convolutions with this weight are faster so."""
    return weight.device.type == "cpu" and min(weight.shape[:2]) >= LEAST_CHANNELS


class _Convolution(torch.autograd.Function):
    """The way back is a convolution as well: of the gradient, with the turned weights."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, bias: Tensor, winograd: Winograd, border: Border) -> Tensor:
        """Return the convolution."""
        ctx.winograd, ctx.border = winograd, border
        return _convolved(features, winograd.products, bias, border, _FORTH)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        """Return the gradient by the features."""
        left, right, above, below = ctx.border
        turned = ctx.winograd.products.transpose(2, 3)
        border = (2 - left, 2 - right, 2 - above, 2 - below)
        return _convolved(gradient, turned, None, border, _BACK), None, None, None


def _convolved(
    features: Tensor, products: Tensor, bias: Tensor | None, border: Border, places: tuple[int, ...]
) -> Tensor:
    """Return the convolution of a batch, `[N, out, h, w]`, channels-last."""
    left, right, above, below = border
    count, channels, height, width = features.shape
    rows, columns = height + above + below - 2, width + left + right - 2
    down, across = -(-rows // 2), -(-columns // 2)
    padded = features.new_zeros(2 * down + 2, 2 * across + 2, channels)
    shape = (count, products.shape[-1], rows, columns)
    result = torch.empty(shape, dtype=features.dtype, memory_format=torch.channels_last)
    for image, into in zip(features.permute(0, 2, 3, 1), result.permute(0, 2, 3, 1), strict=True):
        padded[above : above + height, left : left + width] = image
        step = max(1, _BAND_TILES // across)
        for top in range(0, down, step):
            band = padded[2 * top : 2 * min(top + step, down) + 2]
            squares = _multiplied(_transformed(band, places), products, bias, places)
            _transform_back(squares, places, into[2 * top : 2 * (top + step)])
    return result


def _transformed(band: Tensor, places: tuple[int, ...]) -> Tensor:
    """Return `[4, 4, down, across, in]` of a band of `[2 * down + 2, 2 * across + 2, in]`."""
    down, across = band.shape[0] // 2 - 1, band.shape[1] // 2 - 1
    by_row = band.new_empty(4, down, *band.shape[1:])
    _combine([band[n : n + 2 * down - 1 : 2] for n in range(4)], [by_row[place] for place in places])
    both = band.new_empty(4, 4, down, across, band.shape[2])
    columns = [by_row[:, :, n : n + 2 * across - 1 : 2] for n in range(4)]
    _combine(columns, [both[:, place] for place in places])
    return both


def _combine(lines: list[Tensor], into: list[Tensor]) -> None:
    """Transform four neighboring lines."""
    torch.sub(lines[0], lines[2], out=into[0])
    torch.add(lines[1], lines[2], out=into[1])
    torch.sub(lines[2], lines[1], out=into[2])
    torch.sub(lines[1], lines[3], out=into[3])


def _multiplied(squares: Tensor, products: Tensor, bias: Tensor | None, places: tuple[int, ...]) -> Tensor:
    """Return `[4, 4, down, across, out]`; a bias at the second place of both goes to all four results."""
    _, _, down, across, channels = squares.shape
    multiplied = torch.bmm(squares.view(16, down * across, channels), products.flatten(0, 1))
    result = multiplied.view(4, 4, down, across, -1)
    if bias is not None:
        result[places[1], places[1]] += bias
    return result


def _transform_back(squares: Tensor, places: tuple[int, ...], into: Tensor) -> None:
    """Write the results, `[rows, columns, out]`; a last odd row or column is left out."""
    _, _, down, across, channels = squares.shape
    by_row = squares.new_empty(2, 4, down, across, channels)
    _reduce([squares[place] for place in places], by_row[0], by_row[1])
    columns = [by_row[:, place] for place in places]
    if into.shape[:2] == (2 * down, 2 * across):
        both = into.view(down, 2, across, 2, channels)
    else:
        both = squares.new_empty(down, 2, across, 2, channels)
    _reduce(columns, *both.permute(3, 1, 0, 2, 4))
    if both.data_ptr() != into.data_ptr():
        into.copy_(both.flatten(2, 3).flatten(0, 1)[: into.shape[0], : into.shape[1]])


def _reduce(lines: list[Tensor], even: Tensor, odd: Tensor) -> None:
    """Transform four lines back to two."""
    torch.add(lines[1], lines[2], out=even).add_(lines[0])
    torch.sub(lines[1], lines[2], out=odd).sub_(lines[3])
