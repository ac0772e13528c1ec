"""A picture in tiles, who holds which, and how pixels and gradients pass between them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from workers.nst.exact_sums import NumberTable
from workers.nst.group import Group
from workers.nst.regions import Region, TilePlan, check_partition


@dataclass(frozen=True, slots=True)
class Tiling:
    """The tiles of a picture and the members of a group that hold them.

    Which member holds a tile never changes a result; the tiles do, by rounding.

    Attributes:
        whole: The picture, from `(0, 0)`.
        cores: The pixels of each tile; a tile is known by its place here.
        holders: Rank of the member that holds each tile. A member may hold none.
    """

    whole: Region
    cores: tuple[Region, ...]
    holders: tuple[int, ...]

    def __post_init__(self) -> None:
        check_partition(self.cores, self.whole)
        if len(self.holders) != len(self.cores):
            raise ValueError(f"{len(self.cores)} tiles have {len(self.holders)} holders")

    @classmethod
    def dealt(
        cls, height_px: int, width_px: int, cores: Iterable[tuple[int, int, int, int]], size: int
    ) -> Tiling:
        """Deal tiles to the members of a group: runs of neighbors, about the same area each.

        Args:
            height_px: Of the picture.
            width_px: Of the picture.
            cores: Top, left, bottom, right of each tile, row by row.
            size: Of the group.

        Raises:
            ValueError: If the tiles do not cover the picture, each pixel once.
        """
        whole = Region(0, 0, height_px, width_px)
        regions = tuple(Region(*core) for core in cores)
        areas = [region.area for region in regions]
        middles = [before - area / 2 for before, area in zip(accumulate(areas), areas, strict=True)]
        holders = (min(size - 1, int(middle * size / max(1, whole.area))) for middle in middles)
        return cls(whole, regions, tuple(holders))

    def held_by(self, rank: int) -> tuple[int, ...]:
        """Return the tiles of one member, in order."""
        return tuple(tile for tile, holder in enumerate(self.holders) if holder == rank)


@dataclass(frozen=True, slots=True)
class Share:
    """What one member of a group has of a picture in tiles.

    Attributes:
        tiling: The tiles and who holds them.
        group: Whose members all make the same calls.
    """

    tiling: Tiling
    group: Group

    @property
    def held(self) -> tuple[int, ...]:
        """The tiles of this member, in order."""
        return self.tiling.held_by(self.group.rank)

    def split(self, picture: Tensor) -> dict[int, Tensor]:
        """Return the tiles of this member, `[1, C, h, w]` each, as copies out of a whole picture.

        Args:
            picture: `[1, C, H, W]`.

        Raises:
            ValueError: If the picture is not of the size that was cut into tiles.
        """
        whole = self.tiling.whole
        if picture.shape[-2:] != (whole.height, whole.width):
            raise ValueError(
                f"a picture of {picture.shape[-1]}x{picture.shape[-2]} px is not the one that was cut "
                f"into tiles, of {whole.width}x{whole.height} px"
            )
        return {tile: self._cut(picture, tile).clone() for tile in self.held}

    def gather(self, tiles: dict[int, Tensor]) -> Tensor:
        """Return the whole picture, `[1, C, H, W]`, on every member.

        Args:
            tiles: Of this member, `[1, C, h, w]` each.
        """
        message = _packed([tiles[tile] for tile in self.held])
        others = [rank for rank in range(self.group.size) if rank != self.group.rank]
        received = self.group.exchange(dict.fromkeys(others, message)) | {self.group.rank: message}
        some = next(message for message in received.values() if message.numel())
        whole = self.tiling.whole
        picture = some.new_empty(1, some.shape[0], whole.height, whole.width)
        for rank, packed in received.items():
            held = self.tiling.held_by(rank)
            pieces = _unpacked(packed, [self.tiling.cores[tile] for tile in held])
            for tile, piece in zip(held, pieces, strict=True):
                self._cut(picture, tile).copy_(piece)
        return picture

    def total(self, vectors: dict[int, Tensor]) -> list[float]:
        """Return the sum of one vector of each tile, the same bits on every member.

        Args:
            vectors: Of this member's tiles, float64, all of one length.
        """
        width = max((len(vector) for vector in vectors.values()), default=0)
        if len(set(self.tiling.holders)) < self.group.size:  # who holds nothing does not know it
            holder = self.group.rank == self.tiling.holders[0]
            width = int(self.group.reduce(torch.tensor(width if holder else 0)))
        table = NumberTable(len(self.tiling.cores), width)
        for tile, vector in vectors.items():
            table.set_row(tile, vector)
        return table.columns(self.group.reduce(table.bits))

    def _cut(self, picture: Tensor, tile: int) -> Tensor:
        return picture[(..., *self.tiling.cores[tile].slices(self.tiling.whole))]


Pair = tuple[int, int]
"""The tile that reads pixels, and the tile that owns them."""


class Borders:
    """Brings each tile the pixels that it reads of others, and the others the gradients that it has for them.

    Args:
        share: Of this member.
        plans: What each tile reads, of all members.
    """

    def __init__(self, share: Share, plans: Sequence[TilePlan]) -> None:
        self._tiling = tiling = share.tiling
        self._plans = plans
        self._group = share.group
        self._held = share.held
        self._shared: dict[Pair, Region] = {}
        self._inside: list[Pair] = []
        self._read: dict[int, list[Pair]] = {}
        self._lent: dict[int, list[Pair]] = {}
        for reader, plan in enumerate(plans):
            for owner, core in enumerate(tiling.cores):
                region = plan.pixels.clip(core)
                if region.area:
                    self._share((reader, owner), region)

    def spread(self, tiles: dict[int, Tensor]) -> dict[int, Tensor]:
        """Return all pixels that each of this member's tiles reads, `[1, C, h, w]`, given its own ones."""

        def lend(pair: Pair) -> Tensor:
            return tiles[pair[1]][(..., *self._shared[pair].slices(self._tiling.cores[pair[1]]))]

        crops = {}
        for tile in self._held:
            pixels = self._plans[tile].pixels
            crops[tile] = tiles[tile].new_empty(1, tiles[tile].shape[1], pixels.height, pixels.width)
        for pair, piece in self._trade(lend, self._lent, self._read).items():
            reader = pair[0]
            crops[reader][(..., *self._shared[pair].slices(self._plans[reader].pixels))] = piece
        return crops

    def collect(self, gradients: dict[int, Tensor]) -> dict[int, Tensor]:
        """Return the gradient of each of this member's tiles, from what every tile found for what it reads.

        It is added in float64 in the order of the tiles that it comes from, whoever holds them.

        Args:
            gradients: For all pixels that each of this member's tiles reads, `[1, C, h, w]`.
        """

        def give_back(pair: Pair) -> Tensor:
            return gradients[pair[0]][(..., *self._shared[pair].slices(self._plans[pair[0]].pixels))]

        totals = {}
        for tile in self._held:
            core, some = self._tiling.cores[tile], gradients[tile]
            totals[tile] = some.new_zeros(1, some.shape[1], core.height, core.width, dtype=torch.float64)
        for pair, piece in sorted(self._trade(give_back, self._read, self._lent).items(), key=_by_pair):
            owner = pair[1]
            totals[owner][(..., *self._shared[pair].slices(self._tiling.cores[owner]))] += piece
        return {tile: total.to(gradients[tile].dtype) for tile, total in totals.items()}

    def _share(self, pair: Pair, region: Region) -> None:
        reader, owner = (self._tiling.holders[tile] for tile in pair)
        rank = self._group.rank
        if rank not in {reader, owner}:
            return
        self._shared[pair] = region
        if reader == owner:
            self._inside.append(pair)
            return
        # Neighbors send to each other, if only an empty message, though just one of them may have to read.
        other = owner if reader == rank else reader
        self._read.setdefault(other, [])
        self._lent.setdefault(other, [])
        (self._read if reader == rank else self._lent)[other].append(pair)

    def _trade(
        self, piece: Callable[[Pair], Tensor], leaving: dict[int, list[Pair]], arriving: dict[int, list[Pair]]
    ) -> dict[Pair, Tensor]:
        """Return the pieces that other members have for this one, and those that stay here."""
        received = self._group.exchange(
            {rank: _packed([piece(pair) for pair in pairs]) for rank, pairs in leaving.items()}
        )
        pieces = {pair: piece(pair) for pair in self._inside}
        for rank, pairs in arriving.items():
            regions = [self._shared[pair] for pair in pairs]
            pieces.update(zip(pairs, _unpacked(received[rank], regions), strict=True))
        return pieces


def _by_pair(item: tuple[Pair, Tensor]) -> Pair:
    return item[0]


def _packed(pieces: Sequence[Tensor]) -> Tensor:
    """Return `[C, positions]` of all pieces, one after the other."""
    return torch.cat([piece[0].flatten(1) for piece in pieces], 1) if pieces else torch.empty(0, 0)


def _unpacked(message: Tensor, regions: Sequence[Region]) -> list[Tensor]:
    """Return the pieces of a message, `[1, C, h, w]` each."""
    parts = torch.split(message, [region.area for region in regions], 1) if regions else ()
    return [
        part.reshape(1, -1, region.height, region.width) for part, region in zip(parts, regions, strict=True)
    ]
