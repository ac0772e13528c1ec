"""One attempt of a task on this worker: its lease, its items, and the context that a kind of work sees."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, wait
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Protocol

from jobs.checkpoints import Saved, kept_states
from jobs.errors import BadInputError, FarmError, LeaseLostError
from jobs.library import Library
from jobs.records import Record
from jobs.states import ItemState
from jobs.storage import Store, store_and_key
from jobs.storage.base import FARM_PREFIX
from jobs.tasks import (
    Emitted,
    Event,
    GangPlace,
    Item,
    ItemFinished,
    ItemStarted,
    Progress,
    StoreOptions,
    TaskMessage,
)
from jobs.unfinished import Resumable
from workers.failures import as_farm_error
from workers.kinds import Produced, load_kind
from workers.models import ModelCache
from workers.nst.group import Alone, Group
from workers.outputs import Output, Target
from workers.reading import Readers, Slot

log = logging.getLogger(__name__)

_LARGEST_INPUT_BYTES = 2 << 30
_POLL_S = 0.05
_WRITES_BEHIND = 4


class Groups(Protocol):
    """How a worker takes part in gangs."""

    def open(self, message: TaskMessage, place: GangPlace, interrupted: Callable[[], None]) -> Group:
        """Return an attempt's group; `interrupted` is called while it waits, and raises to end that."""
        ...

    def close(self, message: TaskMessage) -> None:
        """Forget a gang's attempt that is over, or was never begun."""
        ...


@dataclass(frozen=True)
class Services:
    """What a worker offers its attempts."""

    device: str
    threads: int
    models: ModelCache
    library: Library
    readers: Readers
    writers: Executor
    store: Callable[[str, StoreOptions], Store]
    post: Callable[[Event], None]
    groups: Groups | None


class Attempt:
    """The context of one attempt (`workers.kinds.Context`).

    Of a gang, only the first member has items, keeps files and is heard; the others compute.

    Raises:
        FarmError: If its kind of work is not known, or it belongs to a gang and the worker cannot take part
            in one; whatever else importing the kind raises.
    """

    def __init__(self, message: TaskMessage, services: Services) -> None:
        self.message = message
        self.device = services.device
        self.threads = services.threads
        self.models = services.models
        self.waited_s = 0.0
        self.stop_reason = ""
        self._services = services
        self._deadline = time.monotonic() + message.lease_s
        self._at_once = False
        self._rank = message.gang.rank if message.gang else 0
        self._lock = threading.Lock()
        self._targets: dict[int, Target] = {}
        self._started: set[int] = set()
        self._finished: set[int] = set()
        self._writes: list[Future[None]] = []
        self._room = threading.BoundedSemaphore(_WRITES_BEHIND)
        self._began: float | None = None
        self._state: Resumable | None = None
        self._loaded: Saved | None = None
        self._kind = load_kind(message.kind)
        self._output = Output(message, self._kind, self._output_store, self.check_lease)
        self._items = message.items if self._rank == 0 else ()
        self._slots = [Slot(lambda item=item: self._read(item)) for item in self._items]  # type: ignore[misc]
        self.group = self._open_group()

    def begin_reading(self) -> None:
        """Let its items be read ahead, after those of the attempts that began before."""
        if self._kind.prepare:
            self._services.readers.feed(self._slots)

    def run(self) -> dict[str, Any]:
        """Let the kind of work do it; returns what later steps may name."""
        self._began = time.monotonic()
        self.check_lease()
        return self._kind.run(self.message, self)

    # The lease.

    def renew(self, lease_s: float) -> None:
        """Hold the lease for `lease_s` from now, unless it has run out already."""
        if time.monotonic() < self._deadline:
            self._deadline = time.monotonic() + lease_s

    def stop(self, reason: str, *, at_once: bool = False) -> None:
        """Let it stop where it can go on from later; `at_once`, whatever it is at is lost."""
        if not self.stop_reason or (at_once and not self._at_once):
            self.stop_reason = reason
        self._at_once = self._at_once or at_once

    def should_stop(self) -> bool:
        """Return whether it was asked to stop or its lease has run out.

        Members of a gang must stop at the same place: where there is time for that, the first one decides.
        """
        return self._is_over() or (bool(self.stop_reason) and self._rank == 0)

    def check_lease(self) -> None:
        """Raise LeaseLostError when this attempt may not commit any more."""
        if self._is_over():
            raise LeaseLostError(
                f"attempt {self.message.attempt} of task {self.message.task}: {self.stop_reason}"
            )

    def _is_over(self) -> bool:
        if time.monotonic() >= self._deadline:
            self.stop("its lease ran out", at_once=True)
        return self._at_once

    def device_s(self) -> float:
        """Return the seconds since the attempt began to run, 0 if it never did."""
        return 0.0 if self._began is None else time.monotonic() - self._began

    # What a kind of work sees.

    def asset(self, sha256: str) -> Path:
        """Return a local file with the content of this hash."""
        return self._services.library.path(sha256)

    def keep_asset(self, data: bytes) -> str:
        """Keep a file in the farm's store and return its sha256."""
        self._must_lead("keep assets")
        self.check_lease()
        return self._services.library.put(data)

    def read(self, url: str) -> bytes:
        """Return the content of a path or `s3://` URL that is no item."""
        root, key = store_and_key(url)
        store = self._services.store(root, self.message.store_options)
        try:
            return store.read(key, limit_bytes=_LARGEST_INPUT_BYTES)
        except FileNotFoundError:
            raise BadInputError(f"{url} is not there any more") from None

    def progress(self, fraction: float, message: str = "") -> None:
        """Say how far the task is, 0 to 1."""
        self._must_lead("say how far the task is")
        self._services.post(Progress(self.message.task, self.message.attempt, fraction, message))

    def emit(self, type: str, data: dict[str, Any]) -> None:  # noqa: A002 - the word of the contract
        """Let a loss, a preview or a message be seen."""
        self._must_lead("let something be seen")
        self._services.post(Emitted(self.message.task, self.message.attempt, type, data))

    def read_ahead(self) -> Iterator[tuple[Item, Any]]:
        """Yield the items that need work, decoded, in order; end early when the attempt should stop."""
        self._must_lead("read the items")
        for item, slot in zip(self._items, self._slots, strict=True):
            if not self._kind.prepare:
                slot.fill()
            since = time.monotonic()
            while not slot.wait(_POLL_S):
                if self.should_stop():
                    return
            self.waited_s += time.monotonic() - since
            value, empty = slot.value, slot.empty
            slot.value = None
            self._services.readers.taken(slot)
            if self.should_stop():
                return
            if not empty:
                yield item, value

    def finish_item(self, item: Item, result: Callable[[], Produced] | FarmError) -> None:
        """Give an item its outcome; a callable is run and committed behind the device."""
        self._must_lead("finish an item")
        if isinstance(result, FarmError):
            self._fail(item, result)
            return
        since = time.monotonic()
        self._room.acquire()
        self.waited_s += time.monotonic() - since
        self._writes.append(self._services.writers.submit(self._write, item, result))

    def finished(self, item: Item) -> bytes | None:
        """Return the result that stands under the output key of an item, or None if it is to be made."""
        self._must_lead("ask for results")
        target = self._output.target(item, lambda: self.read(item.input))
        return self._output.read(target) if target.finished else None

    def save_checkpoint(self, data: bytes, parts: Iterable[bytes] = ()) -> None:
        """Keep resumable state; LeaseLostError when a later attempt has taken over."""
        self._must_lead("keep checkpoints")
        self.check_lease()
        self._own_state().save(data, self._while_held(parts))

    def load_checkpoint(self) -> bytes | None:
        """Take over from the attempts before this one; return the last state that one of them kept.

        If there is none, it is that of an earlier job that began to make the same and was canceled.
        """
        self._must_lead("take over a checkpoint")
        self.check_lease()
        self._loaded = self._own_state().take_over()
        return self._loaded.data if self._loaded else None

    def checkpoint_parts(self) -> Iterator[bytes]:
        """Read the parts of the state that was loaded, one at a time."""
        return self._loaded.parts() if self._loaded else iter(())

    def keep_file(self, name: str, data: bytes) -> None:
        """Keep a file of the job beside its results."""
        self._must_lead("keep files")
        self.check_lease()
        self._output_store().write(f"{FARM_PREFIX}/jobs/{self.message.job}/{name}", data)

    def keep_state(self, name: str, data: bytes, parts: Iterable[bytes] = ()) -> None:
        """Keep a state of the job beside its results, for later jobs."""
        self._must_lead("keep files")
        self.check_lease()
        states = kept_states(self._output_store(), self.message.job, name, self.message.attempt)
        states.save(data, self._while_held(parts))

    def kept_state(self, job: str, name: str) -> Saved | None:
        """Return a state that a job with the same output kept, or None if none is whole."""
        return kept_states(self._output_store(), job, name).read()

    # What the worker asks.

    def in_flight(self) -> set[int]:
        """Return the items that were begun and have no outcome."""
        with self._lock:
            return self._started - self._finished

    def unfinished(self) -> list[Item]:
        """Return the items without an outcome."""
        with self._lock:
            return [item for item in self._items if item.id not in self._finished]

    def end(self) -> None:
        """Drop what was read ahead and wait for what is being written."""
        self._services.readers.drop(self._slots)
        wait(self._writes)

    # Reading one item, in a reader thread.

    def _read(self, item: Item) -> tuple[Any, int] | None:
        if self.should_stop():
            return None
        self._start(item)
        try:
            return self._prepare(item)
        except LeaseLostError:
            return None
        except Exception as error:  # noqa: BLE001 - the boundary: one bad picture fails itself only
            self._fail(item, as_farm_error(error))
            return None

    def _prepare(self, item: Item) -> tuple[Any, int] | None:
        content = cache(lambda: self.read(item.input))
        target = self._output.target(item, content)
        with self._lock:
            self._targets[item.id] = target
        if target.finished:
            # An attempt of this job that nobody heard of is no reason to tell the user that it was skipped.
            own = target.finished.job == self.message.job
            state = ItemState.DONE if own else ItemState.SKIPPED
            self._finish(item, state, target.finished, "" if own else "it was finished before")
            return None
        if not self._kind.prepare:
            return None, 0
        prepared = self._kind.prepare(self.message, item, content())
        return prepared.value, prepared.memory_bytes

    def _target(self, item: Item) -> Target:
        with self._lock:
            target = self._targets.get(item.id)
        return target or self._output.target(item, lambda: self.read(item.input))

    # Writing one item, in a writer thread.

    def _write(self, item: Item, result: Callable[[], Produced]) -> None:
        try:
            self.check_lease()
            produced = result()
            committed = self._output.commit(item, self._target(item), produced)
            if self._state:
                self._state.finished()
            state = ItemState.DONE if committed.won else ItemState.SKIPPED
            note = produced.note if committed.won else "another attempt finished it first"
            self._finish(item, state, committed.record, note)
        except LeaseLostError as error:
            log.info("not committed: %s", error)
        except Exception as error:  # noqa: BLE001 - the boundary: one bad picture fails itself only
            self._fail(item, as_farm_error(error))
        finally:
            self._room.release()

    # Outcomes.

    def _start(self, item: Item) -> None:
        with self._lock:
            self._started.add(item.id)
        self._services.post(ItemStarted(self.message.task, self.message.attempt, item.id))

    def _finish(self, item: Item, state: ItemState, record: Record, reason: str) -> None:
        detail = {
            **record.extra,
            "sha256": record.sha256,
            "size_bytes": record.size_bytes,
            "generation": record.generation,
        }
        output = f"{self.message.output.rstrip('/')}/{record.key}"
        task, attempt = self.message.task, self.message.attempt
        event = ItemFinished(task, attempt, item.id, state, None, reason, output, detail)
        self._post_once(item, event)

    def _fail(self, item: Item, error: FarmError) -> None:
        self._post_once(
            item,
            ItemFinished(
                self.message.task, self.message.attempt, item.id, ItemState.FAILED, error.failure, str(error)
            ),
        )

    def _post_once(self, item: Item, event: ItemFinished) -> None:
        with self._lock:
            if item.id in self._finished:
                return
            self._finished.add(item.id)
        self._services.post(event)

    def _open_group(self) -> Group:
        place, groups = self.message.gang, self._services.groups
        if place is None:
            return Alone()
        if groups is None:
            raise FarmError(f"this worker takes no part in gangs, and task {self.message.task} is run by one")
        return groups.open(self.message, place, self.check_lease)

    def _must_lead(self, what: str) -> None:
        if self._rank != 0:
            raise FarmError(f"member {self._rank} of a gang must not {what}: only member 0 does")

    def _output_store(self) -> Store:
        return self._services.store(self.message.output, self.message.store_options)

    def _while_held(self, parts: Iterable[bytes]) -> Iterator[bytes]:
        for part in parts:
            self.check_lease()
            yield part

    def _own_state(self) -> Resumable:
        if self._state is None:
            self._state = Resumable(self._output_store(), self.message, self._render_key)
        return self._state

    def _render_key(self) -> str:
        """Return what decides the result of the only item, or nothing: an input that is gone fails later."""
        (item,) = self._items
        try:
            return self._target(item).render_key
        except FarmError as error:
            log.info("%s is not compared to what was begun: %s", item.output_key, error)
            return ""
