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
    height_px, width_px = state["size"]
    tiling = Tiling.dealt(height_px, width_px, cut(height_px, width_px), group.size)
    if state["tiles"].keys() != set(range(len(tiling.cores))):
        raise ValueError(
            f"the state has {len(state['tiles'])} tiles and the picture {len(tiling.cores)}: "
            "it goes on with the size of tiles that it began with"
        )
    held = tiling.held_by(group.rank)
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
