"""A step length that fulfils the strong Wolfe conditions, found on numbers alone.

Bracketing and zooming with cubic interpolation (Nocedal and Wright 2006, algorithms 3.5 and 3.6), with the
safeguards of torch.optim.LBFGS, whose steps it reproduces.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

SUFFICIENT_DECREASE = 1e-4
CURVATURE = 0.9
SMALLEST_INTERVAL = 1e-9
"""Relative width of an interval that is not looked into."""

MOST_TRIALS = 25

At = TypeVar("At")


@dataclass(frozen=True, slots=True)
class Trial(Generic[At]):
    """A point on the line.

    Attributes:
        step: Its distance from the start, in lengths of the direction.
        loss: There.
        slope: Inner product of gradient and direction there.
        at: Whatever the caller wants to keep of it, such as the gradient.
    """

    step: float
    loss: float
    slope: float
    at: At


def strong_wolfe(trial: Callable[[float], Trial[At]], start: Trial[At], step: float) -> Trial[At]:
    """Return a point that fulfils the strong Wolfe conditions, or the best seen after `MOST_TRIALS`.

    Args:
        trial: Evaluates the objective at a step along the direction.
        start: The point at step 0; its slope is below zero.
        step: The first to try.
    """
    low, high, trials = _bracket(trial, start, step)
    stuck = False
    while high is not None and trials < MOST_TRIALS:
        if abs(high.step - low.step) < SMALLEST_INTERVAL * max(high.step, low.step):
            break
        at, stuck = _inside(low, high, stuck=stuck)
        here = trial(at)
        trials += 1
        if _rises(here, start) or here.loss >= low.loss:
            low, high = (low, here) if low.loss <= here.loss else (here, low)
        elif abs(here.slope) <= -CURVATURE * start.slope:
            return here
        else:
            if here.slope * (high.step - low.step) >= 0:
                high = low
            low = here
    return low


def _bracket(
    trial: Callable[[float], Trial[At]], start: Trial[At], step: float
) -> tuple[Trial[At], Trial[At] | None, int]:
    """Return an interval with a good point in it, the lower end first, and how many trials it took.

    The interval is one point, and its end None, where that point is good.
    """
    before, here = start, trial(step)
    for trials in range(1, MOST_TRIALS + 1):
        if _rises(here, start) or (trials > 2 and here.loss >= before.loss):
            break
        if abs(here.slope) <= -CURVATURE * start.slope:
            return here, None, trials
        if here.slope >= 0:
            break
        bounds = (here.step + 0.01 * (here.step - before.step), here.step * 10)
        further = trial(_lowest_of_cubic(before, here, bounds))
        before, here = here, further
    else:
        before, trials = start, MOST_TRIALS
    return (before, here, trials) if before.loss <= here.loss else (here, before, trials)


def _rises(here: Trial[At], start: Trial[At]) -> bool:
    return here.loss > start.loss + SUFFICIENT_DECREASE * here.step * start.slope


def _inside(low: Trial[At], high: Trial[At], *, stuck: bool) -> tuple[float, bool]:
    """Return where to look between two points, and whether that came close to an end."""
    left, right = sorted((low.step, high.step))
    first, second = (low, high) if low.step <= high.step else (high, low)
    at = _lowest_of_cubic(first, second, (left, right))
    margin = 0.1 * (right - left)
    if min(right - at, at - left) >= margin:
        return at, False
    if stuck or at >= right or at <= left:
        return (right - margin if abs(at - right) < abs(at - left) else left + margin), False
    return at, True


def _lowest_of_cubic(first: Trial[At], second: Trial[At], bounds: tuple[float, float]) -> float:
    """Return where the cubic through two points and their slopes is lowest, within bounds."""
    secant = 3 * (first.loss - second.loss) / (first.step - second.step)
    middle = first.slope + second.slope - secant
    square = middle**2 - first.slope * second.slope
    if square < 0:
        return sum(bounds) / 2
    root = math.sqrt(square)
    width = second.step - first.step
    lowest = second.step - width * ((second.slope + root - middle) / (second.slope - first.slope + 2 * root))
    return min(max(lowest, bounds[0]), bounds[1])
