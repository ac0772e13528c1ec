"""Acting on jobs: `pause`, `resume`, `cancel`, `retry`, and the contact sheet of one."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from farm.cli import connect, view
from farm.cli.status import AsJson, Job


def pause(job: Job, *, as_json: AsJson = False) -> None:
    """Stop a job after the pictures that are being rendered; `farm resume` goes on."""
    _tell(connect.running().pause(job), as_json=as_json)


def resume(job: Job, *, as_json: AsJson = False) -> None:
    """Let a paused job go on; starts a farm if none runs."""
    _tell(connect.started().resume(job), as_json=as_json)


def cancel(job: Job, *, as_json: AsJson = False) -> None:
    """End a job for good; pictures that are finished stay."""
    _tell(connect.running().cancel(job), as_json=as_json)


def retry(job: Job, *, as_json: AsJson = False) -> None:
    """Try the failed items of a job again, and nothing else; starts a farm if none runs."""
    _tell(connect.started().retry(job), as_json=as_json)


def _tell(job: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        view.show_json(job)
    else:
        view.show(f"{job['id']}: {view.progress_line(job)}")


def sheet(
    job: Job,
    *,
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="File to write (default: beside the job's report).",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Make the contact sheet of a job: its results as thumbnails on one page, with what failed."""
    from farm.cli.sheet import make_sheet

    source = connect.reader()
    view.show(make_sheet(source, source.job(job), output))
