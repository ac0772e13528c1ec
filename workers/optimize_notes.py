"""What the first member of a gang lets people see of a picture that it renders, and keeps of it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import PurePosixPath
from typing import Any

import torch
from torch import Tensor

from jobs.errors import StorageError
from jobs.optimize import OptimizePayload
from jobs.tasks import Item
from workers import optimize_files as files
from workers.images import Picture, encode
from workers.kinds import Context
from workers.nst.look import style_distance
from workers.nst.optimization import Iteration
from workers.nst.tiled_state import State
from workers.optimize_gang import packed
from workers.optimize_layout import Layout
from workers.optimize_recipe import network_note
from workers.optimize_studio import Studio

KEPT_VERSION = 2

_SAID_EVERY_S = 0.2
_ALIVE_EVERY_S = 10.0
_SAVING_SHARE = 0.1
"""Of the time, for keeping states, where seconds say how often."""


@dataclass(frozen=True, slots=True)
class Kept:
    """A state of a render, as it is kept for later attempts and for extensions.

    Attributes:
        item: Output key of the picture.
        content_sha256: Of its pixels: with others, the state is good for nothing.
        tile_px: Longest side of tiles, 0 in one piece: it stays.
        last_iterations: Of the last scale.
        trace: Of all iterations so far.
        state: Of the engine, without the tiles.
        parts: Reads the tiles, which lie beside all this, one part at a time.
    """

    item: str
    content_sha256: str
    tile_px: int
    last_iterations: int
    trace: list[files.Step]
    state: State
    parts: Callable[[], Iterable[bytes]] = tuple

    def to_words(self) -> dict[str, Any]:
        """Return all but the tiles as plain values and tensors."""
        return {"version": KEPT_VERSION} | {name: getattr(self, name) for name in self._said()}

    @classmethod
    def from_words(cls, words: dict[str, Any], parts: Callable[[], Iterable[bytes]]) -> Kept | None:
        """Return what `to_words` gave, or None if another version wrote it."""
        if words.get("version") != KEPT_VERSION:
            return None
        return cls(**{name: words[name] for name in cls._said()}, parts=parts)

    @classmethod
    def _said(cls) -> list[str]:
        return [each.name for each in fields(cls) if each.name != "parts"]


@dataclass(frozen=True, slots=True)
class Subject:
    """A picture that is rendered.

    Attributes:
        place: How many items of the task came before it, and how many there are.
        content_sha256: Of its pixels.
    """

    item: Item
    picture: Picture
    place: tuple[int, int]
    content_sha256: str


class Notes:
    """What is told of one picture, and kept of it.

    Args:
        context: Of the attempt.
        studio: What renders.
        subject: The picture.
        layout: Of its render.
        workers: How many render it.
        trace: Of earlier attempts.
        clock: Seconds.
    """

    def __init__(  # noqa: PLR0913 - one keyword for each thing that notes are about
        self,
        context: Context,
        studio: Studio,
        subject: Subject,
        layout: Layout,
        *,
        workers: int,
        trace: Sequence[files.Step] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.trace = list(trace)
        self._before = _evaluations(trace)
        self._context = context
        self._studio = studio
        self._payload: OptimizePayload = studio.payload
        self._subject = subject
        self._layout = layout
        self._workers = workers
        self._clock = clock
        self._key = subject.item.output_key
        self._said = len(self.trace)
        self._said_at = self._previewed_at = self._kept_at = clock()
        self._kept_iterations = 0
        self._kept_scale = self.trace[-1]["scale"] if self.trace else 0
        self._saving_s = 0.0
        self._where = (0.0, "getting ready")
        self._warned: set[str] = set()

    # While it runs.

    def iterated(self, iteration: Iteration) -> None:
        """Take in an iteration."""
        step = asdict(iteration)
        del step["size"]
        self.trace.append(
            {
                "scale": step.pop("scale"),
                "size_px": max(iteration.size),
                **step,
                "seconds": round(iteration.seconds, 3),
            }
        )
        self._kept_iterations += 1
        if self._clock() - self._said_at >= _SAID_EVERY_S:
            self._say()

    def due(self) -> list[bool]:
        """Return whether to keep the state now, and whether to show a preview."""
        since_s = self._clock() - self._kept_at
        rule = self._payload.checkpoint
        keep = (
            self.trace[-1]["scale"] != self._kept_scale
            or (rule.iterations is not None and self._kept_iterations >= rule.iterations)
            or since_s >= max(rule.seconds, self._saving_s / _SAVING_SHARE)
        )
        preview_s = self._payload.preview_s
        return [keep, preview_s > 0 and self._clock() - self._previewed_at >= preview_s]

    def show(self, rgb: Tensor) -> None:
        """Show a preview."""
        name = files.preview_name(self._key)
        if self._keep_aside(name, files.preview(rgb)):
            self._context.emit("preview", {"item": self._key, "file": name})
        self._previewed_at = self._clock()

    def keep_iterate(self, rgb: Tensor, iteration: Iteration) -> None:
        """Keep an unfinished picture in full quality."""
        name = files.iterate_name(self._key, iteration.scale, iteration.iteration)
        self._keep_aside(name, self._encoded(rgb, "")[0])

    def keep_state(self, state: State, parts: Iterable[bytes], *, going_on: bool) -> None:
        """Keep the state for later attempts, and the trace up to it.

        A render that goes on holds all it needs: it does without where the store fails, and tries again when
        the next state is due.

        Raises:
            StorageError: If it could not be kept and the render does not go on.
        """
        begin = self._clock()
        try:
            self._context.save_checkpoint(self._packed(state), self.audible(parts))
        except StorageError as error:
            if not going_on:
                raise
            self._warn("a checkpoint", error)
        self._keep_aside(files.trace_name(self._key), files.trace_lines(self.trace))
        self._say()
        self._kept_at = self._clock()
        self._saving_s = self._kept_at - begin
        self._kept_iterations = 0
        self._kept_scale = self.trace[-1]["scale"] if self.trace else 0

    def keep_last_state(self, state: State, parts: Iterable[bytes]) -> None:
        """Keep the state that the picture ends with, from which an extension goes on."""
        name = files.state_name(self._key)
        try:
            self._context.keep_state(name, self._packed(state), self.audible(parts))
        except StorageError as error:
            self._warn(name, error)

    def audible(self, parts: Iterable[bytes]) -> Iterator[bytes]:
        """Pass the parts of a state on, and say between them that the render is at work."""
        for part in parts:
            self.alive()
            yield part

    def alive(self) -> None:
        """Say that the render is at work, for evaluations that take long."""
        if self._clock() - self._said_at >= _ALIVE_EVERY_S:
            self._context.progress(*self._where)
            self._said_at = self._clock()

    def _keep_aside(self, name: str, data: bytes) -> bool:
        """Keep a file that the picture can do without; return whether that went well."""
        try:
            self._context.keep_file(name, data)
        except StorageError as error:
            self._warn(name, error)
            return False
        return True

    def _warn(self, what: str, error: StorageError) -> None:
        """Say once that something could not be kept."""
        if what not in self._warned:
            self._warned.add(what)
            self._context.emit("message", {"text": f"{self._key}: {what} could not be kept: {error}"})

    # When it is done.

    def finished(self, rgb: Tensor) -> tuple[bytes, str, dict[str, Any]]:
        """Keep what is of use later; return the picture's file, what should be known of it, and its facts."""
        self._say()
        if self._payload.preview_s > 0:
            self.show(rgb)
        studio = self._studio
        scales = [scale.scale for scale in self._layout.scales]
        recipe = files.recipe_facts(studio.recipe, scales, studio.color)
        pixels = files.pixel_facts(self._payload, recipe, studio.metadata, self._layout.tile_px)
        facts = self._facts(rgb)
        document = {
            **pixels,
            "input": self._subject.item.input,
            "made": {**facts, "torch": torch.__version__},
            "sizes": [
                {"width_px": scale.size[1], "height_px": scale.size[0], "tiles": [scale.columns, scale.rows]}
                for scale in self._layout.scales
            ],
        }
        self._keep_aside(files.parameters_name(self._key), files.as_document(document))
        self._keep_aside(files.trace_name(self._key), files.trace_lines(self.trace))
        if self.trace:
            self._keep_aside(files.plot_name(self._key), files.trace_plot(self.trace, self._key))
        data, lost = self._encoded(rgb, files.as_text(pixels))
        picture = self._subject.picture
        width_px, height_px = picture.source_size_px
        small = max(width_px, height_px) < self._payload.longest_px
        enlarged = f"enlarged from {width_px}x{height_px} px" if small else ""
        return data, "; ".join(filter(None, (picture.note, enlarged, lost))), facts

    def _facts(self, rgb: Tensor) -> dict[str, Any]:
        evaluations = _evaluations(self.trace)
        last = self.trace[-1] if self.trace else {"loss": None, "seconds": 0.0}
        return {
            "width_px": rgb.shape[-1],
            "height_px": rgb.shape[-2],
            "seconds": last["seconds"],
            "evaluations": sum(evaluations.values()),
            "pixel_evaluations": sum(
                (count - self._before.get(scale, 0)) * math.prod(self._layout.scales[scale].size)
                for scale, count in evaluations.items()
            ),
            "loss": last["loss"],
            "look": self._look(rgb),
            "preset": self._payload.preset,
            "network": self._payload.network.name,
            "network_note": network_note(self._studio.recipe, self._studio.metadata),
            "scales": len(self._layout.scales),
            "tile_px": self._layout.tile_px,
            "tiles": self._layout.last.tiles,
            "workers": self._workers,
            "threads": self._studio.threads,
            "device": self._studio.device,
            "precision": self._payload.precision,
        }

    def _look(self, rgb: Tensor) -> float | None:
        """Return how far the look is from the paintings', None where they are too small to tell."""
        layers = self._studio.recipe.active_style_layers
        if not layers:
            return None
        try:
            return round(style_distance(self._studio.network, layers, rgb, self._studio.paintings()), 6)
        except ValueError as error:
            self._context.emit("message", {"text": f"no look for {self._key}: {error}"})
            return None

    def _encoded(self, rgb: Tensor, text: str) -> tuple[bytes, str]:
        pixels = files.eight_bit(rgb)
        alpha = files.alpha_at(self._subject.picture.alpha, *pixels.shape[:2])
        return encode(pixels, alpha, PurePosixPath(self._key).suffix, self._payload.quality, text)

    def _packed(self, state: State) -> bytes:
        tile_px, iterations = self._layout.tile_px or 0, self._layout.last.scale.iterations
        kept = Kept(self._key, self._subject.content_sha256, tile_px, iterations, self.trace, state)
        return packed(kept.to_words())

    def _say(self) -> None:
        """Say where the render is, if that is news."""
        if len(self.trace) == self._said:
            return
        step, scales = self.trace[-1], self._layout.scales
        used = step["evaluations"] if self._studio.recipe.counts_evaluations else step["iteration"]
        scale = scales[step["scale"]]
        area = scale.size[0] * scale.size[1]
        before = sum(each.pixel_evaluations for each in scales[: step["scale"]])
        part = (before + area * min(used, step["budget"])) / self._layout.pixel_evaluations
        number, count = self._subject.place
        self._where = (
            (number + part) / count,
            (
                f"scale {step['scale'] + 1} of {len(scales)}, {step['size_px']} px, "
                f"iteration {used} of {step['budget']}"
            ),
        )
        self._context.progress(*self._where)
        self._context.emit("loss", {"item": self._key, **step})
        self._said, self._said_at = len(self.trace), self._clock()


def _evaluations(trace: Sequence[files.Step]) -> dict[int, int]:
    """Return how many evaluations of each scale are in a trace."""
    return {step["scale"]: step["evaluations"] for step in trace}
