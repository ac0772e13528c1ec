"""The styles that jobs can name: `styles add|list|show|remove`. They work with and without a running farm."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from farm import folders, local
from farm.cli import view
from farm.cli.status import AsJson
from jobs.errors import UsageError

if TYPE_CHECKING:
    from jobs.library import Library, StyleEntry

commands = typer.Typer(
    help="The styles that jobs can name.", no_args_is_help=True, epilog="Example: farm styles list"
)

Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of a style.", show_default=False)]


def library(aside: Path | None = None) -> Library:
    """Return the library of the farm that runs here, or of the next one that will, with what came with it.

    Args:
        aside: A folder that takes the assets that are put, so that the farm's own is only read.

    Raises:
        UsageError: If another machine's farm is named: its styles and loss networks are kept there.
    """
    from jobs.bundled import bundled_store
    from jobs.library import Library
    from jobs.storage import open_store

    if local.is_remote():
        raise UsageError(
            "FARM_ADDRESS names a farm, and its styles and loss networks are kept where it runs",
            "do this on that machine, or unset FARM_ADDRESS",
        )
    farm = local.here()
    store = open_store(farm.store if farm is not None else str(folders.data_dir() / "store"))
    takes = None if aside is None else open_store(str(aside))
    return Library(store, folders.cache_dir(), bundled_store(), takes)


@commands.command("add", epilog="Example: farm styles add candy.pth --name candy --format pytorch-examples")
def add(
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="A weights file, or a style model of ours.", show_default=False),
    ],
    *,
    name: Annotated[
        str, typer.Option("--name", metavar="NAME", help="What jobs call it.", show_default=False)
    ],
    format_: Annotated[
        str,
        typer.Option(
            "--format",
            metavar="FORMAT",
            help="What made the file: pytorch-examples or stylefarm.",
            show_default=False,
        ),
    ],
    license_: Annotated[
        str,
        typer.Option(
            "--license", metavar="TEXT", help="Its license, to be kept with it.", show_default=False
        ),
    ] = "",
    source: Annotated[
        str,
        typer.Option(
            "--source", metavar="TEXT", help="Where it comes from, to be kept with it.", show_default=False
        ),
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Check a weights file, convert it, and keep it as a style that jobs can name.

    Adding the same file under the same name again succeeds and says so.
    """
    from workers.importing import import_style, keep_style

    found = library()
    made = import_style(file, format=format_, name=name, license=license_, source=source)
    origin = source or made.metadata["source"] or file.name
    entry = keep_style(made, found, created_at=time.time(), license=license_, source=origin)
    added = found.add_style(entry)
    if as_json:
        view.show_json({**asdict(found.style(name)), "added": added})
    elif added:
        view.show(f"style {name} is there: {view.size(entry.size_bytes)}, sha256 {entry.sha256}")
    else:
        view.show(f"style {name} was there already, the very same")


@commands.command("list", epilog="Example: farm styles list --json")
def list_styles(*, as_json: AsJson = False) -> None:
    """Show the styles that there are: those that came with the farm, and those that were added."""
    entries = library().styles()
    if as_json:
        view.show_json({"styles": [asdict(entry) for entry in entries]})
    else:
        view.table(
            ("STYLE", "FORMAT", "WIDTH", "SIZE", "LICENSE", "FROM", "SHA256"),
            (
                (e.name, e.format, e.width, view.size(e.size_bytes), e.license, _origin(e), e.sha256[:12])
                for e in entries
            ),
        )


@commands.command("show", epilog="Example: farm styles show candy")
def show(name: Name, *, as_json: AsJson = False) -> None:
    """Show all that is known of a style."""
    entry = library().style(name)
    if as_json:
        view.show_json(asdict(entry))
        return
    facts = asdict(entry)
    metadata = facts.pop("metadata")
    at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(facts.pop("created_at")))
    added = "it came with the farm" if entry.bundled else at
    more = [fact for key in metadata for fact in _flat(f"metadata: {key}", metadata[key])]
    view.facts([*facts.items(), ("added", added), *more])


@commands.command("remove", epilog="Example: farm styles remove candy")
def remove(name: Name) -> None:
    """Forget a style that was added; jobs that were planned with it go on."""
    found = library()
    found.remove_style(name)
    left = any(entry.name == name.lower() for entry in found.styles())
    view.show(f"style {name} is gone" + (": the one that came with the farm has the name" if left else ""))


def _origin(entry: StyleEntry) -> str:
    if entry.bundled:
        return "it came with the farm"
    job = entry.metadata.get("job") if entry.made_in else None
    return f"{entry.source}, job {job}" if job else entry.source


def _flat(name: str, value: object) -> Iterator[tuple[str, object]]:
    """Yield what is known of a style, each part of a mapping by itself."""
    if isinstance(value, dict):
        for key, part in value.items():
            yield from _flat(f"{name}.{key}", part)
    elif isinstance(value, list):
        yield (
            name,
            ", ".join(str(each.get("name", each)) if isinstance(each, dict) else str(each) for each in value),
        )
    else:
        yield name, value
