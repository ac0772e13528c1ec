"""The kind of work `optimize`: pictures rendered by optimization, each by all members of a gang together."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from pathlib import PurePosixPath
from typing import Any

import torch

from jobs.errors import BadInputError, DeviceMemoryError, FarmError
from jobs.optimize import KIND, OptimizePayload
from jobs.tasks import Item, TaskMessage
from workers.images import check_writable, decode, verify
from workers.kinds import Context, Kind, Prepared, Produced, register
from workers.optimize_checks import check
from workers.optimize_files import state_name
from workers.optimize_forecast import forecast
from workers.optimize_gang import hear, tell, unpacked
from workers.optimize_layout import Layout, lay_out, too_small
from workers.optimize_notes import Kept, Notes, Subject
from workers.optimize_render import Order, Render, scales_to
from workers.optimize_studio import Studio, arithmetic, open_studio

log = logging.getLogger(__name__)


def prepare(task: TaskMessage, _item: Item, data: bytes) -> Prepared:
    """Decode one picture, no larger than the result will be.

    Raises:
        BadInputError: If it cannot be rendered.
    """
    payload = OptimizePayload.model_validate(task.payload)
    picture = decode(data, max_megapixels=payload.max_megapixels, max_size_px=payload.longest_px)
    return Prepared(picture, picture.memory_bytes)


def run(task: TaskMessage, context: Context) -> dict[str, Any]:
    """Render the items of a task; member 0 leads, the others compute what it says.

    Raises:
        FarmError: If what all pictures need cannot be used.
    """
    studio = open_studio(OptimizePayload.model_validate(task.payload), context)
    with arithmetic(studio.device, studio.threads, tf32=studio.payload.precision == "tf32"):
        if context.group.rank == 0:
            _lead(studio, task, context)
        else:
            _follow(studio, context)
    return {}


def settings(payload: dict[str, Any]) -> dict[str, Any]:
    """Return what of the payload decides pixels."""
    return OptimizePayload.model_validate(payload).settings()


register(Kind(KIND, run, prepare, settings, check, forecast))


def _follow(studio: Studio, context: Context) -> None:
    while (words := hear(context.group)) is not None:
        try:
            render = Render(studio, Order(**words), context.group, None)
            if not render.run(context.should_stop):
                return
            render.result()
        except ValueError:
            continue  # member 0 met the same, and says so


def _lead(studio: Studio, task: TaskMessage, context: Context) -> None:
    kept = _load_kept(context.load_checkpoint(), context.checkpoint_parts)
    for number, (item, picture) in enumerate(context.read_ahead()):
        content_sha256 = hashlib.sha256(picture.pixels.tobytes()).hexdigest()
        subject = Subject(item, picture, (number, len(task.items)), content_sha256)
        try:
            going_on = _state_of(subject, kept, studio, context)
            layout = _layout(studio, subject, going_on, context.group.size)
        except FarmError as error:
            context.finish_item(item, error)
            continue
        if not _render(studio, subject, going_on, layout, context):
            return
    tell(context.group, None)


def _render(studio: Studio, subject: Subject, kept: Kept | None, layout: Layout, context: Context) -> bool:
    """Render one picture and give it its outcome; return whether that was done, or it was told to stop."""
    tile_px = layout.tile_px or 0
    order = Order(
        torch.from_numpy(subject.picture.pixels),
        tile_px,
        layout.last.scale.iterations,
        layout.memory_bytes,
        resumes=kept is not None,
    )
    if tile_px:
        tell(context.group, order.to_words())
    notes = Notes(
        context,
        studio,
        subject,
        layout,
        workers=context.group.size if tile_px else 1,
        trace=kept.trace if kept else (),
    )
    try:
        state = (kept.state, notes.audible(kept.parts())) if kept else None
        render = Render(studio, order, context.group, notes, state)
        if not render.run(context.should_stop):
            return False
        rgb = render.result()
    except ValueError as error:
        context.finish_item(subject.item, BadInputError(f"it cannot be rendered: {error}"))
        return True
    data, note, facts = notes.finished(rgb)
    context.finish_item(subject.item, partial(_produce, data, note, facts))
    return True


def _produce(data: bytes, note: str, facts: dict[str, Any]) -> Produced:
    verify(data, facts["width_px"], facts["height_px"])
    return Produced(data, note, facts)


def _load_kept(data: bytes | None, parts: Callable[[], Iterable[bytes]]) -> Kept | None:
    """Return what was kept, or None if there is nothing, or nothing that this version can read."""
    if data is None:
        return None
    try:
        return Kept.from_words(unpacked(data), parts)
    except Exception as error:  # noqa: BLE001 - what a damaged file makes torch raise is anything
        log.warning("a state that was kept cannot be read: %s", error)
        return None


def _state_of(subject: Subject, checkpoint: Kept | None, studio: Studio, context: Context) -> Kept | None:
    """Return what a picture goes on from: an earlier attempt, or a finished render that is extended.

    Raises:
        FarmError: If the render that is to be extended kept nothing to go on from.
    """
    key = subject.item.output_key
    if checkpoint and (checkpoint.item, checkpoint.content_sha256) == (key, subject.content_sha256):
        return checkpoint
    extends = studio.payload.extends
    if extends is None:
        return None
    job = extends.job
    saved = context.kept_state(job, state_name(key))
    kept = _load_kept(saved.data, saved.parts) if saved else None
    if kept is None:
        reason = "kept a state that cannot be read" if saved else "kept no last state of it"
        raise FarmError(f"{key} cannot be extended: job {job} {reason}", "submit it with more iterations")
    if kept.content_sha256 != subject.content_sha256:
        raise FarmError(
            f"{key} cannot be extended: {subject.item.input} is not what job {job} rendered",
            "submit it as a new job",
        )
    return replace(kept, last_iterations=_extended(kept, studio))


def _extended(kept: Kept, studio: Studio) -> int:
    """Return the iterations of the last scale of a render that is extended.

    One that was stopped early by a rule goes on from where it was.
    """
    progress = kept.state["progress"]
    used = int(progress["evaluations" if studio.recipe.counts_evaluations else "iterations"])
    more = studio.payload.extends.iterations[-1] if studio.payload.extends else 0
    return min(kept.last_iterations, used) + more


def _layout(studio: Studio, subject: Subject, kept: Kept | None, workers: int) -> Layout:
    """Return how a picture is rendered; one that goes on keeps its tiles.

    Raises:
        FarmError: If it is too small or too large.
    """
    payload, picture = studio.payload, subject.picture
    size = (picture.pixels.shape[0], picture.pixels.shape[1])
    styles = [(pixels.shape[0], pixels.shape[1]) for _, pixels in studio.styles]
    prepared = studio.recipe.prepare(studio.network)
    if small := too_small(prepared, studio.recipe, studio.scales, size, styles):
        raise BadInputError(small, "use a larger size, or a larger smallest_px")
    try:
        check_writable(PurePosixPath(subject.item.output_key).suffix, payload.longest_px)
    except ValueError as error:
        raise BadInputError(str(error), "choose another format") from error
    if kept is not None:
        payload = payload.model_copy(update={"tile_px": kept.tile_px or None})
        workers = workers if kept.tile_px else 1
    alone = workers == 1
    members = studio.members
    memory_bytes = members.memory_bytes if alone else members.least_memory_bytes
    layout = lay_out(
        payload,
        size,
        studio.network,
        workers,
        "cpu" if studio.device == "cpu" else "cuda",
        memory_bytes,
        style_sizes=styles,
    )
    if kept is None:
        return layout
    if layout.tile_px != (kept.tile_px or None):
        raise DeviceMemoryError(
            f"it was begun in one piece, and {memory_bytes / 2**30:.1f} GiB of memory are too few for that"
        )
    last = layout.last
    scales = scales_to(studio.scales, kept.last_iterations)
    return replace(layout, scales=(*layout.scales[:-1], replace(last, scale=scales[-1])))
