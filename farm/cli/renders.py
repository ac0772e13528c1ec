"""How optimizations and trainings look in a terminal: where each stands, its loss curve, what came of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from farm.cli import chart, view

_CURVE_LINES = 8
_LEAST_LINES = 16
"""A terminal with fewer lines gets no curve."""


def task_line(task: Mapping[str, Any]) -> str:
    """Return where one long task stands: `town.png: 41 %, scale 3 of 5, loss 12.3, on 2 workers`."""
    workers = task["workers"]
    parts = [
        f"{100 * task['fraction']:.0f} %" if task["fraction"] else "",
        task["message"],
        _loss(task),
        f"on {len(workers)} workers" if len(workers) > 1 else "",
    ]
    name = task["item"] or f"task {task['task']}"
    return view.clean(f"{name}: {', '.join(filter(None, parts))}")


def preview_line(job: Mapping[str, Any], task: Mapping[str, Any]) -> str:
    """Return where the newest pictures of a long task are."""
    return view.clean(f"to look at: {view.beside_report(job, task['preview'])}")


def curve_lines(points: Sequence[Mapping[str, Any]], width: int, height: int = _CURVE_LINES) -> list[str]:
    """Return a drawing of a loss curve; a change of scale, where the loss jumps, is a point like others."""
    return chart.curve(
        [float(point["loss"]) for point in points if point.get("loss") is not None], width, height
    )


def lines(job: Mapping[str, Any], curves: Iterable[Mapping[str, Any]], width: int, height: int) -> list[str]:
    """Return all that is to be seen of a job's long tasks in a terminal of this size."""
    tasks = job["running"]
    shown = [task_line(task) for task in tasks[: max(1, height - 4)]]
    if height >= _LEAST_LINES:
        shown += [preview_line(job, task) for task in tasks if task["preview"]][-1:]
    by_task = {curve["task"]: curve["points"] for curve in curves}
    newest = next((task for task in tasks if by_task.get(task["task"])), None)
    if newest is None or height < _LEAST_LINES:
        return shown
    return [*shown, *curve_lines(by_task[newest["task"]], width)]


def running_facts(job: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return names and values that tell of the long tasks of a job."""
    facts = []
    for task in job.get("running", ()):
        facts.append(("waits" if task["state"] == "queued" else "at work", task_line(task)))
        if task["preview"]:
            facts.append(("preview", view.beside_report(job, task["preview"])))
    return facts


def made_facts(job: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return names and values that tell how optimized pictures and trained styles were made."""
    found = job.get("renders", ())
    facts = [
        ("made", f"{made['output']}: {how(made)}") for made in found if not _is_style(made) and how(made)
    ]
    styles = list(filter(_is_style, found))
    for made in styles:
        told = how_trained(made)
        facts.append(("trained", f"style {made['style']}, {made['output']}{f': {told}' if told else ''}"))
    if any(made.get("state") == "done" for made in styles):
        facts.append(("on the way", view.beside_report(job, "previews")))
        facts.append(("losses", view.beside_report(job, "traces")))
    return facts


def _is_style(made: Mapping[str, Any]) -> bool:
    return made.get("kind") == "train"


def how_trained(made: Mapping[str, Any]) -> str:
    """Return how one style was trained, and what came of it."""
    parts = [
        f"preset {made['preset']}" if made.get("preset") else "",
        f"{made['steps']} steps" if made.get("steps") else "",
        _loss(made),
        f"{made['left_out']} photographs left out" if made.get("left_out") else "",
        f"went back {made['rollbacks']} times" if made.get("rollbacks") else "",
        view.duration(made["seconds"]) if made.get("seconds") else "",
    ]
    return ", ".join(filter(None, parts))


def _loss(said: Mapping[str, Any]) -> str:
    """Return the loss, and that of the pictures that are held out."""
    parts = [
        f"loss {said['loss']:.4g}" if said.get("loss") is not None else "",
        f"{said['validation_loss']:.4g} on pictures held out"
        if said.get("validation_loss") is not None
        else "",
    ]
    return ", ".join(filter(None, parts))


def how(made: Mapping[str, Any]) -> str:
    """Return how one picture was made: preset, network, tiles, workers, and what came of it."""
    network = made.get("network")
    parts = [
        f"preset {made['preset']}" if made.get("preset") else "",
        f"network {network}" if network else "",
        str(made.get("network_note") or ""),
        _tiles(made),
        f"{made['evaluations']} evaluations" if made.get("evaluations") else "",
        _loss(made),
        f"look {made['look']:.3g}" if made.get("look") is not None else "",
        view.duration(made["seconds"]) if made.get("seconds") else "",
    ]
    return ", ".join(filter(None, parts)) if made.get("preset") else ""


def _tiles(made: Mapping[str, Any]) -> str:
    workers, threads = made.get("workers") or 1, made.get("threads")
    on = f"on {workers} worker{'s' if workers > 1 else ''}"
    on += f" with {threads} thread{'s' if threads > 1 else ''} each" if threads else ""
    if made.get("tile_px"):
        return f"{made.get('tiles', '')} tiles of {made['tile_px']} px {on}".strip()
    return f"in one piece {on}"
