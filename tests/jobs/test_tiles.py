"""Grids cover a picture once with tiles of the size that was asked for; the memory table adds up."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.errors import FarmError, UsageError
from jobs.tiles import (
    CUT_PX,
    Tile,
    grid,
    largest_tile_px,
    passing_bytes,
    resident_px,
    state_bytes,
    tile_memory,
    usable_bytes,
)


@given(
    st.integers(1, 5000),
    st.integers(1, 5000),
    st.integers(4, 200).map(lambda steps: steps * CUT_PX),
)
def test_a_grid_covers_a_picture_once_with_tiles_small_enough(height_px, width_px, tile_px):
    tiles = grid(height_px, width_px, tile_px)
    rows = sorted({(tile.top, tile.bottom) for tile in tiles})
    columns = sorted({(tile.left, tile.right) for tile in tiles})
    assert list(tiles) == [
        Tile(top, left, bottom, right) for (top, bottom), (left, right) in itertools.product(rows, columns)
    ]
    for sides, length in ((rows, height_px), (columns, width_px)):
        assert sides[0][0] == 0
        assert sides[-1][1] == length
        assert all(before[1] == after[0] for before, after in itertools.pairwise(sides))
        assert all(0 < end - begin <= tile_px for begin, end in sides)
        assert all(begin % CUT_PX == 0 for begin, _ in sides)
        assert len(sides) == -(-length // tile_px)


def test_tiles_are_about_equal():
    """No row of slivers, each of which would read a margin as large as the others'."""
    sides = [tile.bottom - tile.top for tile in grid(1040, 100, 512)]
    assert sides == [352, 336, 352]


def test_a_picture_within_one_tile_is_one():
    assert grid(300, 512, 512) == (Tile(0, 0, 300, 512),)


@pytest.mark.parametrize(
    ("tile_px", "hint"), [(100, "use 96"), (0, "use 16"), (-512, "use 16"), (8, "use 16"), (1000, "use 992")]
)
def test_a_side_that_cannot_be_is_refused_with_one_that_can(tile_px, hint):
    with pytest.raises(UsageError, match="multiple of 16") as caught:
        grid(2000, 2000, tile_px)
    assert caught.value.hint == hint


def test_a_picture_without_pixels_is_refused():
    with pytest.raises(FarmError, match="a picture of 10x0 px has no pixels"):
        grid(0, 10, 512)


@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
@pytest.mark.parametrize("pooling", ["max", "avg", "l2"])
@pytest.mark.parametrize("budget_bytes", [2 * 10**9, 8 * 10**9, 80 * 10**9])
def test_the_largest_tile_fits_and_the_next_does_not(budget_bytes, pooling, precision):
    memory = tile_memory(precision, pooling)
    side = largest_tile_px(budget_bytes, 70, memory)
    assert side % CUT_PX == 0
    assert passing_bytes(side, 70, memory) <= budget_bytes < passing_bytes(side + CUT_PX, 70, memory)


def test_too_little_memory_for_any_tile_is_refused():
    with pytest.raises(FarmError, match="10 MB of memory are too few for any tile: the smallest needs 52 MB"):
        largest_tile_px(10_000_000, 70, tile_memory("fp32", "max"))


def test_graphs_are_kept_of_what_is_left_beside_the_tile_in_work():
    memory = tile_memory("fp32", "avg")
    working = passing_bytes(512, 70, memory)
    assert resident_px(working - 1, 512, 70, memory) == 0
    assert resident_px(working + 10 * memory.resident_bytes, 512, 70, memory) == 10


def test_state_grows_with_the_history_and_the_average():
    pixels = 1000
    assert state_bytes(pixels, averaged=True) - state_bytes(pixels) == 12 * pixels
    assert state_bytes(pixels, history=10) - state_bytes(pixels) == 240 * pixels


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_some_of_the_memory_is_kept_in_reserve(device):
    assert usable_bytes(10**8, device) == 0
    assert 0 < usable_bytes(8 * 10**9, device) < 7 * 10**9
