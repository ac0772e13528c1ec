"""About how long a training would take, and what of memory: for dry runs."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from jobs.steps import PlannedItem
from jobs.train import TrainPayload
from workers.kinds import Checks
from workers.nst.features import LossNetwork
from workers.nst.training import Training, untrained
from workers.nst.training_presets import TrainingRecipe
from workers.optimize_forecast import busy_note, computing
from workers.optimize_recipe import is_own_network, read_network
from workers.train_checks import device_of, needed_bytes
from workers.train_recipe import recipe_of

_MEASURED_S = 2.0


def forecast(payload: dict[str, Any], _items: Sequence[PlannedItem], checks: Checks) -> dict[str, Any]:
    """Return what a training would take of time and memory.

    Args:
        payload: Of a task that `check` let pass.
        checks: What may be used.
    """
    said = TrainPayload.model_validate(payload)
    recipe = recipe_of(said)
    network, metadata = read_network(checks.asset(said.loss_network.sha256), said.loss_network.name)
    device, workers = device_of(said, checks), max(1, checks.workers)
    seconds, basis = _time(said, recipe, network, device, workers)
    return {
        "loss_network": {
            "name": said.loss_network.name,
            "architecture": metadata.architecture,
            "family": metadata.family,
            "channel_scaled": metadata.channel_scaled,
            "of_preset": is_own_network(recipe, metadata),
        },
        "workers": workers,
        "device": device,
        "device_bytes": checks.memory_bytes,
        "memory_bytes": needed_bytes(recipe, said.width, said.precision, workers),
        "pixel_evaluations": recipe.steps * recipe.batch * recipe.crop.side_px**2,
        "seconds": seconds,
        "basis": basis,
    }


def photograph_s(
    recipe: TrainingRecipe,
    network: LossNetwork,
    said: TrainPayload,
    *,
    seconds: float = _MEASURED_S,
    clock: Callable[[], float] = time.monotonic,
) -> float:
    """Return how long a step takes for each photograph: steps of a single one, the first left out.

    Args:
        recipe: What is trained.
        network: The loss network, on the device to measure.
        said: Names the network that is trained, and the precision.
        seconds: How long to measure, about; a slow device takes longer, for two steps.
        clock: For tests.
    """
    alone = replace(recipe, batch=1)
    side_px = recipe.crop.side_px
    generator = torch.Generator().manual_seed(0)
    painting = torch.rand(1, 3, side_px, side_px, generator=generator)
    net = untrained(alone, said.width, 0)
    training = Training(alone, network, net, [(1.0, painting)], precision=said.precision)
    batch = torch.randint(0, 256, (1, 3, side_px, side_px), generator=generator, dtype=torch.uint8)
    training.step(batch)
    until, fastest = clock() + seconds, float("inf")
    while True:
        begin = clock()
        training.step(batch)
        fastest = min(fastest, clock() - begin)
        if clock() + fastest > until:
            return fastest


def _time(
    said: TrainPayload, recipe: TrainingRecipe, network: LossNetwork, device: str, workers: int
) -> tuple[float | None, str]:
    """Return the seconds of a training, or None, and how that is known.

    Workers on CPUs are taken to share the cores of this machine; a GPU is a worker's own.
    """
    if device == "cuda" and not torch.cuda.is_available():
        return None, "the workers have GPUs, and there is none here to measure"
    cores = len(os.sched_getaffinity(0))
    threads = min(cores, (said.threads or max(1, cores // workers)) * workers)
    load = os.getloadavg()[0]  # before this adds to it
    with computing(threads):
        each = photograph_s(recipe, network.to(device), said)
    sharing = 1 if device == "cpu" else workers
    on = f"{threads} thread{'s' if threads > 1 else ''}" if device == "cpu" else "the GPU"
    basis = f"an estimate: a step took {each:.2g} s for each photograph on {on} of this machine"
    if device == "cpu":
        basis += busy_note(load, cores)
    return round(recipe.steps * recipe.batch * each / sharing, 1), basis
