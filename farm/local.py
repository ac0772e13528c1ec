"""The farm of this machine: find it, start it, end it.

A farm is a Ray head of its own (`farm.head`) in which a detached controller lives; `<state>/farm.json` says
where. Which processes belong to it is not written there: each carries the farm's id in its environment, and
the id begins with a mark of the state folder, so that whatever a crash leaves behind is found and ended too.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from farm import farm_file
from farm.farm_file import FarmFile
from farm.folders import data_dir, open_private, private, state_dir, write_private
from jobs.errors import FarmError, NoFarmError, UsageError

if TYPE_CHECKING:
    from farm.processes import Ended

ADDRESS_VARIABLE = "FARM_ADDRESS"
TOKEN_VARIABLE = "FARM_TOKEN"  # noqa: S105 - the name of a variable
CONTROL_COMMAND = (sys.executable, "-m", "farm.ray_control")
"""What knows Ray, in a process of its own; see `farm.launch`."""

IDLE_EXIT_S = 900.0


@dataclass(frozen=True, slots=True, kw_only=True)
class FarmOptions:
    """What can be chosen for a local farm.

    Attributes:
        workers: Least number of workers, or None for one per GPU, or one where there is no GPU.
        max_workers: How many the farm may grow to while there is work; None for no more than `workers`.
        device: `cpu` or `cuda` for what each worker gets, or `auto` for a GPU where there is one.
        threads: Compute threads of each worker, or None to share the cores among them.
        share: Part of a GPU that each worker takes, above 0 and up to 1.
        store: Folder or `s3://` prefix for assets, or empty for the user's data folder.
        host: The address that the api listens on.
        port: The port of the api, or 0 for a free one.
        idle_exit_s: Seconds without work after which the farm ends itself, or None for never.
        cpus: Number of cores for Ray, or None for those that this process may use.
        gpus: Number of GPUs, or None to let Ray find them.
        ray_address: HOST:PORT of a Ray cluster that runs already, or empty to start a Ray head.

    Raises:
        UsageError: If a number is out of its range.
    """

    workers: int | None = None
    max_workers: int | None = None
    device: str = "auto"
    threads: int | None = None
    share: float = 1.0
    store: str = ""
    host: str = "127.0.0.1"
    port: int = 0
    idle_exit_s: float | None = IDLE_EXIT_S
    cpus: int | None = None
    gpus: int | None = None
    ray_address: str = ""

    def __post_init__(self) -> None:
        for name, least in (
            ("workers", 0),
            ("max_workers", 1),
            ("threads", 1),
            ("cpus", 1),
            ("gpus", 0),
            ("idle_exit_s", 1),
        ):
            value = getattr(self, name)
            if value is not None and not value >= least:
                raise UsageError(f"{name} is {value}", f"it must be {least} or more")
        if self.workers == 0 and self.max_workers is None:
            raise UsageError("a farm of 0 workers never renders", "set workers to 1 or more, or max_workers")
        if self.max_workers is not None and self.max_workers < (self.workers or 0):
            raise UsageError(
                f"max_workers is {self.max_workers}, less than workers {self.workers}", "raise one of them"
            )
        if self.device not in {"auto", "cpu", "cuda"}:
            raise UsageError(f"the device is {self.device!r}", "it must be auto, cpu or cuda")
        if not 0.01 <= self.share <= 1:
            raise UsageError(f"the share is {self.share:g}", "it must be from 0.01 to 1: 0.5 for two workers")
        if self.share < 1 and self.device == "cpu":
            raise UsageError(
                f"the share is {self.share:g} of a GPU, and the device is cpu",
                "workers on the CPU share its cores as they are: set workers",
            )
        if not 0 <= self.port < 65536:
            raise UsageError(f"the port is {self.port}", "it must be from 1 to 65535, or 0 for a free one")


@dataclass(frozen=True, slots=True)
class RemoteFarm:
    """A farm elsewhere, named by FARM_ADDRESS or by an option.

    Attributes:
        api_url: `http://HOST:PORT`, without a slash at the end.
    """

    api_url: str
    secret: str = field(repr=False)

    def token(self) -> str:
        """Return the bearer token of its api."""
        return self.secret


@dataclass(frozen=True, slots=True)
class Down:
    """What `down` did.

    Attributes:
        farm: The farm that was ended, or None if none was recorded.
        processes: The processes that were ended.
    """

    farm: FarmFile | None
    processes: tuple[Ended, ...]


def find(address: str = "") -> FarmFile | RemoteFarm | None:
    """Return the farm that commands talk to, or None: the one that is named, or else the one of this machine.

    Args:
        address: The url of a farm's api, by default what FARM_ADDRESS says. Its token is taken from
            FARM_TOKEN, never from a command line, where everybody on the machine could read it.

    Raises:
        UsageError: If the address is none, or its token is missing.
    """
    address = (address or os.environ.get(ADDRESS_VARIABLE, "")).rstrip("/")
    local = here()
    if not address or (local is not None and address == local.api_url):
        return local
    from urllib.parse import urlsplit

    parts = urlsplit(address)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise UsageError(f"{address!r} is no address of a farm", "it looks like http://farm.example.org:8080")
    token = os.environ.get(TOKEN_VARIABLE, "")
    if not token:
        raise UsageError(f"no token for the farm at {address}", f"set {TOKEN_VARIABLE} to that of its api")
    return RemoteFarm(address, token)


def is_remote() -> bool:
    """Return whether the environment names a farm, so that commands do not start one here."""
    return bool(os.environ.get(ADDRESS_VARIABLE))


def here() -> FarmFile | None:
    """Return the farm that runs on this machine, or None."""
    farm = farm_file.read()
    return farm if farm and farm.ready and farm.machine == farm_file.machine() and farm.alive else None


def up(options: FarmOptions | None = None, control: Sequence[str] = CONTROL_COMMAND) -> FarmFile:
    """Start the farm of this machine, or return the one that runs, unchanged (`fresh` is false then).

    Of several that call at once, one starts it and the others wait. A failure and an interrupt leave nothing
    behind but logs.

    Args:
        options: What to start.
        control: The command that launches and stops controllers.

    Raises:
        FarmError: If it does not start, with the reason and where the log is.
    """
    running = here()
    if running is not None:
        return running
    with _lock():
        running = here()
        if running is not None:
            return running
        _clear(farm_file.read())
        farm = _describe(options or FarmOptions())
        try:
            farm_file.write(farm)
            return _start(farm, options or FarmOptions(), control)
        except BaseException:
            _clear(farm)
            raise


def down(only: str = "", control: Sequence[str] = CONTROL_COMMAND) -> Down:
    """End the farm of this machine: its processes, its temporary folder, its state file. The history stays.

    Ends what is left of a farm as well, and does nothing where there is nothing.

    Args:
        only: The id of the farm to end, so that nothing is done if it is another one by now; or empty.
        control: The command that launches and stops controllers.

    Raises:
        FarmError: If something does not end.
    """
    with _lock():
        farm = farm_file.read()
        if only and (farm is None or farm.farm != only):
            return Down(None, ())
        failure = _stop_controller(farm, control) if farm and farm.ready and not farm.own_head else None
        ended = _clear(farm)
    if failure is not None:
        raise failure
    return Down(farm, tuple(ended))


def down_from_within(farm: str) -> None:
    """End the farm `farm` by a process that is not part of it: how a farm ends itself. Returns at once."""
    import subprocess

    from farm import head, processes

    environment = head.child_environment(farm)
    del environment[processes.MARK_VARIABLE]
    with open_private(private(state_dir() / "logs") / "down.log") as log:
        subprocess.Popen(
            [sys.executable, "-m", "farm.local", "down", farm],
            env=environment,
            cwd=state_dir(),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def _describe(options: FarmOptions) -> FarmFile:
    """Return what is known of a farm before it is started."""
    import secrets

    from farm import head, temp_dir

    farm = f"{farm_file.owner()}-{secrets.token_hex(4)}"
    own_head = not options.ray_address
    state = state_dir()
    host = f"[{options.host}]" if ":" in options.host else options.host
    return FarmFile(
        farm=farm,
        version=_version(),
        machine=farm_file.machine(),
        started_at=time.time(),
        api_url=f"http://{host}:{_free_port(options.host, options.port)}",
        api_token_file=str(state / "api-token"),
        ray_address=options.ray_address,
        ray_token_file=str(state / "ray-token") if own_head else "",
        own_head=own_head,
        node_ip=head.LOOPBACK if own_head else "",
        log_dir=str(private(state / "logs")),
        workers=options.workers,
        max_workers=options.max_workers,
        device=options.device,
        threads=options.threads,
        share=options.share,
        idle_exit_s=options.idle_exit_s,
        store=options.store or str(data_dir() / "store"),
        ledger=str(data_dir() / "ledger.sqlite"),
        temp_dir=str(temp_dir.make(state, farm)) if own_head else "",
    )


def _start(farm: FarmFile, options: FarmOptions, control: Sequence[str]) -> FarmFile:
    """Start the Ray head, unless there is one, and the controller in it; write down that it is ready."""
    import secrets

    from farm import head, launch

    for file in filter(None, (farm.api_token_file, farm.ray_token_file)):
        write_private(Path(file), secrets.token_hex(32))
    environment = head.child_environment(farm.farm)
    if farm.own_head:
        environment = head.head_environment(farm.farm, Path(farm.ray_token_file))
        log = Path(farm.log_dir) / "ray-start.log"
        cpus = options.cpus or len(os.sched_getaffinity(0))
        ray = head.start(Path(farm.temp_dir), log, environment, cpus, options.gpus)
        lives = tuple((pid, start) for pid in ray.pids if (start := farm_file.started_at(pid)) is not None)
        farm = replace(farm, ray_address=ray.address, pids=lives)
    told = launch.control("launch", farm, environment, control)
    farm = replace(farm, ready=True, api_url=str(told.get("api_url", farm.api_url)))
    farm_file.write(farm)
    return replace(farm, fresh=True)


def _stop_controller(farm: FarmFile, control: Sequence[str]) -> FarmError | None:
    """End the controller in a cluster that is not ours; return what failed, which must not keep the rest."""
    from farm import head, launch

    try:
        launch.control("stop", farm, head.child_environment(farm.farm), control)
    except FarmError as error:
        return NoFarmError(
            f"the controller in the Ray cluster at {farm.ray_address} may still run: {error.message}",
            "it is forgotten here: end it on the cluster",
        )
    return None


def _clear(farm: FarmFile | None) -> list[Ended]:
    """End whatever belongs to a farm of this folder, and remove what it kept on disk, except for its logs.

    Raises:
        UsageError: If the farm runs on another machine, which shares this folder.
    """
    from farm import head, processes, temp_dir

    state, owner = state_dir(), f"{farm_file.owner()}-"
    if farm is not None and farm.machine != farm_file.machine():
        raise UsageError(
            f"{state} holds the farm of {farm.machine}, which is another machine",
            "run `farm down` there, or give this machine its own XDG_STATE_HOME",
        )
    ended = processes.end(lambda mark: mark.startswith(owner), last=head.GCS_NAME)
    temp_dir.remove_all(state, owner, farm.temp_dir if farm else "", private(state / "logs") / "ray")
    for name in ("farm.json", "api-token", "ray-token"):
        (state / name).unlink(missing_ok=True)
    return ended


@contextlib.contextmanager
def _lock() -> Iterator[None]:
    """Be the only one that starts or ends the farm of this folder. The kernel takes it back if we die."""
    with (state_dir() / "farm.lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _free_port(host: str, wanted: int) -> int:
    """Return a port on which nobody listens: the one that is wanted, or a free one if that is 0.

    A free one is not taken from those that the system gives out by itself (32768 and up), because the
    controller listens on it only after Ray has taken a dozen of these.

    Raises:
        UsageError: If there is none.
    """
    import random
    import socket

    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    reason = ""
    for port in [wanted] if wanted else random.SystemRandom().sample(range(20_000, 32_000), 20):
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            # A server may listen where another has just ended; so may its probe.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError as error:
                reason = error.strerror or str(error)
            else:
                return port
    raise UsageError(
        f"cannot listen on {host}, port {wanted or 'any'}: {reason}",
        "choose another one with --host or --port",
    )


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("stylefarm")
    except PackageNotFoundError:
        return "not installed"


def main(verb: str, only: str = "") -> int:
    """End the farm with the id `only`, or whichever runs: the other half of `down_from_within`."""
    if verb != "down":
        raise SystemExit("usage: python -m farm.local down [FARM]")
    try:
        done = down(only)
    except FarmError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(f"ended {len(done.processes)} processes\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
