"""L-BFGS over a picture in tiles: the vectors stay with the tiles, one vector of products is added up."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from workers.nst.curvature import CurvatureTables, Direction, is_usable
from workers.nst.line_search import Trial, strong_wolfe
from workers.nst.optimizers import Evaluate, Optimizer, Resize, Sample, Tiles, Total, total_alone

CHUNK_PIXELS = 1 << 18
"""Length of products in the pixels' dtype, which are then added in float64."""


@dataclass(frozen=True, slots=True)
class LbfgsSettings:
    """L-BFGS, as `torch.optim.LBFGS` steps, without its stopping rules.

    Attributes:
        learning_rate: Length of a step along the direction, or of the first that the line search tries.
        history: How many pairs of moves and gradient changes are kept, 1 to 100: 24 bytes a pixel each.
        line_search: `strong-wolfe`, or None for steps of fixed length.
        longest_move: A step moves pixels by no more than this, root mean square, in their own unit; None for
            any length. The first steps know too little of the curvature and may leap far out of the range of
            colors, from where the way back costs evaluations. Not for line searches, which see that.
    """

    learning_rate: float = 1.0
    history: int = 100
    line_search: Literal["strong-wolfe"] | None = None
    longest_move: float | None = None

    def __post_init__(self) -> None:
        if self.longest_move is not None and not self.longest_move > 0:
            raise ValueError(f"a longest move of {self.longest_move}: it must be above 0")
        if not self.learning_rate > 0:
            raise ValueError(f"a learning rate of {self.learning_rate}: it must be above 0")
        if not 1 <= self.history <= 100:
            raise ValueError(f"a history of {self.history} pairs: 1 to 100 can be kept")

    def start(self, total: Total = total_alone) -> Optimizer:
        """Return the optimizer before its first step."""
        return Lbfgs(self, total)


@dataclass(slots=True, eq=False)
class _Kept:
    """What is kept of one tile, all flat, in the pixels' dtype.

    Attributes:
        gradient: At the last point, `[n]`.
        move: From the last point to this one, `[n]`.
        pairs: `[2, n]` each, oldest first: a move and the change of the gradient along it.
    """

    gradient: Tensor
    move: Tensor
    pairs: list[Tensor] = field(default_factory=list)


@dataclass(frozen=True, slots=True, eq=False)
class _Accepted:
    """A sample that is still good for the next step."""

    loss: float
    gradients: Tiles
    terms: dict[str, float]


class Lbfgs:
    """L-BFGS over tiles, its two loops run on inner products."""

    def __init__(self, settings: LbfgsSettings, total: Total) -> None:
        self._settings = settings
        self._total = total
        self._forget()

    def step(self, tiles: Tiles, evaluate: Evaluate) -> Sample:
        """Move the tiles in place by one iteration; return what was found where they were before."""
        sample = self._accepted or evaluate(tiles)
        direction, length = self._direction(sample.gradients)
        moves = {number: self._along(direction, number, sample.gradients[number]) for number in tiles}
        if self._settings.line_search is None:
            for number, pixels in tiles.items():
                pixels.add_(moves[number].view_as(pixels), alpha=length)
        else:
            start = Trial(0.0, sample.loss, direction.slope, sample)
            length = self._search(tiles, moves, evaluate, start, length)
        for number, gradient in sample.gradients.items():
            kept = self._tiles[number]
            kept.gradient, kept.move = gradient.flatten(), moves[number].mul_(length)
        self._has_moved = True
        return sample

    def carry(self, resize: Resize) -> None:  # noqa: ARG002 - of this optimizer nothing carries over
        """Begin anew: curvature at one scale says nothing of another."""
        self._forget()

    def _forget(self) -> None:
        self._has_moved = False
        self._tables = CurvatureTables(self._settings.history)
        self._tiles: dict[int, _Kept] = {}
        self._accepted: Sample | None = None

    def _direction(self, gradients: Tiles) -> tuple[Direction, float]:
        """Take in the last move; return where to go and how far.

        One total gives all that this needs: the products of every kept vector, of the last move, of the
        change of the gradient along it and of the gradient with the last three; and the gradient's 1-norm.
        """
        new = {}
        for number, gradient in gradients.items():
            flat = gradient.flatten()
            kept = self._tiles.setdefault(number, _Kept(torch.zeros_like(flat), torch.zeros_like(flat)))
            new[number] = torch.stack([kept.move, flat - kept.gradient, flat])
        *flat_rows, norm, count = self._total({n: _products(self._tiles[n].pairs, new[n]) for n in new})
        rows = [flat_rows[begin : begin + 3] for begin in range(0, len(flat_rows), 3)]
        *pairs, move, change, gradient_row = rows
        moves, changes = pairs[::2], pairs[1::2]
        if self._has_moved and is_usable(move[1], move[0], change[1]):
            if self._tables.is_full():
                self._tables.drop_oldest()
                del moves[0], changes[0]
            self._keep(new, moves, changes, move, change)
            moves, changes = [*moves, move], [*changes, change]
        direction = self._tables.direction(
            gradient_row[2], [row[2] for row in moves], [row[2] for row in changes]
        )
        if self._has_moved and direction.slope < 0:
            return direction, self._within_bounds(self._settings.learning_rate, direction, count)
        self._tables = CurvatureTables(self._settings.history)
        for tile in self._tiles.values():
            tile.pairs.clear()
        steepest = self._tables.direction(gradient_row[2], [], [])
        length = self._settings.learning_rate / max(1.0, norm)
        return steepest, self._within_bounds(length, steepest, count)

    def _within_bounds(self, length: float, direction: Direction, count: float) -> float:
        """Return how far to go along a direction of `count` numbers: no further than a move may be long."""
        longest = self._settings.longest_move
        if longest is None or direction.square == 0:
            return length
        return min(length, longest * math.sqrt(count / direction.square))

    def _keep(
        self,
        new: Tiles,
        moves: list[list[float]],
        changes: list[list[float]],
        move: list[float],
        change: list[float],
    ) -> None:
        """Append the last move and change to the pairs, and their products to the tables."""
        self._tables.append(
            [*(row[0] for row in moves), move[0]],
            [*(row[0] for row in changes), move[1]],
            [row[1] for row in moves],
            [*(row[1] for row in changes), change[1]],
        )
        for number, vectors in new.items():
            pairs = self._tiles[number].pairs
            pairs.append(vectors[:2].clone())
            del pairs[: -len(self._tables)]

    def _along(self, direction: Direction, number: int, gradient: Tensor) -> Tensor:
        """Return this tile's part of the direction, flat."""
        move = gradient.flatten() * direction.of_gradient
        weights = zip(direction.of_steps, direction.of_changes, strict=True)
        for pair, (of_step, of_change) in zip(self._tiles[number].pairs, weights, strict=True):
            move.add_(pair[0], alpha=of_step).add_(pair[1], alpha=of_change)
        return move

    def _search(
        self, tiles: Tiles, moves: Tiles, evaluate: Evaluate, start: Trial[Sample], guess: float
    ) -> float:
        """Move the tiles to where the line search ends; return how far along the moves that is."""
        begin = {number: pixels.clone() for number, pixels in tiles.items()}

        def place(length: float) -> None:
            for number, pixels in tiles.items():
                torch.add(begin[number], moves[number].view_as(pixels), alpha=length, out=pixels)

        def trial(length: float) -> Trial[Sample]:
            place(length)
            there = evaluate(tiles)
            slopes = {
                number: (moves[number].double() @ there.gradients[number].flatten().double()).view(1)
                for number in tiles
            }
            return Trial(length, there.loss, self._total(slopes)[0], there)

        found = strong_wolfe(trial, start, guess)
        place(found.step)
        self._accepted = _Accepted(found.at.loss, found.at.gradients, found.at.terms)
        return found.step

    def state_dict(self) -> dict[str, Any]:
        """Return the kept vectors by tile, and the tables and what else is the same on all workers."""
        tiles: dict[int, dict[str, Any]] = {
            n: {"pairs": list(kept.pairs), "gradient": kept.gradient, "move": kept.move}
            for n, kept in self._tiles.items()
        }
        shared: dict[str, Any] = {"has_moved": self._has_moved, "tables": self._tables.state_dict()}
        if self._accepted is not None:
            shared["accepted"] = {"loss": self._accepted.loss, "terms": dict(self._accepted.terms)}
            for number, gradient in self._accepted.gradients.items():
                tiles[number]["accepted"] = gradient
        return {"tiles": tiles, "shared": shared}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` returned, which the caller may not use any more."""
        self._forget()
        shared = state["shared"]
        self._has_moved = shared["has_moved"]
        self._tables.load_state_dict(shared["tables"])
        for number, kept in state["tiles"].items():
            self._tiles[number] = _Kept(kept["gradient"], kept["move"], list(kept["pairs"]))
        if "accepted" in shared:
            gradients = {number: kept["accepted"] for number, kept in state["tiles"].items()}
            accepted = shared["accepted"]
            self._accepted = _Accepted(accepted["loss"], gradients, dict(accepted["terms"]))


def _products(pairs: list[Tensor], vectors: Tensor) -> Tensor:
    """Return the products of kept pairs and of three vectors with the three, flat, then 1-norm and length.

    Args:
        pairs: `[2, n]` each.
        vectors: `[3, n]`.
    """
    rows = torch.zeros(2 * len(pairs) + 3, 3, dtype=torch.float64, device=vectors.device)
    for begin in range(0, vectors.shape[1], CHUNK_PIXELS):
        chunk = slice(begin, begin + CHUNK_PIXELS)
        columns = vectors[:, chunk].T
        blocks = [pair[:, chunk] @ columns for pair in pairs]
        rows += torch.cat([*blocks, vectors[:, chunk] @ columns]).double()
    last = vectors[2]
    ends = torch.stack([last.abs().sum(dtype=torch.float64), rows.new_tensor(len(last))])
    return torch.cat([rows.flatten(), ends])
