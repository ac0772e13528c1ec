"""What a member of a gang has for a training: recipe, loss network, paintings, threads, photographs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from jobs.errors import BadInputError, FarmError
from jobs.inputs import Picture
from jobs.optimize import AssetRef
from jobs.train import TrainPayload, result_key
from jobs.training_data import decode_listing
from workers.kinds import Context, device_for
from workers.memory import return_memory
from workers.nst.features import LossNetwork
from workers.nst.loss_networks import NetworkMetadata
from workers.nst.style_models import read_style_model
from workers.nst.training import Training, untrained
from workers.nst.training_data import held_out
from workers.nst.training_presets import TrainingRecipe
from workers.nst.transformer import TransformerNet
from workers.optimize_gang import survey, thread_count
from workers.optimize_studio import open_network
from workers.train_data import Photographs, decoded
from workers.train_recipe import check_network, recipe_of, sized_painting


@dataclass(frozen=True, slots=True, eq=False)
class Studio:
    """What a member has for a training.

    Attributes:
        key: Of the result.
        network: The loss network, float32, on the device.
        device: `cpu`, `cuda`, `cuda:0`.
        threads: For computing, on a CPU.
        paintings: Weight and image of each, float32 `[1, 3, H, W]` in 0..1, as they are learned.
    """

    payload: TrainPayload
    recipe: TrainingRecipe
    key: str
    network: LossNetwork
    metadata: NetworkMetadata
    device: str
    threads: int
    paintings: tuple[tuple[float, Tensor], ...]

    def training(self, context: Context) -> Training:
        """Return the training before its first step; the others of the group do the same.

        Raises:
            BadInputError: If a painting is too small, or the style to begin with does not fit.
        """
        try:
            return Training(
                self.recipe,
                self.network,
                _begin(self.payload, self.recipe, context),
                self.paintings,
                precision=self.payload.precision,
                group=context.group,
            )
        except ValueError as error:
            raise BadInputError(f"{self.payload.style} cannot be trained: {error}") from error


@dataclass(frozen=True, slots=True, eq=False)
class Data:
    """Which photographs a training has.

    Attributes:
        photographs: All that were listed.
        trained: Numbers of those to train with.
        judging: The photographs of which some are validated with; may be the same.
        judged: Numbers of these.
    """

    photographs: Photographs
    trained: Sequence[int]
    judging: Photographs
    judged: Sequence[int]


def open_studio(payload: TrainPayload, paintings: Sequence[Tensor], context: Context) -> Studio:
    """Return what this member has; all members of the gang call this.

    Args:
        payload: Of the task.
        paintings: Pixels of each, uint8 `[H, W, 3]`.
        context: Of the attempt.

    Raises:
        FarmError: If the network cannot be used, or the device is not the one that is wanted.
    """
    device = device_for(payload.device, context)
    recipe = recipe_of(payload)
    network, metadata = open_network(payload.loss_network, "fp32", context, device)
    check_network(recipe, network, payload.loss_network)
    return_memory(torch.device(device).type)
    members = survey(context.group, device)
    sized = [sized_painting(recipe, pixels, payload.style_crop) for pixels in paintings]
    return Studio(
        payload,
        recipe,
        result_key(payload.style),
        network,
        metadata,
        device,
        thread_count(payload.threads, context.threads, members.here),
        tuple(zip((style.weight for style in payload.style_images), sized, strict=True)),
    )


def open_data(payload: TrainPayload, recipe: TrainingRecipe, context: Context, bad: dict[int, str]) -> Data:
    """Return the photographs of a training.

    Args:
        payload: Of the task.
        recipe: How crops are cut.
        context: Of the attempt.
        bad: Those that are known not to be readable.

    Raises:
        FarmError: If the list cannot be read, or holds too few.
    """
    listed = _listing(payload.data, context)
    photographs = Photographs([each.url for each in listed], context.read, recipe.crop, bad=bad)
    pictures = payload.validation.pictures
    if payload.validation_data is None:
        trained, judged = _parted(payload.seed, len(listed), pictures)
        return Data(photographs, trained, photographs, judged)
    others = _listing(payload.validation_data, context)
    judging = Photographs([each.url for each in others], context.read, recipe.crop, limit_bytes=0)
    judged = list(range(len(others)))
    if pictures < len(others):
        judged = _parted(payload.seed, len(others), pictures)[1]
    return Data(photographs, range(len(listed)), judging, judged)


def read_painting(path: Path, name: str) -> Tensor:
    """Return the pixels of a painting, uint8 `[H, W, 3]`, transparency on white.

    Raises:
        BadInputError: If it cannot be read.
    """
    try:
        return decoded(path.read_bytes())
    except BadInputError as error:
        raise BadInputError(f"{name}: {error.message}", error.hint) from error


def _listing(ref: AssetRef, context: Context) -> list[Picture]:
    try:
        return decode_listing(context.asset(ref.sha256).read_bytes())
    except ValueError as error:
        raise FarmError(f"the list of {ref.name} is damaged: {error}", "submit it again") from error


def _parted(seed: int, count: int, pictures: int) -> tuple[list[int], list[int]]:
    try:
        return held_out(seed, count, pictures)
    except ValueError as error:
        raise BadInputError(f"{error}", "hold out fewer") from error


def _begin(payload: TrainPayload, recipe: TrainingRecipe, context: Context) -> TransformerNet:
    if payload.begin_with is None:
        return untrained(recipe, payload.width, payload.seed)
    try:
        net, _ = read_style_model(context.asset(payload.begin_with.sha256))
    except ValueError as error:
        raise BadInputError(f"the style {payload.begin_with.name} cannot be begun with: {error}") from error
    if net.width != payload.width:
        raise BadInputError(
            f"the style {payload.begin_with.name} has base width {net.width}, the network {payload.width}",
            "train the network that it has",
        )
    return net
