"""The state of a render in tiles, between members and checkpoints: in one piece, for any number of members.

What `Optimization.state_dict` returns is the same on all members but for the tiles: each has its own.
"""

from __future__ import annotations

import io
from typing import Any

import torch

from workers.nst.group import Group
from workers.nst.tiled_stage import Cut
from workers.nst.tiling import Tiling

State = dict[str, Any]

_BY_TILE = (("tiles",), ("average",), ("optimizer", "tiles"))
"""Where a state has something for each tile."""


def assemble_state(state: State, group: Group) -> State:
    """Return on member 0 the state with the tiles of all members, and on the others their own state.

    Args:
        state: Of this member.
        group: All members call this.
    """
    first = group.rank == 0
    own = [_at(state, path) for path in _BY_TILE]
    message = torch.empty(0, dtype=torch.uint8) if first else _packed(own)
    received = group.exchange(dict.fromkeys(range(1, group.size) if first else [0], message))
    if not first:
        return state
    parts = [own, *(_unpacked(packed) for packed in received.values())]
    whole = state
    for path, tiles in zip(_BY_TILE, zip(*parts, strict=True), strict=True):
        whole = _with(whole, path, {number: tile for part in tiles for number, tile in part.items()})
    return whole


def member_state(state: State, group: Group, cut: Cut) -> State:
    """Return what one member needs of a state that has all tiles, whatever the group that it came from.

    Args:
        state: As `assemble_state` returned it.
        group: The present one.
        cut: How pictures are cut into tiles, the same as before.

    Raises:
        ValueError: If the state has other tiles.
    """
    return _part(state, group.rank, _tiling(state, group, cut))


def deal_state(state: State | None, group: Group, cut: Cut) -> State:
    """Return on every member what it needs of the state that member 0 has: `assemble_state` the other way.

    Args:
        state: On member 0 as `assemble_state` returned it; of the others it is not looked at.
        group: All members call this.
        cut: How pictures are cut into tiles, the same as before.

    Raises:
        ValueError: If the state has other tiles; the other members are then left waiting.
    """
    if group.rank != 0 or state is None:
        (received,) = group.exchange({0: torch.empty(0, dtype=torch.uint8)}).values()
        dealt: State = _unpacked(received)
        return dealt
    tiling = _tiling(state, group, cut)
    group.exchange({rank: _packed(_part(state, rank, tiling)) for rank in range(1, group.size)})
    return _part(state, 0, tiling)


def _tiling(state: State, group: Group, cut: Cut) -> Tiling:
    height_px, width_px = state["size"]
    tiling = Tiling.dealt(height_px, width_px, cut(height_px, width_px), group.size)
    if state["tiles"].keys() != set(range(len(tiling.cores))):
        raise ValueError(
            f"the state has {len(state['tiles'])} tiles and the picture {len(tiling.cores)}: "
            "it goes on with the size of tiles that it began with"
        )
    return tiling


def _part(state: State, rank: int, tiling: Tiling) -> State:
    """Return a state with the tiles of one member."""
    held = tiling.held_by(rank)
    for path in _BY_TILE:
        tiles = _at(state, path)
        state = _with(state, path, {number: tiles[number] for number in held if number in tiles})
    return state


def _at(state: State, path: tuple[str, ...]) -> dict[int, Any]:
    value: Any = state
    for key in path:
        value = value[key]
    tiles: dict[int, Any] = value
    return tiles


def _with(state: State, path: tuple[str, ...], tiles: dict[int, Any]) -> State:
    """Return the state with other tiles at a path; what is given stays as it is."""
    key, *rest = path
    return {**state, key: _with(state[key], tuple(rest), tiles) if rest else tiles}


def _packed(value: Any) -> torch.Tensor:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return torch.frombuffer(bytearray(buffer.getbuffer()), dtype=torch.uint8)


def _unpacked(message: torch.Tensor) -> Any:
    return torch.load(io.BytesIO(message.numpy().tobytes()), weights_only=True, map_location="cpu")
