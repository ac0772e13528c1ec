"""One picture, rendered by this member of a gang together with the others."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from torch import Tensor

from jobs import tiles
from workers.nst.group import Alone, Group
from workers.nst.multiscale import Scale
from workers.nst.optimization import Iteration, Optimization, Pictures
from workers.nst.stages import OpenStage, unheard
from workers.nst.tiled_stage import Cut, TiledStage
from workers.nst.tiled_state import State, collected_state, deal_state, give_state
from workers.nst.whole import WholeStage
from workers.optimize_files import from_eight_bit
from workers.optimize_gang import agree
from workers.optimize_layout import graphs_px, tile_cut
from workers.optimize_notes import Notes
from workers.optimize_studio import Studio


@dataclass(frozen=True, slots=True, eq=False)
class Order:
    """What every member must know of a picture to render it.

    Attributes:
        content: Its pixels, uint8 `[H, W, 3]`.
        tile_px: Longest side of tiles, 0 in one piece: then member 0 renders it alone.
        last_iterations: Of the last scale.
        needed_bytes: By the layout, of each member.
        resumes: Whether there is a state to go on from; member 0 has it.
    """

    content: Tensor
    tile_px: int
    last_iterations: int
    needed_bytes: int
    resumes: bool

    def to_words(self) -> dict[str, Any]:
        """Return it as plain values and tensors."""
        return {name: getattr(self, name) for name in self.__slots__}


def scales_to(scales: tuple[Scale, ...], last_iterations: int) -> tuple[Scale, ...]:
    """Return the scales with so many iterations at the last."""
    return (*scales[:-1], replace(scales[-1], iterations=last_iterations))


class Render:
    """One picture on one member; all members make the same calls.

    Args:
        studio: Of this member.
        order: The same on all members.
        group: Who renders it together.
        notes: Of member 0.
        kept: On member 0, if the order says so: the state to go on from without its tiles, and them in parts.

    Raises:
        ValueError: If the engine cannot do it; the same on all members.
    """

    def __init__(
        self,
        studio: Studio,
        order: Order,
        group: Group,
        notes: Notes | None,
        kept: tuple[State, Iterable[bytes]] | None = None,
    ) -> None:
        self._studio = studio
        self._group: Group = group if order.tile_px else Alone()
        self._notes = notes
        content = from_eight_bit(order.content)
        given = None if studio.given is None else from_eight_bit(studio.given)
        self._optimization = Optimization(
            studio.recipe,
            studio.network,
            Pictures(content, studio.paintings(), given),
            scales_to(studio.scales, order.last_iterations),
            open_stage=self._open_stage(order),
            seed=studio.payload.seed,
            stopping=studio.stopping,
            color=studio.color,
        )
        if order.resumes:
            state, parts = kept or (None, ())
            dealt = deal_state(state, parts, self._group, _cut(order))
            self._optimization.load_state_dict(dealt, copy=False)

    def run(self, should_stop: Callable[[], bool]) -> bool:
        """Iterate to the end; return whether it was reached, or the state kept where it was told to stop."""
        done = self._optimization.run(self._iterated, should_stop)
        if not done:
            self._keep_state(partial(Notes.keep_state, going_on=False))
        return done

    def result(self) -> Tensor:
        """Return the picture, `[1, 3, H, W]` in 0..1; before that the last state is kept, if it is to be."""
        if self._studio.payload.keep_state is not False:
            self._keep_state(Notes.keep_last_state)
        return self._optimization.picture()

    def _open_stage(self, order: Order) -> OpenStage:
        """Return what makes stages; member 0 says with each tile and layer that it is at work."""
        heard = self._notes.alive if self._notes else unheard
        if not order.tile_px:
            return partial(WholeStage, heard=heard)
        studio = self._studio
        memory = tiles.tile_memory(studio.payload.precision, studio.recipe.pooling)
        device: tiles.Device = "cpu" if studio.device == "cpu" else "cuda"
        resident_px = graphs_px(memory, order.needed_bytes, device, studio.members.memory_bytes)
        return partial(TiledStage, group=self._group, cut=_cut(order), resident_px=resident_px, heard=heard)

    def _iterated(self, iteration: Iteration) -> None:
        """Do what is due after an iteration; the clock of member 0 says what that is."""
        if self._notes:
            self._notes.iterated(iteration)
        keep, show = agree(self._group, self._notes.due() if self._notes else [False, False])
        every = self._studio.payload.save_every
        iterate = every is not None and iteration.iteration % every == 0
        if iterate or show:
            rgb = self._optimization.picture()
            if self._notes and iterate:
                self._notes.keep_iterate(rgb, iteration)
            if self._notes and show:
                self._notes.show(rgb)
        if keep:
            self._keep_state(partial(Notes.keep_state, going_on=True))

    def _keep_state(self, keep: Callable[[Notes, State, Iterable[bytes]], None]) -> None:
        state = self._optimization.state_dict()
        if self._notes is None:
            give_state(state, self._group)
            return
        with collected_state(state, self._group) as (shared, parts):
            keep(self._notes, shared, parts)


def _cut(order: Order) -> Cut:
    """Return how pictures are cut into tiles; in one piece, there is one."""
    if order.tile_px:
        return tile_cut(order.tile_px)
    return lambda height_px, width_px: [(0, 0, height_px, width_px)]
