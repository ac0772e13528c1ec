"""The farm itself: `up`, `down`, `version`."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

from farm import client, local
from farm.cli import view
from farm.cli.declared import option, takes
from farm.cli.status import AsJson
from jobs import paths


@dataclass(frozen=True, kw_only=True, slots=True)
class UpOptions:
    """What a person can say of a farm on the command line."""

    workers: Annotated[
        int | None,
        option("--workers", metavar="N", min=0, about="Number of workers (default: one per GPU, or 1)."),
    ] = None
    max_workers: Annotated[
        int | None,
        option(
            "--max-workers",
            metavar="N",
            min=1,
            about="Grow to this many while there is work, and shrink again.",
        ),
    ] = None
    device: Annotated[
        str,
        option("--device", metavar="DEVICE", about="What each worker gets: auto, cpu or cuda.", shows=True),
    ] = "auto"
    threads: Annotated[
        int | None,
        option(
            "--threads",
            metavar="N",
            min=1,
            about="Compute threads of each worker (default: the cores, shared).",
        ),
    ] = None
    share: Annotated[
        float,
        option(
            "--share",
            metavar="SHARE",
            about="Part of a GPU that each worker takes: 0.5 for two on each.",
            shows=True,
        ),
    ] = 1.0
    store: Annotated[
        str, option("--store", metavar="URL", about="Folder or s3:// prefix for styles and other assets.")
    ] = ""
    host: Annotated[
        str, option("--host", metavar="ADDRESS", about="Address that the api listens on.", shows=True)
    ] = "127.0.0.1"
    port: Annotated[
        int,
        option(
            "--port",
            metavar="PORT",
            min=0,
            max=65535,
            about="Port of the api; 0 for a free one.",
            shows=True,
        ),
    ] = 0
    idle_exit_s: Annotated[
        float,
        option(
            "--idle-exit",
            metavar="SECONDS",
            min=0.0,
            about="Seconds without work until the farm ends; 0 for never.",
            shows=True,
        ),
    ] = local.IDLE_EXIT_S
    ray_address: Annotated[
        str,
        option(
            "--ray-address",
            metavar="HOST:PORT",
            about="HOST:PORT of a Ray cluster to work on instead of this machine.",
        ),
    ] = ""


@takes(UpOptions)
def up(options: UpOptions) -> None:
    """Start the farm of this machine; one that runs is left as it is."""
    if options.store:
        from jobs.storage import open_store

        # An address that no store has is refused here, not by a worker later.
        open_store(options.store)
    farm = local.up(_farm_options(options))
    if not farm.fresh:
        view.say("a farm is running already and stays as it is; `farm down` ends it")
    view.show(f"the farm is up at {farm.api_url}")


def _farm_options(options: UpOptions) -> local.FarmOptions:
    said = asdict(options)
    if options.store:
        said["store"] = paths.anchor(options.store, Path.cwd())
    return local.FarmOptions(**{**said, "idle_exit_s": options.idle_exit_s or None})


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
