"""The options that describe any job, declared once for every command that takes them."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal

import typer

from farm.cli.declared import option

_FILES = "Files"
_PICTURES = "Pictures"
_RUNNING = "Running"
_STORE = "S3 storage"


@dataclass(frozen=True, kw_only=True, slots=True)
class JobOptions:
    """What a person can say of any job on the command line; None is left to the manifest's default."""

    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUT",
            help="Pictures, folders, globs (quoted) or s3:// prefixes; or one manifest (.yaml, .yml, .json).",
            show_default=False,
        ),
    ]
    style: Annotated[
        list[str] | None,
        option(
            "--style",
            "-s",
            about="A trained style to render in; give it several times for several.",
            metavar="NAME",
            panel=_FILES,
        ),
    ] = None
    output: Annotated[
        str | None,
        option(
            "--output",
            "-o",
            about="Folder or s3:// prefix of the results; else beside the input.",
            metavar="PLACE",
            panel=_FILES,
        ),
    ] = None
    recursive: Annotated[
        bool | None,
        option(
            "--recursive/--no-recursive", about="Take the folders in a folder too (default).", panel=_FILES
        ),
    ] = None
    pattern: Annotated[
        str | None,
        option(
            "--pattern",
            about="How results are named, of {folder} {name} {ext} {style} {index}.",
            metavar="PATTERN",
            panel=_FILES,
        ),
    ] = None
    on_existing: Annotated[
        Literal["fail", "replace", "rename"] | None,
        option(
            "--on-existing",
            about="What to do with a file in the way that the farm did not make (default fail).",
            panel=_FILES,
        ),
    ] = None
    format: Annotated[
        Literal["keep", "jpg", "png", "webp", "tiff", "bmp"] | None,
        option(
            "--format",
            about="Type of the results (default keep).",
            panel=_PICTURES,
        ),
    ] = None
    quality: Annotated[
        int | None,
        option("--quality", about="Of jpg and webp (default 95).", metavar="1-100", panel=_PICTURES),
    ] = None
    max_size: Annotated[
        int | None,
        option(
            "--max-size",
            about="With --style: make larger pictures smaller, to this longest side in pixels.",
            metavar="PX",
            panel=_PICTURES,
        ),
    ] = None
    max_megapixels: Annotated[
        float | None,
        option(
            "--max-megapixels",
            about="Pictures beyond this fail (default 400).",
            metavar="MP",
            panel=_PICTURES,
        ),
    ] = None
    precision: Annotated[
        Literal["fp32", "tf32", "bf16"] | None,
        option(
            "--precision",
            about="Number format of the network (default fp32); tf32 with --style-image alone.",
            panel=_RUNNING,
        ),
    ] = None
    device: Annotated[
        Literal["auto", "cpu", "cuda"] | None,
        option("--device", about="Kind of device to render on (default auto).", panel=_RUNNING),
    ] = None
    threads: Annotated[
        int | None,
        option("--threads", about="Compute threads per worker.", metavar="N", panel=_RUNNING),
    ] = None
    chunk_items: Annotated[
        int | None,
        option(
            "--chunk-items", about="With --style: most pictures in one task.", metavar="N", panel=_RUNNING
        ),
    ] = None
    workers: Annotated[
        str | None,
        option(
            "--workers",
            about="Workers for one picture, in tiles (default 1); with --style always 1.",
            metavar="N|N-N",
            panel=_RUNNING,
        ),
    ] = None
    settings: Annotated[
        list[str] | None,
        option(
            "--set",
            about="Any other key of a step, as in a manifest, such as stop.improvement=0.001.",
            metavar="KEY=VALUE",
            panel=_RUNNING,
        ),
    ] = None
    priority: Annotated[
        int | None,
        option(
            "--priority",
            about="Higher goes first among your jobs (default 50).",
            metavar="0-100",
            panel=_RUNNING,
        ),
    ] = None
    tier: Annotated[
        Literal["rush", "default", "batch"] | None,
        option(
            "--tier",
            about="Every rush job goes before every default one, and those before batch.",
            panel=_RUNNING,
        ),
    ] = None
    user: Annotated[
        str | None,
        option("--user", about="Who submits (default: your login name).", metavar="NAME", panel=_RUNNING),
    ] = None
    name: Annotated[
        str | None,
        option(
            "--name",
            about="Name of the job (default: made of input and style).",
            metavar="NAME",
            panel=_RUNNING,
        ),
    ] = None
    max_failed: Annotated[
        str | None,
        option(
            "--max-failed",
            about="Stop when more items failed: a count or a share such as 5%.",
            metavar="N|N%",
            panel=_RUNNING,
        ),
    ] = None
    s3_endpoint_url: Annotated[
        str | None,
        option("--s3-endpoint-url", about="Address of an S3-compatible store.", metavar="URL", panel=_STORE),
    ] = None
    s3_region: Annotated[
        str | None, option("--s3-region", about="Its region.", metavar="NAME", panel=_STORE)
    ] = None
    s3_profile: Annotated[
        str | None,
        option(
            "--s3-profile",
            about="Profile of your AWS configuration with the keys.",
            metavar="NAME",
            panel=_STORE,
        ),
    ] = None
    s3_path_style: Annotated[
        bool | None,
        option(
            "--s3-path-style/--no-s3-path-style",
            about="Bucket in the path instead of the host name.",
            panel=_STORE,
        ),
    ] = None

    def given(self) -> dict[str, Any]:
        """Return what was said, by field."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: value for name, value in values.items() if value is not None and value != []}
