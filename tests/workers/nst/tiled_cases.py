"""Random objectives over random pictures in random tiles, and how the same is computed in one piece."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from workers.nst.features import LossNetwork, seeded
from workers.nst.group import Alone, Group
from workers.nst.losses import (
    ContentTerm,
    Gram,
    GramMeanStd,
    Objective,
    StyleLoss,
    StyleTerm,
    WeightedStyle,
)
from workers.nst.regions import Region
from workers.nst.tiled import TiledPicture
from workers.nst.tiling import Share, Tiling
from workers.nst.variation import TvForm, TvTerm
from workers.nst.whole import Evaluation, WholePicture, style_moments

SMALLEST_SIDE_PX = 16
TV_FORMS: tuple[TvForm, ...] = ("absolute", "squared", "interior", "power", "nine-point")


@dataclass(frozen=True)
class Case:
    """An objective bound to pictures, and the tiles to compute it in."""

    network: LossNetwork
    objective: Objective
    picture: Tensor
    content: Tensor
    styles: list[WeightedStyle]
    cores: tuple[Region, ...]

    @property
    def size(self) -> tuple[int, int]:
        return self.picture.shape[-2], self.picture.shape[-1]

    def whole(self) -> Evaluation:
        return WholePicture(self.network, self.objective, self.content, self.styles)(self.picture)

    def share(self, group: Group | None = None, holders: tuple[int, ...] | None = None) -> Share:
        tiling = Tiling.dealt(*self.size, self.cores, 1 if group is None else group.size)
        if holders is not None:
            tiling = replace(tiling, holders=holders)
        return Share(tiling, group or Alone())

    def tiled(self, share: Share, resident_px: int | None = None) -> TiledPicture:
        content = share.split(self.content)
        return TiledPicture(
            self.network, self.objective, content, self.styles, share, resident_px=resident_px
        )


def random_cores(rng: random.Random, whole: Region, smallest_px: int, largest_px: int) -> list[Region]:
    """Cut a picture into unequal tiles anywhere: not along lines through the whole picture, not aligned."""
    sides = [
        axis
        for axis, length in (("rows", whole.height), ("columns", whole.width))
        if length > largest_px or (length >= 2 * smallest_px and rng.random() < 0.15)
    ]
    if not sides:
        return [whole]
    if rng.choice(sides) == "rows":
        at = rng.randint(whole.top + smallest_px, max(whole.top + smallest_px, whole.bottom - smallest_px))
        parts = [whole._replace(bottom=at), whole._replace(top=at)]
    else:
        at = rng.randint(whole.left + smallest_px, max(whole.left + smallest_px, whole.right - smallest_px))
        parts = [whole._replace(right=at), whole._replace(left=at)]
    return [core for part in parts if part.area for core in random_cores(rng, part, smallest_px, largest_px)]


def random_objective(rng: random.Random, network: LossNetwork, loss: StyleLoss | None = None) -> Objective:
    """Draw terms of every kind."""
    names = [layer.name for layer in network.layers if layer.kind != "pool" or rng.random() < 0.2]
    deep = rng.choice(["1", "3", "4", "5", "5"])  # not every objective goes to the bottom
    names = [name for name in names if name[4:5] <= deep]
    others: list[StyleLoss] = [Gram(), Gram(shift=1.0), Gram(relative=True), GramMeanStd()]
    style_losses = [loss or rng.choice(others) for _ in range(rng.randint(1, 4))]
    style = [StyleTerm(rng.choice(names), rng.uniform(0.1, 2), one) for one in style_losses]
    content = [
        ContentTerm(rng.choice(names), rng.uniform(0.01, 1), rng.choice(["mean", "sum", "relative"]))
        for _ in range(rng.randint(0, 2))
    ]
    tv = [TvTerm(form, 10 ** rng.uniform(-6, -2)) for form in TV_FORMS if rng.random() < 0.3]
    return Objective(
        tuple(style),
        tuple(content),
        tuple(tv),
        pixel_range=rng.choice([1.0, 255.0]),
        blend=rng.choice(["targets", "losses"]),
    )


def random_case(seed: int, loss: StyleLoss | None = None, dtype: torch.dtype = torch.float64) -> Case:
    """Draw a network, an objective, pictures and tiles."""
    rng = random.Random(seed)  # noqa: S311 - cases, no secrets
    generator = torch.Generator().manual_seed(seed)
    network = seeded(
        rng.choice(["vgg16", "vgg19"]), rng.randint(2, 4), seed, family=rng.choice(["torchvision", "caffe"])
    )
    network = replace(
        network.to(dtype=dtype),
        pooling=rng.choice(["max", "avg", "l2"]),
        first_padding=rng.choice(["zeros", "replicate"]),
        pool_scale=rng.choice([1.0, 1.0, 0.8]),
    )
    objective = random_objective(rng, network, loss)
    smallest = max([SMALLEST_SIDE_PX, *(network.stride(name) for name in objective.layers)])
    if any(isinstance(term.loss, GramMeanStd) for term in objective.style):
        smallest = 48  # one position has no deviation: its root would be that of a rounding error
    height, width = (smallest if rng.random() < 0.15 else rng.randint(smallest, 90) for _ in range(2))
    largest_tile = min(rng.choice([30, 45, 64]), max(height, width) - 1)  # at least two tiles
    smallest_tile = min(rng.choice([1, 5, 16]), max(height, width) // 2)
    cores = random_cores(rng, Region(0, 0, height, width), smallest_tile, largest_tile)

    def rgb(rows: int, columns: int) -> Tensor:
        return torch.rand(1, 3, rows, columns, generator=generator, dtype=dtype)

    styles = [
        (rng.uniform(0.2, 1), style_moments(network, rgb(rng.randint(40, 60), 48), objective.layers))
        for _ in range(rng.randint(1, 3))
    ]
    return Case(
        network,
        objective,
        rgb(height, width) * objective.pixel_range,
        rgb(height, width),
        styles,
        tuple(cores),
    )


def relative(given: Tensor, wanted: Tensor) -> float:
    """Return the largest difference over the largest value."""
    return float((given - wanted).abs().max() / wanted.abs().max())
