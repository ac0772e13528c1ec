"""Handing in jobs: `render`, `submit`, `train`, `extend`, and the schema of what can be handed in."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Annotated, Any

import typer

from farm import client
from farm.cli import connect, follow, forecasts, styles, view
from farm.cli.declared import option, takes
from farm.cli.manifests import in_words_of, read_options
from farm.cli.render_options import RenderOptions
from farm.cli.status import AsJson, Job
from farm.cli.train_options import TrainOptions
from farm.client import Farm
from jobs.errors import FarmError, NoFarmError, UsageError
from jobs.states import JobState

if TYPE_CHECKING:
    from jobs.manifest import Manifest

DryRun = Annotated[
    bool,
    option(
        "--dry-run", about="Only say what would be done, what it needs and how long it takes; needs no farm."
    ),
]

Wait = Annotated[
    bool,
    option("--wait/--no-wait", about="Wait for it, as `farm render` does (default), or return at once."),
]

_PLAN_SHOWN_S = 2.0
"""How long `submit` waits for a plan to show."""


@takes(RenderOptions)
def render(
    options: RenderOptions,
    *,
    sheet: Annotated[bool, option("--sheet", about="Make a contact sheet at the end.")] = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Render pictures in trained styles or for paintings, and wait for them; starts a farm if none runs.

    Ctrl-C leaves the job to the farm. Exit codes: 0 completed, 2 wrong usage, 3 completed with errors,
    4 failed, 5 canceled, 7 no farm.
    """
    if dry_run:
        forecasts.dry_run(options, as_json=as_json)
        return
    farm, job = _hand_in(options)
    _wait_for(farm, job, sheet=sheet, as_json=as_json)


@takes(RenderOptions)
def submit(options: RenderOptions, *, dry_run: DryRun = False, as_json: AsJson = False) -> None:
    """Hand in a job and return at once with its id on stdout; starts a farm if none runs."""
    if dry_run:
        forecasts.dry_run(options, as_json=as_json)
        return
    farm, job = _hand_in(options)
    _leave(farm, job, as_json=as_json)


@takes(TrainOptions)
def train(
    options: TrainOptions, *, wait: Wait = True, dry_run: DryRun = False, as_json: AsJson = False
) -> None:
    """Train a style from a painting on photographs, and wait for it; starts a farm if none runs.

    The style goes into the library, for `farm render --style NAME`. Ctrl-C leaves the training to the farm;
    handed in again, it goes on where it was. Exit codes as those of `farm render`.
    """
    if dry_run:
        forecasts.dry_run(options, as_json=as_json)
        return
    farm, job = _hand_in(options)
    if wait:
        _wait_for(farm, job, as_json=as_json)
    else:
        _leave(farm, job, as_json=as_json)


def extend(
    job: Job,
    *,
    iterations: Annotated[
        int | None,
        option("--iterations", metavar="N", min=1, about="How many more, at the last scale of each picture."),
    ] = None,
    steps: Annotated[
        int | None,
        option("--steps", metavar="N", min=1, about="How many more, for each style that it trained."),
    ] = None,
    wait: Wait = True,
    as_json: AsJson = False,
) -> None:
    """Go on with a finished optimization or training, as a new job into the same output.

    It begins where the job ended, to the byte, and its results replace those of the job; starts a farm if
    none runs.
    """
    if iterations is None and steps is None:
        raise UsageError(
            "how much longer is not said", "add --iterations N for an optimization, --steps N for a training"
        )
    farm = connect.started()
    made = farm.extend(job, iterations=iterations, steps=steps)
    if wait:
        _wait_for(farm, made, as_json=as_json)
    else:
        _leave(farm, made, as_json=as_json)


def _wait_for(farm: Farm, job: dict[str, Any], *, as_json: bool, sheet: bool = False) -> None:
    """Follow a job to its end, sum it up, and exit with what became of it."""
    view.say(f"job {job['id']} ({job['name']}); results go to {job['output']}")
    ended = follow.follow(farm, job)
    if _was_refused(ended):
        if as_json:
            view.show_json(ended)
        raise UsageError(ended["reason"])
    follow.report(farm, ended, as_json=as_json)
    if sheet and ended["items"]["total"]:
        from farm.cli.sheet import make_sheet

        try:
            view.say(f"contact sheet: {make_sheet(farm, ended)}")
        except FarmError as error:
            # The pictures are there all the same, and so the exit code is theirs.
            view.say(f"no contact sheet: {error}")
    raise typer.Exit(view.exit_code(ended))


def _leave(farm: Farm, job: dict[str, Any], *, as_json: bool) -> None:
    """Say what is planned, and leave the job to the farm."""
    job = _planned(farm, job)
    if as_json:
        view.show_json(job)
    else:
        view.show(job["id"])
    if _was_refused(job):
        raise UsageError(job["reason"])
    view.say(f"job {job['id']} ({job['name']}); results go to {job['output']}")
    if job.get("plan"):
        view.say(f"plan: {view.plan_line(job['plan'])}")
    for note in [*job.get("warnings", ()), *job.get("notes", ())]:
        view.say(f"note: {note}")
    if job["state"] == JobState.FAILED:
        view.say(f"it failed: {job['reason']}")
        raise typer.Exit(view.exit_code(job))


def _hand_in(options: RenderOptions) -> tuple[Farm, dict[str, Any]]:
    """Submit the job that the options describe, to a farm that is started if need be.

    What is wrong with it is said before a farm is started for it.
    """
    from jobs.plan import validate_plan
    from jobs.steps import step_kind

    manifest = read_options(options)
    with in_words_of(options):
        if client.find() is None:
            # What the farm may still refuse leaves no folder behind.
            examined = any(step_kind(step.kind).examined for step in manifest.steps)
            validate_plan(manifest, styles.library(), try_writing=not examined)
        return _post(manifest)


def _post(manifest: Manifest) -> tuple[Farm, dict[str, Any]]:
    """Post a manifest; to a new farm, if the one of this machine ended itself just before."""
    document, token = manifest.document(), uuid.uuid4().hex
    together = max(step.workers.min for step in manifest.steps)
    farm = connect.started(together)
    try:
        return farm, farm.submit(document, token)
    except NoFarmError:
        if not farm.here or client.find() is not None:
            raise
    farm = connect.started(together)
    return farm, farm.submit(document, token)


def _planned(farm: Farm, job: dict[str, Any]) -> dict[str, Any]:
    """Return the job once it is planned, or as it stands after a moment."""
    for look in follow.looks(farm, job, timeout_s=_PLAN_SHOWN_S):
        job = look
        if job["state"] != JobState.PLANNING:
            break
    return job


def _was_refused(job: dict[str, Any]) -> bool:
    """Return whether planning found out that the job cannot be done as asked: such a job never has a plan."""
    return job["state"] == JobState.FAILED and job["plan"] is None


def schema() -> None:
    """Write the JSON schema of manifests to stdout, for editors and validators."""
    from jobs.manifest import Manifest

    view.show_json(Manifest.model_json_schema())
