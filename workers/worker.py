"""A worker: one device, its loaded models, and the attempts that the controller sends it.

Plain threads, no Ray: readers decode ahead of the device, one thread drives it, writers encode and commit
behind it. `farm.ray_pool` wraps it in an actor; tests use it as it is.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from jobs.bundled import bundled_store
from jobs.errors import Failure, FarmError, LeaseLostError
from jobs.library import Library
from jobs.storage import Store, open_store
from jobs.tasks import Event, StoreOptions, TaskEnded, TaskMessage, WorkerReport
from workers.attempt import Attempt, Groups, Services
from workers.failures import as_farm_error
from workers.memory import device_bytes
from workers.models import ModelCache
from workers.reading import Readers

log = logging.getLogger(__name__)

_OUTBOX_PAUSE_S = 0.02

_STORES = 32
"""Stores that stay open; the least recently used one is dropped for the next."""

_EARLY_STOPS = 256
"""Stops that came before their attempt and are remembered; older ones are forgotten."""

_ASKED = "it was asked to stop"


@dataclass(frozen=True, slots=True)
class WorkerOptions:
    """What a worker is told when it starts.

    Attributes:
        device: `cpu` or `cuda`; a worker sees only the one device that is its own.
        threads: Compute threads.
        share: Part of its GPU that is its own, where others have the rest.
        models_bytes: How much its cache of loaded models may hold.
        store: URL of the farm's store of assets.
        cache_dir: Where assets from a remote store are kept.
        readers: Threads that read and decode ahead; as many write behind.
    """

    id: str
    device: str = "cpu"
    threads: int = 1
    share: float = 1.0
    models_bytes: int = 2 << 30
    store: str = ""
    store_options: StoreOptions = field(default_factory=StoreOptions)
    cache_dir: str = ""
    readers: int = 2


class Worker:
    """Runs attempts in the order in which they arrive, reading ahead into the next one.

    Args:
        options: What it is told.
        send: Takes a batch of events, in order; called from one thread. It raises when it cannot send them;
            what may pass by itself it tries again.
        groups: How it takes part in gangs; without, it fails what a gang is to run.
    """

    def __init__(
        self, options: WorkerOptions, send: Callable[[list[Event]], None], groups: Groups | None = None
    ) -> None:
        self.options = options
        self.models = ModelCache(options.models_bytes)
        self._send = send
        self._groups = groups
        self._outbox: SimpleQueue[Event | None] = SimpleQueue()
        self._attempts: deque[Attempt] = deque()
        self._running: Attempt | None = None
        self._early_stops: deque[tuple[int, int, bool]] = deque(maxlen=_EARLY_STOPS)
        self._changed = threading.Condition()
        self._closed = False
        self._stores: dict[tuple[str, StoreOptions], Store] = {}
        self._stores_lock = threading.Lock()
        self._services = Services(
            device=options.device,
            threads=options.threads,
            models=self.models,
            library=Library(
                open_store(options.store, options.store_options), Path(options.cache_dir), bundled_store()
            ),
            readers=Readers(options.readers),
            writers=ThreadPoolExecutor(options.readers, "writer"),
            store=self.store,
            post=self._outbox.put,
            groups=groups,
        )
        self._sender = threading.Thread(target=self._send_events, name="events", daemon=True)
        self._sender.start()

    # What the controller asks, from any thread, answered at once.

    def submit(self, message: TaskMessage) -> None:
        """Take an attempt; it runs when those before it are over, and is read ahead before that."""
        try:
            attempt = Attempt(message, self._services)
        except Exception as error:  # noqa: BLE001 - the boundary: a task is never lost without a word
            known = as_farm_error(error)
            self._end(message, _ended(message, "failed", known.failure, str(known)))
            return
        with self._changed:
            for early in [s for s in self._early_stops if s[:2] == (message.task, message.attempt)]:
                self._early_stops.remove(early)
                attempt.stop(_ASKED, at_once=early[2])
            if attempt.should_stop():
                self._end(message, _ended(message, "stopped", reason=_ASKED))
                return
            # Under one lock: what is read ahead for one attempt must not wait for the one behind it.
            self._attempts.append(attempt)
            attempt.begin_reading()
            self._changed.notify_all()

    def stop(self, task: int, attempt: int, *, at_once: bool = False) -> bool:
        """Ask an attempt to stop; return whether this worker has it.

        It commits the picture it is at, or keeps its state, unless it is to stop `at_once`: then nothing is
        committed any more, and none of a gang waits for others. One that waits behind another ends at once;
        one that has yet to come ends when it does.
        """
        name = (task, attempt)
        with self._changed:
            mine = next((a for a in self._attempts if (a.message.task, a.message.attempt) == name), None)
            if mine is None:
                self._early_stops.append((*name, at_once))
                return False
            mine.stop(_ASKED, at_once=at_once)
            if mine is self._running or not mine.should_stop():
                return True
            self._attempts.remove(mine)
        mine.end()
        self._end(mine.message, _ended(mine.message, "stopped", reason=_ASKED))
        return True

    def renew(self, leases: dict[int, float]) -> WorkerReport:
        """Renew the leases of tasks (seconds from now by task), and say what this worker is at.

        A lease that has run out is never revived: a worker that was frozen must not go on.
        """
        for mine in self._snapshot():
            if mine.message.task in leases:
                mine.renew(leases[mine.message.task])
        return self.report()

    def report(self) -> WorkerReport:
        """Say what this worker is at."""
        attempts = self._snapshot()
        return WorkerReport(
            worker=self.options.id,
            pid=os.getpid(),
            node=socket.gethostname(),
            device=self.options.device,
            holds=tuple(self.models.holds()),
            tasks=tuple(a.message.task for a in attempts),
            in_flight=tuple(item for a in attempts for item in a.in_flight()),
            memory_bytes=self.models.held_bytes,
            loads=self.models.loads,
            device_bytes=device_bytes(self.options.device, self.options.share),
        )

    def sees(self, urls: list[str], options: StoreOptions) -> list[str]:
        """Return which of these folders, files and prefixes this worker cannot see."""
        missing = []
        for url in urls:
            try:
                if url.startswith("s3://"):
                    next(iter(self.store(url, options).list()), None)
                elif not Path(url).exists():
                    missing.append(url)
            except FarmError:
                missing.append(url)
        return missing

    def close(self) -> None:
        """Stop everything: attempts end after the picture they are at, which is not committed."""
        for mine in self._snapshot():
            mine.stop("the worker is closing", at_once=True)
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    # The loop that drives the device.

    def run_forever(self) -> None:
        """Run attempts until `close`; this thread is the only one that uses the device."""
        _prepare_device(self.options)
        while attempt := self._next():
            ended = self._run(attempt)
            with self._changed:
                self._attempts.remove(attempt)
                self._running = None
            self._end(attempt.message, ended)
        self._services.readers.close()
        self._services.writers.shutdown()
        self._outbox.put(None)
        self._sender.join()

    def _next(self) -> Attempt | None:
        with self._changed:
            self._changed.wait_for(lambda: self._attempts or self._closed)
            self._running = self._attempts[0] if self._attempts else None
            return self._running

    def _run(self, attempt: Attempt) -> TaskEnded:
        """Run one attempt to its end, whatever happens in it."""
        message = attempt.message
        outcome, failure, reason = "finished", None, ""
        result: dict[str, Any] = {}
        try:
            result = attempt.run()
        except LeaseLostError as error:
            outcome, reason = "stopped", error.message
        except Exception as error:  # noqa: BLE001 - the boundary: one attempt must not end the worker
            known = as_farm_error(error)
            outcome, failure, reason = "failed", known.failure, str(known)
        finally:
            attempt.end()
        if outcome == "finished" and attempt.unfinished():
            outcome = "stopped" if attempt.should_stop() else "failed"
            left = f"{message.kind} left {len(attempt.unfinished())} items without an outcome"
            reason = attempt.stop_reason or left
            failure = None if outcome == "stopped" else Failure.ERROR
        return replace(
            _ended(message, outcome, failure, reason),
            device_s=attempt.device_s(),
            waited_s=attempt.waited_s,
            result=result,
        )

    def _end(self, message: TaskMessage, ended: TaskEnded) -> None:
        """Say that an attempt is over, and forget its gang."""
        if message.gang and self._groups:
            self._groups.close(message)
        self._outbox.put(ended)

    def store(self, url: str, options: StoreOptions) -> Store:
        """Return the store at a URL, opened once while it is in use."""
        with self._stores_lock:
            store = self._stores.pop((url, options), None) or open_store(url, options)
            self._stores[url, options] = store
            if len(self._stores) > _STORES:
                del self._stores[next(iter(self._stores))]
            return store

    def _snapshot(self) -> list[Attempt]:
        with self._changed:
            return list(self._attempts)

    def _send_events(self) -> None:
        """Send what has come together in a short while as one message."""
        pause = threading.Event()
        closed = False
        while not closed:
            batch = [self._outbox.get()]
            pause.wait(_OUTBOX_PAUSE_S)
            while not self._outbox.empty():
                batch.append(self._outbox.get())
            closed = None in batch
            events = [event for event in batch if event is not None]
            if events:
                self._deliver(events)

    def _deliver(self, events: list[Event]) -> None:
        """Send a batch; where that fails one by one, so that one event does not keep the others back."""
        try:
            self._send(events)
        except Exception as error:
            if len(events) > 1:
                for event in events:
                    self._deliver([event])
                return
            [event] = events
            log.exception("not sent: %.500r", event)
            if isinstance(event, TaskEnded) and event.result:  # perhaps that is what cannot travel
                reason = f"its result could not be sent: {type(error).__name__}: {error}"
                ended = replace(event, outcome="failed", failure=Failure.ERROR, reason=reason, result={})
                self._deliver([ended])


def _ended(message: TaskMessage, outcome: str, failure: Failure | None = None, reason: str = "") -> TaskEnded:
    return TaskEnded(message.task, message.attempt, outcome, failure, reason)


def _prepare_device(options: WorkerOptions) -> None:
    """Fix the number of compute threads; a second call in one process changes nothing.

    On a GPU that it shares, no worker takes the memory of another one.
    """
    import torch

    if options.device != "cpu" and options.share < 1:
        torch.cuda.set_per_process_memory_fraction(options.share)

    torch.set_num_threads(options.threads)
    with contextlib.suppress(RuntimeError):  # it can be set only before the first parallel work
        torch.set_num_interop_threads(1)
