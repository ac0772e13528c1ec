"""A worker in a thread of the test's own process, and what it says."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from jobs.library import Library
from jobs.storage import open_store
from jobs.tasks import Event, Item, ItemFinished, TaskEnded, TaskMessage
from workers.attempt import Groups
from workers.kinds import Context, Kind, Prepared, Produced, register
from workers.worker import Worker, WorkerOptions

PATIENCE_S = 20.0


class Bench:
    """A worker in a thread, and what it said."""

    def __init__(self, folder: Path, groups: Groups | None = None) -> None:
        self.folder = folder
        self.events: list[Event] = []
        self._said = threading.Condition()
        self.library = Library(open_store(str(folder / "store")), folder / "cache")
        self.worker = Worker(
            WorkerOptions("w1", store=str(folder / "store"), cache_dir=str(folder / "cache")),
            self._hear,
            groups,
        )
        self._thread = threading.Thread(target=self.worker.run_forever)
        self._thread.start()

    def _hear(self, events: list[Event]) -> None:
        with self._said:
            self.events += events
            self._said.notify_all()

    def wait_for(self, condition: Callable[[list[Event]], Any]) -> None:
        with self._said:
            assert self._said.wait_for(lambda: condition(self.events), PATIENCE_S), self.events

    def message(self, *items: Item, kind: str = "toy", attempt: int = 1, **more: Any) -> TaskMessage:
        payload = {"count": 2, "seconds": 0, "word": "hi", "asset": "", "log": "", "die_at": -1}
        return TaskMessage(
            **{
                "job": f"job of task {more.get('task', 1)}",
                "step": "s",
                "task": more.pop("task", 1),
                "attempt": attempt,
                "kind": kind,
                "lease_s": more.pop("lease_s", 60.0),
                "output": str(self.folder / "out"),
                "items": items or (Item(1, "", -1, "", "a.txt"),),
                "payload": payload | more.pop("payload", {}),
                **more,
            }
        )

    def run(self, message: TaskMessage) -> list[ItemFinished]:
        """Run an attempt to its end and return the outcomes of its items."""
        self.worker.submit(message)

        def is_over(events: list[Event]) -> bool:
            return any(
                isinstance(e, TaskEnded) and e.attempt == message.attempt and e.task == message.task
                for e in events
            )

        self.wait_for(is_over)
        return [
            e
            for e in self.events
            if isinstance(e, ItemFinished) and (e.task, e.attempt) == (message.task, message.attempt)
        ]

    def ended(self) -> TaskEnded:
        return [e for e in self.events if isinstance(e, TaskEnded)][-1]

    def close(self) -> None:
        self.worker.close()
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()


def prepare(_task: TaskMessage, _item: Item, content: bytes) -> Prepared:
    """Hand on the content of an input."""
    return Prepared(content, 1)


def copier(_task: TaskMessage, context: Context) -> dict[str, Any]:
    """Make each result a copy of its input; a kind of work that reads ahead."""
    for item, content in context.read_ahead():
        context.finish_item(item, partial(Produced, content))
    return {}


def register_copier() -> None:
    """Make `copy` a kind of work."""
    register(Kind("copy", copier, prepare, settings=lambda _: {}))
