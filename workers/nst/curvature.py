"""The small half of L-BFGS: the direction as coefficients of the kept vectors, from their inner products.

The two loops of L-BFGS are run on numbers instead of vectors (Chen, Wang, Zhou 2014, Large-scale L-BFGS using
MapReduce). So the vectors may lie anywhere, and an iteration needs their inner products once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

SMALLEST_COSINE = 1e-10
"""A pair is kept if `y.s > SMALLEST_COSINE |y| |s|`: unlike a bound on `y.s` itself this does not depend on
the scale of the loss."""


@dataclass(frozen=True, slots=True)
class Direction:
    """`of_gradient * g + sum of_steps[i] * s_i + sum of_changes[i] * y_i`, oldest pair first.

    Attributes:
        slope: Inner product of the direction and the gradient: below zero downhill.
        square: Inner product of the direction with itself.
    """

    of_gradient: float
    of_steps: list[float]
    of_changes: list[float]
    slope: float
    square: float


class CurvatureTables:
    """Inner products of the kept pairs: steps `s_i` and the changes `y_i` of the gradient along them.

    Args:
        history: How many pairs are kept.

    Raises:
        ValueError: If `history` is not positive.
    """

    def __init__(self, history: int) -> None:
        if history < 1:
            raise ValueError(f"a history of {history} pairs: there must be at least one")
        self.history = history
        self._steps_steps: list[list[float]] = []
        self._steps_changes: list[list[float]] = []
        self._changes_changes: list[list[float]] = []

    def __len__(self) -> int:
        return len(self._steps_changes)

    def is_full(self) -> bool:
        """Return whether the oldest pair must go before another is appended."""
        return len(self) == self.history

    def drop_oldest(self) -> None:
        """Forget the oldest pair."""
        for table in (self._steps_steps, self._steps_changes, self._changes_changes):
            del table[0]
            for row in table:
                del row[0]

    def append(
        self,
        step_steps: Sequence[float],
        step_changes: Sequence[float],
        change_steps: Sequence[float],
        change_changes: Sequence[float],
    ) -> None:
        """Keep another pair, `s` and `y`.

        Args:
            step_steps: `s . s_i` for each kept pair, and `s . s` last.
            step_changes: `s . y_j` for each kept pair, oldest first, and `s . y` last.
            change_steps: `y . s_j` for each kept pair.
            change_changes: `y . y_j` for each kept pair, and `y . y` last.
        """
        for row, product in zip(self._steps_changes, change_steps, strict=True):
            row.append(product)
        self._steps_changes.append(list(step_changes))
        for table, products in ((self._steps_steps, step_steps), (self._changes_changes, change_changes)):
            for row, product in zip(table, products, strict=False):
                row.append(product)
            table.append(list(products))

    def direction(
        self, gradient_square: float, steps_gradient: Sequence[float], changes_gradient: Sequence[float]
    ) -> Direction:
        """Return the direction `-H g`.

        Args:
            gradient_square: `g . g`.
            steps_gradient: `s_i . g` for each kept pair, oldest first.
            changes_gradient: `y_i . g` for each kept pair.
        """
        count = len(self)
        pairs = range(count)
        sy, yy = self._steps_changes, self._changes_changes
        alphas = [0.0] * count
        changes = [0.0] * count
        for i in reversed(pairs):
            along = -steps_gradient[i] + sum(changes[j] * sy[i][j] for j in range(i + 1, count))
            alphas[i] = along / sy[i][i]
            changes[i] = -alphas[i]
        scale = sy[-1][-1] / yy[-1][-1] if count else 1.0
        changes = [scale * value for value in changes]
        steps = [0.0] * count
        for i in pairs:
            along = -scale * changes_gradient[i]
            along += sum(changes[j] * yy[i][j] for j in pairs) + sum(steps[j] * sy[j][i] for j in range(i))
            steps[i] = alphas[i] - along / sy[i][i]
        slope = -scale * gradient_square
        slope += sum(steps[i] * steps_gradient[i] + changes[i] * changes_gradient[i] for i in pairs)
        square = scale * scale * gradient_square
        for i in pairs:
            square -= 2 * scale * (steps[i] * steps_gradient[i] + changes[i] * changes_gradient[i])
            for j in pairs:
                square += steps[i] * (steps[j] * self._steps_steps[i][j] + 2 * changes[j] * sy[i][j])
                square += changes[i] * changes[j] * yy[i][j]
        return Direction(-scale, steps, changes, slope, max(0.0, square))

    def state_dict(self) -> dict[str, Any]:
        """Return the tables as plain lists."""
        return {
            "steps_steps": [list(row) for row in self._steps_steps],
            "steps_changes": [list(row) for row in self._steps_changes],
            "changes_changes": [list(row) for row in self._changes_changes],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        self._steps_steps = [list(row) for row in state["steps_steps"]]
        self._steps_changes = [list(row) for row in state["steps_changes"]]
        self._changes_changes = [list(row) for row in state["changes_changes"]]


def is_usable(step_change: float, step_square: float, change_square: float) -> bool:
    """Return whether a pair says something of the curvature, from `s . y`, `s . s` and `y . y`."""
    return step_change > SMALLEST_COSINE * math.sqrt(step_square * change_square)
