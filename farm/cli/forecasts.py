"""What a job would do: `--dry-run` of `farm render`, `submit` and `train`. Nothing is handed in."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from farm import client
from farm.cli import styles, view
from farm.cli.manifests import in_words_of, read_options
from farm.cli.render_options import RenderOptions

if TYPE_CHECKING:
    from farm.machine import Machine
    from jobs.library import Library
    from jobs.manifest import Manifest
    from jobs.plan import PlannedTask
    from jobs.steps import Planning, Step

_IGNORED_SHOWN = 5

Document = dict[str, Any]


def dry_run(options: RenderOptions, *, as_json: bool) -> None:
    """Write what the job of these options would do.

    Raises:
        FarmError: What would be refused at submit.
    """
    manifest = read_options(options)
    with tempfile.TemporaryDirectory(prefix="stylefarm-dry-run-") as folder, in_words_of(options):
        document = forecast(manifest, styles.library(aside=Path(folder)))
    if as_json:
        view.show_json(document)
    else:
        _show(document)


def forecast(manifest: Manifest, library: Library) -> Document:
    """Return what a job would do, step by step.

    Args:
        manifest: Complete, with absolute paths.
        library: Knows styles and networks, and takes the files that the manifest names.

    Raises:
        FarmError: What would be refused at submit.
    """
    from farm.machine import refuse_large_gangs
    from jobs.plan import begin_planning, validate_plan

    machine = _machine(manifest)
    refuse_large_gangs(manifest.steps, machine.workers)
    checked = validate_plan(manifest, library, try_writing=False)
    planning = begin_planning(manifest, checked)
    notes = list(checked.notes)
    steps = [
        _step(("steps", number), step, planning, machine, library, notes.append)
        for number, step in enumerate(manifest.steps)
    ]
    if note := _on_space(steps, planning):
        notes.append(note)
    ignored = planning.ignored
    if ignored.count:
        more = ", ..." if ignored.count > _IGNORED_SHOWN else ""
        notes.append(f"{ignored.count} files ignored: {', '.join(ignored.names[:_IGNORED_SHOWN])}{more}")
    return {"name": manifest.name, "output": manifest.output, "steps": steps, "notes": notes}


def _on_space(steps: Sequence[Document], planning: Planning) -> str:
    """Return what is said of the space for results and checkpoints when a job is planned, or nothing."""
    from jobs.plan import PlanSummary

    summary = PlanSummary(
        output_bytes=sum(step.get("output_bytes", 0) for step in steps),
        working_bytes=max(step.get("working_bytes", 0) for step in steps),
    )
    return summary.note_on_space(planning.opener(planning.output, planning.store_options).free_bytes())


# --- the workers there are or would be -------------------------------------------------------------


def _machine(manifest: Manifest) -> Machine:
    """Return the workers of the farm that runs, or of the one that would be started for this manifest."""
    from farm.machine import Machine, least_memory_bytes, local_machine
    from jobs.steps import step_kind
    from jobs.tasks import WorkerReport

    together = max(step.workers.min for step in manifest.steps)
    farm = client.find()
    if farm is None:
        examined = any(step_kind(step.kind).examined for step in manifest.steps)
        return local_machine(together) if examined else Machine(0, together, "", 0)
    reports = [
        WorkerReport(w["id"], w["pid"], w["node"], w["device"], device_bytes=w["device_bytes"])
        for w in farm.workers()
    ]
    device = reports[0].device.partition(":")[0] if reports else ""
    most = max(len(reports), farm.health()["most_workers"])
    return Machine(len(reports), most, device, least_memory_bytes(reports, together))


# --- a step -----------------------------------------------------------------------------------------


def _step(
    at: tuple[str, int],
    step: Step,
    planning: Planning,
    machine: Machine,
    library: Library,
    note: Callable[[str], None],
) -> Document:
    """Return what a step would do; one that needs what an earlier step makes is planned when that is done."""
    from farm.examination import checks_of, examine_task
    from jobs.plan import PlanSummary, plan_step
    from jobs.steps import Late, step_kind

    known: Document = {"name": step.name, "kind": step.kind, "needs": list(step.needs)}
    if any(isinstance(value, Late) for value in getattr(step, "styles", [])):
        return {**known, "planned": False}
    summary = PlanSummary()
    begin: list[PlannedTask] = []
    for task in plan_step(step, planning):
        begin = [*begin, task][:2]
        summary.add(task)
    known |= {"planned": True, **asdict(summary)}
    if begin and step.kind == "train":
        known["training"] = _training(begin[0], library)
    if begin and step_kind(step.kind).examined:
        first = begin[0]
        checks = checks_of(step, begin, planning, library, machine, note)
        work = examine_task(at, step.kind, first, checks)
        told = work.forecast(first.payload, first.items, checks) if work.forecast is not None else {}
        known |= told | _times(told, summary.tasks, machine)
    return known


def _training(task: PlannedTask, library: Library) -> Document:
    """Return what a training would take in, as the planner has it."""
    from jobs.train import TrainPayload
    from jobs.train_step import model_bytes
    from jobs.training_data import decode_listing

    payload = TrainPayload.model_validate(task.payload)
    listed = {
        name: len(decode_listing(library.path(ref.sha256).read_bytes()))
        for name, ref in (("data", payload.data), ("validation", payload.validation_data))
        if ref is not None
    }
    held_out = 0 if payload.validation_data else payload.validation.pictures
    weights = sum(painting.weight for painting in payload.style_images)
    return {
        "style": payload.style,
        "file_bytes": model_bytes(payload.width),
        "network": payload.network,
        "preset": payload.preset,
        "loss_network": payload.loss_network.name,
        "styles": [
            {"name": painting.name, "share": painting.weight / weights} for painting in payload.style_images
        ],
        "pictures": listed["data"] - held_out,
        "held_out": held_out or min(payload.validation.pictures, listed.get("validation", 0)),
        "steps": payload.total_steps,
        "batch": payload.known_batch,
        "crop_px": payload.known_crop_px,
        "precision": payload.precision,
    }


def _times(told: Document, tasks: int, machine: Machine) -> Document:
    """Return how long a step takes whose tasks take as long as the first one, as many at once as can be.

    Workers on CPUs share the cores that one of them was measured on.
    """
    if told.get("seconds") is None:
        return {}
    together = told.get("workers", 1)
    at_once = 1 if told["device"] == "cpu" else max(1, max(machine.there, machine.workers) // together)
    return {"seconds_in_all": told["seconds"] * math.ceil(tasks / at_once)}


# --- for people -------------------------------------------------------------------------------------


def _show(document: Mapping[str, Any]) -> None:
    view.facts(
        [
            ("job", document["name"]),
            ("results", document["output"]),
            *(("note", note) for note in document["notes"]),
        ]
    )
    for step in document["steps"]:
        view.show("")
        view.facts(_facts(step))
        if step.get("scales"):
            view.table(_SCALES, _scale_rows(step), fixed=2)
    view.say("a dry run: nothing was submitted or written")


def _facts(step: Mapping[str, Any]) -> list[tuple[str, object]]:
    name = f"{step['name']} ({step['kind']})"
    if not step["planned"]:
        return [("step", name), ("plan", f"made when {', '.join(step['needs'])} is done")]
    rough_s = None if "seconds" in step else step["estimate_s"]
    plan = ("plan", view.plan_line({**step, "estimate_s": rough_s}))
    if "training" in step:
        return [("step", name), *_training_facts(step, step["training"])]
    return [("step", name), plan, *(_render_facts(step) if "scales" in step else [])]


def _training_facts(step: Mapping[str, Any], training: Mapping[str, Any]) -> list[tuple[str, object]]:
    """Return what is to be said of a step that trains."""
    size_px = training["crop_px"]
    memory = f"; memory needed: {view.size(step['memory_bytes'])}" if step.get("memory_bytes") else ""
    on = f"on {step['device']}, " if step.get("device") else ""
    guess = f"about {view.duration(step['estimate_s'])} (a guess for a few CPU cores)"
    return [
        ("style", f"{training['style']}, a file of about {view.size(training['file_bytes'])}"),
        ("paintings", _paintings(training)),
        ("data", f"{training['pictures']} pictures to train on, {training['held_out']} held out to judge by"),
        ("training", f"{training['steps']} steps of {training['batch']} pictures of {size_px}x{size_px} px"),
        ("network", f"{training['network']}, {on}{training['precision']}{memory}"),
        ("preset", training["preset"]),
        ("loss network", training["loss_network"]),
        ("time", _time(step, "a style") if "seconds" in step else guess),
    ]


def _paintings(step: Mapping[str, Any]) -> str:
    return ", ".join(f"{style['name']} ({style['share']:.0%})" for style in step["styles"])


def _render_facts(step: Mapping[str, Any]) -> list[tuple[str, object]]:
    """Return what is to be said of an optimization beside its scales."""
    network, picture = step["loss_network"], step["picture"]
    own = "the preset's own" if network["of_preset"] else "not the preset's own"
    first = f", the first of {step['items']}" if step["items"] > 1 else ""
    there = f" of {view.size(step['device_bytes'])}" if step["device_bytes"] else ""
    needs = f"{view.size(step['memory_bytes'])}{there}{' each' if step['workers'] > 1 else ''}"
    return [
        ("picture", f"{picture['name']}{first}, {_px(picture)}; the result has {_px(step['scales'][-1])}"),
        ("paintings", _paintings(step)),
        ("preset", step["preset"]),
        ("loss network", f"{network['name']}: {network['architecture']}, {network['family']}, {own}"),
        ("workers", f"{step['workers']} on {step['device']}, {step['precision']}; memory needed: {needs}"),
        ("work", f"{step['pixel_evaluations'] / 1e6:,.3g} million pixel-evaluations"),
        ("time", _time(step)),
    ]


def _px(size: Mapping[str, Any]) -> str:
    known = size["width_px"] is not None
    return f"{size['width_px']}x{size['height_px']} px" if known else "of unknown size"


def _time(step: Mapping[str, Any], what: str = "a picture") -> str:
    if step["seconds"] is None:
        return f"not known: {step['basis']}"
    each = f"about {view.duration(step['seconds'])} for {what}"
    in_all = f", {view.duration(step['seconds_in_all'])} for all" if step["tasks"] > 1 else ""
    return f"{each}{in_all} ({step['basis']})"


_SCALES = ("SCALE", "SIZE", "ITERATIONS", "CONTENT", "STYLE", "TV", "TILES", "MARGIN", "MEMORY", "WORK")


def _scale_rows(step: Mapping[str, Any]) -> Iterator[Sequence[object]]:
    for number, scale in enumerate(step["scales"], 1):
        tiles = scale["rows"] * scale["columns"]
        yield (
            number,
            _px(scale),
            scale["iterations"],
            *(f"{scale[name]:g}" for name in ("content_weight", "style_weight", "tv_weight")),
            "one piece" if scale["tile_px"] is None else f"{tiles}: {scale['columns']}x{scale['rows']}",
            "" if scale["tile_px"] is None else f"{scale['margin_px']} px",
            view.size(scale["memory_bytes"]),
            f"{scale['pixel_evaluations'] / step['pixel_evaluations']:.0%}",
        )
