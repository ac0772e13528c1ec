"""The loop: a picture is optimized from coarse to fine, may stop anywhere, and goes on to the byte."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from workers.nst.color import ColorRule, transfer_color
from workers.nst.features import LossNetwork
from workers.nst.inits import initial_picture
from workers.nst.multiscale import Filter, Scale, Size, fit, resize
from workers.nst.optimizers import Sample, Tiles
from workers.nst.recipes import Recipe
from workers.nst.stages import OpenStage, Stage
from workers.nst.stopping import Stopping

STATE_VERSION = 1


@dataclass(frozen=True, slots=True, eq=False)
class Pictures:
    """What goes in: RGB in 0..1, float32 `[1, 3, H, W]`, at the sizes of their files.

    Attributes:
        content: The photograph.
        styles: Weight and image of each style.
        given: To begin with, where the recipe's init says so.
    """

    content: Tensor
    styles: tuple[tuple[float, Tensor], ...] = ()
    given: Tensor | None = None

    def __post_init__(self) -> None:
        for image in (self.content, *(rgb for _, rgb in self.styles)):
            if image.dim() != 4 or image.shape[:2] != (1, 3) or not image.is_floating_point():
                raise ValueError(f"an image of shape {tuple(image.shape)}: [1, 3, H, W] in 0..1 is expected")
        if any(not (math.isfinite(weight) and weight >= 0) for weight, _ in self.styles):
            raise ValueError(
                f"weights of styles {[w for w, _ in self.styles]}: numbers of at least 0 are needed"
            )


@dataclass(frozen=True, slots=True)
class Iteration:
    """What is known after an iteration.

    Attributes:
        scale: Number of the scale, from 0.
        size: Height and width in pixels.
        iteration: Number of the iteration at this scale, from 1.
        evaluations: Of the objective at this scale so far.
        budget: Of the scale: iterations, or evaluations where the recipe counts these.
        loss: Before the iteration's move.
        terms: Each term of the loss by name.
        seconds: Since the beginning, over all attempts.
    """

    scale: int
    size: Size
    iteration: int
    evaluations: int
    budget: int
    loss: float
    terms: dict[str, float]
    seconds: float


@dataclass(slots=True, eq=False)
class _Progress:
    """Where a render is.

    Attributes:
        scale: Number of the scale.
        iterations: At this scale.
        evaluations: At this scale.
        losses: Of the last iterations at this scale, no more than a rule looks at.
        seconds: Over all attempts.
        averaged: How many iterates are in the average.
    """

    scale: int = 0
    iterations: int = 0
    evaluations: int = 0
    losses: list[float] = field(default_factory=list)
    seconds: float = 0.0
    averaged: int = 0


class Optimization:
    """A render that can be stopped after any iteration and goes on from its state.

    The same inputs give the same bytes on the same kind of device, however often the render is stopped.

    Args:
        recipe: What to do.
        network: The loss network, on the device to compute on; the recipe sets its pooling and padding.
        pictures: What goes in.
        scales: From coarse to fine.
        open_stage: Makes the engine of a scale.
        seed: Of all noise.
        stopping: When to stop early.
        color: Whether and how to keep the content's colors.
        resample: Brings an image to a size, bicubic unless told; for parity with systems that have their own.
        clock: Seconds; for tests.

    Raises:
        ValueError: If something is missing, too small or does not go together.
    """

    def __init__(  # noqa: PLR0913 - one keyword for each choice
        self,
        recipe: Recipe,
        network: LossNetwork,
        pictures: Pictures,
        scales: Sequence[Scale],
        *,
        open_stage: OpenStage,
        seed: int = 0,
        stopping: Stopping | None = None,
        color: ColorRule | None = None,
        resample: Callable[[Tensor, Size], Tensor] = resize,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not scales:
            raise ValueError("there is no scale to render at")
        if recipe.active_style_layers and not pictures.styles:
            raise ValueError(f"preset {recipe.name} needs a style image")
        self._recipe = recipe
        self._network = recipe.prepare(network)
        self._neutral = network.preprocessing.neutral
        dtype = torch.promote_types(network.dtype, torch.float32)
        self._center = torch.tensor(recipe.center(network), dtype=dtype, device=network.device).view(
            1, 3, 1, 1
        )
        self._scales = tuple(scales)
        self._open_stage = open_stage
        self._stopping = stopping or Stopping()
        self._color = color
        self._resample = resample
        self._clock = clock
        self._pictures = _with_colors(pictures, color)
        self._generator = torch.Generator().manual_seed(seed)
        self._progress = _Progress()
        self._optimizer = recipe.optimizer.start(self._total)
        self._stage: Stage | None = None
        self._tiles: Tiles = {}
        self._average: Tiles = {}

    def run(
        self,
        on_iteration: Callable[[Iteration], None] = lambda _: None,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> bool:
        """Iterate until all is done; return whether it is, or `should_stop` said to stop before.

        Args:
            on_iteration: Told of each iteration; `picture` and `state_dict` may be called from it.
            should_stop: Asked before each iteration.

        Raises:
            ValueError: If the loss is no finite number any more.
        """
        if self._stage is None:
            self._enter(None)
        while True:
            while True:
                flags = self._open.agree([float(should_stop()), self._progress.seconds])
                stop, self._progress.seconds = bool(flags[0]), flags[1]
                if not self._has_work():
                    break
                if stop:
                    return False
                on_iteration(self._iterate())
            if self._progress.scale + 1 == len(self._scales):
                return True
            before = self._open.gather(self._best())
            self._progress = _Progress(self._progress.scale + 1, seconds=self._progress.seconds)
            self._enter(before)

    def picture(self) -> Tensor:
        """Return the picture as it is now, `[1, 3, H, W]` float32 RGB in 0..1, at the size of its scale.

        Raises:
            ValueError: Before the first iteration.
        """
        rgb = self._rgb(self._open.gather(self._best())).clamp(0, 1)
        if self._color is not None and self._color.when == "after":
            return transfer_color(self._color.method, rgb, self._content())
        return rgb

    def state_dict(self) -> dict[str, Any]:
        """Return all that is needed to go on, as tensors (by tile) and plain values.

        Raises:
            ValueError: Before the first iteration.
        """
        if self._stage is None:
            raise ValueError("a render that has not begun has no state")
        progress = self._progress
        return {
            "version": STATE_VERSION,
            "size": list(self._size()),
            "progress": {name: getattr(progress, name) for name in _Progress.__slots__},
            "tiles": dict(self._tiles),
            "average": dict(self._average),
            "optimizer": self._optimizer.state_dict(),
            "generator": self._generator.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any], *, copy: bool = True) -> None:
        """Go on from what `state_dict` returned; tiles that are not this worker's may be left out.

        Args:
            state: Of the same render.
            copy: Whether it stays the caller's. Otherwise its tensors are taken, and change with the render.

        Raises:
            ValueError: If it is of another layout or of another render.
        """
        if state.get("version") != STATE_VERSION:
            raise ValueError(
                f"a state of layout {state.get('version')!r}: this version reads {STATE_VERSION}"
            )
        progress = _Progress(**{**state["progress"], "losses": list(state["progress"]["losses"])})
        if progress.scale >= len(self._scales):
            raise ValueError(f"the state is at scale {progress.scale + 1} of {len(self._scales)}")
        self._progress = progress
        if list(self._size()) != list(state["size"]):
            raise ValueError(f"the state is of a picture of {state['size']} px, not {list(self._size())}")
        self._generator.set_state(state["generator"])
        self._stage = self._stage_now()
        device = self._network.device
        self._tiles = _on(state["tiles"], device, copy=copy)
        self._average = _on(state["average"], device, copy=copy)
        self._optimizer = self._recipe.optimizer.start(self._total)
        self._optimizer.load_state_dict(_on(state["optimizer"], device, copy=copy))

    def _has_work(self) -> bool:
        progress = self._progress
        budget = self._scales[progress.scale].iterations
        done = progress.evaluations if self._recipe.counts_evaluations else progress.iterations
        if self._stopping.seconds is not None and progress.seconds >= self._stopping.seconds:
            return False
        return done < budget and not self._stopping.is_good_enough(progress.losses)

    def _iterate(self) -> Iteration:
        progress = self._progress
        begin = self._clock()
        sample = self._optimizer.step(self._tiles, self._evaluate)
        if not math.isfinite(sample.loss):
            raise ValueError(
                f"the loss became {sample.loss} at iteration {progress.iterations + 1} of the scale of "
                f"{self._scales[progress.scale].longest_px} px: lower the learning rate or the weights"
            )
        if self._recipe.average_decay:
            self._take_into_average()
        progress.iterations += 1
        progress.losses = [*progress.losses, sample.loss][-1 - self._stopping.window :]
        progress.seconds += self._clock() - begin
        return Iteration(
            progress.scale,
            self._size(),
            progress.iterations,
            progress.evaluations,
            self._scales[progress.scale].iterations,
            sample.loss,
            sample.terms,
            progress.seconds,
        )

    def _evaluate(self, tiles: Tiles) -> Sample:
        self._progress.evaluations += 1
        return self._open.evaluate(tiles)

    def _total(self, partial: Tiles) -> list[float]:
        return self._open.total(partial)

    @property
    def _open(self) -> Stage:
        if self._stage is None:
            raise ValueError("the render has not begun")
        return self._stage

    def _enter(self, before: Tensor | None) -> None:
        """Open the stage of the present scale, with what the one before ended with, or the first picture."""
        old = self._stage
        if before is None:
            given, styles = self._pictures.given, self._styles()
            rgb = initial_picture(
                self._recipe.init, self._content(), styles, self._neutral, self._generator, given
            )
        else:
            rgb = self._enlarged(self._rgb(before))
        self._stage = self._stage_now()
        self._tiles = self._stage.begin((rgb - self._center) * self._recipe.pixel_range)
        if old is not None:
            self._optimizer.carry(self._resizer(old, self._stage))
        self._average = {}
        if self._recipe.average_decay:
            self._take_into_average()

    def _enlarged(self, before: Tensor) -> Tensor:
        size = self._size()
        if self._recipe.carry == "image":
            return resize(before, size).clamp(0, 1)
        old_size = (before.shape[-2], before.shape[-1])
        difference = before - self._resample(self._pictures.content, old_size).to(before)
        return (resize(difference, size) + self._content()).clamp(0, 1)

    def _rgb(self, picture: Tensor) -> Tensor:
        return picture / self._recipe.pixel_range + self._center

    def _stage_now(self) -> Stage:
        scale = self._scales[self._progress.scale]
        objective = self._recipe.objective(self._network, self._size(), scale)
        styles = [(weight, rgb - self._center) for weight, rgb in self._styles()]
        return self._open_stage(self._network, objective, self._content() - self._center, styles)

    def _resizer(self, old: Stage, new: Stage) -> Callable[[Tiles, Filter], Tiles]:
        size = self._size()
        return lambda tiles, kind: new.begin(resize(old.gather(tiles), size, kind))

    def _size(self) -> Size:
        content = self._pictures.content
        return fit((content.shape[-2], content.shape[-1]), self._scales[self._progress.scale].longest_px)

    def _content(self) -> Tensor:
        return self._resample(self._pictures.content, self._size()).clamp(0, 1).to(self._network.device)

    def _styles(self) -> list[tuple[float, Tensor]]:
        size, device = self._size(), self._network.device
        styles = []
        for weight, rgb in self._pictures.styles:
            own = self._recipe.style_size.of((rgb.shape[-2], rgb.shape[-1]), size)
            styles.append((weight, self._resample(rgb, own).clamp(0, 1).to(device)))
        return styles

    def _take_into_average(self) -> None:
        """Add the present iterate to the moving average, which is corrected when it is read."""
        decay = self._recipe.average_decay
        if not self._average:
            self._average = {number: torch.zeros_like(tile) for number, tile in self._tiles.items()}
            self._progress.averaged = 0
        for number, tile in self._tiles.items():
            self._average[number].mul_(decay).add_(tile, alpha=1 - decay)
        self._progress.averaged += 1

    def _best(self) -> Tiles:
        """Return the average of the iterates, or the last iterate where none is kept."""
        if not self._average:
            return self._tiles
        correction = 1 - self._recipe.average_decay**self._progress.averaged
        return {number: tile / correction for number, tile in self._average.items()}


def _with_colors(pictures: Pictures, color: ColorRule | None) -> Pictures:
    """Return the pictures, the styles in the content's colors where these are to be kept beforehand."""
    if color is None or color.when == "after":
        return pictures
    styles = tuple((w, transfer_color(color.method, rgb, pictures.content)) for w, rgb in pictures.styles)
    return Pictures(pictures.content, styles, pictures.given)


def _on(value: Any, device: torch.device, *, copy: bool) -> Any:
    """Return a tree of containers with its tensors on a device, copied even if they are there already."""
    if isinstance(value, Tensor):
        return value.to(device, copy=copy)
    if isinstance(value, dict):
        return {key: _on(item, device, copy=copy) for key, item in value.items()}
    return [_on(item, device, copy=copy) for item in value] if isinstance(value, list) else value
