"""When a render has done enough."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Stopping:
    """When to stop before all iterations are done.

    Attributes:
        improvement: Leave a scale when the loss fell by less than this part of it over `window` iterations.
        window: In iterations.
        target_loss: Leave a scale when the loss is at most this.
        seconds: Iterate no more after this time, counted over all attempts; the picture is still brought to
            its full size.
    """

    improvement: float | None = None
    window: int = 20
    target_loss: float | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        if self.improvement is not None and not 0 <= self.improvement < 1:
            raise ValueError(f"an improvement of {self.improvement}: it must be at least 0 and below 1")
        if self.window < 1:
            raise ValueError(f"a window of {self.window} iterations: there must be at least one")
        if self.seconds is not None and not self.seconds > 0:
            raise ValueError(f"{self.seconds} seconds: it must be above 0")

    def is_good_enough(self, losses: Sequence[float]) -> bool:
        """Return whether a scale with these losses, oldest first, is done."""
        if not losses:
            return False
        if self.target_loss is not None and losses[-1] <= self.target_loss:
            return True
        if self.improvement is None or len(losses) <= self.window:
            return False
        before = losses[-1 - self.window]
        return before - losses[-1] < self.improvement * abs(before)
