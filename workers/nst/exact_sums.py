"""Sums over tiles that have the same bits whoever holds which tile and whoever comes first.

Floating point addition depends on its order. So long vectors are rounded, tile by tile, to a fixed point that
all share, and added as integers. Single numbers travel unchanged, one row of a table for each tile, and are
added by `math.fsum`, which rounds once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from workers.nst.group import Group

_BITS = 59
"""Of the largest sum in fixed point, at most: what rounding adds for each tile still fits in int64."""

_STEP_BITS = 4
"""Fixed points are this far apart, so that one that was right is right again the next time."""

_LARGEST_EXPONENT = 1000
"""Of a power of two that a float64 holds."""


class ExactSums:
    """Adds vectors and numbers of all tiles over a group, in one message.

    The fixed point of a vector follows from what all tiles have at that moment. It travels with the vectors
    and is guessed to be that of the time before; after a wrong guess there is a second message.

    Args:
        group: Whose members all call `add`.
        tiles: Number of tiles, of all members together.
        vectors: Length of each vector by name.
        numbers: Names of the numbers.
    """

    def __init__(self, group: Group, tiles: int, vectors: Mapping[str, int], numbers: Sequence[str]) -> None:
        self._group = group
        self._tiles = tiles
        self._vectors = dict(vectors)
        self._numbers = tuple(numbers)
        self._guess = dict.fromkeys(self._vectors, 0)

    def add(
        self, vectors: Mapping[int, Mapping[str, Tensor]], numbers: Mapping[int, Mapping[str, float]]
    ) -> tuple[dict[str, Tensor], dict[str, float]]:
        """Return the sums of all tiles' vectors (float64, on the CPU) and numbers, on every member.

        Args:
            vectors: Of each tile of this member, by name, 1-D, any floating dtype.
            numbers: Of each tile of this member, by name.

        Raises:
            ValueError: Naming the first that is not finite.
        """
        names = (*self._vectors, *self._numbers)
        table = NumberTable(self._tiles, len(names))
        for tile in numbers:
            largest = [float(vectors[tile][name].abs().max()) for name in self._vectors]
            table.set_row(tile, [*largest, *(numbers[tile][name] for name in self._numbers)])
        while True:
            message = torch.cat([self._fixed(vectors), table.bits])
            total = self._group.reduce(message)
            fixed, bits = torch.split(total, [total.numel() - table.bits.numel(), table.bits.numel()])
            added = dict(zip(names, table.columns(bits), strict=True))
            for name, number in added.items():
                if not math.isfinite(number):
                    raise ValueError(f"the sum of {name} over the tiles is not finite")
            right = {name: _exponent(added[name]) for name in self._vectors}
            if right == self._guess:
                break
            self._guess = right
        parts = zip(self._vectors, torch.split(fixed, list(self._vectors.values())), strict=True)
        return (
            {name: part.double() * math.ldexp(1.0, -self._guess[name]) for name, part in parts},
            {name: added[name] for name in self._numbers},
        )

    def _fixed(self, vectors: Mapping[int, Mapping[str, Tensor]]) -> Tensor:
        """Return the sum of this member's vectors in fixed point, one after the other, on the CPU."""
        total = torch.zeros(sum(self._vectors.values()), dtype=torch.int64)
        parts = torch.split(total, list(self._vectors.values()))
        for named in vectors.values():
            for name, part in zip(self._vectors, parts, strict=True):
                scaled = named[name].double() * math.ldexp(1.0, self._guess[name])
                part.add_(scaled.round().to("cpu", torch.int64))
        return total


class NumberTable:
    """A row of float64 numbers for each tile, filled in by several members and added up as integers.

    Every row is filled in by one member and zero elsewhere: the integers whose bits are those of the numbers
    keep them through any sum.

    Args:
        tiles: Number of rows.
        width: Numbers in a row.
    """

    def __init__(self, tiles: int, width: int) -> None:
        self._table = torch.zeros(tiles, width, dtype=torch.float64)

    def set_row(self, tile: int, numbers: Sequence[float] | Tensor) -> None:
        """Fill in what a tile of this member has."""
        self._table[tile] = torch.as_tensor(numbers, dtype=torch.float64)

    @property
    def bits(self) -> Tensor:
        """The table as int64 `[tiles * width]`, to be added to those of the other members."""
        return self._table.view(torch.int64).flatten()

    def columns(self, bits: Tensor) -> list[float]:
        """Return the sum of each column, rounded once; NaN where a number is not finite.

        Args:
            bits: The sum of the members' `bits`.
        """
        columns = bits.view(torch.float64).view_as(self._table).T.tolist()
        return [math.fsum(column) if all(map(math.isfinite, column)) else math.nan for column in columns]


def _exponent(largest: float) -> int:
    """Return the exponent of the fixed point for sums whose entries stay below `largest`."""
    if largest == 0:
        return 0
    bits = math.frexp(largest)[1]
    return min(_BITS - _STEP_BITS * math.ceil(bits / _STEP_BITS), _LARGEST_EXPONENT)
