"""What is written down about the farm of this machine: `<state>/farm.json`. Quick to import and to read."""

from __future__ import annotations

import json
import os
import zlib
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

from farm.folders import state_dir, write_private
from jobs.errors import NoFarmError, UsageError

_SCHEMA = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class FarmFile:
    """The farm of this machine, as `<state>/farm.json` and the controller that is launched are told it.

    Attributes:
        farm: The farm's id: `owner()`, a hyphen, and a random part.
        ready: Whether the controller answers; false while the farm is being started.
        version: The version of Stylefarm that started it.
        machine: Name of the machine that it runs on: the folder may be shared by several.
        started_at: Seconds since 1970.
        api_url: `http://HOST:PORT`, without a slash at the end.
        api_token_file: File with the token that the api asks for.
        ray_address: HOST:PORT of the Ray cluster.
        ray_token_file: File with Ray's token, or empty where the cluster is not ours.
        own_head: Whether this farm started the Ray head and ends it.
        node_ip: The address of the node where the controller runs, or empty where the cluster is not ours.
        temp_dir: Ray's folder, removed with the farm, or empty.
        log_dir: Logs of starting and ending; Ray's own are moved here when the farm ends.
        pids: Processes without which the farm does not live, each with its start in clock ticks since boot.
        workers: Least number of workers, or None for one per GPU, or one where there is no GPU.
        max_workers: How many the farm may grow to while there is work; None for no more than `workers`.
        device: `cpu` or `cuda` for what each worker gets, or `auto` for a GPU where there is one.
        threads: Compute threads of each worker, or None to share the cores among them.
        share: Part of a GPU that each worker takes.
        idle_exit_s: Seconds without work after which the farm ends itself, or None for never.
        store: Folder or `s3://` prefix for assets.
        ledger: The controller's SQLite file.
        fresh: Whether the call of `farm.local.up` that returned this started it; not stored.
    """

    farm: str
    ready: bool = False
    version: str
    machine: str
    started_at: float
    api_url: str
    api_token_file: str
    ray_address: str
    ray_token_file: str
    own_head: bool
    node_ip: str
    temp_dir: str
    log_dir: str
    pids: tuple[tuple[int, int], ...] = ()
    workers: int | None
    max_workers: int | None
    device: str
    threads: int | None
    share: float = 1.0
    idle_exit_s: float | None
    store: str
    ledger: str
    fresh: bool = field(default=False, compare=False)

    def to_json(self) -> str:
        """Return the JSON text that `from_json` reads."""
        values = asdict(self)
        del values["fresh"]
        return json.dumps({"schema": _SCHEMA, **values}, indent=2)

    @classmethod
    def from_json(cls, text: str) -> FarmFile:
        """Read what `to_json` made.

        Raises:
            ValueError: If it is something else, or of another version of this file.
        """
        values = json.loads(text)
        if not isinstance(values, dict) or values.pop("schema", None) != _SCHEMA:
            raise ValueError(f"not a farm file of schema {_SCHEMA}")
        if set(values) != {f.name for f in fields(cls)} - {"fresh"}:
            raise ValueError("keys are missing or unknown")
        values["pids"] = tuple((int(pid), int(start)) for pid, start in values["pids"])
        return cls(**values)

    def token(self) -> str:
        """Return the bearer token of the api.

        Raises:
            NoFarmError: If the farm has just ended.
        """
        try:
            return Path(self.api_token_file).read_text("ascii")
        except FileNotFoundError as error:
            raise NoFarmError("the farm has just ended", "start one with `farm up`") from error

    @property
    def alive(self) -> bool:
        """Whether all the processes live without which the farm does not; true where none are known."""
        return all(started_at(pid) == start for pid, start in self.pids)


def owner() -> str:
    """Return the beginning of the ids of all farms of this state folder, and of no other folder's."""
    return f"{zlib.crc32(os.fsencode(state_dir().resolve())):08x}"


def machine() -> str:
    """Return the name of this machine."""
    return os.uname().nodename


def read() -> FarmFile | None:
    """Return what the state file says, or None if there is none, or it is another folder's or no such file.

    Raises:
        UsageError: If it cannot be read.
    """
    path = state_dir() / "farm.json"
    try:
        farm = FarmFile.from_json(path.read_text("utf-8"))
    except (FileNotFoundError, TypeError, ValueError):
        return None
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}", "who started this farm?") from error
    return farm if str(farm.farm).startswith(f"{owner()}-") else None


def write(farm: FarmFile) -> None:
    """Write the state file, readable for this user alone."""
    write_private(state_dir() / "farm.json", farm.to_json())


def started_at(pid: int) -> int | None:
    """Return when a process started, in clock ticks since boot, or None if it does not live. Linux only.

    With its pid it names one process: a pid is used again, but not in the same tick. A zombie does not live.
    """
    try:
        # The name stands in parentheses and may hold anything, parentheses too.
        state, *values = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if state in "ZX" else int(values[18])
