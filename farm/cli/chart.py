"""A curve drawn in a terminal with Braille patterns, two by four dots a character, on a log scale."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
"""Bits of the dots of a Braille pattern, by row and column."""

_EMPTY = 0x2800
_LABEL = 9


def curve(values: Sequence[float], width: int, height: int) -> list[str]:
    """Return lines that show positive values from left to right, the largest and smallest named at the left.

    Args:
        values: At even distances; those that are not finite and above 0 are left out.
        width: Columns of the terminal, labels included.
        height: Lines.

    Returns:
        `height` lines, or none if there is nothing to draw or no room.
    """
    columns, rows = (width - _LABEL - 1) * 2, height * 4
    usable = [(i, v) for i, v in enumerate(values) if math.isfinite(v) and v > 0]
    points = [(i, math.log10(v)) for i, v in usable]
    if len(points) < 2 or columns < 4 or height < 2:
        return []
    low, high = min(y for _, y in points), max(y for _, y in points)
    cells = [[0] * (columns // 2) for _ in range(height)]

    def dot(x: int, y: float) -> None:
        up = (y - low) / (high - low) if high > low else 0.5
        row = round((1 - up) * (rows - 1))
        cells[row // 4][x // 2] |= _DOTS[row % 4][x % 2]

    last = len(values) - 1
    for (i, y), (j, z) in pairwise(points):
        begin, end = (round(n / last * (columns - 1)) for n in (i, j))
        for x in range(begin, end + 1):
            share = (x - begin) / (end - begin) if end > begin else 1.0
            dot(x, y + (z - y) * share)
    least, largest = min(v for _, v in usable), max(v for _, v in usable)
    labels = {0: f"{largest:.3g}", height - 1: f"{least:.3g}"}
    return [
        f"{labels.get(n, ''):>{_LABEL}} " + "".join(chr(_EMPTY + bits) for bits in line)
        for n, line in enumerate(cells)
    ]
