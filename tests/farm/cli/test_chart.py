"""Curves in a terminal."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from farm.cli.chart import curve


def test_a_falling_curve_goes_down_from_left_to_right() -> None:
    lines = curve([1000.0, 100.0, 10.0, 1.0], width=30, height=4)
    columns = [line[10:] for line in lines]
    assert [line[:9].strip() for line in lines] == ["1e+03", "", "", "1"]
    firsts = [next(n for n, sign in enumerate(line) if ord(sign) > 0x2800) for line in columns]
    assert firsts == sorted(firsts)
    assert firsts[0] == 0
    assert ord(columns[-1][-1]) > 0x2800


@given(
    values=st.lists(st.floats(allow_nan=True, allow_infinity=True), max_size=40),
    width=st.integers(0, 80),
    height=st.integers(0, 12),
)
def test_every_drawing_fits_its_room(values: list[float], width: int, height: int) -> None:
    lines = curve(values, width, height)
    assert lines == [] or len(lines) == height
    assert all(len(line) <= width for line in lines)


def test_what_has_no_logarithm_is_left_out() -> None:
    values = [10.0, math.nan, 0.0, -1.0, math.inf, 1.0]
    assert curve(values, 30, 4)[0].startswith("       10")
    assert curve([math.nan, 0.0], 30, 4) == []
    assert curve([3.0, 3.0], 30, 4)[0].startswith("        3")
