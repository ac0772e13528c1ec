"""What long tasks say of themselves while they run, kept small: how far they are, losses, previews."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from farm.ledger import Ledger
from farm.running import JobRun, Lease, TaskRun
from jobs.tasks import Emitted, Progress

MOST_POINTS = 256
"""Points of a loss curve in the ledger; when there are more, every second one goes."""

_EVERY_S = 1.0


@dataclass(frozen=True, slots=True)
class _Point:
    """One row of a curve, and where on it that stands: scale and evaluations, if it says so."""

    row: int
    at: tuple[int, int] | None


@dataclass
class _Curve:
    """The losses of one item: every `stride`th of them, and the newest.

    Attributes:
        heard: How many losses were heard since the curve was begun or read back.
        newest: The last one heard, while the ledger does not have it.
        tail: Row of the newest one in the ledger, if that is not a point that stays.
        written_at: When the ledger last got one.
    """

    points: list[_Point] = field(default_factory=list)
    stride: int = 1
    heard: int = 0
    newest: dict[str, Any] | None = None
    tail: int | None = None
    written_at: float = 0.0


class ProgressLog:
    """Writes down what running tasks say: at most about once a second of each, and never without bound.

    Args:
        clock: Monotonic seconds.
    """

    def __init__(self, ledger: Ledger, clock: Callable[[], float]) -> None:
        self._ledger = ledger
        self._clock = clock
        self._curves: dict[int, dict[str, _Curve]] = {}
        self._previews: dict[tuple[int, str], int] = {}

    def progressed(self, lease: Lease, event: Progress) -> None:
        """Take in how far an attempt is. A task never goes back: an attempt may repeat what another did."""
        task = lease.task
        lease.advanced = lease.advanced or event.fraction > task.fraction
        task.fraction = max(task.fraction, event.fraction)
        task.message = event.message
        if self._clock() - task.noted_at >= _EVERY_S:
            self._note(task)

    def emitted(self, job: JobRun, lease: Lease, event: Emitted) -> None:
        """Take in a loss, a preview, or something else that is to be read."""
        data = {**event.data, "task": event.task}
        if event.type == "loss":
            self._loss(job.id, lease, data)
        elif event.type == "preview":
            self._preview(job.id, lease, data)
        else:
            self._ledger.event(job.id, event.type, _text(event), data)

    def attempt_over(self, job: JobRun, task: TaskRun) -> None:
        """Write down what an attempt said last; the next one reads back what it goes on with."""
        if task.fraction or task.message:
            self._note(task)
        for curve in self._curves.pop(task.id, {}).values():
            self._write_newest(job.id, curve)
        for key in [key for key in self._previews if key[0] == task.id]:
            del self._previews[key]

    def _note(self, task: TaskRun) -> None:
        task.noted_at = self._clock()
        self._ledger.update("tasks", {"fraction": task.fraction, "message": task.message}, id=task.id)

    # Curves.

    def _loss(self, job: str, lease: Lease, data: dict[str, Any]) -> None:
        item = str(data.get("item", ""))
        curves = self._curves.setdefault(lease.task.id, {})
        if item not in curves:
            curves[item] = _Curve(
                [_Point(row, _place(old)) for row, old in self._said(job, "loss", lease, item)]
            )
        curve, at = curves[item], _place(data)
        # An attempt that goes on from a checkpoint draws the end of the curve once more.
        while at and curve.points and (last := curve.points[-1]).at and last.at >= at:
            self._ledger.drop_event(curve.points.pop().row)
        curve.newest = data
        curve.heard += 1
        if (curve.heard - 1) % curve.stride == 0:
            self._write_newest(job, curve)
            if curve.tail is not None:
                curve.points.append(_Point(curve.tail, at))
                curve.tail = None
            self._thin(curve)
        elif self._clock() - curve.written_at >= _EVERY_S:
            self._write_newest(job, curve)

    def _write_newest(self, job: str, curve: _Curve) -> None:
        if curve.newest is None:
            return
        if curve.tail is not None:
            self._ledger.drop_event(curve.tail)
        curve.tail = self._ledger.event(job, "loss", f"loss {curve.newest.get('loss')}", curve.newest)
        curve.newest, curve.written_at = None, self._clock()

    def _thin(self, curve: _Curve) -> None:
        if len(curve.points) > MOST_POINTS:
            for point in curve.points[1::2]:
                self._ledger.drop_event(point.row)
            curve.points = curve.points[::2]
            curve.stride *= 2

    # Previews.

    def _preview(self, job: str, lease: Lease, data: dict[str, Any]) -> None:
        item = str(data.get("item", ""))
        key = (lease.task.id, item)
        known = [self._previews[key]] if key in self._previews else []
        for row in known or [row for row, _ in self._said(job, "preview", lease, item)]:
            self._ledger.drop_event(row)
        self._previews[key] = self._ledger.event(job, "preview", str(data.get("file", "")), data)

    def _said(self, job: str, type_: str, lease: Lease, item: str) -> list[tuple[int, dict[str, Any]]]:
        """Return what earlier attempts said of an item, in order, each with its row."""
        if lease.attempt == 1:
            return []
        rows = self._ledger.read("SELECT id, data FROM events WHERE job=? AND type=? ORDER BY id", job, type_)
        said = [(row["id"], json.loads(row["data"])) for row in rows]
        return [
            (row, data)
            for row, data in said
            if data.get("task") == lease.task.id and str(data.get("item", "")) == item
        ]


def _place(data: Mapping[str, Any]) -> tuple[int, int] | None:
    scale, evaluations = data.get("scale"), data.get("evaluations")
    return (scale, evaluations) if isinstance(scale, int) and isinstance(evaluations, int) else None


def _text(event: Emitted) -> str:
    return str(event.data.get("text") or ", ".join(f"{name} {value}" for name, value in event.data.items()))
