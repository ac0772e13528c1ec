"""Homes for farms of tests, and the processes in them."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from farm import processes
from farm.farm_file import FarmFile

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = Path(__file__).with_name("script_control.py")
ACTOR = (sys.executable, str(SCRIPT), "actor")
REMEMBERED = ("XDG_DATA_HOME", "XDG_CONFIG_HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME")
UP = """
import sys
from farm import local
farm = local.up(control=sys.argv[1:])
print(farm.farm, farm.fresh)
"""


def control(*arguments: object) -> tuple[str, ...]:
    return (sys.executable, str(SCRIPT), *map(str, arguments))


def use_home(patch: pytest.MonkeyPatch, home: Path) -> Path:
    for variable in REMEMBERED:
        patch.setenv(variable, str(home / variable.split("_")[1].lower()))
    patch.setenv("PYTHONPATH", str(ROOT))
    for variable in ("FARM_ADDRESS", "FARM_TOKEN"):
        patch.delenv(variable, raising=False)
    return home


def wait_for(happened: Callable[[], bool], seconds: float = 60) -> None:
    """Wait for what another process does; only the failure takes `seconds`."""
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


def using(home: Path) -> list[psutil.Process]:
    """Return all living processes that have to do with a folder, whatever their mark says."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.status() == psutil.STATUS_ZOMBIE or process.pid == os.getpid():
                continue
            traces = [*process.cmdline(), process.cwd(), *(file.path for file in process.open_files())]
        except psutil.Error:
            continue
        if any(str(home) in trace for trace in traces):
            found.append(process)
    return found


def mine(farm: FarmFile) -> list[psutil.Process]:
    return processes.marked(farm.farm.__eq__)
