"""One scale of a render in tiles, on the members of a group."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from workers.nst.features import LossNetwork
from workers.nst.group import Group
from workers.nst.losses import Objective
from workers.nst.stages import Heard, unheard
from workers.nst.tiled import TiledEvaluation, TiledPicture
from workers.nst.tiled_network import TiledNetwork
from workers.nst.tiling import Share, Tiling

Cut = Callable[[int, int], Iterable[tuple[int, int, int, int]]]
"""From height and width in pixels to the tiles: top, left, bottom, right of each, row by row."""


class TiledStage:
    """A stage of `Optimization` over the tiles that a group holds.

    Every member has the whole of the small things, such as the pictures at the size of the scale; what grows
    with the network, with the optimizer and with time lies with the tiles.

    Args:
        network: The loss network, on the device of this member.
        objective: What is minimized.
        content: RGB in 0..1, `[1, 3, H, W]`.
        styles: Weight and image of each style, RGB in 0..1, `[1, 3, H, W]`.
        group: All members make the same calls.
        cut: How the picture is cut into tiles, and the styles as well. Results hang on it by rounding.
        resident_px: See `TiledPicture`.
        heard: The same.

    Raises:
        ValueError: If something is too small, missing, or not exact in tiles.
    """

    def __init__(  # noqa: PLR0913 - what a stage is made of, and where it runs
        self,
        network: LossNetwork,
        objective: Objective,
        content: Tensor,
        styles: Sequence[tuple[float, Tensor]],
        *,
        group: Group,
        cut: Cut,
        resident_px: int | None = None,
        heard: Heard = unheard,
    ) -> None:
        def share_of(picture: Tensor) -> Share:
            height_px, width_px = picture.shape[-2:]
            return Share(Tiling.dealt(height_px, width_px, cut(height_px, width_px), group.size), group)

        layers = {term.layer for term in objective.style}
        moments = []
        for weight, rgb in styles:
            share = share_of(rgb)
            seen = TiledNetwork(network, layers, share, heard=heard)
            moments.append((weight, seen.moments(share.split(rgb))))
        self._share = share_of(content)
        self._evaluate = TiledPicture(
            network,
            objective,
            self._share.split(content),
            moments,
            self._share,
            resident_px=resident_px,
            heard=heard,
        )

    def begin(self, picture: Tensor) -> dict[int, Tensor]:
        """Return this member's tiles of a picture `[1, C, H, W]`, as tensors of their own."""
        return self._share.split(picture)

    def evaluate(self, tiles: dict[int, Tensor]) -> TiledEvaluation:
        """Return loss and gradients at the tiles."""
        return self._evaluate(tiles)

    def total(self, partial: dict[int, Tensor]) -> list[float]:
        """Add up one float64 vector of each tile of all members, the same bits on all."""
        return self._share.total(partial)

    def gather(self, tiles: dict[int, Tensor]) -> Tensor:
        """Return the whole picture, `[1, C, H, W]`, on every member."""
        return self._share.gather(tiles)

    def agree(self, numbers: list[float]) -> list[float]:
        """Return the numbers of member 0 on every member."""
        agreed: list[float] = self._share.group.broadcast(torch.tensor(numbers, dtype=torch.float64)).tolist()
        return agreed
