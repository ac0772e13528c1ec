"""How a job that is submitted again finds the state of a picture that an earlier job began.

Checkpoints belong to a task. Beside the results lies one note for each output that is begun: which task has
its state, and the render key of what is being made, so that no state is taken for another picture's.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable

from jobs.checkpoints import Checkpoints, Saved, latest_state
from jobs.storage.base import FARM_PREFIX, Store
from jobs.tasks import TaskMessage

log = logging.getLogger(__name__)

Task = tuple[str, int]
"""Id of a job, and number of a task in it."""


class Unfinished:
    """The note about one output, as one task sees it.

    Args:
        store: The job's output.
        output_key: As planned.
        task: That is making it now.
    """

    def __init__(self, store: Store, output_key: str, task: Task) -> None:
        self._store = store
        self._key = f"{FARM_PREFIX}/unfinished/{output_key}.json"
        self._task = task
        self._noted = False

    def is_there(self) -> bool:
        """Return whether some task began the output."""
        return self._store.stat(self._key) is not None

    def state(self, render_key: str) -> Saved | None:
        """Return the last state of the same picture that another task kept, or None."""
        noted_key, tasks = self._read()
        if not render_key or noted_key != render_key or not tasks or tasks[-1] == self._task:
            return None
        return latest_state(self._store, *tasks[-1])

    def note(self, render_key: str) -> None:
        """Note that this task has the state from now on; without a render key it could not be found."""
        if self._noted or not render_key:
            return
        tasks = [*(task for task in self._read()[1] if task != self._task), self._task]
        self._store.write(self._key, json.dumps({"render_key": render_key, "tasks": tasks}).encode())
        self._noted = True

    def forget(self) -> None:
        """Remove the note, and the states of the other tasks in it: the output is finished."""
        for task in self._read()[1]:
            if task != self._task:
                Checkpoints(self._store, *task, attempt=0).clear()
        self._store.delete(self._key)

    def _read(self) -> tuple[str, list[Task]]:
        """Return the render key and the tasks that had a state, the latest last; nothing if it is damaged."""
        try:
            document = json.loads(self._store.read(self._key))
            return str(document["render_key"]), [(str(job), int(task)) for job, task in document["tasks"]]
        except FileNotFoundError:
            return "", []
        except (ValueError, KeyError, TypeError) as error:
            log.warning("%s/%s is damaged: %s", self._store.url, self._key, error)
            return "", []


class Resumable:
    """The state of a task, that of its own attempts before that of an earlier job.

    Only a task of a single output finds the state of an earlier job.

    Args:
        store: The job's output.
        message: The attempt.
        render_key: Returns what decides the only output, or nothing if that is not known.
    """

    def __init__(self, store: Store, message: TaskMessage, render_key: Callable[[], str]) -> None:
        self._own = Checkpoints(store, message.job, message.task, message.attempt)
        self._note = None
        if len(message.items) == 1:
            self._note = Unfinished(store, message.items[0].output_key, (message.job, message.task))
        self._render_key = render_key

    def take_over(self) -> Saved | None:
        """Return the latest state there is, and end the right of earlier attempts of this task to save one.

        Raises:
            LeaseLostError: If a later attempt has taken over already.
        """
        state = self._own.take_over()
        if state is not None or self._note is None or not self._note.is_there():
            return state
        return self._note.state(self._render_key())

    def save(self, data: bytes, parts: Iterable[bytes] = ()) -> None:
        """Keep the newest state; see `Checkpoints.save`.

        Raises:
            LeaseLostError: If another attempt has taken over, or the states were cleared.
        """
        self._own.save(data, parts)
        if self._note:
            self._note.note(self._render_key())

    def finished(self) -> None:
        """Let nobody look for a state any more, and remove all: the only output is made.

        States are large. Those of a task with several outputs stay until the job ends.
        """
        if self._note:
            self._note.forget()
            self._own.clear()
