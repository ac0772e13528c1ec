"""The Ray head of a local farm: its command line, its environment, its folder.

It is started with `ray start`, because the head of `ray.init()` ends with the command that called it. Nothing
here imports Ray. What the settings are for is written in docs/adr/0005-local-farm.md.
"""

from __future__ import annotations

import os
import re
import site
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from farm import processes
from farm.folders import open_private
from jobs.errors import FarmError

GCS_NAME = "gcs_server"
"""The process that all others of a Ray head talk to."""

LOOPBACK = "127.0.0.1"
START_S = 120.0
_OBJECT_STORE_BYTES = 256 * 2**20  # it holds messages, never pictures
_LOG_BYTES = 16 * 2**20
_LOG_FILES = 2


class _RayParams(Protocol):
    ray_client_server_port: int | None


def refuse_ray_client(ray_params: _RayParams, head: bool) -> None:  # noqa: ARG001, FBT001 - Ray calls it so
    """Keep `ray start` from starting a Ray Client server (the hook that RAY_START_HOOK names).

    There is no option for it. It would be one more port through which code can be run, and one more process.
    """
    ray_params.ray_client_server_port = None


@dataclass(frozen=True, slots=True)
class Head:
    """A Ray head that runs.

    Attributes:
        address: Where its cluster is reached, `127.0.0.1:PORT`.
        pids: The processes without which it is no head (control store and raylet).
    """

    address: str
    pids: tuple[int, ...]


def child_environment(farm: str) -> dict[str, str]:
    """Return the environment of every process of the farm `farm`, before Ray's own settings.

    Ours is left out of it, so that it says nothing about another farm, and so are secrets of this one.
    """
    environment = {k: v for k, v in os.environ.items() if k not in {"FARM_ADDRESS", "FARM_TOKEN"}}
    environment |= {
        processes.MARK_VARIABLE: farm,
        # Ray renames its processes; without this the new name is written over the environment, mark and all.
        "SPT_NOENV": "1",
    }
    root = str(Path(__file__).resolve().parents[1])
    if root not in site.getsitepackages():
        # Not installed, or installed as a link to its sources: what we start must find us as well.
        path = [root, *filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))]
        environment["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(path))
    return environment


def head_environment(farm: str, token_file: Path) -> dict[str, str]:
    """Return the environment in which a Ray head of our own, its controller and its workers run."""
    inherited = {
        name: value
        for name, value in child_environment(farm).items()
        # RAY_ADDRESS and its many relatives would lead us to somebody else's Ray; failure injection may stay.
        if not name.startswith("RAY_") or name.startswith("RAY_testing_")
    }
    return inherited | {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token_file),
        # Ray replaces 127.0.0.1 by an address that others can reach, unless clusters are off.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_START_HOOK": f"{refuse_ray_client.__module__}.{refuse_ray_client.__name__}",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ROTATION_MAX_BYTES": str(_LOG_BYTES),
        "RAY_ROTATION_BACKUP_COUNT": str(_LOG_FILES),
        # A fixed port otherwise, the same for every Ray of the machine.
        "DASHBOARD_METRIC_PORT": "0",
    }


def start(temp_dir: Path, log: Path, environment: Mapping[str, str], cpus: int, gpus: int | None) -> Head:
    """Start a Ray head on the loopback address, with free ports that it chooses itself.

    Args:
        temp_dir: An empty folder of its own.
        log: The file for what `ray start` says.
        environment: From `head_environment`.
        cpus: The number of cores.
        gpus: The number of GPUs, or None to let Ray find them.

    Raises:
        FarmError: If it does not start.
    """
    command = [
        sys.executable,
        "-m",
        "ray.scripts.scripts",
        "start",
        "--head",
        *_arguments(temp_dir, cpus, gpus),
    ]
    with open_private(log) as output:
        try:
            status = subprocess.run(
                [*command, *_arguments(temp_dir, cpus, gpus)],
                env=environment,
                # Not the user's folder: it would be kept in use, and Python would import what lies there.
                cwd=temp_dir,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                timeout=START_S,
                check=False,
            ).returncode
        except subprocess.TimeoutExpired as error:
            raise FarmError(f"Ray did not start within {START_S:.0f} s", f"see {log}") from error
    address_file = temp_dir / "ray_current_cluster"
    if status != 0 or not address_file.is_file():
        raise FarmError(f"Ray did not start: {last_line(log.read_text('utf-8', 'replace'))}", f"see {log}")
    farm = environment[processes.MARK_VARIABLE]
    core = [p.pid for p in processes.marked(farm.__eq__) if p.name() in {GCS_NAME, "raylet"}]
    return Head(address_file.read_text("utf-8").strip(), tuple(core))


def last_line(text: str) -> str:
    """Return the last line of a program's output that is not empty, without colors."""
    lines = re.sub(r"\x1b\[[0-9;]*m", "", text).split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")


def _arguments(temp_dir: Path, cpus: int, gpus: int | None) -> list[str]:
    """Return the options of `ray start`; port 0 is chosen by the process that listens, free of races."""
    options: dict[str, object] = {
        "node-ip-address": LOOPBACK,
        "port": 0,
        "node-manager-port": 0,
        "object-manager-port": 0,
        "dashboard-agent-listen-port": 0,
        "dashboard-agent-grpc-port": 0,
        "runtime-env-agent-port": 0,
        "metrics-export-port": 0,
        "min-worker-port": 0,
        "max-worker-port": 0,
        "include-dashboard": "false",
        "include-log-monitor": "false",
        "temp-dir": temp_dir,
        "object-store-memory": _OBJECT_STORE_BYTES,
        "num-cpus": cpus,
        "log-style": "record",
        "log-color": "false",
    }
    if gpus is not None:
        options["num-gpus"] = gpus
    return [f"--{name}={value}" for name, value in options.items()] + [
        "--no-monitor",
        "--disable-usage-stats",
    ]
