"""Looks at submit whether a style can be trained."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jobs.errors import BadInputError, FarmError, UsageError
from jobs.steps import PlannedItem
from jobs.tiles import Device, usable_bytes
from jobs.train import TrainPayload
from workers.kinds import Checks
from workers.nst.features import LossNetwork
from workers.nst.onnx_files import can_write_onnx
from workers.nst.style_models import read_style_model
from workers.nst.training_presets import TrainingRecipe
from workers.optimize_recipe import is_own_network, network_note, read_network
from workers.precision import note_on_precision
from workers.train_recipe import check_network, painting_size, recipe_of
from workers.train_studio import read_painting


def check(payload: dict[str, Any], _items: Sequence[PlannedItem], checks: Checks) -> None:
    """Look whether a style can be trained.

    A painting that cannot be used fails its own style only, where the job trains others as well.

    Args:
        payload: Of the task.
        checks: What may be used.

    Raises:
        UsageError: Saying what cannot be done, and the key that says it.
    """
    said = TrainPayload.model_validate(payload)
    if said.device == "cuda" and checks.device == "cpu":
        raise UsageError("device: the workers of this farm have no GPU", "leave device at auto")
    if said.onnx and not can_write_onnx():
        raise UsageError(
            "onnx: writing ONNX takes the package onnx, which is not installed here",
            "pip install 'stylefarm[onnx]' on all machines of the farm",
        )
    if slow := note_on_precision(said.precision, device_of(said, checks)):
        checks.note(slow)
    recipe = recipe_of(said)
    network = _network(said, recipe, checks)
    _check_begin(said, checks)
    _check_sharing(recipe, checks)
    _check_memory(said, recipe, checks)
    try:
        _check_paintings(said, recipe, network, checks)
    except UsageError as error:
        if checks.alone:
            raise
        checks.note(f"{said.style} will fail: {error}")


def device_of(said: TrainPayload, checks: Checks) -> Device:
    """Return what a style would be trained on."""
    return "cpu" if said.device == "cpu" or checks.device == "cpu" else "cuda"


def needed_bytes(recipe: TrainingRecipe, width: int, precision: str, members: int = 1) -> int:
    """Return about how much memory a training takes of one member, beside what a worker needs anyway.

    Measured with VGG-19 to relu5_1 on a CPU, at crops of 128 and 192 px.

    Args:
        recipe: What is trained.
        width: Base width of the network.
        precision: `fp32` or `bf16`.
        members: Of the gang that shares each batch.
    """
    each = 1900 + 80 * width if precision == "bf16" else 3200 + 100 * width
    photographs = -(-recipe.batch // members)
    return photographs * recipe.crop.side_px**2 * each


def _network(said: TrainPayload, recipe: TrainingRecipe, checks: Checks) -> LossNetwork:
    """Return the loss network; one that is not the preset's own is worth a note."""
    try:
        network, metadata = read_network(checks.asset(said.loss_network.sha256), said.loss_network.name)
    except FarmError as error:
        raise UsageError(f"loss_network: {error.message}", error.hint) from error
    check_network(recipe, network, said.loss_network)
    if not is_own_network(recipe, metadata) and not recipe.relative:
        checks.note(f"loss network {said.loss_network.name}: {network_note(recipe, metadata)}")
    return network


def _check_begin(said: TrainPayload, checks: Checks) -> None:
    if said.begin_with is None:
        return
    try:
        net, _ = read_style_model(checks.asset(said.begin_with.sha256))
    except ValueError as error:
        raise UsageError(f"begin_with: {said.begin_with.name} cannot be loaded: {error}") from error
    if net.width != said.width:
        raise UsageError(
            f"begin_with: {said.begin_with.name} has base width {net.width}, "
            f"and {said.network} has {said.width}",
            "train the network that it has",
        )


def _check_sharing(recipe: TrainingRecipe, checks: Checks) -> None:
    if recipe.batch < checks.workers:
        raise UsageError(
            f"batch: {checks.workers} workers share the {recipe.batch} photographs of a step",
            "use fewer workers, or a larger batch",
        )


def _check_memory(said: TrainPayload, recipe: TrainingRecipe, checks: Checks) -> None:
    if not checks.memory_bytes:
        return
    usable = usable_bytes(checks.memory_bytes, device_of(said, checks))
    needed = needed_bytes(recipe, said.width, said.precision, max(1, checks.workers))
    if needed > usable:
        raise UsageError(
            f"batch: {recipe.batch} crops of {recipe.crop.side_px} px take about {needed / 1e9:.1f} GB, and "
            f"a worker has {usable / 1e9:.1f} GB for them",
            "use a smaller batch or crop_px, or precision bf16",
        )


def _check_paintings(
    said: TrainPayload, recipe: TrainingRecipe, network: LossNetwork, checks: Checks
) -> None:
    """Check that the paintings can be read, and are large enough for the layers of style."""
    layers = [layer for layer, weight in recipe.style_layers.items() if weight]
    for number, style in enumerate(said.style_images):
        key = f"style_images[{number}]"
        try:
            pixels = read_painting(checks.asset(style.sha256), style.name)
        except BadInputError as error:
            raise UsageError(f"{key}: {error.message}", error.hint) from error
        height_px, width_px = painting_size(recipe, (pixels.shape[0], pixels.shape[1]), said.style_crop)
        try:
            network.check_size(height_px, width_px, layers)
        except ValueError as error:
            raise UsageError(f"{key}: {style.name}: {error}", "use a larger painting") from error
