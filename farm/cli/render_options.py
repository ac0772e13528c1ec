"""The options of `farm render` and `farm submit`: those of any job, and those of an optimization."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from farm.cli.declared import option
from farm.cli.options import JobOptions

_STYLE = "Optimization, with --style-image"
_SCALES = "Optimization: sizes, scales and tiles"
_WEIGHTS = "Optimization: weights, start and colors"


@dataclass(frozen=True, kw_only=True, slots=True)
class RenderOptions(JobOptions):
    """What a person can say on the command line of a job that renders, by trained styles or for paintings."""

    COMMAND: ClassVar[str] = "render"
    """Whose help shows them."""

    style_image: Annotated[
        list[str] | None,
        option(
            "--style-image",
            about="A painting to optimize pictures for; give it several times to blend several.",
            metavar="FILE",
            panel=_STYLE,
        ),
    ] = None
    style_weights: Annotated[
        str | None,
        option(
            "--style-weights",
            about="Share of each painting, such as 75,25 (default: all the same).",
            metavar="N,N",
            panel=_STYLE,
        ),
    ] = None
    preset: Annotated[
        Literal["default", "crowson", "gatys", "neural-style", "anish", "inetwork"] | None,
        option("--preset", about="The recipe to begin with (default: default).", panel=_STYLE),
    ] = None
    loss_network: Annotated[
        str | None,
        option(
            "--loss-network",
            about="Another loss network than the preset's own; see `farm weights list`.",
            metavar="NAME",
            panel=_STYLE,
        ),
    ] = None
    optimizer: Annotated[
        Literal["adam", "lbfgs"] | None,
        option("--optimizer", about="Another optimizer than the preset's.", panel=_STYLE),
    ] = None
    size: Annotated[
        int | None,
        option(
            "--size", about="Longest side of the result in pixels (default 512).", metavar="PX", panel=_SCALES
        ),
    ] = None
    iterations: Annotated[
        int | None,
        option(
            "--iterations",
            about="In all, spread over the scales as the preset does.",
            metavar="N",
            panel=_SCALES,
        ),
    ] = None
    smallest: Annotated[
        int | None,
        option(
            "--smallest",
            about="Longest side of the first scale; that of --size for a single one.",
            metavar="PX",
            panel=_SCALES,
        ),
    ] = None
    scales: Annotated[
        str | None,
        option(
            "--scales",
            about="Scales from coarse to fine, such as 256:200,512:100, instead of the three above.",
            metavar="PX:N,...",
            panel=_SCALES,
        ),
    ] = None
    tile: Annotated[
        int | None,
        option(
            "--tile",
            about="Longest side of tiles, a multiple of 16 (default: one piece where it fits).",
            metavar="PX",
            panel=_SCALES,
        ),
    ] = None
    save_every: Annotated[
        int | None,
        option(
            "--save-every",
            about="Keep the unfinished picture every so many iterations.",
            metavar="N",
            panel=_SCALES,
        ),
    ] = None
    content_weight: Annotated[
        float | None,
        option("--content-weight", about="How much the content counts.", metavar="X", panel=_WEIGHTS),
    ] = None
    style_weight: Annotated[
        float | None,
        option("--style-weight", about="How much the style counts.", metavar="X", panel=_WEIGHTS),
    ] = None
    tv_weight: Annotated[
        float | None,
        option("--tv-weight", about="How much smoothness counts.", metavar="X", panel=_WEIGHTS),
    ] = None
    style_scale: Annotated[
        float | None,
        option(
            "--style-scale", about="Above 1: larger strokes; below: finer ones.", metavar="X", panel=_WEIGHTS
        ),
    ] = None
    init: Annotated[
        str | None,
        option(
            "--init",
            about="How a picture begins: content, noise, style, gray, ..., or a picture file.",
            metavar="KIND|FILE",
            panel=_WEIGHTS,
        ),
    ] = None
    colors: Annotated[
        Literal["ycbcr", "yuv", "hsv", "histogram", "mean-covariance"] | None,
        option("--colors", about="Keep the colors of the picture, by this method.", panel=_WEIGHTS),
    ] = None
    seed: Annotated[
        int | None, option("--seed", about="Of all noise (default 0).", metavar="N", panel=_WEIGHTS)
    ] = None
