"""The kind of work `stylize`: pictures of a folder, rendered in one style."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from jobs.errors import BadInputError, DeviceMemoryError, FarmError, UsageError
from jobs.stylize import KIND, StylizePayload
from jobs.tasks import Item, TaskMessage
from workers.images import Picture, Pixels, decode, encode, verify
from workers.kinds import Context, Kind, Prepared, Produced, device_for, register
from workers.memory import free_bytes, return_memory
from workers.nst.inference import InferenceNet, render_batch, render_bytes
from workers.nst.style_models import load_style_model
from workers.precision import note_on_precision

log = logging.getLogger(__name__)

_CUDA_BATCH = 4
"""As many as are decoded ahead; more would only wait for each other."""

_Work = tuple[Item, Picture]


def prepare(task: TaskMessage, _item: Item, data: bytes) -> Prepared:
    """Decode one picture.

    Raises:
        BadInputError: If it cannot be rendered.
    """
    payload = StylizePayload.model_validate(task.payload)
    picture = decode(data, max_megapixels=payload.max_megapixels, max_size_px=payload.max_size_px)
    return Prepared(picture, picture.memory_bytes)


def run(task: TaskMessage, context: Context) -> dict[str, Any]:
    """Render the items of a task; a picture that cannot be rendered fails itself only.

    Raises:
        FarmError: If the style cannot be loaded, or the task wants another device than this worker's.
    """
    payload = StylizePayload.model_validate(task.payload)
    device = device_for(payload.device, context)
    if device == "cpu":
        torch.set_num_threads(payload.threads or context.threads)
    limit = payload.batch or (1 if device == "cpu" else _CUDA_BATCH)
    for batch in _batches(context.read_ahead(), limit):
        if context.should_stop():
            break
        _render(_model(payload, context, device), batch, payload, context)
    return {}


def settings(payload: dict[str, Any]) -> dict[str, Any]:
    """Return what of the payload decides pixels."""
    return StylizePayload.model_validate(payload).settings()


register(Kind(KIND, run, prepare, settings))


def _model(payload: StylizePayload, context: Context, device: str) -> InferenceNet:
    def load() -> tuple[InferenceNet, int]:
        name = payload.style.name
        try:
            net = load_style_model(context.asset(payload.style.sha256), device, payload.precision)
        except ValueError as error:
            raise FarmError(f"the style {name} cannot be loaded: {error}") from error
        except UsageError as error:
            raise UsageError(f"the style {name} is missing: {error.message}", error.hint) from error
        if slow := note_on_precision(payload.precision, device):
            context.emit("message", {"text": slow})
        return net, net.weight_bytes

    net: InferenceNet = context.models.get((payload.style.sha256, f"{payload.precision} {device}"), load)
    return net


def _batches(works: Iterable[_Work], limit: int) -> Iterator[list[_Work]]:
    """Yield runs of pictures of one size, each as soon as it is full or another size comes."""
    batch: list[_Work] = []
    for work in works:
        if batch and work[1].pixels.shape != batch[0][1].pixels.shape:
            yield batch
            batch = []
        batch.append(work)
        if len(batch) == limit:
            yield batch
            batch = []
    if batch:
        yield batch


def _render(net: InferenceNet, batch: list[_Work], payload: StylizePayload, context: Context) -> None:
    """Render pictures of one size and give each its outcome; in halves where they are too much at once."""
    since = time.monotonic()
    rendered = _rendered(net, [picture for _, picture in batch])
    if isinstance(rendered, FarmError):
        if len(batch) == 1:
            context.finish_item(batch[0][0], rendered)
            return
        half = len(batch) // 2
        for part in (batch[:half], batch[half:]):
            if not context.should_stop():
                _render(net, part, payload, context)
        return
    seconds = (time.monotonic() - since) / len(batch)
    for (item, picture), pixels in zip(batch, rendered, strict=True):
        suffix = Path(item.output_key).suffix
        context.finish_item(item, partial(_produce, picture, pixels, suffix, payload.quality, seconds))


def _rendered(net: InferenceNet, pictures: list[Picture]) -> list[Pixels] | FarmError:
    """Return the rendered pictures, or why there are none."""
    height_px, width_px = pictures[0].pixels.shape[:2]
    need_bytes = render_bytes(net, height_px, width_px) * len(pictures)
    free_now = free_bytes(net.device.type)
    if need_bytes > free_now:
        return_memory(net.device.type)
        free_now = free_bytes(net.device.type)
    megapixels = height_px * width_px / 1e6
    too_little = DeviceMemoryError(
        f"{megapixels:.4g} megapixels need about {need_bytes / 2**30:.1f} GiB to render, and "
        f"{free_now / 2**30:.1f} GiB are free on {net.device}",
        "set max_size_px, use precision bf16, or give it a machine with more memory",
    )
    if need_bytes > free_now:
        return too_little
    try:
        batch = torch.from_numpy(np.stack([picture.pixels for picture in pictures]))
        return list(render_batch(net, batch).numpy())
    except (torch.OutOfMemoryError, MemoryError) as error:  # answered below, where no traceback holds tensors
        log.warning("%d pictures of %.4g megapixels did not fit: %s", len(pictures), megapixels, error)
    except ValueError as error:
        return FarmError(f"it could not be rendered: {error}")
    return_memory(net.device.type)
    return too_little


def _produce(picture: Picture, pixels: Pixels, suffix: str, quality: int, seconds: float) -> Produced:
    """Encode and check one result.

    Raises:
        BadInputError: If its format cannot hold it.
        OutputCheckError: If the file is not the picture that it should be.
    """
    height_px, width_px = pixels.shape[:2]
    try:
        data, lost = encode(pixels, picture.alpha, suffix, quality)
    except ValueError as error:
        raise BadInputError(str(error), "choose another format") from error
    verify(data, width_px, height_px)
    note = "; ".join(filter(None, (picture.note, lost)))
    return Produced(data, note, {"width_px": width_px, "height_px": height_px, "seconds": round(seconds, 4)})
