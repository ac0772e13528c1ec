"""A recipe: everything that decides a render, as data, and the function that makes its objective."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from workers.nst.features import FirstPadding, LossNetwork, Pooling
from workers.nst.inits import Init
from workers.nst.lbfgs import LbfgsSettings
from workers.nst.losses import BlendRule, Objective
from workers.nst.multiscale import Scale, Schedule, Size, StyleSize
from workers.nst.optimizers import AdamSettings
from workers.nst.variation import TvForm, TvTerm

STYLE_LAYERS = ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1")
"""The layers of style in Gatys et al. and in most systems since."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """A way to render, with a value for every choice; `dataclasses.replace` changes some of them.

    Attributes:
        name: Of the preset.
        summary: One line on where it comes from and what it is good for.
        compose: Makes the objective for a network and the size of a picture; the normalization of a system
            and its quirks are here.
        network: Architecture of the loss network: `vgg16`, `vgg19`.
        family: Of its weights, which it was tuned for: `torchvision`, `caffe`.
        pooling: Of the loss network.
        pool_scales: Factor after each kind of pooling; 1 where it is left out.
        first_padding: Of the first convolution, at the border of the picture.
        content_layers: Weight of each layer of content.
        style_layers: Weight of each layer of style.
        content_weight: Of all content.
        style_weight: Of all style.
        tv_weight: Of total variation.
        tv_form: Of total variation.
        blend: Of several styles.
        pixel_range: Value of white for the optimizer and total variation.
        centered: The optimizer sees differences to the mean color of the network, as most systems have it.
            Near it, float32 resolves the first step of L-BFGS, which moves pixels by millionths of a level.
        optimizer: And its settings.
        init: How the picture begins.
        schedule: Of scales and iterations.
        style_size: How large style images are.
        counts_evaluations: Iterations are evaluations of the objective, where an optimizer needs several.
        average_decay: The result is a moving average of the iterates, of this decay, bias-corrected; 0 for
            the last iterate.
        relative: Every term is divided by the energy of its target: the weights hold for a network of any
            magnitude, where those of other recipes were tuned for the activations of one.
        carry: What is enlarged from one scale to the next: the `image`, or its `difference` to the content.
    """

    name: str
    summary: str
    compose: Callable[[Recipe, LossNetwork, Size], Objective]
    network: str = "vgg19"
    family: str = "torchvision"
    pooling: Pooling = "max"
    pool_scales: Mapping[Pooling, float] = field(default_factory=dict)
    first_padding: FirstPadding = "zeros"
    content_layers: Mapping[str, float] = field(default_factory=lambda: {"relu4_2": 1.0})
    style_layers: Mapping[str, float] = field(default_factory=lambda: dict.fromkeys(STYLE_LAYERS, 1.0))
    content_weight: float = 1.0
    style_weight: float = 1.0
    tv_weight: float = 0.0
    tv_form: TvForm = "squared"
    blend: BlendRule = "targets"
    pixel_range: float = 255.0
    centered: bool = False
    optimizer: AdamSettings | LbfgsSettings = field(default_factory=LbfgsSettings)
    init: Init = field(default_factory=Init)
    schedule: Schedule = field(default_factory=lambda: Schedule(None, 500, 500))
    style_size: StyleSize = field(default_factory=StyleSize)
    counts_evaluations: bool = True
    average_decay: float = 0.0
    relative: bool = False
    carry: Literal["image", "difference"] = "image"

    def __post_init__(self) -> None:
        for name in ("content_weight", "style_weight", "tv_weight"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"a {name.replace('_', ' ')} of {value}: it must be a number, at least 0")
        for name in ("content_layers", "style_layers"):
            for layer, value in getattr(self, name).items():
                if not math.isfinite(value):
                    raise ValueError(f"a weight of {value} for {layer}: it must be a number")
        if self.centered and isinstance(self.optimizer, AdamSettings) and self.optimizer.clamp is not None:
            raise ValueError("pixels cannot be clamped where the optimizer sees differences to a mean color")
        if not 0 <= self.average_decay < 1:
            raise ValueError(f"an average of decay {self.average_decay}: it must be at least 0 and below 1")

    def prepare(self, network: LossNetwork) -> LossNetwork:
        """Return the network with the pooling, padding and center of this recipe, no deeper than it needs.

        Raises:
            ValueError: If a layer is not in the network.
        """
        changed = replace(
            network,
            pooling=self.pooling,
            pool_scale=self.pool_scales.get(self.pooling, 1.0),
            first_padding=self.first_padding,
            preprocessing=network.preprocessing.centered() if self.centered else network.preprocessing,
        )
        layers = [*self.active_content_layers, *self.active_style_layers]
        return changed.up_to(layers) if layers else changed

    def objective(self, network: LossNetwork, size: Size, scale: Scale | None = None) -> Objective:
        """Return what is minimized for a picture of this size, with the weights of a scale."""
        recipe = self
        if scale is not None:
            recipe = replace(
                self,
                content_weight=self.content_weight * scale.content,
                style_weight=self.style_weight * scale.style,
                tv_weight=self.tv_weight * scale.tv,
            )
        return self.compose(recipe, network, size)

    @property
    def active_content_layers(self) -> dict[str, float]:
        """The layers of content with a weight other than 0; none where all of content has none."""
        return {name: value for name, value in self.content_layers.items() if value and self.content_weight}

    @property
    def active_style_layers(self) -> dict[str, float]:
        """The layers of style with a weight other than 0; none where all of style has none."""
        return {name: value for name, value in self.style_layers.items() if value and self.style_weight}

    def center(self, network: LossNetwork) -> tuple[float, float, float]:
        """Return the color, RGB in 0..1, that the optimizer sees as 0, given the network before `prepare`."""
        return network.preprocessing.neutral if self.centered else (0.0, 0.0, 0.0)

    @property
    def tv_terms(self) -> tuple[TvTerm, ...]:
        """The term of total variation; none where it has no weight."""
        return (TvTerm(self.tv_form, self.tv_weight),) if self.tv_weight else ()


def exponential_weights(layers: Iterable[str], exponent: float) -> dict[str, float]:
    """Return weights that grow by a factor from layer to layer and add up to 1.

    Args:
        layers: From shallow to deep.
        exponent: The factor: above 1 favors large shapes, below 1 fine strokes.

    Raises:
        ValueError: If the factor is not positive.
    """
    if not (math.isfinite(exponent) and exponent > 0):
        raise ValueError(f"a style layer weight exponent of {exponent}: it must be above 0")
    names = list(layers)
    powers = [exponent**position for position in range(len(names))]
    return {name: power / sum(powers) for name, power in zip(names, powers, strict=True)}
