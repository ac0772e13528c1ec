"""The options of `farm train`: those of any job, those about paintings, and those of a training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import typer

from farm.cli.declared import option
from farm.cli.options import JobOptions
from farm.cli.render_options import RenderOptions

_STYLE = "Style"
_TRAINING = "Training"
_WEIGHTS = "Weights"


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainOptions(RenderOptions):
    """What a person can say on the command line of a training; what it shares with a render is there."""

    COMMAND: ClassVar[str] = "train"
    LEFT_OUT: ClassVar[frozenset[str]] = frozenset(
        {
            "style",
            "pattern",
            "format",
            "quality",
            "max_size",
            "max_megapixels",
            "chunk_items",
            "optimizer",
            "size",
            "iterations",
            "smallest",
            "scales",
            "tile",
            "save_every",
            "style_scale",
            "init",
            "colors",
        }
    )

    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="DATA",
            help="Photographs to train on: folders, files, globs (quoted), s3:// prefixes; or one manifest.",
            show_default=False,
        ),
    ]
    style_image: Annotated[
        list[str] | None,
        option(
            "--style-image",
            about="The painting; give it several times to blend several.",
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
    name: Annotated[
        str | None,
        option(
            "--name",
            about="Name of the style, for `farm render --style NAME`; the job is called so too.",
            metavar="NAME",
            panel=_STYLE,
        ),
    ] = None
    replace: Annotated[
        bool | None,
        option("--replace", about="Let it take the name of another style, which is forgotten.", panel=_STYLE),
    ] = None
    begin_with: Annotated[
        str | None,
        option(
            "--begin-with",
            about="A style of the same network to begin with, instead of random weights.",
            metavar="STYLE",
            panel=_STYLE,
        ),
    ] = None
    style_size: Annotated[
        int | None,
        option(
            "--style-size",
            about="Longest side of the painting: smaller for finer strokes; 0 for that of its file.",
            metavar="PX",
            panel=_STYLE,
        ),
    ] = None
    onnx: Annotated[bool | None, option("--onnx", about="Keep the style as ONNX too.", panel=_STYLE)] = None
    license: Annotated[
        str | None,
        option("--license", about="License of the style, to be kept with it.", metavar="TEXT", panel=_STYLE),
    ] = None
    source: Annotated[
        str | None,
        option(
            "--source",
            about="Where the painting comes from, to be kept with it.",
            metavar="TEXT",
            panel=_STYLE,
        ),
    ] = None
    output: Annotated[
        str | None,
        option(
            "--output",
            "-o",
            about="Folder or s3:// prefix for the style and all about it; else beside the data.",
            metavar="PLACE",
            panel=_STYLE,
        ),
    ] = None
    preset: Annotated[
        Literal["default", "pytorch-examples", "lengstrom", "texture-nets"] | None,
        option("--preset", about="The recipe to begin with (default: default).", panel=_TRAINING),
    ] = None  # type: ignore[assignment]  # other recipes than those of a render
    loss_network: Annotated[
        str | None,
        option(
            "--loss-network",
            about="Another loss network than the preset's own; see `farm weights list`.",
            metavar="NAME",
            panel=_TRAINING,
        ),
    ] = None
    network: Annotated[
        Literal["reference", "slim16", "slim8"] | None,
        option(
            "--network",
            about="What is trained (default reference); the slim ones are smaller and faster.",
            panel=_TRAINING,
        ),
    ] = None
    steps: Annotated[
        int | None, option("--steps", about="How long it is trained.", metavar="N", panel=_TRAINING)
    ] = None
    batch: Annotated[
        int | None, option("--batch", about="Pictures of a step.", metavar="N", panel=_TRAINING)
    ] = None
    crop: Annotated[
        int | None,
        option(
            "--crop",
            about="Side of the squares that are trained on, a multiple of 4.",
            metavar="PX",
            panel=_TRAINING,
        ),
    ] = None
    learning_rate: Annotated[
        float | None, option("--learning-rate", about="Of Adam.", metavar="X", panel=_TRAINING)
    ] = None
    precision: Annotated[
        Literal["fp32", "bf16"] | None,
        option("--precision", about="Number format of the arithmetic (default fp32).", panel=_TRAINING),
    ] = None
    seed: Annotated[
        int | None,
        option(
            "--seed",
            about="Of the first weights, and of order and crops of the data (default 0).",
            metavar="N",
            panel=_TRAINING,
        ),
    ] = None
    test_image: Annotated[
        list[str] | None,
        option(
            "--test-image",
            about="A picture to render on the way, to look at; give it several times for several.",
            metavar="FILE",
            panel=_TRAINING,
        ),
    ] = None
    validation: Annotated[
        int | None,
        option(
            "--validation",
            about="Pictures of the data to hold out and judge by (default 8); 0 for none.",
            metavar="N",
            panel=_TRAINING,
        ),
    ] = None
    checkpoint_steps: Annotated[
        int | None,
        option(
            "--checkpoint-steps",
            about="Keep the state every so many steps, not only every minute.",
            metavar="N",
            panel=_TRAINING,
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
    workers: Annotated[
        str | None,
        option(
            "--workers",
            about="Workers for this training, which share each batch (default 1).",
            metavar="N|N-N",
            panel="Running",
        ),
    ] = None
    device: Annotated[
        Literal["auto", "cpu", "cuda"] | None,
        option("--device", about="Kind of device to train on (default auto).", panel="Running"),
    ] = None

    def given(self) -> dict[str, Any]:
        """Return what was said, by field, and that it is a training."""
        return {**JobOptions.given(self), "kind": "train"}
