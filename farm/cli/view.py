"""How jobs, tasks, workers and styles look in a terminal, and in a pipe.

Text that came from a user (names of files, jobs and styles, reasons) is never read as Rich markup, and its
control characters are shown instead of obeyed.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from jobs.states import ENDED_JOBS, JobState

_PIPE_WIDTH = 4096
"""Columns of what is not a terminal: nothing is wrapped or cut for a program that reads it."""

_STYLES = {
    "completed": "green",
    "done": "green",
    "completed with errors": "yellow",
    "failed": "red",
    "canceled": "magenta",
    "canceling": "magenta",
    "active": "cyan",
    "leased": "cyan",
    "paused": "yellow",
    "pausing": "yellow",
}

EXIT_CODES = {
    JobState.COMPLETED: 0,
    JobState.COMPLETED_WITH_ERRORS: 3,
    JobState.FAILED: 4,
    JobState.CANCELED: 5,
}
"""What a command that waits for a job exits with."""


def console(*, stderr: bool = False) -> Console:
    """Return a console on the current stdout or stderr that takes every string literally."""
    made = Console(stderr=stderr, markup=False, emoji=False, highlight=False)
    if not made.is_terminal:
        made.width = _PIPE_WIDTH
    return made


def clean(text: object) -> str:
    """Return `text` as one plain line: control characters and undecodable bytes become escapes."""
    return "".join(
        sign if sign.isprintable() else sign.encode("unicode_escape", "replace").decode("ascii")
        for sign in str(text)
    )


def labeled(label: str, text: str, style: str) -> Text:
    """Return `label: text` with a style for the label alone."""
    return Text.assemble((f"{label}: ", style), clean(text))


def say(text: str) -> None:
    """Write a line about what is going on to stderr; stdout is for results."""
    console(stderr=True).print(Text(clean(text)), soft_wrap=True)


def show(text: object) -> None:
    """Write one line of a result to stdout."""
    console().print(Text(clean(text)), soft_wrap=True)


def show_json(document: Any) -> None:
    """Write a JSON document to stdout, in ASCII so that every terminal and pipe can carry it."""
    console().file.write(json.dumps(document, indent=2) + "\n")


def is_over(job: Mapping[str, Any]) -> bool:
    """Return whether nothing more will happen in this job by itself."""
    return job["state"] in ENDED_JOBS


def exit_code(job: Mapping[str, Any]) -> int:
    """Return the exit code that an ended job stands for."""
    return EXIT_CODES[JobState(job["state"])]


def duration(seconds: float) -> str:
    """Return a time span as a person would say it: `8 s`, `2 min 05 s`, `1 h 05 min`, `3 d 4 h`."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 9.95 and seconds % 1 else f"{whole} s"
    minutes, rest_s = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest_s:02d} s" if rest_s else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes:02d} min"
    return f"{hours // 24} d {hours % 24} h"


def size(count_bytes: float) -> str:
    """Return a number of bytes in the unit that suits it."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count_bytes < 1000:
            return f"{count_bytes:.0f} {unit}" if unit == "bytes" else f"{count_bytes:.1f} {unit}"
        count_bytes /= 1000
    return f"{count_bytes:.1f} TB"


def eta(job: Mapping[str, Any]) -> str:
    """Return what is left as a range, or an empty string if nothing was measured or nothing moves."""
    if job["state"] != JobState.ACTIVE or not job.get("eta_s"):
        return ""
    low, high = (duration(max(1, round(seconds))) for seconds in job["eta_s"])
    return f"{low} left" if low == high else f"{low} to {high} left"


def rate(job: Mapping[str, Any]) -> str:
    """Return the images per second so far, or an empty string while nothing has been measured."""
    measured = job.get("images_per_s")
    return f"{measured:.3g} images/s" if measured else ""


def counts(job: Mapping[str, Any]) -> str:
    """Return `12 of 60, 1 failed, 4 skipped`."""
    items = job["items"]
    ended = items["total"] - items["pending"]
    named = [f"{items[name]} {name}" for name in ("failed", "skipped", "canceled") if items.get(name)]
    return ", ".join([f"{ended} of {items['total']}", *named])


def progress_line(job: Mapping[str, Any]) -> str:
    """Return where a job stands in one line without its name."""
    if job["state"] == JobState.PLANNING:
        return f"planning, {job['items']['total']} items so far"
    return ", ".join(part for part in (job["state"], counts(job), rate(job), eta(job)) if part)


def table(headers: Sequence[str], rows: Iterable[Sequence[object]], *, fixed: int = 1) -> None:
    """Write a table to stdout; a terminal wraps long cells of all columns but the first `fixed` ones."""
    made = Table(box=None, pad_edge=False, header_style="bold")
    for position, header in enumerate(headers):
        made.add_column(header, no_wrap=position < fixed, overflow="fold")
    for row in rows:
        made.add_row(*(_cell(value) for value in row))
    _print(made)


def _print(made: Table) -> None:
    target = console()
    with target.capture() as captured:
        target.print(made)
    # Rich fills the last column with spaces, which only a terminal has a use for.
    target.file.write("".join(f"{line.rstrip()}\n" for line in captured.get().splitlines()))


def _cell(value: object) -> Text:
    if value is None or value == "":
        return Text("-", style="dim")
    text = clean(value)
    return Text(text, style=_STYLES.get(text, ""))


def _ago(at: float | None) -> str:
    return f"{duration(max(0, round(time.time() - at)))} ago" if at else ""


def jobs_table(jobs: Sequence[Mapping[str, Any]]) -> None:
    """Write the list of jobs."""
    if not jobs:
        show("no jobs yet; begin with: farm render FOLDER --style NAME")
        return
    table(
        ("JOB", "NAME", "STATE", "ITEMS", "SPEED", "LEFT", "SUBMITTED"),
        (
            (
                job["id"],
                job["name"],
                job["state"],
                counts(job),
                rate(job),
                eta(job).removesuffix(" left"),
                _ago(job["created_at"]),
            )
            for job in jobs
        ),
    )


def facts(named: Iterable[tuple[str, object]]) -> None:
    """Write names and values, one pair a line, without those that have no value."""
    made = Table(box=None, pad_edge=False, show_header=False)
    made.add_column(no_wrap=True, style="bold")
    made.add_column(overflow="fold")
    for name, value in named:
        if value is not None and value != "":
            made.add_row(Text(name), _cell(value))
    _print(made)


def job_facts(job: Mapping[str, Any], more: Iterable[tuple[str, object]] = ()) -> None:
    """Write all that is to be said of one job, but for its failures, with `more` names and values."""
    ignored, plan, items = job["ignored"], job.get("plan"), job["items"]
    named = ", ".join(ignored["names"]) + (", ..." if ignored["count"] > len(ignored["names"]) else "")
    kinds = [kind for kind in ("done", "skipped", "failed", "canceled", "pending") if items[kind]]
    facts(
        [
            ("job", job["id"]),
            ("name", job["name"]),
            ("state", job["state"]),
            ("reason", job.get("reason")),
            ("user", f"{job['user']}, tier {job['tier']}, priority {job['priority']}"),
            ("submitted", _ago(job["created_at"])),
            ("seconds", job["seconds"] or ""),
            (
                "items",
                f"{items['total']}: {', '.join(f'{items[kind]} {kind}' for kind in kinds)}".rstrip(": "),
            ),
            ("speed", rate(job)),
            ("left", eta(job)),
            *more,
            ("plan", plan_line(plan) if plan else ""),
            ("ignored", f"{ignored['count']} files: {named}" if ignored["count"] else ""),
            *(("warning", warning) for warning in job.get("warnings", ())),
            *(("note", note) for note in job.get("notes", ())),
            *(("note", _remark(remark)) for remark in job.get("remarks", ())),
            ("results", job["output"]),
            ("report", report_path(job) if is_over(job) and items["total"] else ""),
        ]
    )
    if len(job.get("steps", ())) > 1:
        table(
            ("STEP", "KIND", "STATE", "ITEMS", "REASON"),
            ((s["name"], s["kind"], s["state"], counts(s), s.get("reason")) for s in job["steps"]),
        )


def _remark(remark: Mapping[str, Any]) -> str:
    """Return what was said of some results, with the first of their inputs."""
    more = remark["items"] - 1
    return f"{remark['text']}: {remark['input']}{f' and {more} more' if more else ''}"


def report_path(job: Mapping[str, Any]) -> str:
    """Return where the report of a job lies: a path or an `s3://` URL."""
    return beside_report(job, "report.json")


def beside_report(job: Mapping[str, Any], name: str) -> str:
    """Return the place of a file of the job itself, among what is no result: a path or an `s3://` URL."""
    from jobs.storage.base import FARM_PREFIX

    return f"{job['output'].rstrip('/')}/{FARM_PREFIX}/jobs/{job['id']}/{name}"


def plan_line(plan: Mapping[str, Any]) -> str:
    """Return the plan of a job in one line."""
    estimate = plan.get("estimate_s")
    parts = [
        f"{plan['items']} items in {plan['tasks']} tasks",
        f"{size(plan['input_bytes'])} to read" if plan.get("input_bytes") else "",
        f"about {size(plan['output_bytes'])} to write" if plan.get("output_bytes") else "",
        f"{size(plan['working_bytes'])} for checkpoints" if plan.get("working_bytes") else "",
        f"about {duration(estimate)} of device time" if estimate else "",
    ]
    return ", ".join(part for part in parts if part)


def failures_table(failures: Sequence[Mapping[str, Any]], total: int, job: Mapping[str, Any]) -> None:
    """Write which items failed and why; of `total` failures, those given are shown."""
    if not failures:
        return
    several = len({failure.get("style") for failure in failures}) > 1
    headers = ("FAILED", "STYLE", "WHY") if several else ("FAILED", "WHY")
    table(
        headers,
        (
            (
                failure["input"] or failure.get("style"),
                *((failure.get("style"),) if several else ()),
                failure["reason"],
            )
            for failure in failures
        ),
        fixed=0,
    )
    if total > len(failures):
        show(f"and {total - len(failures)} more, all in {report_path(job)}")


def tasks_table(tasks: Sequence[Mapping[str, Any]]) -> None:
    """Write the tasks of a job."""
    table(
        ("TASK", "STEP", "STATE", "ATTEMPT", "ITEMS", "WORKER", "AT", "WHY"),
        (
            (
                task["id"],
                task["step"],
                task["state"],
                task["attempt"],
                _task_items(task["items"]),
                ", ".join(task.get("members") or ()) or task.get("worker"),
                _at(task),
                ": ".join(filter(None, (task.get("failure"), task.get("reason")))),
            )
            for task in tasks
        ),
    )


def _at(task: Mapping[str, Any]) -> str:
    if task["state"] not in {"leased", "queued"}:
        return ""
    fraction = f"{100 * task['fraction']:.0f} %" if task.get("fraction") else ""
    return ", ".join(filter(None, (fraction, task.get("message"))))


def _task_items(items: Mapping[str, int]) -> str:
    ended = items["done"] + items["failed"] + items["skipped"]
    named = [f"{items[name]} {name}" for name in ("failed", "skipped") if items[name]]
    return ", ".join([f"{ended} of {items['total']}", *named])


def workers_table(workers: Sequence[Mapping[str, Any]]) -> None:
    """Write the workers, what they hold and what they do."""
    if not workers:
        show("no workers yet; they start with the first job")
        return
    table(
        ("WORKER", "PID", "NODE", "DEVICE", "STATE", "HOLDS", "TASK", "JOB", "DONE"),
        (
            (
                worker["id"],
                worker["pid"],
                worker.get("node"),
                worker["device"],
                worker["state"],
                ", ".join(worker["styles"]),
                _with_rank(worker),
                worker.get("job"),
                worker.get("items_done"),
            )
            for worker in workers
        ),
    )


def _with_rank(worker: Mapping[str, Any]) -> str:
    gang = worker.get("gang")
    if worker["task"] is None:
        return ""
    return f"{worker['task']}, {gang['rank'] + 1} of {len(gang['workers'])}" if gang else str(worker["task"])


def event_line(event: Mapping[str, Any]) -> str:
    """Return one event as a line of a log."""
    at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(event["at"]))
    return f"{at}  {event['type']:<12}  {event['text']}"
