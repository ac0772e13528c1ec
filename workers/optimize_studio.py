"""What a member of a gang has for all pictures of a task: recipe, loss network, paintings, threads."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from jobs.errors import BadInputError, FarmError
from jobs.optimize import AssetRef, OptimizePayload
from workers.images import Pixels, decode, on_white
from workers.kinds import Context, device_for
from workers.memory import return_memory
from workers.nst.color import ColorRule
from workers.nst.features import LossNetwork
from workers.nst.loss_networks import NetworkMetadata
from workers.nst.multiscale import Scale
from workers.nst.recipes import Recipe
from workers.nst.stopping import Stopping
from workers.optimize_files import from_eight_bit
from workers.optimize_gang import Members, hear, survey, tell, thread_count
from workers.optimize_recipe import (
    check_network,
    color_of,
    read_network,
    recipe_of,
    scales_of,
    stopping_of,
)

_TF32_CAPABILITY = (8, 0)


@dataclass(frozen=True, slots=True, eq=False)
class Studio:
    """What a member has for all pictures of a task.

    Attributes:
        scales: From coarse to fine, without the iterations of an extension.
        network: On the device, in the dtype of the precision, whole and as it was loaded.
        device: `cpu`, `cuda`, `cuda:0`.
        threads: For computing, on a CPU.
        styles: Weight and pixels of each painting, uint8 `[H, W, 3]`.
        given: The picture to begin with, the same, where the init says so.
    """

    payload: OptimizePayload
    recipe: Recipe
    scales: tuple[Scale, ...]
    stopping: Stopping
    color: ColorRule | None
    network: LossNetwork
    metadata: NetworkMetadata
    device: str
    members: Members
    threads: int
    styles: tuple[tuple[float, Tensor], ...]
    given: Tensor | None

    def paintings(self) -> tuple[tuple[float, Tensor], ...]:
        """Return weight and image of each painting, float32 `[1, 3, H, W]` in 0..1."""
        return tuple((weight, from_eight_bit(pixels)) for weight, pixels in self.styles)


def open_studio(payload: OptimizePayload, context: Context) -> Studio:
    """Return what this member has; all members of the gang call this.

    Raises:
        FarmError: If the network or a painting cannot be used, or the device is not the one that is wanted.
    """
    device = device_for(payload.device, context)
    _check_precision(payload, device)
    recipe = recipe_of(payload)
    network, metadata = open_network(payload.network, payload.precision, context, device)
    check_network(recipe, network, payload.network)
    group = context.group
    if group.rank == 0:
        pictures = _read_pictures(payload, context)
        tell(group, pictures)
    else:
        pictures = hear(group)
    return_memory(torch.device(device).type)
    members = survey(group, device)
    return Studio(
        payload,
        recipe,
        scales_of(payload, recipe),
        stopping_of(payload),
        color_of(payload),
        network,
        metadata,
        device,
        members,
        thread_count(payload.threads, context.threads, members.here),
        tuple(zip((style.weight for style in payload.styles), pictures["styles"], strict=True)),
        pictures["given"],
    )


def read_painting(data: bytes, name: str, max_megapixels: float) -> Pixels:
    """Return the pixels of a painting, or of a picture to begin with: uint8 (H, W, 3), transparency on white.

    Raises:
        BadInputError: If it cannot be read.
    """
    try:
        picture = decode(data, max_megapixels=max_megapixels)
    except BadInputError as error:
        raise BadInputError(f"{name}: {error.message}", error.hint) from error
    if picture.alpha is None:
        return picture.pixels
    return np.array(on_white(picture.pixels, picture.alpha))


@contextmanager
def arithmetic(device: str, threads: int, *, tf32: bool = False) -> Iterator[None]:
    """Compute each time the same.

    Args:
        device: `cpu`, `cuda`, `cuda:0`.
        threads: For computing, on a CPU.
        tf32: Whether a GPU may compute in TF32.
    """
    if device == "cpu":
        torch.set_num_threads(threads)
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    products = torch.backends.cuda.matmul
    before = products.allow_tf32
    was_deterministic = torch.are_deterministic_algorithms_enabled()
    warned_only = torch.is_deterministic_algorithms_warn_only_enabled()
    products.allow_tf32 = tf32
    torch.use_deterministic_algorithms(mode=True, warn_only=True)
    try:
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=tf32):
            yield
    finally:
        products.allow_tf32 = before
        torch.use_deterministic_algorithms(was_deterministic, warn_only=warned_only)


def _check_precision(payload: OptimizePayload, device: str) -> None:
    if payload.precision != "tf32":
        return
    if device == "cpu" or torch.cuda.get_device_capability(device) < _TF32_CAPABILITY:
        raise FarmError(f"precision tf32 needs a newer NVIDIA GPU, and this worker has {device}", "use fp32")


def open_network(
    ref: AssetRef, precision: str, context: Context, device: str
) -> tuple[LossNetwork, NetworkMetadata]:
    """Return a loss network on a device, in the dtype of a precision; the worker keeps it.

    Raises:
        FarmError: If it cannot be read.
    """
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32

    def load() -> tuple[tuple[LossNetwork, NetworkMetadata], int]:
        network, metadata = read_network(context.asset(ref.sha256), ref.name)
        network = network.to(device, dtype)
        return (network, metadata), sum(layer.nbytes for layer in network.layers)

    key = (ref.sha256, f"loss network {precision} {device}")
    loaded: tuple[LossNetwork, NetworkMetadata] = context.models.get(key, load)
    return loaded


def _read_pictures(payload: OptimizePayload, context: Context) -> dict[str, Any]:
    def read(ref: AssetRef) -> Tensor:
        data = context.asset(ref.sha256).read_bytes()
        return torch.from_numpy(read_painting(data, ref.name, payload.max_megapixels))

    given = read(payload.init_image) if payload.init_image else None
    return {"styles": [read(style) for style in payload.styles], "given": given}
