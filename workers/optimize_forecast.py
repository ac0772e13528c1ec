"""What a render would do and about how long it would take: for dry runs."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import PurePosixPath
from typing import Any

import torch

from jobs.errors import BadInputError
from jobs.optimize import OptimizePayload
from jobs.steps import PlannedItem
from jobs.tiles import Device
from workers.images import picture_size
from workers.kinds import Checks
from workers.nst.features import LossNetwork
from workers.nst.multiscale import Size, fit
from workers.nst.recipes import Recipe
from workers.nst.speed import Speed, measure_speed
from workers.optimize_layout import Layout, ScaleLayout, lay_out
from workers.optimize_recipe import is_own_network, read_network, recipe_of

_MEASURED_S = 2.0

_BUSY_SHARE = 0.25
"""Of the cores: where others use more, what is measured on the CPU is measured beside them."""

_UNKNOWN_SIZE = 3, 4
"""Proportions, height to width, of a picture that cannot be read: it will fail by itself, beside others."""


def forecast(payload: dict[str, Any], items: Sequence[PlannedItem], checks: Checks) -> dict[str, Any]:
    """Return how the first picture would be rendered: scales, tiles, memory, work and time.

    Args:
        payload: Of the first task of a step, one that `check` let pass.
        items: Of that task.
        checks: What may be used.

    Raises:
        FarmError: If it cannot be laid out.
    """
    said = OptimizePayload.model_validate(payload)
    recipe = recipe_of(said)
    network, metadata = read_network(checks.asset(said.network.sha256), said.network.name)
    device: Device = "cpu" if said.device == "cpu" or checks.device == "cpu" else "cuda"
    size = _content_size(said, items, checks)
    paintings = [_size(checks.asset(style.sha256).read_bytes(), math.inf) for style in said.styles]
    layout = lay_out(
        said,
        size or fit(_UNKNOWN_SIZE, said.longest_px),
        network,
        max(1, checks.workers),
        device,
        checks.memory_bytes,
        style_sizes=paintings,
    )
    total = math.fsum(style.weight for style in said.styles)
    seconds, basis = _time(said, recipe, network, layout, device)
    return {
        "picture": {
            "name": PurePosixPath(items[0].input).name if items else "",
            "height_px": size[0] if size else None,
            "width_px": size[1] if size else None,
        },
        "preset": said.preset,
        "styles": [{"name": style.name, "share": style.weight / total} for style in said.styles],
        "loss_network": {
            "name": said.network.name,
            "architecture": metadata.architecture,
            "family": metadata.family,
            "channel_scaled": metadata.channel_scaled,
            "of_preset": is_own_network(recipe, metadata),
        },
        "workers": layout.workers,
        "device": device,
        "device_bytes": checks.memory_bytes,
        "precision": said.precision,
        "tile_px": layout.tile_px,
        "memory_bytes": layout.memory_bytes,
        "pixel_evaluations": layout.pixel_evaluations,
        "scales": [_scale(scale, recipe, layout) for scale in layout.scales],
        "seconds": seconds,
        "basis": basis,
    }


def _content_size(said: OptimizePayload, items: Sequence[PlannedItem], checks: Checks) -> Size | None:
    if not items:
        return None
    try:
        return _size(checks.read(items[0].input), said.max_megapixels)
    except BadInputError:  # the check has said so
        return None


def _size(data: bytes, max_megapixels: float) -> Size:
    width_px, height_px = picture_size(data, max_megapixels=max_megapixels)
    return height_px, width_px


def _scale(laid: ScaleLayout, recipe: Recipe, layout: Layout) -> dict[str, Any]:
    scale = laid.scale
    return {
        "height_px": laid.size[0],
        "width_px": laid.size[1],
        "iterations": scale.iterations,
        "content_weight": recipe.content_weight * scale.content,
        "style_weight": recipe.style_weight * scale.style,
        "tv_weight": recipe.tv_weight * scale.tv,
        "tile_px": layout.tile_px,
        "rows": laid.rows,
        "columns": laid.columns,
        "margin_px": laid.margin_px,
        "memory_bytes": laid.memory_bytes,
        "pixel_evaluations": laid.pixel_evaluations,
    }


# --- time -----------------------------------------------------------------------------------------


def _time(
    said: OptimizePayload, recipe: Recipe, network: LossNetwork, layout: Layout, device: Device
) -> tuple[float | None, str]:
    """Return the seconds for a picture, or None, and how that is known.

    In tiles, the worker that reads most, margins included, is waited for in every evaluation. Workers on
    CPUs are taken to share the cores of this machine, so that all of these together are measured; a GPU is
    a worker's own. What else runs here slows the measurement down, which nobody can tell from a slow machine.
    """
    if device == "cuda" and not torch.cuda.is_available():
        return None, "the workers have GPUs, and there is none here to measure"
    cores = len(os.sched_getaffinity(0))
    each = said.threads or max(1, cores // layout.workers)
    threads = min(cores, each * layout.workers)
    load = os.getloadavg()[0]  # before this adds to it
    speed = _measured(said, recipe, network, device, threads)
    pixels = sum(scale.busiest_px * scale.scale.iterations for scale in layout.scales)
    sharing = layout.workers if device == "cpu" else 1
    on = f"{threads} thread{'s' if threads > 1 else ''}" if device == "cpu" else "the GPU"
    basis = (
        f"an estimate: one evaluation of {speed.side_px}x{speed.side_px} px took {speed.seconds:.2g} s on "
        f"{on} of this machine"
    )
    if device == "cpu":
        basis += busy_note(load, cores)
    return round(pixels * sharing * speed.seconds_per_pixel, 1), basis


def busy_note(load: float, cores: int) -> str:
    """Return what to add to a measurement on CPUs that others used as well, or an empty string."""
    if load <= _BUSY_SHARE * cores:
        return ""
    of_cores = f"{cores} core{'s' if cores > 1 else ''}"
    return f", which was busy (load {load:.1f} on {of_cores}): alone on it, it would take less"


def _measured(
    said: OptimizePayload, recipe: Recipe, network: LossNetwork, device: Device, threads: int
) -> Speed:
    dtype = torch.bfloat16 if said.precision == "bf16" else torch.float32
    with computing(threads, tf32=said.precision == "tf32"):
        return measure_speed(recipe, network.to(device, dtype), seconds=_MEASURED_S)


@contextmanager
def computing(threads: int, *, tf32: bool = False) -> Iterator[None]:
    """Compute with so many threads, on GPUs with or without TF32, and deterministically, as workers do."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with _tf32(allowed=tf32):
            yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _tf32(*, allowed: bool) -> Iterator[None]:
    """Compute on GPUs with or without TF32, and deterministically, as workers do."""
    products = torch.backends.cuda.matmul
    before = products.allow_tf32
    products.allow_tf32 = allowed
    try:
        with torch.backends.cudnn.flags(
            enabled=True, benchmark=False, deterministic=True, allow_tf32=allowed
        ):
            yield
    finally:
        products.allow_tf32 = before
