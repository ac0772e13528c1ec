"""Sums over tiles are right to the last bits, and the same whoever adds them."""

from __future__ import annotations

import math
import random
from fractions import Fraction

import pytest
import torch
from torch import Tensor

from workers.nst.exact_sums import ExactSums
from workers.nst.group import Alone, Group
from workers.nst.thread_group import run_together
from workers.nst.tiling import Share, Tiling

TILES = 7
LENGTH = 40


def drawn(seed: int, scale: float) -> dict[int, dict[str, Tensor]]:
    """Return a vector for each tile, its entries of very unequal size and sign."""
    generator = torch.Generator().manual_seed(seed)
    vectors = {}
    for tile in range(TILES):
        size = 10.0 ** torch.empty(LENGTH, dtype=torch.float64).uniform_(-9, 0, generator=generator)
        vectors[tile] = {"v": scale * size * torch.randn(LENGTH, generator=generator, dtype=torch.float64)}
    return vectors


def add_all(group: Group, holders: list[int], scales: list[float]) -> list[bytes]:
    """Return the bytes of sums of vectors that grow and shrink from one addition to the next."""
    sums = ExactSums(group, TILES, {"v": LENGTH}, ["n"])
    results = []
    for step, scale in enumerate(scales):
        mine = {t: v for t, v in drawn(step, scale).items() if holders[t] == group.rank}
        total, numbers = sums.add(mine, {t: {"n": scale * math.sin(t)} for t in mine})
        results.append(total["v"].numpy().tobytes() + repr(numbers).encode())
    return results


SCALES = [1.0, 1e12, 1e-200, 0.0, 3e-5, 3.1e-5, 1e150]


@pytest.mark.parametrize("size", [2, 3, 8])
def test_sums_have_the_same_bits_for_any_holders(size):
    wanted = add_all(Alone(), [0] * TILES, SCALES)
    rng = random.Random(size)  # noqa: S311 - holders, no secrets
    holders = [rng.randrange(size) for _ in range(TILES)]
    for results in run_together(size, lambda group: add_all(group, holders, SCALES)):
        assert results == wanted


def test_sums_hang_on_nothing_that_was_added_before():
    """So a render that goes on from a checkpoint needs no state of them."""
    once = [add_all(Alone(), [0] * TILES, [1.0, scale])[1] for scale in SCALES]
    again = [add_all(Alone(), [0] * TILES, [1e100, scale])[1] for scale in SCALES]
    assert once == again


@pytest.mark.parametrize("scale", [1.0, 1e12, 1e-200, 3e-5])
def test_sums_are_right_to_a_float64_of_the_largest(scale):
    vectors = drawn(0, scale)
    total, _ = ExactSums(Alone(), TILES, {"v": LENGTH}, []).add(vectors, {tile: {} for tile in vectors})
    columns = zip(*(named["v"].tolist() for named in vectors.values()), strict=True)
    wanted = [float(sum(map(Fraction, column))) for column in columns]
    largest = max(map(abs, wanted))
    assert max(abs(given - want) for given, want in zip(total["v"].tolist(), wanted, strict=True)) <= (
        TILES * 2.0**-54 * largest
    )


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_named(bad):
    sums = ExactSums(Alone(), 2, {"v": 3}, ["n"])
    vectors = {tile: {"v": torch.ones(3).double()} for tile in range(2)}
    with pytest.raises(ValueError, match="the sum of n over the tiles is not finite"):
        sums.add(vectors, {0: {"n": 1.0}, 1: {"n": bad}})
    vectors[1]["v"][2] = bad
    with pytest.raises(ValueError, match="the sum of v over the tiles is not finite"):
        sums.add(vectors, {0: {"n": 1.0}, 1: {"n": 1.0}})


@pytest.mark.parametrize("holders", [(0, 0, 0), (1, 0, 1), (2, 2, 0), (1, 1, 1)])
def test_totals_of_tiles_are_rounded_once_and_known_to_members_without_tiles(holders):
    vectors = [[1e16, -0.0, 0.1], [1.0, -0.0, 0.2], [-1e16, -0.0, 0.3]]
    cores = [(0, 0, 4, 2), (0, 2, 4, 5), (0, 5, 4, 9)]

    def program(group: Group) -> list[float]:
        tiling = Tiling.dealt(4, 9, cores, 1)
        share = Share(Tiling(tiling.whole, tiling.cores, holders), group)
        return share.total({tile: torch.tensor(vectors[tile], dtype=torch.float64) for tile in share.held})

    assert run_together(3, program) == [[1.0, 0.0, math.fsum([0.1, 0.2, 0.3])]] * 3
