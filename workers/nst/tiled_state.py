"""The state of a render in tiles, between members and checkpoints: in parts, for any number of members.

What `Optimization.state_dict` returns is the same on all members but for the tiles: each has its own. All of
them may be more than any member has room for, so that they are never put together: they travel in parts of a
limited size, one at a time.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

import torch
from torch import Tensor

from workers.nst.group import Group
from workers.nst.tiled_stage import Cut
from workers.nst.tiling import Tiling

State = dict[str, Any]

PART_BYTES = 64 << 20
"""Tensors of so many bytes come in one part; a larger one in a part by itself."""

_BY_TILE = (("tiles",), ("average",), ("optimizer", "tiles"))
"""Where a state has something for each tile: a tensor, or tensors and lists of tensors by name."""

_Piece: TypeAlias = tuple[int, int, str, Tensor | list[Tensor]]
"""Of one tile: place in `_BY_TILE`, number of the tile, name, and a tensor, or the next ones of a list."""


@contextmanager
def collected_state(state: State, group: Group) -> Iterator[tuple[State, Iterator[bytes]]]:
    """Give member 0 the state without its tiles, and these in parts, while the others call `give_state`.

    A part is asked for when the one before has been used. Not all have to be; but none after the end of this.

    Args:
        state: Of this member.
        group: Whose member 0 this is.
    """
    yield _without_tiles(state, group), _collected(state, group)
    group.broadcast(torch.tensor(0))  # it is nobody's turn any more


def give_state(state: State, group: Group) -> None:
    """Give member 0 what this other member has of a state, for as long as it is asked.

    Args:
        state: Of this member.
        group: Whose member 0 has called `collected_state`.
    """
    _without_tiles(state, group)
    parts = _parts(_pieces(state))
    while turn := int(group.broadcast(torch.tensor(0))):
        group.exchange({0: _message(next(parts, b""))} if turn == group.rank else {})


def deal_state(state: State | None, parts: Iterable[bytes], group: Group, cut: Cut) -> State:
    """Return on every member what it needs of the state that member 0 has: `collected_state` the other way.

    Args:
        state: On member 0 without its tiles; of the others it is not looked at.
        parts: On member 0 the tiles.
        group: All members call this; with other members than before, or not.
        cut: How pictures are cut into tiles, the same as before.

    Raises:
        ValueError: If the state has other tiles; on all members.
    """
    own: State = _unpacked(_content(group.broadcast(_message(_packed(state)))))
    tiling = _tiling(own, group, cut)
    for path in _BY_TILE:
        own = _with(own, path, {})
    if group.rank:
        while group.broadcast(torch.tensor(0)):
            (received,) = group.exchange({0: _message(b"")}).values()
            _place(own, _unpacked(_content(received)))
        return own
    for part in parts:
        group.broadcast(torch.tensor(1))
        of: dict[int, list[_Piece]] = {rank: [] for rank in range(group.size)}
        for piece in _unpacked(part):
            of[tiling.holders[piece[1]]].append(piece)
        _place(own, of.pop(0))
        group.exchange({rank: _message(_packed(pieces)) for rank, pieces in of.items()})
    group.broadcast(torch.tensor(0))
    return own


def _collected(state: State, group: Group) -> Iterator[bytes]:
    yield from _parts(_pieces(state))
    for rank in range(1, group.size):
        while part := _asked(rank, group):
            yield part


def _asked(rank: int, group: Group) -> bytes:
    """Return the next part that another member has, or nothing if it has no more."""
    group.broadcast(torch.tensor(rank))
    (received,) = group.exchange({rank: _message(b"")}).values()
    return _content(received)


def _without_tiles(state: State, group: Group) -> State:
    """Return a state without its tiles, but with how many there are on all members."""
    count = int(group.reduce(torch.tensor(len(state["tiles"]))))
    for path in _BY_TILE:
        state = _with(state, path, {})
    return {**state, "count": count}


def _tiling(state: State, group: Group, cut: Cut) -> Tiling:
    height_px, width_px = state["size"]
    tiling = Tiling.dealt(height_px, width_px, cut(height_px, width_px), group.size)
    if state["count"] != len(tiling.cores):
        raise ValueError(
            f"the state has {state['count']} tiles and the picture {len(tiling.cores)}: "
            "it goes on with the size of tiles that it began with"
        )
    return tiling


# --- pieces ---------------------------------------------------------------------------------------


def _pieces(state: State) -> Iterator[_Piece]:
    """Yield what a state has for its tiles, a tensor at a time."""
    for place, path in enumerate(_BY_TILE):
        for tile, value in _at(state, path).items():
            if isinstance(value, Tensor):
                yield place, tile, "", value
                continue
            for name, each in value.items():
                if isinstance(each, Tensor):
                    yield place, tile, name, each
                else:
                    yield place, tile, name, []  # there may be none
                    yield from ((place, tile, name, [one]) for one in each)


def _place(state: State, pieces: Iterable[_Piece]) -> None:
    """Put pieces back where `_pieces` found them, in their order."""
    for place, tile, name, value in pieces:
        tiles = _at(state, _BY_TILE[place])
        if not name:
            tiles[tile] = value
        elif isinstance(value, Tensor):
            tiles.setdefault(tile, {})[name] = value
        else:
            tiles.setdefault(tile, {}).setdefault(name, []).extend(value)


def _parts(pieces: Iterable[_Piece]) -> Iterator[bytes]:
    """Yield pieces packed together, as many as a part takes."""
    part: list[_Piece] = []
    part_bytes = 0
    for piece in pieces:
        value = piece[3]
        piece_bytes = sum(each.nbytes for each in ([value] if isinstance(value, Tensor) else value))
        if part and part_bytes + piece_bytes > PART_BYTES:
            yield _packed(part)
            part, part_bytes = [], 0
        part.append(piece)
        part_bytes += piece_bytes
    if part:
        yield _packed(part)


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


def _packed(value: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def _message(packed: bytes) -> Tensor:
    content = bytearray(packed)
    return torch.frombuffer(content, dtype=torch.uint8) if content else torch.empty(0, dtype=torch.uint8)


def _content(message: Tensor) -> bytes:
    return message.numpy().tobytes()


def _unpacked(packed: bytes) -> Any:
    return torch.load(io.BytesIO(packed), weights_only=True, map_location="cpu")
