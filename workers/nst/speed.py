"""How fast a recipe is on a device: a few small evaluations, timed."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from workers.nst.features import LossNetwork
from workers.nst.recipes import Recipe
from workers.nst.whole import WholeStage

_FIRST_SIDE_PX = 64
_LARGEST_SIDE_PX = 512
_STRIDE_PX = 16
_SHARE = 0.25
"""Of the time there is, for one evaluation: small pictures are slower by the pixel than large ones."""


@dataclass(frozen=True, slots=True)
class Speed:
    """What was measured.

    Attributes:
        side_px: Of the square picture.
        seconds: Of one evaluation of loss and gradient, the fastest of a few.
    """

    side_px: int
    seconds: float

    @property
    def seconds_per_pixel(self) -> float:
        """Seconds of one evaluation by pixels of the picture."""
        return self.seconds / self.side_px**2


def measure_speed(
    recipe: Recipe, network: LossNetwork, *, seconds: float = 2.0, clock: Callable[[], float] = time.monotonic
) -> Speed:
    """Time evaluations of a recipe over a picture in one piece, the first of each size left out.

    Args:
        recipe: Whose objective is evaluated.
        network: The loss network, before `Recipe.prepare`, on the device to measure and in its dtype.
        seconds: How long to measure, about; a slow device takes longer, for three evaluations at 64 px.
        clock: For tests.

    Raises:
        ValueError: If the recipe does not go with the network.
    """
    until = clock() + seconds
    side_px = _FIRST_SIDE_PX
    evaluate = _evaluation(recipe, network, side_px)
    evaluate()
    took = _timed(evaluate, clock)
    fitting = side_px * math.sqrt(_SHARE * seconds / max(took, 1e-9))
    larger = min(_LARGEST_SIDE_PX, int(fitting) // _STRIDE_PX * _STRIDE_PX)
    if larger > side_px:
        side_px = larger
        evaluate = _evaluation(recipe, network, side_px)
        evaluate()
        took = _timed(evaluate, clock)
    while clock() + took < until:
        took = min(took, _timed(evaluate, clock))
    return Speed(side_px, took)


def _evaluation(recipe: Recipe, network: LossNetwork, side_px: int) -> Callable[[], object]:
    """Return a function that evaluates loss and gradient once, for two pictures of noise."""
    prepared = recipe.prepare(network)
    generator = torch.Generator().manual_seed(0)
    dtype = torch.promote_types(network.dtype, torch.float32)

    def noise() -> Tensor:
        return torch.rand(1, 3, side_px, side_px, generator=generator).to(network.device, dtype)

    content, style = noise(), noise()
    objective = recipe.objective(prepared, (side_px, side_px))
    stage = WholeStage(prepared, objective, content, [(1.0, style)])
    tiles = stage.begin(content * recipe.pixel_range)
    return lambda: stage.evaluate(tiles)


def _timed(evaluate: Callable[[], object], clock: Callable[[], float]) -> float:
    """Return how long an evaluation took; its loss is a number of Python's, so a device has finished it."""
    begin = clock()
    evaluate()
    return clock() - begin
