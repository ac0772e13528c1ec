"""The loss networks that optimizations need: `weights list|fetch|add|remove`.

They work with and without a running farm.
"""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from farm.cli import view
from farm.cli.status import AsJson
from farm.cli.styles import library
from jobs.errors import UsageError

if TYPE_CHECKING:
    from jobs.library import Library, NetworkEntry
    from workers.loss_weights import ImportedNetwork

commands = typer.Typer(
    help="The loss networks that optimizations need.",
    no_args_is_help=True,
    epilog="Example: farm weights list",
)

Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of a loss network.", show_default=False)]

Replace = Annotated[
    bool,
    typer.Option("--replace", help="Take the name of another loss network of this name.", show_default=False),
]


@commands.command("list", epilog="Example: farm weights list --json")
def list_weights(*, as_json: AsJson = False) -> None:
    """Show the loss networks that there are."""
    entries = library().networks()
    if as_json:
        view.show_json({"networks": [asdict(entry) for entry in entries]})
    elif not entries:
        view.show("no loss networks yet; get one with: farm weights fetch vgg19")
    else:
        view.table(
            ("NETWORK", "ARCHITECTURE", "PREPROCESSING", "CHANNELS", "DEEPEST", "SIZE", "FROM", "SHA256"),
            (
                (
                    e.name,
                    e.architecture,
                    e.family,
                    "scaled" if e.channel_scaled else "as they are",
                    e.deepest_layer,
                    view.size(e.size_bytes),
                    e.source,
                    e.sha256[:12],
                )
                for e in entries
            ),
        )


@commands.command("fetch", epilog="Example: farm weights fetch vgg19")
def fetch(
    name: Annotated[
        str,
        typer.Argument(metavar="NAME", help="Which: vgg19 (575 MB) or vgg16 (553 MB).", show_default=False),
    ],
    *,
    replace: Replace = False,
    as_json: AsJson = False,
) -> None:
    """Download torchvision's weights for ImageNet once, and keep what a loss network needs of them.

    What torch has in its cache already is not downloaded again; its hash is checked in any case.
    """
    from workers.loss_weights import fetch_network, is_fetched

    found = library()
    standing = next((entry for entry in found.networks() if entry.name == name), None)
    if standing is None or not _is_torchvision(
        standing, is_fetched(name, standing.metadata["origin_sha256"])
    ):
        if standing is not None and not replace:
            raise UsageError(f"there is another loss network named {name!r}", standing.TAKEN)
        _keep(found, name, fetch_network(name), replacing=replace, as_json=as_json)
    else:
        _tell(standing, added=False, as_json=as_json)


@commands.command(
    "add", epilog="Example: farm weights add vgg19 vgg19-dcbb9e9d.pth --preprocessing torchvision"
)
def add(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="What jobs call it, such as vgg19.", show_default=False)
    ],
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", help="A weights file of torch or safetensors, or ours.", show_default=False
        ),
    ],
    *,
    preprocessing: Annotated[
        str,
        typer.Option(
            "--preprocessing",
            metavar="FAMILY",
            help="What the weights want: torchvision (RGB in 0..1, normalized) or caffe (BGR in 0..255 less "
            "a mean). Needed where the file does not make it certain.",
            show_default=False,
        ),
    ] = "",
    channel_scale: Annotated[
        Path | None,
        typer.Option(
            "--channel-scale",
            metavar="FILE",
            help="A factor for every channel, by which it is divided.",
            show_default=False,
        ),
    ] = None,
    architecture: Annotated[
        str,
        typer.Option(
            "--architecture",
            metavar="NAME",
            help="vgg16 or vgg19, where NAME does not begin with it.",
            show_default=False,
        ),
    ] = "",
    replace: Replace = False,
    as_json: AsJson = False,
) -> None:
    """Check a weights file of a VGG, convert it, and keep it as a loss network that jobs can name.

    Adding the same file under the same name again succeeds and says so.
    """
    from workers.loss_weights import import_network

    made = import_network(
        file, name=name, family=preprocessing, architecture=architecture, channel_scale=channel_scale
    )
    _keep(library(), name, made, replacing=replace, as_json=as_json)


@commands.command("remove", epilog="Example: farm weights remove vgg19-caffe")
def remove(name: Name) -> None:
    """Forget a loss network; jobs that were planned with it go on."""
    library().remove_network(name)
    view.show(f"loss network {name} is gone")


def _is_torchvision(entry: NetworkEntry, is_same_file: bool) -> bool:
    return is_same_file and entry.family == "torchvision" and not entry.channel_scaled


def _keep(found: Library, name: str, made: ImportedNetwork, *, replacing: bool, as_json: bool) -> None:
    from jobs.library import NetworkEntry

    entry = NetworkEntry(
        name=name,
        sha256=found.put(made.data),
        architecture=made.metadata.architecture,
        family=made.metadata.family,
        channel_scaled=made.metadata.channel_scaled,
        deepest_layer=made.deepest_layer,
        size_bytes=len(made.data),
        created_at=time.time(),
        source=made.source,
        metadata={"origin_sha256": made.metadata.origin_sha256},
    )
    added = found.add_network(entry, replacing=replacing)
    _tell(found.network(name), added=added, as_json=as_json)


def _tell(entry: NetworkEntry, *, added: bool, as_json: bool) -> None:
    if as_json:
        view.show_json({**asdict(entry), "added": added})
        return
    scaled = ", channels scaled" if entry.channel_scaled else ""
    what = f"{entry.architecture} up to {entry.deepest_layer}, {entry.family} preprocessing{scaled}"
    there = "is there" if added else "was there already, the very same"
    view.show(f"loss network {entry.name} {there}: {what}, {view.size(entry.size_bytes)}")
