"""What a `train` task needs to know: the words that a manifest and the worker share for a training."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from jobs.optimize import AssetRef, LayerWeights, StyleImageRef, Weight
from jobs.schema import Mistake, Place, Section, Within, together

KIND = "train"


@dataclass(frozen=True, slots=True)
class TrainingFacts:
    """What a plan must know of a preset; the preset itself is a recipe of the worker.

    Attributes:
        network: The loss network that it was made for, by the name that the library has for it.
        steps: How many steps a training has.
        batch: Pictures of a step.
        crop_px: Side of the square crops that are trained on.
    """

    network: str
    steps: int
    batch: int
    crop_px: int


PRESETS = {
    "default": TrainingFacts("vgg19", 2000, 4, 256),
    "pytorch-examples": TrainingFacts("vgg16", 41_392, 4, 256),
    "lengstrom": TrainingFacts("vgg19-caffe", 41_392, 4, 256),
    "texture-nets": TrainingFacts("vgg19-caffe", 50_000, 1, 256),
}
"""Recipes that have a name, our own first."""

TrainingPreset = Literal["default", "pytorch-examples", "lengstrom", "texture-nets"]

NETWORK_WIDTHS = {"reference": 32, "slim16": 16, "slim8": 8}
"""Networks that can be trained, with their base width in channels."""

NetworkName = Literal["reference", "slim16", "slim8"]

CROP_MULTIPLE_PX = 4
"""The network gives sides that are multiples of this: only then is its result as large as the crop."""

OWN_SIZE = 0
"""Value of `style_size_px` for a painting as large as its file."""

_LEAST_PX = 16
_MOST_STEPS = 10_000_000


class PyramidSettings(Section):
    """Losses on the picture and on smaller versions of it, each half as large as the one before."""

    levels: Annotated[int, Within(1, 8)] = Field(default=1, description="Sizes; 1 is the picture alone.")
    decay: Annotated[float, Within(0, 1)] = Field(
        default=0.9, description="Weight of a level against the one before."
    )


class TrainingOptimizer(Section):
    """Adam; what is not said stays as the preset has it."""

    learning_rate: Annotated[float, Within(1e-9, 1e3)] | None = None
    decay_every: Annotated[int, Within(0, _MOST_STEPS)] | None = Field(
        default=None, description="Steps after which the rate falls, again and again; 0 for never."
    )
    decay_factor: Annotated[float, Within(1e-6, 1)] | None = Field(
        default=None, description="What the rate is multiplied by then."
    )


class TrainingCheckpoint(Section):
    """How often the state is kept; whichever comes first."""

    steps: Annotated[int, Within(1, _MOST_STEPS)] | None = None
    seconds: Annotated[float, Within(0.0, 86_400)] = 60.0


class ValidationSettings(Section):
    """On which pictures a training is judged, and how often."""

    data: Annotated[list[Place], Field(min_length=1)] | None = Field(
        default=None, description="Where they are; by default some of the data, which are not trained on."
    )
    pictures: Annotated[int, Within(0, 10_000)] = Field(
        default=8, description="How many, the last of a shuffle by the seed; 0 for none."
    )
    every: Annotated[int, Within(1, _MOST_STEPS)] = Field(
        default=200, description="Steps from one to the next."
    )


class TrainingStop(Section):
    """When to stop before the steps are over."""

    improvement: Annotated[float, Within(0, 1)] | None = Field(
        default=None,
        description="Stop when the loss of validation falls by less than this share over a window.",
    )
    window: Annotated[int, Within(1, 10_000)] = Field(default=5, description="Validations of the window.")


class TrainSettings(Section):
    """All choices of a training that a manifest may make; None is as the preset has it.

    Both the step and the payload have them, so that a choice is written down once.
    """

    preset: TrainingPreset = Field(default="default", description="The recipe to begin with.")
    network: NetworkName = Field(
        default="reference", description="What is trained: base width 32, or 16 or 8, which are faster."
    )
    steps: Annotated[int, Within(1, _MOST_STEPS)] | None = Field(
        default=None, description="How long it is trained."
    )
    batch: Annotated[int, Within(1, 1024)] | None = Field(default=None, description="Pictures of a step.")
    crop_px: Annotated[int, Within(_LEAST_PX, 4096)] | None = Field(
        default=None, description="Side of the squares that are trained on, a multiple of 4."
    )
    crop: Literal["random", "center"] | None = Field(
        default=None,
        description="random: from a picture of a random size, anywhere; "
        "center: the middle of it, its shorter side made as long as the square's.",
    )
    resize_px: Annotated[int, Within(_LEAST_PX, 16_384)] | None = Field(
        default=None,
        description="Of random crops: the shorter side is resized to between crop_px and this before.",
    )
    style_size_px: Annotated[int, Within(OWN_SIZE, 16_384)] | None = Field(
        default=None, description="Longest side of the painting; 0 for that of its file."
    )
    style_crop: Literal["none", "center"] | None = Field(
        default=None, description="Whether the middle square of the painting is taken alone."
    )
    content_layers: LayerWeights | None = Field(default=None, description="Weight of each: {relu4_2: 1}.")
    style_layers: LayerWeights | None = Field(default=None, description="Weight of each: {relu1_1: 1}.")
    content_weight: Weight | None = Field(default=None, description="How much the content counts.")
    style_weight: Weight | None = Field(default=None, description="How much the style counts.")
    tv_weight: Weight | None = Field(default=None, description="How much smoothness counts.")
    style_target: Literal["gram", "mean"] | None = Field(
        default=None, description="What of the painting's features is matched."
    )
    pyramid: PyramidSettings | None = Field(default=None, description="Losses at several sizes.")
    optimizer: TrainingOptimizer | None = Field(default=None, description="Other settings of Adam.")
    precision: Literal["fp32", "bf16"] = Field(default="fp32", description="Of the arithmetic.")
    seed: Annotated[int, Within(0, 2**63 - 1)] = Field(
        default=0, description="Of the first weights, and of the order and the crops of the data."
    )
    checkpoint: TrainingCheckpoint = Field(
        default_factory=TrainingCheckpoint, description="How often the state is kept."
    )
    validation: ValidationSettings = Field(
        default_factory=ValidationSettings, description="How it is judged on the way."
    )
    stop: TrainingStop = Field(
        default_factory=TrainingStop, description="When to stop before the steps are over."
    )
    license: str = Field(default="", max_length=200, description="License of the style, to be kept with it.")
    source: str = Field(
        default="", max_length=1000, description="Where the painting comes from, to be kept with the style."
    )
    onnx: bool = Field(default=False, description="Keep the style as ONNX too.")
    replace: bool = Field(default=False, description="Whether it may take the name of another style.")
    device: Literal["auto", "cpu", "cuda"] = Field(default="auto", description="Where to train.")
    threads: Annotated[int, Within(1, 1024)] | None = Field(
        default=None, description="Compute threads of a worker on the CPU."
    )

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        mistakes = [*self._mistakes_of_sizes()]
        if self.stop.improvement is not None and not self.validation.pictures:
            text = "nothing says when to stop: validation has no pictures"
            mistakes.append(Mistake(("stop", "improvement"), text))
        if mistakes:
            raise together(type(self).__name__, mistakes)
        return self

    def _mistakes_of_sizes(self) -> list[Mistake]:
        mistakes = []
        if self.crop_px is not None and self.crop_px % CROP_MULTIPLE_PX:
            below = self.crop_px // CROP_MULTIPLE_PX * CROP_MULTIPLE_PX
            text = f"{self.crop_px} is no multiple of {CROP_MULTIPLE_PX}"
            mistakes.append(Mistake(("crop_px",), f"{text}: use {below} or {below + CROP_MULTIPLE_PX}"))
        if self.resize_px is not None and self.crop == "center":
            text = "center crops are of pictures whose shorter side is crop_px: leave it out"
            mistakes.append(Mistake(("resize_px",), text))
        elif self.resize_px is not None and self.resize_px < self.known_crop_px:
            text = f"{self.resize_px} is less than the side of the crops, {self.known_crop_px}"
            mistakes.append(Mistake(("resize_px",), text))
        if self.style_size_px is not None and OWN_SIZE < self.style_size_px < _LEAST_PX:
            text = f"{self.style_size_px} is neither {_LEAST_PX} or more nor 0, for that of the file"
            mistakes.append(Mistake(("style_size_px",), text))
        return mistakes

    @property
    def facts(self) -> TrainingFacts:
        """What the preset sets."""
        return PRESETS[self.preset]

    @property
    def known_steps(self) -> int:
        """How many steps it has, as it is asked for or as the preset has it; without those of extensions."""
        return self.steps or self.facts.steps

    @property
    def known_batch(self) -> int:
        """Pictures of a step."""
        return self.batch or self.facts.batch

    @property
    def known_crop_px(self) -> int:
        """Side of the crops."""
        return self.crop_px or self.facts.crop_px

    @property
    def width(self) -> int:
        """Base width of the network, in channels."""
        return NETWORK_WIDTHS[self.network]


def result_key(style: str) -> str:
    """Return where a trained style goes, relative to the job's output."""
    return f"{style}.safetensors"


class TrainingExtension(Section):
    """More steps for a training that is finished.

    Attributes:
        job: That made it, into the same output.
        steps: By each extension in turn, this one last.
    """

    job: str = Field(min_length=1)
    steps: list[Annotated[int, Within(1, _MOST_STEPS)]] = Field(min_length=1)


_NOT_WEIGHTS = {
    "style",
    "steps",
    "checkpoint",
    "validation",
    "validation_data",
    "test_images",
    "stop",
    "license",
    "source",
    "onnx",
    "replace",
    "device",
    "threads",
    "extends",
}


class TrainPayload(TrainSettings):
    """The payload of a `train` task; only the kind and its planner look into it.

    Attributes:
        style: Name of the style that is trained.
        style_images: Paintings with their weights.
        loss_network: By its name in the library.
        data: The list of what it is trained on (`jobs.training_data`), what is held out among it.
        validation_data: The list of what it is judged on, where that is not a part of `data`.
        test_images: Pictures that are rendered on the way, for people.
        begin_with: The style model whose weights it begins with, if not with random ones.
        extends: For a training that goes on from a finished one.
    """

    style: str = Field(min_length=1)
    style_images: list[StyleImageRef] = Field(min_length=1)
    loss_network: AssetRef
    data: AssetRef
    validation_data: AssetRef | None = None
    test_images: list[AssetRef] = Field(default_factory=list)
    begin_with: AssetRef | None = None
    extends: TrainingExtension | None = None

    @property
    def total_steps(self) -> int:
        """Steps of the whole training, with those of all its extensions, if no rule stops it before."""
        return self.known_steps + (sum(self.extends.steps) if self.extends else 0)

    def settings(self) -> dict[str, Any]:
        """Return what decides the weights, for `jobs.records.render_key`: no names and no places.

        A training that was extended is the same as one that had all the steps at once, unless a rule may
        have stopped it before; then it counts what the rule looks at.
        """
        said = self.model_dump(mode="json", exclude=_NOT_WEIGHTS, exclude_none=True)
        total = math.fsum(style.weight for style in self.style_images) or 1.0
        said["style_images"] = [[style.sha256, style.weight / total] for style in self.style_images]
        said["loss_network"] = self.loss_network.sha256
        said["data"] = self.data.sha256
        said["held_out"] = 0 if self.validation_data else self.validation.pictures
        said |= {"steps": self.total_steps, "batch": self.known_batch, "crop_px": self.known_crop_px}
        if self.begin_with:
            said["begin_with"] = self.begin_with.sha256
        if self.stop.improvement is not None:
            said["stop"] = self.stop.model_dump(mode="json")
            said["validation"] = self.validation.model_dump(mode="json", exclude={"data"})
            said["validation_data"] = self.validation_data.sha256 if self.validation_data else ""
            said["extends"] = self.extends.steps if self.extends else []
        return {"kind": KIND, **said}
