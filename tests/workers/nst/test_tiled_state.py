"""A state travels in parts: nobody ever has the tiles of all members."""

from __future__ import annotations

import tracemalloc
from typing import Any

import pytest
import torch

from workers.nst import tiled_state
from workers.nst.group import Group
from workers.nst.regions import Region
from workers.nst.thread_group import run_together
from workers.nst.tiled_state import State, collected_state, deal_state, give_state
from workers.nst.tiling import Tiling

HISTORY = 6
PART_BYTES = 256 << 10
TILE_PX, ROWS = 64, 24
STATE_BYTES = ROWS * TILE_PX**2 * 12 * (2 + 2 + 2 * HISTORY)


def cut(height: int, width: int) -> list[Region]:
    return [Region(top, 0, top + TILE_PX, width) for top in range(0, height, TILE_PX)]


def numbers(tile: int, which: int, *shape: int) -> torch.Tensor:
    """Return what a tile has of a kind, the same on whatever member."""
    return torch.full(shape, float(100 * tile + which))


def state_of(tiles: range | tuple[int, ...], history: int = HISTORY) -> State:
    """Return the state of a member that holds some tiles, like that of a render by L-BFGS."""
    length = 3 * TILE_PX**2

    def vectors(tile: int) -> dict[str, Any]:
        pairs = [numbers(tile, number, 2, length) for number in range(history)]
        return {"pairs": pairs, "gradient": numbers(tile, 50, length), "move": numbers(tile, 51, length)}

    return {
        "version": 1,
        "size": [ROWS * TILE_PX, TILE_PX],
        "progress": {"scale": 0, "losses": [3.0, 2.0]},
        "tiles": {tile: numbers(tile, 60, 1, 3, TILE_PX, TILE_PX) for tile in tiles},
        "average": {tile: numbers(tile, 61, 1, 3, TILE_PX, TILE_PX) for tile in tiles},
        "optimizer": {"tiles": {tile: vectors(tile) for tile in tiles}, "shared": {"has_moved": True}},
        "generator": torch.arange(9, dtype=torch.uint8),
    }


def held_by(group: Group) -> tuple[int, ...]:
    height, width = ROWS * TILE_PX, TILE_PX
    return Tiling.dealt(height, width, cut(height, width), group.size).held_by(group.rank)


def same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(value, other[key]) for key, value in one.items())
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def collected(group: Group, history: int = HISTORY) -> tuple[State, list[bytes]] | None:
    state = state_of(held_by(group), history)
    if group.rank:
        give_state(state, group)
        return None
    with collected_state(state, group) as (shared, parts):
        return shared, list(parts)


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiled_state, "PART_BYTES", PART_BYTES)


@pytest.mark.parametrize("history", [0, HISTORY])
@pytest.mark.parametrize(("before", "after"), [(1, 1), (1, 3), (3, 1), (2, 3), (30, 2)])
def test_every_member_gets_what_its_tiles_had(before: int, after: int, history: int) -> None:
    """Also of members that had none, and of optimizers that keep no pairs yet."""
    kept = run_together(before, lambda group: collected(group, history))[0]
    assert kept

    def go_on(group: Group) -> bool:
        shared, parts = kept if group.rank == 0 else (None, [])
        dealt = deal_state(shared, parts, group, cut)
        assert dealt.pop("count") == ROWS
        return same(dealt, state_of(held_by(group), history))

    assert run_together(after, go_on) == [True] * after


def test_parts_are_of_a_limited_size() -> None:
    kept = run_together(3, collected)[0]
    assert kept
    sizes = [len(part) for part in kept[1]]
    assert sum(sizes) > STATE_BYTES
    assert max(sizes) < 1.1 * PART_BYTES
    assert len(sizes) < 1.6 * STATE_BYTES / PART_BYTES


def peak(members: int, task: Any) -> int:
    """Return the most that was held at once, of Python's memory and NumPy's: what is packed is in there."""
    tracemalloc.start()
    try:
        run_together(members, task)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_the_state_of_all_is_never_held_on_its_way() -> None:
    """Neither where it is collected and written part by part, nor where it is dealt again."""
    written: list[int] = []

    def keep(group: Group) -> None:
        state = state_of(held_by(group))
        if group.rank:
            give_state(state, group)
            return
        with collected_state(state, group) as (_, parts):
            written.extend(len(part) for part in parts)

    some = 12 * PART_BYTES
    assert 2 * some < STATE_BYTES
    assert peak(3, keep) < some
    assert sum(written) > STATE_BYTES

    shared, parts = run_together(1, collected)[0] or ({}, [])

    def deal(group: Group) -> None:
        deal_state(shared, iter(parts) if group.rank == 0 else (), group, cut)

    assert peak(3, deal) < some


def test_member_0_may_have_enough_before_the_end() -> None:
    def keep(group: Group) -> float:
        state = state_of(held_by(group))
        if group.rank:
            give_state(state, group)
        else:
            with collected_state(state, group) as (_, parts):
                for _, _ in zip(range(25), parts, strict=False):
                    pass
        return float(group.reduce(torch.tensor(1.0)))

    assert run_together(3, keep) == [3.0] * 3
