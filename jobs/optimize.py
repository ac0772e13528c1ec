"""What an `optimize` task needs to know: the words that a manifest and the worker share for a render."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from jobs.schema import Mistake, Place, Section, Within, together
from jobs.stylize import OutputFormat

KIND = "optimize"


@dataclass(frozen=True, slots=True)
class PresetFacts:
    """What a plan must know of a preset; `workers.nst.presets` has the preset itself.

    Attributes:
        network: The loss network that it was made for, by the name that the library has for it.
        smallest_px: Longest side of the first scale, None for one scale only.
        iterations: At each scale but the first.
        first_iterations: At the first scale.
        history: Pairs that its L-BFGS keeps; 0 for Adam.
        averaged: Whether it keeps a moving average of the picture.
    """

    network: str
    smallest_px: int | None
    iterations: int
    first_iterations: int
    history: int = 0
    averaged: bool = False


PRESETS = {
    "default": PresetFacts("vgg19", 128, 100, 200, history=20),
    "crowson": PresetFacts("vgg19", 128, 500, 1000, averaged=True),
    "gatys": PresetFacts("vgg19-caffe", None, 500, 500, history=100),
    "neural-style": PresetFacts("vgg19-caffe", None, 1000, 1000, history=100),
    "anish": PresetFacts("vgg19-caffe", None, 1000, 1000),
    "inetwork": PresetFacts("vgg16-caffe", None, 200, 200, history=10),
}
"""Recipes that have a name, our own first."""

LBFGS_HISTORY = 100
"""Of L-BFGS in place of the Adam of a preset, where nothing is said."""

PresetName = Literal["default", "crowson", "gatys", "neural-style", "anish", "inetwork"]

Weight = Annotated[float, Within(0, 1e15)]
LayerWeights = dict[str, Annotated[float, Within(-1e15, 1e15)]]

CUT_PX = 16
DEFAULT_SIZE_PX = 512


class ScaleSettings(Section):
    """One scale of an explicit ladder."""

    size_px: Annotated[int, Within(16, 65536)] = Field(description="Longest side of the picture.")
    iterations: Annotated[int, Within(1, 1_000_000)] = Field(description="How long it is worked on.")
    content_weight: Weight = Field(default=1.0, description="Factor on the weight of content here.")
    style_weight: Weight = Field(default=1.0, description="Factor on the weight of style here.")
    tv_weight: Weight = Field(default=1.0, description="Factor on the weight of total variation here.")


class OptimizerSettings(Section):
    """The optimizer; what is not said stays as the preset has it, if that is of the same kind."""

    kind: Literal["adam", "lbfgs"] | None = Field(
        default=None, description="Adam, or L-BFGS as torch steps it; by default that of the preset."
    )
    learning_rate: Annotated[float, Within(1e-9, 1e9)] | None = None
    beta1: Annotated[float, Within(0, 0.999999)] | None = Field(default=None, description="Of adam.")
    beta2: Annotated[float, Within(0, 0.999999)] | None = Field(default=None, description="Of adam.")
    clamp: bool | None = Field(default=None, description="Of adam: keep pixels within the range.")
    history: Annotated[int, Within(1, 100)] | None = Field(default=None, description="Pairs of lbfgs.")
    line_search: Literal["strong-wolfe", "none"] | None = Field(default=None, description="Of lbfgs.")
    longest_move: Annotated[float, Within(1e-9, 1e9)] | None = Field(
        default=None, description="Of lbfgs without a line search: no step moves pixels further, on average."
    )


class InitSettings(Section):
    """How a picture begins."""

    kind: Literal["content", "noise", "style", "gray", "uniform", "normal", "style-statistics", "picture"]
    sigma: Annotated[float, Within(0, 1000)] | None = Field(default=None, description="Of noise; white is 1.")
    noise_blend: Annotated[float, Within(0, 1)] | None = Field(default=None, description="Share of noise.")
    image: Place | None = Field(default=None, description="For the kind picture: its file.")

    @model_validator(mode="after")
    def _has_image(self) -> Self:
        if (self.kind == "picture") != (self.image is not None):
            raise ValueError("`image` goes with the kind picture, and only with it")
        return self


class StyleSizeSettings(Section):
    """How large style images are at a scale."""

    match: Literal["longest", "shortest", "width", "stretch"] | None = Field(
        default=None, description="Which side becomes as long as the picture's."
    )
    factor: Annotated[float, Within(0.01, 64)] | None = Field(
        default=None, description="Larger images of style make larger strokes."
    )
    size_px: Annotated[int, Within(16, 65536)] | None = Field(
        default=None, description="A fixed longest side at every scale instead."
    )
    enlarge: bool | None = Field(default=None, description="Whether they may become larger than their file.")


class ColorSettings(Section):
    """Keep the colors of the content."""

    method: Literal["ycbcr", "yuv", "hsv", "histogram", "mean-covariance"]
    when: Literal["before", "after"] = Field(
        default="after", description="Give the style the content's colors before, or the picture after."
    )

    @model_validator(mode="after")
    def _is_possible(self) -> Self:
        if self.when == "before" and self.method not in {"histogram", "mean-covariance"}:
            raise ValueError(
                f"before a render there is only histogram and mean-covariance, not {self.method}"
            )
        return self


class StoppingSettings(Section):
    """When to stop before the iterations are over; whichever comes first."""

    improvement: Annotated[float, Within(0, 1)] | None = Field(
        default=None, description="Stop a scale when the loss falls by less than this share over a window."
    )
    window: Annotated[int, Within(1, 10_000)] = Field(default=10, description="Iterations of the window.")
    loss: Annotated[float, Within(0, 1e30)] | None = Field(
        default=None, description="Stop a scale at this loss."
    )
    seconds: Annotated[float, Within(0.1, 1e9)] | None = Field(
        default=None, description="Stop the render after so long, all attempts together."
    )


class CheckpointSettings(Section):
    """How often the state is kept; whichever comes first."""

    iterations: Annotated[int, Within(1, 1_000_000)] | None = None
    seconds: Annotated[float, Within(0.0, 86_400)] = 60.0


class RenderSettings(Section):
    """All choices of a render that a manifest may make; None is as the preset has it.

    Both the step and the payload have them, so that a choice is written down once.
    """

    preset: PresetName = Field(default="default", description="The recipe to begin with; see `farm presets`.")
    size_px: Annotated[int, Within(16, 65536)] = Field(
        default=DEFAULT_SIZE_PX, description="Longest side of the result."
    )
    iterations: Annotated[int, Within(1, 10_000_000)] | None = Field(
        default=None, description="Over all scales, spread as the preset does."
    )
    smallest_px: Annotated[int, Within(16, 65536)] | None = Field(
        default=None, description="Longest side of the first scale of the ladder; equal to size_px for none."
    )
    scales: list[ScaleSettings] | None = Field(
        default=None, min_length=1, description="Explicit scales, from coarse to fine, instead of the ladder."
    )
    content_weight: Weight | None = Field(default=None, description="How much the content counts.")
    style_weight: Weight | None = Field(default=None, description="How much the style counts.")
    tv_weight: Weight | None = Field(default=None, description="How much smoothness counts.")
    tv_form: Literal["absolute", "squared", "interior", "power", "nine-point"] | None = Field(
        default=None, description="How roughness is measured."
    )
    content_layers: LayerWeights | None = Field(default=None, description="Weight of each: {relu4_2: 1}.")
    style_layers: LayerWeights | None = Field(default=None, description="Weight of each: {relu1_1: 1}.")
    pooling: Literal["max", "avg", "l2"] | None = Field(default=None, description="Of the loss network.")
    style_blend: Literal["targets", "losses"] | None = Field(
        default=None, description="Blend the targets of several styles, or add up their losses."
    )
    style_scale: StyleSizeSettings | None = Field(
        default=None, description="How large paintings are at a scale."
    )
    optimizer: OptimizerSettings | None = Field(default=None, description="Another one, or other settings.")
    average_decay: Annotated[float, Within(0, 0.999999)] | None = Field(
        default=None, description="The result is a moving average of the iterates; 0 for the last one."
    )
    init: InitSettings | None = Field(default=None, description="How a picture begins.")
    colors: ColorSettings | None = Field(default=None, description="Keep the colors of the content.")
    stop: StoppingSettings | None = Field(
        default=None, description="When to stop before the iterations are over."
    )
    seed: Annotated[int, Within(0, 2**63 - 1)] = Field(default=0, description="Of all noise.")
    precision: Literal["fp32", "tf32", "bf16"] = Field(default="fp32", description="Of the network.")
    tile_px: Annotated[int, Within(CUT_PX, 65536)] | None = Field(
        default=None, description="Longest side of tiles, a multiple of 16; else one piece where it fits."
    )
    format: OutputFormat = Field(default="keep", description="Type of the results.")
    quality: Annotated[int, Within(1, 100)] = Field(default=95, description="Of jpg and webp.")
    max_megapixels: Annotated[float, Within(0.001, 100_000)] = Field(
        default=400.0, description="Refuse inputs with more pixels than this."
    )
    device: Literal["auto", "cpu", "cuda"] = Field(default="auto", description="Where to render.")
    threads: Annotated[int, Within(1, 1024)] | None = Field(
        default=None, description="Compute threads of a worker on the CPU."
    )
    checkpoint: CheckpointSettings = Field(
        default_factory=CheckpointSettings, description="How often the state is kept."
    )
    preview_s: Annotated[float, Within(0, 86_400)] = Field(
        default=10.0, description="Seconds between previews of the unfinished picture; 0 for none."
    )
    save_every: Annotated[int, Within(1, 1_000_000)] | None = Field(
        default=None, description="Keep the unfinished picture every so many iterations of a scale."
    )
    keep_state: bool | None = Field(
        default=None,
        description="Keep the last state, so that `farm extend` can go on from it; "
        "by default for a step of one picture: states are large.",
    )

    @model_validator(mode="before")
    @classmethod
    def _take_size_of_last_scale(cls, value: Any) -> Any:
        """Where only the scales say a size, it is that of the last one."""
        scales = value.get("scales") if isinstance(value, dict) and "size_px" not in value else None
        if not isinstance(scales, list | tuple) or not scales:
            return value
        last = scales[-1]
        size_px = last.get("size_px") if isinstance(last, dict) else getattr(last, "size_px", None)
        return value if size_px is None else {**value, "size_px": size_px}

    @model_validator(mode="after")
    def _sizes_fit(self) -> Self:
        mistakes = []
        if self.tile_px is not None and self.tile_px % CUT_PX:
            below = self.tile_px // CUT_PX * CUT_PX
            text = f"{self.tile_px} is no multiple of {CUT_PX}: use {below} or {below + CUT_PX}"
            mistakes.append(Mistake(("tile_px",), text))
        if self.scales is not None:
            mistakes += self._mistakes_of_scales(self.scales)
        elif self.smallest_px is not None and self.smallest_px > self.size_px:
            text = f"{self.smallest_px} is more than the size of the result, {self.size_px}"
            mistakes.append(Mistake(("smallest_px",), text))
        if mistakes:
            raise together(type(self).__name__, mistakes)
        return self

    def _mistakes_of_scales(self, scales: list[ScaleSettings]) -> Iterator[Mistake]:
        for key in ("iterations", "smallest_px"):
            if getattr(self, key) is not None:
                yield Mistake((key,), "`scales` say that themselves: leave one of them out")
        sizes = [scale.size_px for scale in scales]
        if sizes != sorted(set(sizes)):
            yield Mistake(("scales",), f"they go from coarse to fine, each size once, not {sizes}")
        if self.size_px != sizes[-1]:
            yield Mistake(("size_px",), f"{self.size_px} is not the size of the last scale, {sizes[-1]}")

    @property
    def longest_px(self) -> int:
        """Longest side of the result."""
        return self.size_px


def state_name(output_key: str) -> str:
    """Return the name under which a job keeps the last state of a picture (`Context.keep_state`)."""
    return f"final/{output_key}.state"


class AssetRef(Section):
    """A file of the farm's store: its name, for people, and the hash of its content, for the farm."""

    name: str = Field(min_length=1)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class StyleImageRef(AssetRef):
    """A painting and its weight among several."""

    weight: Weight = 1.0


class Extension(Section):
    """More iterations for a render that is finished.

    Attributes:
        job: That made it, into the same output.
        iterations: Of the last scale, by each extension in turn, this one last.
    """

    job: str = Field(min_length=1)
    iterations: list[Annotated[int, Within(1, 1_000_000)]] = Field(min_length=1)


_NOT_PIXELS = {
    "device",
    "threads",
    "checkpoint",
    "preview_s",
    "save_every",
    "keep_state",
    "format",
    "max_megapixels",
}


class OptimizePayload(RenderSettings):
    """The payload of an `optimize` task; only the kind and its planner look into it.

    Attributes:
        styles: Paintings with their weights.
        network: The loss network, by its name in the library.
        init_image: For an init of the kind `picture`.
        extends: For a render that goes on from a finished one.
    """

    styles: list[StyleImageRef] = Field(min_length=1)
    network: AssetRef
    init_image: AssetRef | None = None
    extends: Extension | None = None

    def settings(self) -> dict[str, Any]:
        """Return what decides pixels, for `jobs.records.render_key`: no names, places or numbers of workers.

        Where tiles are not set, results of one piece and of tiles count as the same: they differ by rounding.
        """
        said = self.model_dump(mode="json", exclude=_NOT_PIXELS, exclude_none=True)
        total = math.fsum(style.weight for style in self.styles) or 1.0
        said["styles"] = [[style.sha256, style.weight / total] for style in self.styles]
        said["network"] = self.network.sha256
        if self.init_image:
            said["init_image"] = self.init_image.sha256
            said["init"] = {key: value for key, value in said["init"].items() if key != "image"}
        if self.extends:
            said["extends"] = self.extends.iterations
        return {"kind": KIND, **said}
