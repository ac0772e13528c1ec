"""Named ways to train a style: what known trainers do, and our own."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from workers.nst.training_data import CropRule
from workers.nst.training_losses import Normalization, StyleTarget, TrainingObjective

NETWORK_WIDTHS = {"reference": 32, "slim16": 16, "slim8": 8}
"""Base width of each network that can be trained; `reference` is that of pytorch/examples."""


@dataclass(frozen=True, slots=True)
class TrainingRecipe:
    """A way to train, with a value for every choice; `dataclasses.replace` changes some of them.

    Attributes:
        name: Of the preset.
        summary: One line on where it comes from and what it is good for.
        network: Architecture of the loss network: `vgg16`, `vgg19`.
        family: Of its weights, which the loss weights were tuned for: `torchvision`, `caffe`.
        content_layers: Weight of each layer of content.
        style_layers: Weight of each layer of style.
        content_weight: Of all content.
        style_weight: Of all style.
        tv_weight: See `TrainingObjective`.
        normalization: See `TrainingObjective`.
        style_target: See `TrainingObjective`.
        pyramid_levels: See `TrainingObjective`.
        pyramid_decay: See `TrainingObjective`.
        steps: How many there are.
        batch: Photographs in each.
        crop: How they are cut.
        style_size_px: Longest side of the paintings, which are never enlarged; None for that of their files.
        learning_rate: Of Adam (Kingma & Ba 2015), with its usual betas.
        decay_every: Steps after which the rate is multiplied by `decay_factor`, again and again; None: never.
        decay_factor: See `decay_every`.
        tuned_width: Base width that rate and scale are for; None where they are for all. See `for_width`.
        output_scale: The last convolution begins this much larger, around gray, and is learned at a rate so
            much higher: what a factor behind the network does (150 behind a tanh in Johnson et al.), without
            the factor. At 1, a network spends its first thousand steps on reaching the range of pictures.
    """

    name: str
    summary: str
    network: str = "vgg19"
    family: str = "torchvision"
    content_layers: Mapping[str, float] = field(default_factory=lambda: {"relu4_2": 1.0})
    style_layers: Mapping[str, float] = field(
        default_factory=lambda: dict.fromkeys(("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1"), 1.0)
    )
    content_weight: float = 1.0
    style_weight: float = 1.0
    tv_weight: float = 0.0
    normalization: Normalization = "relative"
    style_target: StyleTarget = "gram"
    pyramid_levels: int = 1
    pyramid_decay: float = 0.9
    steps: int = 10_000
    batch: int = 4
    crop: CropRule = field(default_factory=CropRule)
    style_size_px: int | None = 512
    learning_rate: float = 1e-3
    decay_every: int | None = None
    decay_factor: float = 0.5
    tuned_width: int | None = None
    output_scale: float = 1.0

    def __post_init__(self) -> None:
        for name in ("content_weight", "style_weight", "tv_weight"):
            _check(name, getattr(self, name), least=0)
        for name in ("steps", "batch", "pyramid_levels"):
            _check(name, getattr(self, name), least=1)
        for name in ("learning_rate", "output_scale", "decay_factor"):
            _check(name, getattr(self, name), above=0)
        if self.decay_every is not None:
            _check("decay_every", self.decay_every, least=1)
        for layer, weight in [*self.content_layers.items(), *self.style_layers.items()]:
            _check(f"weight of {layer}", weight, least=0)
        if not any(self.style_layers.values()) or not self.style_weight:
            raise ValueError("nothing of the style has a weight: there would be no style to learn")

    def for_width(self, width: int) -> TrainingRecipe:
        """Return the recipe with the rate and the scale of the output that suit a network of a base width.

        A step of Adam moves each weight by the rate, and what many inputs add up to by as many times that: a
        network that is wider than the one that they were tuned for needs smaller ones, by the ratio of the
        widths (Yang et al. 2022, table 8). A narrower one takes a larger scale, and keeps the rate.
        """
        if self.tuned_width is None:
            return self
        ratio = self.tuned_width / width
        return replace(
            self,
            learning_rate=self.learning_rate * min(1, ratio),
            output_scale=self.output_scale * ratio,
            tuned_width=None,
        )

    def rate_at(self, step: int) -> float:
        """Return the learning rate of a step, counted from 0."""
        if self.decay_every is None:
            return self.learning_rate
        return self.learning_rate * self.decay_factor ** (step // self.decay_every)

    @property
    def relative(self) -> bool:
        """Whether every loss is relative to its target, so that one set of weights is for any network."""
        return self.normalization == "relative"

    @property
    def objective(self) -> TrainingObjective:
        """What is minimized."""
        return TrainingObjective(
            self.content_layers,
            self.style_layers,
            self.content_weight,
            self.style_weight,
            self.tv_weight,
            self.normalization,
            self.style_target,
            self.pyramid_levels,
            self.pyramid_decay,
        )


def _check(name: str, value: float, *, least: float = -math.inf, above: float = -math.inf) -> None:
    if not (math.isfinite(value) and value >= least and value > above):
        bound = f"above {above:g}" if above > least else f"at least {least:g}"
        raise ValueError(f"{name.replace('_', ' ')} {value:g}: it must be a number, {bound}")


_VGG16_STYLE = dict.fromkeys(("relu1_2", "relu2_2", "relu3_3", "relu4_3"), 1.0)

PRESETS: dict[str, TrainingRecipe] = {
    recipe.name: recipe
    for recipe in (
        TrainingRecipe(
            name="default",
            summary="our own: every loss relative to its target, so one set of weights for all paintings",
            content_layers={"relu3_2": 1.5, "relu4_2": 1.0},
            tv_weight=2e-5,
            steps=2000,
            learning_rate=2e-3,
            decay_every=800,
            tuned_width=16,
            output_scale=25.0,
        ),
        TrainingRecipe(
            name="pytorch-examples",
            summary="pytorch/examples fast_neural_style: VGG-16, 1e5 content, 1e10 style",
            network="vgg16",
            content_layers={"relu2_2": 1.0},
            style_layers=_VGG16_STYLE,
            content_weight=1e5,
            style_weight=1e10,
            normalization="elements",
            # Two epochs of the 82,783 photographs of COCO 2014.
            steps=41_392,
            crop=CropRule(256, "center"),
            style_size_px=None,
        ),
        # Its style loss is a sum over the batch, divided by the size of the batch: a mean, as here.
        TrainingRecipe(
            name="lengstrom",
            summary="lengstrom/fast-style-transfer: VGG-19, much total variation",
            family="caffe",
            content_weight=7.5,
            style_weight=1e2,
            tv_weight=2e2,
            normalization="elements",
            steps=41_392,
            crop=CropRule(256, "center"),
            style_size_px=None,
            output_scale=150.0,
        ),
        TrainingRecipe(
            name="texture-nets",
            summary="DmitryUlyanov/texture_nets: single pictures, random crops, a rate that decays",
            family="caffe",
            style_layers=dict.fromkeys(("relu1_1", "relu2_1", "relu3_1", "relu4_1"), 1.0),
            normalization="elements",
            steps=50_000,
            batch=1,
            crop=CropRule(256, "random"),
            style_size_px=256,
            decay_every=2000,
            decay_factor=0.8,
        ),
    )
}
"""By name, our own first."""


def training_preset(name: str) -> TrainingRecipe:
    """Return the recipe of this name.

    Raises:
        ValueError: If there is none.
    """
    if name not in PRESETS:
        raise ValueError(f"preset {name!r} is not known (there are: {', '.join(PRESETS)})")
    return PRESETS[name]
