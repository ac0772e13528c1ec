"""The options that describe a stylize job, declared once for every command that takes them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Annotated, Any, Concatenate, Literal, ParamSpec, get_type_hints

import typer

_FILES = "Files"
_PICTURES = "Pictures"
_RUNNING = "Running"
_STORE = "S3 storage"

Params = ParamSpec("Params")


def _option(*names: str, about: str, panel: str, **more: Any) -> Any:
    return typer.Option(*names, help=about, rich_help_panel=panel, show_default=False, **more)


@dataclass(frozen=True, kw_only=True, slots=True)
class JobOptions:
    """What a person can say of a stylize job on the command line; None is left to the manifest's default."""

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
        _option(
            "--style",
            "-s",
            about="A style to render in; give it several times for several.",
            metavar="NAME",
            panel=_FILES,
        ),
    ] = None
    output: Annotated[
        str | None,
        _option(
            "--output",
            "-o",
            about="Folder or s3:// prefix of the results; else beside the input.",
            metavar="PLACE",
            panel=_FILES,
        ),
    ] = None
    recursive: Annotated[
        bool | None,
        _option(
            "--recursive/--no-recursive", about="Take the folders in a folder too (default).", panel=_FILES
        ),
    ] = None
    pattern: Annotated[
        str | None,
        _option(
            "--pattern",
            about="How results are named, of {folder} {name} {ext} {style} {index}.",
            metavar="PATTERN",
            panel=_FILES,
        ),
    ] = None
    on_existing: Annotated[
        Literal["fail", "replace", "rename"] | None,
        _option(
            "--on-existing",
            about="What to do with a file in the way that the farm did not make (default fail).",
            panel=_FILES,
        ),
    ] = None
    format: Annotated[
        Literal["keep", "jpg", "png", "webp", "tiff", "bmp"] | None,
        _option(
            "--format",
            about="Type of the results (default keep).",
            panel=_PICTURES,
        ),
    ] = None
    quality: Annotated[
        int | None,
        _option("--quality", about="Of jpg and webp (default 95).", metavar="1-100", panel=_PICTURES),
    ] = None
    max_size: Annotated[
        int | None,
        _option(
            "--max-size",
            about="Make larger pictures smaller, to this longest side in pixels.",
            metavar="PX",
            panel=_PICTURES,
        ),
    ] = None
    max_megapixels: Annotated[
        float | None,
        _option(
            "--max-megapixels",
            about="Pictures beyond this fail (default 400).",
            metavar="MP",
            panel=_PICTURES,
        ),
    ] = None
    precision: Annotated[
        Literal["fp32", "bf16"] | None,
        _option("--precision", about="Number format of the network (default fp32).", panel=_RUNNING),
    ] = None
    device: Annotated[
        Literal["auto", "cpu", "cuda"] | None,
        _option("--device", about="Kind of device to render on (default auto).", panel=_RUNNING),
    ] = None
    threads: Annotated[
        int | None,
        _option("--threads", about="Compute threads per worker.", metavar="N", panel=_RUNNING),
    ] = None
    chunk_items: Annotated[
        int | None,
        _option("--chunk-items", about="Most pictures in one task.", metavar="N", panel=_RUNNING),
    ] = None
    workers: Annotated[
        int | None,
        _option("--workers", about="Workers for one picture; stylize takes 1.", metavar="N", panel=_RUNNING),
    ] = None
    priority: Annotated[
        int | None,
        _option(
            "--priority",
            about="Higher goes first among your jobs (default 50).",
            metavar="0-100",
            panel=_RUNNING,
        ),
    ] = None
    tier: Annotated[
        Literal["rush", "default", "batch"] | None,
        _option(
            "--tier",
            about="Every rush job goes before every default one, and those before batch.",
            panel=_RUNNING,
        ),
    ] = None
    user: Annotated[
        str | None,
        _option("--user", about="Who submits (default: your login name).", metavar="NAME", panel=_RUNNING),
    ] = None
    name: Annotated[
        str | None,
        _option(
            "--name",
            about="Name of the job (default: made of input and style).",
            metavar="NAME",
            panel=_RUNNING,
        ),
    ] = None
    max_failed: Annotated[
        str | None,
        _option(
            "--max-failed",
            about="Stop when more items failed: a count or a share such as 5%.",
            metavar="N|N%",
            panel=_RUNNING,
        ),
    ] = None
    s3_endpoint_url: Annotated[
        str | None,
        _option("--s3-endpoint-url", about="Address of an S3-compatible store.", metavar="URL", panel=_STORE),
    ] = None
    s3_region: Annotated[
        str | None, _option("--s3-region", about="Its region.", metavar="NAME", panel=_STORE)
    ] = None
    s3_profile: Annotated[
        str | None,
        _option(
            "--s3-profile",
            about="Profile of your AWS configuration with the keys.",
            metavar="NAME",
            panel=_STORE,
        ),
    ] = None
    s3_path_style: Annotated[
        bool | None,
        _option(
            "--s3-path-style/--no-s3-path-style",
            about="Bucket in the path instead of the host name.",
            panel=_STORE,
        ),
    ] = None

    def given(self) -> dict[str, Any]:
        """Return what was said, by field."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: value for name, value in values.items() if value is not None and value != []}


def takes_job_options(command: Callable[Concatenate[JobOptions, Params], None]) -> Callable[..., None]:
    """Give a command one parameter for each field of `JobOptions` in place of its first, for Typer to see."""
    hints = get_type_hints(JobOptions, include_extras=True)
    shared = [
        inspect.Parameter(
            f.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if f.name == "inputs" else f.default,
            annotation=hints[f.name],
        )
        for f in fields(JobOptions)
    ]
    own = list(inspect.signature(command, eval_str=True).parameters.values())[1:]

    def run(**values: Any) -> None:
        options = JobOptions(**{parameter.name: values.pop(parameter.name) for parameter in shared})
        command(options, **values)  # type: ignore[call-arg]

    run.__name__, run.__doc__ = command.__name__, command.__doc__
    run.__signature__ = inspect.Signature([*shared, *own])  # type: ignore[attr-defined]
    return run
