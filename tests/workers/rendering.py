"""What tests of the kind of work `optimize` need: tiny networks and pictures, and attempts without a farm."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from jobs.checkpoints import Saved
from jobs.errors import FarmError
from jobs.tasks import Item, TaskMessage
from workers.kinds import Produced
from workers.models import ModelCache
from workers.nst.features import seeded
from workers.nst.group import Alone, Group
from workers.nst.loss_networks import NetworkMetadata, encode_loss_network
from workers.nst.thread_group import run_together
from workers.optimize import prepare, run

Pixels = NDArray[np.uint8]

SHALLOW: dict[str, Any] = {
    "style_layers": {"relu1_1": 0.5, "relu2_1": 0.5},
    "content_layers": {"relu2_2": 1.0},
}
"""Layers that small pictures have."""


def picture_bytes(
    width_px: int, height_px: int, seed: int = 0, format_: str = "PNG", mode: str = "RGB"
) -> bytes:
    """Return a file of a picture with soft shapes and some noise."""
    dice = np.random.default_rng(seed)
    coarse = Image.fromarray(dice.integers(0, 256, (5, 6, len(mode)), np.uint8), mode)
    soft = np.asarray(coarse.resize((width_px, height_px), Image.Resampling.BICUBIC), np.float32)
    pixels = (soft + dice.normal(0, 4, soft.shape)).clip(0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels, mode).save(file, format_)
    return file.getvalue()


@cache
def network_bytes(family: str = "torchvision", *, convolutions: int = 16, gain: float = 1.0) -> bytes:
    """Return a file of a narrow random network of so many convolutions, its weights amplified."""
    network = seeded("vgg19", 2, 0, family)
    layers = [
        layer if layer.weight is None else replace(layer, weight=layer.weight * gain)
        for layer in network.layers
    ]
    network = replace(network, layers=tuple(layers))
    names = [layer.name for layer in network.layers if layer.kind == "conv"]
    return encode_loss_network(network.up_to([names[convolutions - 1]]), NetworkMetadata("vgg19", family))


class Desk:
    """The farm's store, the job's output and its inputs, all in memory or in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.inputs: dict[str, bytes] = {"photo.png": picture_bytes(48, 36, 1)}
        self.files: dict[tuple[str, str], bytes] = {}
        self.states: dict[tuple[str, str], Saved] = {}
        self.checkpoint: Saved | None = None
        self.saved: list[bytes] = []

    def keep(self, data: bytes) -> str:
        """Keep an asset."""
        sha256 = hashlib.sha256(data).hexdigest()
        (self.folder / sha256).write_bytes(data)
        return sha256

    def payload(self, **said: Any) -> dict[str, Any]:
        """Return a payload; what is not said is small."""
        styles = [{"name": "night.png", "sha256": self.keep(picture_bytes(40, 44, 2))}]
        network = {"name": "tiny", "sha256": self.keep(network_bytes())}
        rest = {} if "scales" in said else {"size_px": 48, "smallest_px": 34, "iterations": 7}
        return {"styles": styles, "network": network, "threads": 1, "preview_s": 0, **rest, **SHALLOW, **said}

    def message(self, *keys: str, job: str = "j1", **said: Any) -> TaskMessage:
        """Return a task that renders inputs to files of the same names."""
        items = tuple(
            Item(n, key, len(self.inputs[key]), "", key) for n, key in enumerate(keys or ("photo.png",), 1)
        )
        payload = self.payload(**said)
        return TaskMessage(job, "render", 1, 1, "optimize", 60.0, "out", payload, items)

    def kept(self, name: str, job: str = "j1") -> bytes:
        """Return a file that a job kept beside its results."""
        return self.files[job, name]

    def trace(self, key: str = "photo.png", job: str = "j1") -> list[dict[str, Any]]:
        """Return the trace of a picture."""
        return [json.loads(line) for line in self.kept(f"traces/{key}.jsonl", job).splitlines()]

    def run(
        self, task: TaskMessage, size: int = 1, stop_at: int | None = None, seed: int = 0
    ) -> dict[str, Produced | FarmError]:
        """Run an attempt with so many members; return the outcomes by output key.

        Args:
            task: What each member runs.
            size: Of the gang.
            stop_at: The first member is told to stop the n-th time that it asks, from 0.
            seed: Of the order in which members arrive.
        """
        leader: list[Attempt] = []

        def member(group: Group) -> None:
            attempt = Attempt(self, task, group, stop_at)
            if group.rank == 0:
                leader.append(attempt)
            run(task, attempt)

        if size == 1:
            member(Alone())
        else:
            run_together(size, member, arrival_seed=seed)
        self.events = leader[0].events
        return leader[0].outcomes


class Attempt:
    """The context of one member (`workers.kinds.Context`); only the first may do more than compute."""

    device = "cpu"
    threads = 1

    def __init__(self, desk: Desk, task: TaskMessage, group: Group, stop_at: int | None) -> None:
        self.group = group
        self.models = ModelCache(1 << 26)
        self.outcomes: dict[str, Produced | FarmError] = {}
        self.events: list[tuple[str, dict[str, Any]]] = []
        self._desk = desk
        self._task = task
        self._stop_in = stop_at

    def asset(self, sha256: str) -> Path:
        path = self._desk.folder / sha256
        assert path.exists()
        return path

    def keep_asset(self, data: bytes) -> str:
        self._leads()
        sha256 = hashlib.sha256(data).hexdigest()
        (self._desk.folder / sha256).write_bytes(data)
        return sha256

    def read(self, url: str) -> bytes:
        return self._desk.inputs[url]

    def finished(self, item: Item) -> bytes | None:
        self._leads()
        return None

    def should_stop(self) -> bool:
        if self._stop_in is None or self.group.rank:
            return False
        self._stop_in -= 1
        return self._stop_in < 0

    def progress(self, fraction: float, message: str = "") -> None:
        self._leads()
        self.events.append(("progress", {"fraction": fraction, "message": message}))

    def emit(self, type: str, data: dict[str, Any]) -> None:  # noqa: A002
        self._leads()
        self.events.append((type, data))

    def read_ahead(self) -> Iterator[tuple[Item, Any]]:
        self._leads()
        for item in self._task.items:
            yield item, prepare(self._task, item, self._desk.inputs[item.input]).value

    def finish_item(self, item: Item, result: Callable[[], Produced] | FarmError) -> None:
        self._leads()
        assert item.output_key not in self.outcomes
        self.outcomes[item.output_key] = result if isinstance(result, FarmError) else result()

    def save_checkpoint(self, data: bytes, parts: Iterable[bytes] = ()) -> None:
        self._leads()
        self._desk.checkpoint = saved(data, parts)
        self._desk.saved.append(data)

    def load_checkpoint(self) -> bytes | None:
        self._leads()
        return self._desk.checkpoint.data if self._desk.checkpoint else None

    def checkpoint_parts(self) -> Iterator[bytes]:
        return self._desk.checkpoint.parts() if self._desk.checkpoint else iter(())

    def keep_file(self, name: str, data: bytes) -> None:
        self._leads()
        self._desk.files[self._task.job, name] = data

    def keep_state(self, name: str, data: bytes, parts: Iterable[bytes] = ()) -> None:
        self._leads()
        self._desk.states[self._task.job, name] = saved(data, parts)

    def kept_state(self, job: str, name: str) -> Saved | None:
        return self._desk.states.get((job, name))

    def _leads(self) -> None:
        assert self.group.rank == 0


def saved(data: bytes, parts: Iterable[bytes] = ()) -> Saved:
    """Return a state as a store would have it."""
    kept = list(parts)
    return Saved(data, lambda: iter(kept))


def made(outcome: Produced | FarmError) -> Produced:
    """Return a result that there is."""
    assert isinstance(outcome, Produced), outcome
    return outcome


def pixels(data: bytes) -> Pixels:
    """Return what a file shows."""
    with Image.open(io.BytesIO(data)) as image:
        return np.array(image)
