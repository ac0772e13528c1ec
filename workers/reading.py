"""Reading ahead: threads that fetch and decode the next pictures while the device works on this one."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Any

_AHEAD = 4
"""Pictures read and not yet taken by the device, per worker."""

_AHEAD_BYTES = 1 << 30
"""What these may hold together; one picture is always allowed."""


class Slot:
    """A place for what one read gives: a value, or nothing if it was dropped or needs no device."""

    def __init__(self, read: Callable[[], tuple[Any, int] | None]) -> None:
        self._read = read
        self._filled = threading.Event()
        self.value: Any = None
        self.size_bytes = 0
        self.empty = True

    def fill(self) -> None:
        """Read now; `read` handles its own errors."""
        found = self._read()
        if found is not None and not self._filled.is_set():  # set already: it was dropped meanwhile
            self.value, self.size_bytes = found
            self.empty = False
        self._filled.set()

    def drop(self) -> None:
        """Give up on it: whoever waits gets nothing."""
        self.value, self.empty = None, True
        self._filled.set()

    def wait(self, timeout_s: float) -> bool:
        """Return whether it is filled or dropped, waiting for at most `timeout_s`."""
        return self._filled.wait(timeout_s)


class Readers:
    """Threads that fill slots in the order in which they were fed, a bounded number ahead of the device."""

    def __init__(self, threads: int) -> None:
        self._changed = threading.Condition()
        self._waiting: deque[Slot] = deque()
        self._ahead: set[Slot] = set()
        self._closed = False
        self._threads = [
            threading.Thread(target=self._work, name=f"reader-{n}", daemon=True) for n in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def feed(self, slots: list[Slot]) -> None:
        """Fill these after those that were fed before."""
        with self._changed:
            self._waiting.extend(slots)
            self._changed.notify_all()

    def taken(self, slot: Slot) -> None:
        """The device has taken what is in this slot: there is room for another."""
        with self._changed:
            self._ahead.discard(slot)
            self._changed.notify_all()

    def drop(self, slots: list[Slot]) -> None:
        """Do not fill these any more, and forget what they hold."""
        gone = set(slots)
        with self._changed:
            self._waiting = deque(slot for slot in self._waiting if slot not in gone)
            self._ahead -= gone
            self._changed.notify_all()
        for slot in slots:
            slot.drop()

    def close(self) -> None:
        """End the threads once they have finished what they read now."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or (self._waiting and self._room()))
                if self._closed:
                    return
                slot = self._waiting.popleft()
                self._ahead.add(slot)
            slot.fill()

    def _room(self) -> bool:
        held = sum(slot.size_bytes for slot in self._ahead)
        return not self._ahead or (len(self._ahead) < _AHEAD and held < _AHEAD_BYTES)
