"""How fast a recipe is on this device."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from workers.nst import speed
from workers.nst.features import seeded
from workers.nst.presets import PRESETS
from workers.nst.speed import measure_speed


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_can_be_measured(name: str) -> None:
    recipe = PRESETS[name]
    measured = measure_speed(recipe, seeded(recipe.network, 2, 0, recipe.family), seconds=0.01)
    assert measured.seconds > 0
    assert measured.side_px % 16 == 0
    assert measured.seconds_per_pixel == measured.seconds / measured.side_px**2


def evaluations_of(
    cost_s: Callable[[int], float], monkeypatch: pytest.MonkeyPatch
) -> tuple[list[int], float]:
    """Measure a device whose evaluations take so long by their side; return their sides and the clock."""
    now, sides = [0.0], []

    def evaluation(_recipe: object, _network: object, side_px: int) -> Callable[[], None]:
        def evaluate() -> None:
            sides.append(side_px)
            now[0] += cost_s(side_px)

        return evaluate

    monkeypatch.setattr(speed, "_evaluation", evaluation)
    measured = measure_speed(PRESETS["default"], seeded("vgg19", 2, 0), seconds=2.0, clock=lambda: now[0])
    assert measured.side_px == sides[-1]
    assert measured.seconds == pytest.approx(cost_s(sides[-1]))
    return sides, now[0]


def test_a_fast_device_is_measured_at_the_largest_size(monkeypatch: pytest.MonkeyPatch) -> None:
    sides, took_s = evaluations_of(lambda side_px: 1e-7 * side_px**2, monkeypatch)
    assert set(sides) == {64, 512}
    assert took_s <= 2.0


def test_a_common_machine_is_measured_within_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    sides, took_s = evaluations_of(lambda side_px: 1e-5 * side_px**2, monkeypatch)
    assert max(sides) == 208
    assert took_s <= 2.0


def test_a_slow_device_is_measured_at_the_smallest_size(monkeypatch: pytest.MonkeyPatch) -> None:
    sides, _ = evaluations_of(lambda side_px: 1e-3 * side_px**2, monkeypatch)
    assert sides == [64, 64]
