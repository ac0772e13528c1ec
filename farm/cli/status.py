"""Looking at jobs and workers: `status`, `watch`, `wait`, `tasks`, `logs`, `workers`."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Annotated, Any

import typer

from farm.cli import connect, follow, view
from farm.client import Farm, Reader
from jobs.errors import NoFarmError, UsageError

_SHOWN = 20
_ALL = 1000
_LOOK_S = 0.5

Job = Annotated[
    str,
    typer.Argument(
        metavar="JOB", help="Id of a job, the start of it, or a name (its latest).", show_default=False
    ),
]
MaybeJob = Annotated[
    str | None,
    typer.Argument(
        metavar="JOB", help="Id of a job, the start of it, or a name (its latest).", show_default=False
    ),
]
AsJson = Annotated[
    bool, typer.Option("--json", help="Write JSON to stdout, for scripts.", show_default=False)
]


def status(
    job: MaybeJob = None,
    *,
    show_all: Annotated[
        bool, typer.Option("--all", help="All jobs there ever were.", show_default=False)
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show the latest jobs, or all about one; works without a running farm too."""
    source = connect.reader()
    if job is not None:
        found = source.job(job)
        if as_json:
            view.show_json({"jobs": [found]})
        else:
            follow.summarize(source, found)
        return
    jobs = source.jobs(limit=_ALL if show_all else _SHOWN)
    if as_json:
        view.show_json({"jobs": jobs})
        return
    view.jobs_table(jobs)
    if len(jobs) == _SHOWN and not show_all:
        view.say(f"the latest {_SHOWN} jobs; `farm status --all` shows every one")


def _latest(source: Reader) -> dict[str, Any]:
    jobs = source.jobs(limit=_SHOWN)
    if not jobs:
        raise UsageError("there is no job to watch", "submit one with `farm render`")
    return next((job for job in jobs if not view.is_over(job)), jobs[0])


def _still_worked_on(source: Reader, job: dict[str, Any]) -> None:
    """Refuse to wait for what nobody works on.

    Raises:
        NoFarmError: If the job is not over and no farm runs.
    """
    if not view.is_over(job) and not isinstance(source, Farm):
        raise NoFarmError(
            f"job {job['id']} is {job['state']} and no farm is running", "`farm up` goes on with it"
        )


def watch(job: MaybeJob = None, *, as_json: AsJson = False) -> None:
    """Follow a job to its end as `farm render` does; without JOB, the latest one that is not over."""
    source = connect.reader()
    found = source.job(job) if job else _latest(source)
    _still_worked_on(source, found)
    ended = follow.follow(source, found)
    follow.report(source, ended, as_json=as_json)
    raise typer.Exit(view.exit_code(ended))


def wait(
    job: Job,
    *,
    timeout_s: Annotated[
        float | None,
        typer.Option(
            "--timeout",
            min=0.0,
            metavar="SECONDS",
            help="Seconds to wait at most; then exit with 6.",
            show_default=False,
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Wait in silence until a job is over, and exit with what became of it.

    Exit codes: 0 completed, 3 completed with errors, 4 failed, 5 canceled, 6 timed out, 7 no farm.
    """
    source = connect.reader()
    found = source.job(job)
    _still_worked_on(source, found)
    last = follow.wait(source, found, timeout_s=timeout_s)
    if as_json:
        view.show_json(last)
    else:
        view.show(f"{last['id']}: {view.progress_line(last)}")
    raise typer.Exit(view.exit_code(last) if view.is_over(last) else follow.TIMED_OUT)


def tasks(job: Job, *, as_json: AsJson = False) -> None:
    """Show the tasks of a job: state, attempt, worker, and why one failed."""
    found = connect.reader().tasks(job)
    if as_json:
        view.show_json({"tasks": found})
    else:
        view.tasks_table(found)


def logs(
    job: Job,
    *,
    go_on: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on until the job is over.", show_default=False)
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show what happened in a job, oldest first; with --follow and --json, one JSON object a line."""
    source = connect.reader()
    found = source.job(job)["id"]
    if as_json and not go_on:
        view.show_json({"events": list(_events(source, found))})
        return
    events = _events_to_come(source, found) if go_on else _events(source, found)
    for event in events:
        if as_json:
            typer.echo(json.dumps(event))
        else:
            view.show(view.event_line(event))


def _events(source: Reader, job: str, after: int = 0) -> Iterator[dict[str, Any]]:
    """Yield all events that there are after event number `after`, page by page."""
    while page := source.events(job, after=after):
        yield from page
        after = page[-1]["id"]


def _events_to_come(source: Reader, job: str) -> Iterator[dict[str, Any]]:
    """Yield the events of a job until it is over, or at once if nobody works on it."""
    after = 0
    while True:
        over = view.is_over(source.job(job)) or not isinstance(source, Farm)
        for event in _events(source, job, after):
            after = event["id"]
            yield event
        if over:
            return
        time.sleep(_LOOK_S)


def workers(*, as_json: AsJson = False) -> None:
    """Show the workers: process, device, styles that they hold, and what they do."""
    found = connect.running().workers()
    if as_json:
        view.show_json({"workers": found})
    else:
        view.workers_table(found)
