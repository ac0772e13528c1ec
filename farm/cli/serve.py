"""The farm itself: `up`, `down`, `version`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from farm import client, local
from farm.cli import view
from farm.cli.status import AsJson
from jobs import paths


def up(
    *,
    workers: Annotated[
        int | None,
        typer.Option(
            "--workers",
            metavar="N",
            min=0,
            help="Number of workers (default: one per GPU, or 1).",
            show_default=False,
        ),
    ] = None,
    max_workers: Annotated[
        int | None,
        typer.Option(
            "--max-workers",
            metavar="N",
            min=1,
            help="Grow to this many while there is work, and shrink again.",
            show_default=False,
        ),
    ] = None,
    device: Annotated[
        str, typer.Option("--device", metavar="DEVICE", help="What each worker gets: auto, cpu or cuda.")
    ] = "auto",
    threads: Annotated[
        int | None,
        typer.Option(
            "--threads",
            metavar="N",
            min=1,
            help="Compute threads of each worker (default: the cores, shared).",
            show_default=False,
        ),
    ] = None,
    store: Annotated[
        str,
        typer.Option(
            "--store",
            metavar="URL",
            help="Folder or s3:// prefix for styles and other assets.",
            show_default=False,
        ),
    ] = "",
    host: Annotated[
        str, typer.Option("--host", metavar="ADDRESS", help="Address that the api listens on.")
    ] = "127.0.0.1",
    port: Annotated[
        int,
        typer.Option("--port", metavar="PORT", min=0, max=65535, help="Port of the api; 0 for a free one."),
    ] = 0,
    idle_exit_s: Annotated[
        float,
        typer.Option(
            "--idle-exit",
            metavar="SECONDS",
            min=0.0,
            help="Seconds without work until the farm ends; 0 for never.",
        ),
    ] = local.IDLE_EXIT_S,
    ray_address: Annotated[
        str,
        typer.Option(
            "--ray-address",
            metavar="HOST:PORT",
            help="HOST:PORT of a Ray cluster to work on instead of this machine.",
            show_default=False,
        ),
    ] = "",
) -> None:
    """Start the farm of this machine; one that runs is left as it is."""
    if store:
        from jobs.storage import open_store

        # An address that no store has is refused here, not by a worker later.
        open_store(store)
    options = local.FarmOptions(
        workers=workers,
        max_workers=max_workers,
        device=device,
        threads=threads,
        store=paths.anchor(store, Path.cwd()) if store else "",
        host=host,
        port=port,
        idle_exit_s=idle_exit_s or None,
        ray_address=ray_address,
    )
    farm = local.up(options)
    if not farm.fresh:
        view.say("a farm is running already and stays as it is; `farm down` ends it")
    view.show(f"the farm is up at {farm.api_url}")


def down() -> None:
    """End the farm of this machine; its history stays, and unfinished jobs go on with the next `farm up`."""
    done = local.down()
    if done.farm is None and not done.processes:
        view.show("no farm was running")
    else:
        view.show(f"the farm is down; {len(done.processes)} processes ended")


def version(*, as_json: AsJson = False) -> None:
    """Show the version of this command, and of the farm if one runs."""
    from importlib import metadata

    farm = client.find()
    running = farm.health() | {"url": farm.url} if farm else None
    installed = metadata.version("stylefarm")
    if as_json:
        view.show_json({"version": installed, "farm": running})
        return
    view.show(f"stylefarm {installed}")
    if running:
        view.show(f"farm {running['farm']} at {running['url']}: stylefarm {running['version']}")
