"""The processes of one farm: marked when started, found by their mark, ended to the last one."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import psutil

from jobs.errors import FarmError

MARK_VARIABLE = "STYLEFARM_FARM"
"""Environment variable that every process of a farm inherits; its value is the id of the farm."""

_POLL_S = 0.01


@dataclass(frozen=True, slots=True)
class Ended:
    """A process that was ended."""

    pid: int
    name: str


def marked(belongs: Callable[[str], bool]) -> list[psutil.Process]:
    """Return this user's living processes whose mark `belongs`, but not this process itself."""
    found = []
    for process in psutil.process_iter():
        # It may have ended meanwhile, or forbid to look into it: a process of our own farm does not.
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            if process.pid == os.getpid() or process.uids().real != os.getuid():
                continue
            mark = process.environ().get(MARK_VARIABLE, "")
            if mark and belongs(mark) and _lives(process):
                found.append(process)
    return found


def end(
    belongs: Callable[[str], bool], *, last: str, grace_s: float = 5.0, kill_s: float = 10.0
) -> list[Ended]:
    """End all processes whose mark `belongs` and wait until they are gone.

    They are asked first (SIGTERM), all but those named `last`, which the others talk to while they leave.
    What is there after `grace_s` is killed, and whatever it may have started meanwhile.

    Raises:
        FarmError: If one does not go within `kill_s`, which is up to the kernel then.
    """
    found = marked(belongs)
    ended = {process.pid: Ended(process.pid, _name(process)) for process in found}
    asked = [process for process in found if ended[process.pid].name != last]
    for process in asked:
        _send(process.terminate)
    wait(asked, grace_s)
    deadline = time.monotonic() + kill_s
    while rest := marked(belongs):
        for process in rest:
            ended.setdefault(process.pid, Ended(process.pid, _name(process)))
            _send(process.kill)
        if left := wait(rest, deadline - time.monotonic()):
            raise FarmError(
                f"processes that do not end: {', '.join(str(process.pid) for process in left)}",
                "they wait for a device or a network file system; try `farm down` again when it answers",
            )
    return sorted(ended.values(), key=lambda process: process.pid)


def wait(processes: Iterable[psutil.Process], seconds: float) -> list[psutil.Process]:
    """Wait until the processes have ended, `seconds` at most, and return those that have not."""
    deadline = time.monotonic() + seconds
    waiting = list(processes)
    while waiting := [process for process in waiting if _lives(process)]:
        if time.monotonic() >= deadline:
            return waiting
        time.sleep(_POLL_S)
    return []


def _send(signal: Callable[[], None]) -> None:
    """Send a signal to a process that may have ended (psutil makes sure that it is the same one)."""
    with contextlib.suppress(psutil.NoSuchProcess):
        signal()


def _name(process: psutil.Process) -> str:
    """Return the name of a process, as far as it can still be told."""
    try:
        return process.name()
    except psutil.NoSuchProcess:
        return "?"


def _lives(process: psutil.Process) -> bool:
    """Return whether a process still does anything.

    A zombie with no thread left does not. In a container without an init process nobody collects it, which is
    why this is not `psutil.wait_procs`: that waits until it is collected.
    """
    try:
        return process.is_running() and (
            process.status() != psutil.STATUS_ZOMBIE or process.num_threads() > 1
        )
    except psutil.NoSuchProcess:
        return False
