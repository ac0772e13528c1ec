"""What tests of the kind of work `train` need: tiny networks and photographs, and attempts without a farm."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from jobs.checkpoints import Saved
from jobs.errors import BadInputError, FarmError
from jobs.inputs import Picture
from jobs.tasks import Item, TaskMessage
from jobs.training_data import encode_listing
from tests.workers.rendering import Attempt as RenderAttempt
from tests.workers.rendering import network_bytes, picture_bytes
from workers.kinds import Produced
from workers.nst.group import Alone, Group
from workers.nst.thread_group import run_together
from workers.train import run

KEY = "wave.safetensors"

LAYERS: dict[str, Any] = {
    "style_layers": {"relu1_1": 1.0, "relu2_1": 1.0},
    "content_layers": {"relu2_2": 1.0},
}
"""Layers that small crops have."""


class School:
    """The farm's store, the job's output and photographs, all in memory or in one folder."""

    def __init__(self, folder: Path, photographs: int = 12) -> None:
        self.folder = folder
        self.inputs = {f"/p/{n:02d}.jpg": picture_bytes(44, 36, n, "JPEG") for n in range(photographs)}
        self.files: dict[tuple[str, str], bytes] = {}
        self.results: dict[str, bytes] = {}
        self.states: dict[tuple[str, str], Saved] = {}
        self.checkpoint: Saved | None = None
        self.saved: list[bytes] = []
        self.reads: list[str] = []
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.returned: dict[str, Any] = {}

    def keep(self, data: bytes) -> str:
        """Keep an asset."""
        sha256 = hashlib.sha256(data).hexdigest()
        (self.folder / sha256).write_bytes(data)
        return sha256

    def listing(self, urls: list[str] | None = None) -> dict[str, str]:
        """Keep a list of photographs, by default all, and return what names it."""
        pictures = [Picture(url, url, 1, "") for url in urls or sorted(self.inputs)]
        return {"name": "data", "sha256": self.keep(encode_listing(pictures))}

    def payload(self, **said: Any) -> dict[str, Any]:
        """Return a payload; what is not said is small."""
        return {
            "style": "wave",
            "style_images": [{"name": "wave.png", "sha256": self.keep(picture_bytes(40, 44, 99))}],
            "loss_network": {"name": "tiny", "sha256": self.keep(network_bytes())},
            "data": self.listing(),
            "network": "slim8",
            "steps": 6,
            "batch": 2,
            "crop_px": 16,
            "validation": {"pictures": 3, "every": 4},
            "threads": 1,
            **LAYERS,
            **said,
        }

    def message(self, job: str = "j1", **said: Any) -> TaskMessage:
        """Return a task that trains a style."""
        item = Item(1, "", -1, "", KEY)
        return TaskMessage(job, "train", 1, 1, "train", 60.0, "out", self.payload(**said), (item,))

    def kept(self, name: str, job: str = "j1") -> bytes:
        """Return a file that a job kept beside its results."""
        return self.files[job, name]

    def lines(self, name: str, job: str = "j1") -> list[dict[str, Any]]:
        """Return a trace."""
        return [json.loads(line) for line in self.kept(f"traces/{name}.jsonl", job).splitlines()]

    def said(self, type_: str = "message") -> list[str]:
        """Return the texts of events of a type."""
        return [data.get("text", "") for kind, data in self.events if kind == type_]

    def run(
        self, task: TaskMessage, size: int = 1, stop_at: int | None = None
    ) -> Produced | FarmError | None:
        """Run an attempt with so many members; return the outcome of its item, None if it has none.

        Args:
            task: What each member runs.
            size: Of the gang.
            stop_at: The first member is told to stop the n-th time that it asks, from 0.
        """
        leader: list[Attempt] = []
        returned: list[dict[str, Any]] = []

        def member(group: Group) -> None:
            attempt = Attempt(self, task, group, stop_at)
            if group.rank == 0:
                leader.append(attempt)
            found = run(task, attempt)
            if group.rank == 0:
                returned.append(found)

        if size == 1:
            member(Alone())
        else:
            run_together(size, member)
        self.events = leader[0].events
        self.returned = returned[0]
        return leader[0].outcomes.get(KEY)

    def trained(self, task: TaskMessage, size: int = 1) -> bytes:
        """Run an attempt to its end and return the style model."""
        outcome = self.run(task, size)
        assert isinstance(outcome, Produced), outcome
        return outcome.data

    def trained_in_parts(self, task: TaskMessage) -> bytes:
        """Run attempts that are told to stop after one step each; return the style model of the last."""
        outcome: Produced | FarmError | None = None
        parts = 0
        while outcome is None:
            outcome, parts = self.run(task, stop_at=1), parts + 1
            assert parts < 50
        assert parts > 2
        assert isinstance(outcome, Produced), outcome
        return outcome.data


class Attempt(RenderAttempt):
    """The context of one member."""

    def __init__(self, school: School, task: TaskMessage, group: Group, stop_at: int | None) -> None:
        super().__init__(school, task, group, stop_at)  # type: ignore[arg-type]
        self._school = school

    def read(self, url: str) -> bytes:
        self._school.reads.append(url)
        try:
            return self._school.inputs[url]
        except KeyError:
            raise BadInputError(f"{url} is not there any more") from None

    def read_ahead(self) -> Iterator[tuple[Item, Any]]:
        self._leads()
        for item in self._task.items:
            if item.output_key not in self._school.results:
                yield item, None

    def finished(self, item: Item) -> bytes | None:
        self._leads()
        return self._school.results.get(item.output_key)

    def finish_item(self, item: Item, result: Callable[[], Produced] | FarmError) -> None:
        super().finish_item(item, result)
