"""What an optimizer is, over a picture in tiles, perhaps on several workers; and Adam. A whole one is tile 0.

An optimizer sees its own tiles only. What it must know of the others are sums of numbers, which the caller
forms (`Total`): Adam needs none, L-BFGS one vector of them in each step.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

Tiles = dict[int, Tensor]
"""Tensors of one kind by number of the tile, such as the pixels `[1, 3, h, w]` of the tiles of one worker."""

Total = Callable[[Tiles], list[float]]
"""Adds up one float64 vector for each tile of all workers; the result has the same bits on all."""

Resize = Callable[[Tiles, Literal["bicubic", "bilinear"]], Tiles]
"""Brings what lies in the tiles of one scale to the tiles of the next."""


class Sample(Protocol):
    """What one evaluation gave."""

    @property
    def loss(self) -> float:
        """The value of the objective."""
        ...

    @property
    def gradients(self) -> Tiles:
        """Of the loss, like the tiles of this worker."""
        ...

    @property
    def terms(self) -> dict[str, float]:
        """Each term of the loss by name."""
        ...


Evaluate = Callable[[Tiles], Sample]


class Optimizer(Protocol):
    """One way to move pixels."""

    def step(self, tiles: Tiles, evaluate: Evaluate) -> Sample:
        """Move the tiles in place by one iteration; return what was found where they were before."""
        ...

    def carry(self, resize: Resize) -> None:
        """Go on at another scale."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return tensors by tile (`tiles`) and plain values (`shared`, the same on all workers)."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` returned, which the caller may not use any more.

        Tiles that are not this worker's may be left out.
        """
        ...


def total_alone(partial: Tiles) -> list[float]:
    """Add up the vectors of all tiles where there is one worker."""
    products: list[float] = torch.stack(list(partial.values())).sum(0).tolist()
    return products


@dataclass(frozen=True, slots=True)
class AdamSettings:
    """Adam (Kingma and Ba 2014), as `torch.optim.Adam` does it.

    Attributes:
        learning_rate: In the range of the pixels.
        betas: Decay of the two moments.
        eps: Added to the root of the second moment.
        decay: The learning rate is divided by `(1 + decay * steps) ** decay_power`.
        decay_power: See `decay`.
        clamp: Pixels are kept in `(0, clamp)` after each step; None leaves them free.
        warm_start: Carry the moments over to the next scale.
    """

    learning_rate: float = 0.02
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    decay: float = 0.0
    decay_power: float = 1.0
    clamp: float | None = None
    warm_start: bool = False

    def __post_init__(self) -> None:
        if not self.learning_rate > 0:
            raise ValueError(f"a learning rate of {self.learning_rate}: it must be above 0")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas of {self.betas}: both must be at least 0 and below 1")
        if self.decay < 0:
            raise ValueError(f"a decay of {self.decay}: it must not be negative")

    def start(self, total: Total = total_alone) -> Optimizer:  # noqa: ARG002 - nothing to add up
        """Return the optimizer before its first step."""
        return Adam(self)


class Adam:
    """The moments of Adam for each tile."""

    def __init__(self, settings: AdamSettings) -> None:
        self._settings = settings
        self._steps = 0
        self._first: Tiles = {}
        self._second: Tiles = {}

    def step(self, tiles: Tiles, evaluate: Evaluate) -> Sample:
        """Move the tiles in place by one iteration; return what was found where they were before."""
        sample = evaluate(tiles)
        settings = self._settings
        decayed = settings.learning_rate / (1 + settings.decay * self._steps) ** settings.decay_power
        self._steps += 1
        corrections = [1 - beta**self._steps for beta in settings.betas]
        for number, pixels in tiles.items():
            gradient = sample.gradients[number]
            first = self._first.setdefault(number, torch.zeros_like(pixels))
            second = self._second.setdefault(number, torch.zeros_like(pixels))
            first.lerp_(gradient, 1 - settings.betas[0])
            second.mul_(settings.betas[1]).addcmul_(gradient, gradient, value=1 - settings.betas[1])
            deviation = second.sqrt().div_(math.sqrt(corrections[1])).add_(settings.eps)
            pixels.addcdiv_(first, deviation, value=-decayed / corrections[0])
            if settings.clamp is not None:
                pixels.clamp_(0, settings.clamp)
        return sample

    def carry(self, resize: Resize) -> None:
        """Bring the moments to the next scale, or forget them."""
        if self._settings.warm_start and self._steps:
            self._first = resize(self._first, "bicubic")
            self._second = {n: value.relu_() for n, value in resize(self._second, "bilinear").items()}
        else:
            self._steps, self._first, self._second = 0, {}, {}

    def state_dict(self) -> dict[str, Any]:
        """Return the moments by tile, and the number of steps."""
        tiles = {n: {"first": self._first[n], "second": self._second[n]} for n in self._first}
        return {"tiles": tiles, "shared": {"steps": self._steps}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` returned, which the caller may not use any more."""
        self._steps = state["shared"]["steps"]
        self._first = {n: tile["first"] for n, tile in state["tiles"].items()}
        self._second = {n: tile["second"] for n, tile in state["tiles"].items()}
