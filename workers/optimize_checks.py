"""Looks at submit whether a render can be done."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any

from jobs.errors import BadInputError, FarmError, UsageError
from jobs.optimize import AssetRef, OptimizePayload
from jobs.steps import PlannedItem
from jobs.tiles import Device
from workers.images import check_writable, picture_size
from workers.kinds import Checks
from workers.nst.features import LossNetwork
from workers.nst.multiscale import Size
from workers.nst.recipes import Recipe
from workers.nst.tiled import check_exact
from workers.optimize_layout import Layout, lay_out, too_small
from workers.optimize_recipe import (
    check_network,
    color_of,
    is_own_network,
    named,
    network_note,
    read_network,
    recipe_of,
    scales_of,
    stopping_of,
)
from workers.optimize_studio import read_painting
from workers.precision import note_on_precision

_UNKNOWN_RATIO = (3, 4)
"""Height to width of a picture whose size is not known."""


def check(payload: dict[str, Any], items: Sequence[PlannedItem], checks: Checks) -> None:
    """Look whether a render can be done.

    Args:
        payload: Of the first task of a step.
        items: Of that task.
        checks: What may be used.

    Raises:
        UsageError: Saying what cannot be done, and the key that says it.
    """
    said = OptimizePayload.model_validate(payload)
    _check_device(said, checks)
    recipe = recipe_of(said)
    scales = scales_of(said, recipe)
    stopping_of(said)
    color_of(said)
    network = _network(said, recipe, checks)
    prepared = recipe.prepare(network)
    styles = _painting_sizes(said, checks)
    longest_px = said.longest_px
    size = _content_size(said, items, checks)
    if size is not None and not checks.single:  # it may be the only one that is so narrow, or so large
        if small := too_small(prepared, recipe, scales, size, styles):
            checks.note(f"{items[0].input}: {small}")
        size = None
    if size is None:
        size = (max(1, longest_px * _UNKNOWN_RATIO[0] // _UNKNOWN_RATIO[1]), longest_px)
    with named("style_layers"):
        objective = recipe.objective(prepared, size)
    if small := too_small(prepared, recipe, scales, size, styles):
        raise UsageError(f"{_size_key(said)}: {small}", "begin with a larger scale")
    with named("format"):
        for item in items[:1]:
            check_writable(PurePosixPath(item.output_key).suffix, longest_px)
    layout = _laid_out(said, network, size, styles, checks)
    if layout.tile_px is not None:
        with named("tile_px"):
            check_exact(objective)


def _check_device(said: OptimizePayload, checks: Checks) -> None:
    if said.device == "cuda" and checks.device == "cpu":
        raise UsageError("device: the workers of this farm have no GPU", "leave device at auto")
    if said.precision == "tf32" and _device(said, checks) == "cpu":
        raise UsageError("precision: tf32 is of NVIDIA GPUs, and no CPU has it", "use fp32 or bf16")
    if slow := note_on_precision(said.precision, _device(said, checks)):
        checks.note(slow)


def _network(said: OptimizePayload, recipe: Recipe, checks: Checks) -> LossNetwork:
    """Return the loss network; one that is not the preset's own is worth a note."""
    try:
        network, metadata = read_network(checks.asset(said.network.sha256), said.network.name)
    except FarmError as error:
        raise UsageError(f"loss_network: {error.message}", error.hint) from error
    check_network(recipe, network, said.network)
    if not is_own_network(recipe, metadata):
        checks.note(f"loss network {said.network.name}: {network_note(recipe, metadata)}")
    return network


def _painting_sizes(payload: OptimizePayload, checks: Checks) -> tuple[Size, ...]:
    """Return the sizes of the paintings, having read them and the picture to begin with."""

    def size(key: str, ref: AssetRef) -> Size:
        try:
            pixels = read_painting(checks.asset(ref.sha256).read_bytes(), ref.name, payload.max_megapixels)
        except BadInputError as error:
            raise UsageError(f"{key}: {error.message}", error.hint) from error
        return pixels.shape[0], pixels.shape[1]

    if payload.init_image is not None:
        size("init.image", payload.init_image)
    return tuple(size(f"style_images[{n}]", style) for n, style in enumerate(payload.styles))


def _content_size(payload: OptimizePayload, items: Sequence[PlannedItem], checks: Checks) -> Size | None:
    """Return the size of the first picture; one that cannot be read fails by itself, if there are others."""
    if not items:
        return None
    try:
        width_px, height_px = picture_size(
            checks.read(items[0].input),
            max_megapixels=payload.max_megapixels,
            max_size_px=payload.longest_px,
        )
    except BadInputError as error:
        if checks.single:
            raise UsageError(f"inputs: {items[0].input}: {error.message}", error.hint) from error
        checks.note(f"{items[0].input}: {error}")
        return None
    return height_px, width_px


def _laid_out(
    payload: OptimizePayload, network: LossNetwork, size: Size, styles: Sequence[Size], checks: Checks
) -> Layout:
    try:
        return lay_out(
            payload,
            size,
            network,
            max(1, checks.workers),
            _device(payload, checks),
            checks.memory_bytes,
            style_sizes=styles,
        )
    except UsageError as error:
        raise UsageError(f"tile_px: {error.message}", error.hint) from error
    except FarmError as error:
        key = "tile_px" if payload.tile_px is not None else _size_key(payload)
        raise UsageError(f"{key}: {error.message}", error.hint) from error


def _size_key(payload: OptimizePayload) -> str:
    return "scales" if payload.scales is not None else "size_px"


def _device(payload: OptimizePayload, checks: Checks) -> Device:
    return "cpu" if payload.device == "cpu" or checks.device == "cpu" else "cuda"
