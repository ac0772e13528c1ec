"""What the loop needs of an engine: one scale of a render."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from torch import Tensor

from workers.nst.features import LossNetwork
from workers.nst.losses import Objective
from workers.nst.optimizers import Sample, Tiles


class Stage(Protocol):
    """One scale of a render, in whatever pieces and on however many workers."""

    def begin(self, picture: Tensor) -> Tiles:
        """Return this worker's tiles of a picture `[1, C, H, W]`, as tensors of their own."""
        ...

    def evaluate(self, tiles: Tiles) -> Sample:
        """Return loss and gradients at the tiles."""
        ...

    def total(self, partial: Tiles) -> list[float]:
        """Add up one float64 vector for each tile of all workers."""
        ...

    def gather(self, tiles: Tiles) -> Tensor:
        """Return the whole picture on every worker, from all workers' tiles."""
        ...

    def agree(self, numbers: list[float]) -> list[float]:
        """Return the numbers of one worker on every worker: clocks differ, decisions must not."""
        ...


OpenStage = Callable[[LossNetwork, Objective, Tensor, Sequence[tuple[float, Tensor]]], Stage]
"""Makes a stage from the prepared network, the objective, and content and weighted styles at their sizes.

Colors are RGB in 0..1 less the center of the recipe, as the prepared network takes them.
"""

Heard = Callable[[], None]
"""Called every now and then within an evaluation, which may take hours, by whoever computes it."""


def unheard() -> None:
    """Do nothing: nobody waits for a sign of life."""
