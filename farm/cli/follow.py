"""Waiting for a job: with a progress bar, with plain lines, or in silence."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console

from farm.cli import renders, view
from farm.client import Reader, every_item
from jobs.states import JobState

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

DETACHED = 130
"""Exit code of a command that was left with ctrl-C: 128 + SIGINT, as shells have it."""

TIMED_OUT = 6

_FIRST_LOOK_S = 0.05
_LOOK_S = 0.5
_PLAIN_LINES = 10
_BAR_COLUMNS = 100
"""Narrower terminals get the numbers without the bar."""

_FAILURES_SHOWN = 100

Job = dict[str, Any]


def looks(reader: Reader, job: Job, *, timeout_s: float | None = None) -> Iterator[Job]:
    """Yield `job` and then every newer look at it, until it is over or `timeout_s` have passed.

    The first looks are close together, so that a short job is not waited for longer than it takes.
    """
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    pause_s = _FIRST_LOOK_S
    while True:
        yield job
        left_s = float("inf") if deadline is None else deadline - time.monotonic()
        if view.is_over(job) or left_s <= 0:
            return
        time.sleep(min(pause_s, left_s))
        pause_s = min(1.3 * pause_s, _LOOK_S)
        job = reader.job(job["id"])


def wait(reader: Reader, job: Job, *, timeout_s: float | None = None) -> Job:
    """Return the last look at a job that is over or whose time is."""
    for look in looks(reader, job, timeout_s=timeout_s):
        job = look
    return job


def follow(reader: Reader, job: Job) -> Job:
    """Show the progress of a job on stderr until it is over; ctrl-C leaves it alone.

    Raises:
        typer.Exit: With code 130 after ctrl-C.
    """
    console = view.console(stderr=True)
    show = _show_bar if console.is_terminal else _show_lines
    try:
        return show(console, reader, job)
    except KeyboardInterrupt:
        view.say(f"left alone: job {job['id']} goes on")
        view.say(f"  farm watch {job['id']}    to look at it again")
        view.say(f"  farm cancel {job['id']}   to end it")
        raise typer.Exit(DETACHED) from None


def _show_bar(console: Console, reader: Reader, job: Job) -> Job:
    from rich.console import Group
    from rich.live import Live
    from rich.progress import BarColumn, Progress, TextColumn
    from rich.text import Text

    text = TextColumn("{task.description}", markup=False)
    columns = (BarColumn(), text) if console.width >= _BAR_COLUMNS else (text,)
    progress = Progress(*columns, console=console)
    bar = progress.add_task("")
    with Live(progress, console=console, transient=True, refresh_per_second=10) as live:
        for look in looks(reader, job):
            job = look
            _update(progress, bar, job)
            under = _under_the_bar(reader, job, console)
            live.update(Group(progress, Text("\n".join(under), no_wrap=True, overflow="ellipsis")))
    return job


def _under_the_bar(reader: Reader, job: Job, console: Console) -> list[str]:
    """Return lines about the long tasks of a job, with the curve of the first that has one."""
    if not job.get("running"):
        return []
    curves = reader.losses(job["id"]) if any(task["loss"] is not None for task in job["running"]) else []
    return renders.lines(job, curves, console.width, console.height)


def _update(progress: Progress, bar: TaskID, job: Job) -> None:
    items = job["items"]
    known = job["state"] != JobState.PLANNING and items["total"] > 0
    progress.update(
        bar,
        total=items["total"] if known else None,
        completed=items["total"] - items["pending"],
        description=view.clean(view.progress_line(job)),
    )


def _show_lines(console: Console, reader: Reader, job: Job) -> Job:
    """Write a line when the state changes and about ten lines on the way, and the same of each long task."""
    shown: dict[object, object] = {}
    for look in looks(reader, job):
        job = look
        items = job["items"]
        tenth = _PLAIN_LINES * (items["total"] - items["pending"]) // max(1, items["total"])
        now = (job["state"], 0 if job["state"] == JobState.PLANNING else tenth)
        if shown.get(None) != now:
            console.print(f"{job['id']}: {view.progress_line(job)}")
            shown[None] = now
        for task in job.get("running", ()):
            at = (task["state"], task["scale"], int(_PLAIN_LINES * task["fraction"]))
            if shown.get(task["task"]) != at:
                console.print(f"{job['id']}: {renders.task_line(task)}")
                shown[task["task"]] = at
            preview = task["preview"] and renders.preview_line(job, task)
            if preview and preview not in shown:
                console.print(f"{job['id']}: {preview}")
                shown[preview] = True
    return job


def summarize(reader: Reader, job: Job) -> None:
    """Write what came of a job: counts, what failed and why, and where everything is."""
    view.job_facts(job, [*renders.running_facts(job), *renders.made_facts(job)])
    failed = job["items"]["failed"]
    if failed:
        view.failures_table(_failures(reader, job), failed, job)


def _failures(reader: Reader, job: Job) -> list[dict[str, Any]]:
    if job["items"]["failed"] <= len(job["failures"]):
        return list(job["failures"])
    found = every_item(reader, job["id"], state="failed")
    return [item for item, _ in zip(found, range(_FAILURES_SHOWN), strict=False)]


def report(reader: Reader, job: Job, *, as_json: bool) -> None:
    """Write an ended job to stdout, as its summary or as JSON."""
    if as_json:
        view.show_json(job)
    else:
        summarize(reader, job)
