"""Stop code between any two of its file operations: where processes die, freeze, and overtake each other."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

_STEPS = frozenset({"open", "os.link", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.scandir"})
_thread = threading.local()

LIMIT_S = 60


def _hook(event: str, _: tuple[Any, ...]) -> None:
    before_step = getattr(_thread, "before_step", None)
    if before_step is not None and event in _STEPS:
        before_step()


sys.addaudithook(_hook)  # there is no way to remove one, so it is quiet unless a thread asks for it


@contextmanager
def at_step(number: int, act: Callable[[], object]) -> Iterator[None]:
    """Call `act` before the file operation with this number (from 1) that this thread does in the block."""
    count = 0

    def before_step() -> None:
        nonlocal count
        count += 1
        if count == number:
            _thread.before_step = None
            act()

    _thread.before_step = before_step
    try:
        yield
    finally:
        _thread.before_step = None


class Abandoned(BaseException):
    """Ends a thread that is never to go on."""


class Actor:
    """One thread that does a file operation only when it is told to."""

    def __init__(self, act: Callable[[], object]) -> None:
        self.outcome: object = None
        self.done = False
        self._act = act
        self._abandoned = False
        self._go, self._stopped = threading.Semaphore(0), threading.Semaphore(0)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        self._await_stop()

    def step(self) -> None:
        """Let it do one file operation, and all it does until it is about to do the next."""
        self._go.release()
        self._await_stop()

    def abandon(self) -> None:
        """End the thread where it is; what it would do to clean up happens now."""
        self._abandoned = True
        self._go.release()
        self._thread.join(LIMIT_S)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        _thread.before_step = self._before_step
        try:
            self.outcome = self._act()
        except Exception as error:  # noqa: BLE001 - the test looks at it
            self.outcome = error
        except Abandoned:
            return
        finally:
            _thread.before_step = None
            self.done = True
            self._stopped.release()

    def _before_step(self) -> None:
        if self._abandoned:
            return
        self._stopped.release()
        self._go.acquire()
        if self._abandoned:
            raise Abandoned

    def _await_stop(self) -> None:
        assert self._stopped.acquire(timeout=LIMIT_S)


def interleave(
    acts: Sequence[Callable[[], object]], choices: Sequence[int], frozen: frozenset[int]
) -> list[Actor]:
    """Run all of them as `choices` says, one file operation at a time, then each to its end.

    Args:
        acts: What to do.
        choices: Which of them does its next operation; any numbers.
        frozen: Which of them stay where they are when the choices are used up. Abandon them later.
    """
    actors = [Actor(act) for act in acts]
    for choice in choices:
        actor = actors[choice % len(actors)]
        if not actor.done:
            actor.step()
    for number, actor in enumerate(actors):
        while not actor.done and number not in frozen:
            actor.step()
    return actors
