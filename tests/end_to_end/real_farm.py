"""A real farm in folders of its own: the real command, a real Ray, real processes."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
from PIL import Image

from farm import processes
from farm.client import Farm as Client
from jobs.errors import NoFarmError
from jobs.records import Record
from jobs.states import ENDED_JOBS

ROOT = Path(__file__).resolve().parents[2]
LONG_S = 90.0
"""How long something may take that should happen soon; only a failure takes it."""

Job = dict[str, Any]


def wait_until(happened: Callable[[], Any], what: str, seconds: float = LONG_S) -> Any:
    """Return what `happened` returns as soon as that is true."""
    deadline = time.monotonic() + seconds
    while not (found := happened()):
        assert time.monotonic() < deadline, f"after {seconds:.0f} s: {what}"
        time.sleep(0.02)
    return found


class RealFarm:
    """Commands, jobs and processes of one farm.

    Args:
        home: An empty folder with a short path.
        environment: What is set for its commands and its processes, beside folders of its own.
    """

    def __init__(self, home: Path, **environment: str) -> None:
        self.home = home
        self.environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "FARM_KINDS": "tests.toy",
            **{f"XDG_{name}_HOME": str(home / name.lower()) for name in ("DATA", "STATE", "CACHE", "CONFIG")},
            **environment,
        }
        self.marks: set[str] = set()

    # Commands.

    def run(self, *arguments: object, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run `farm` with these arguments to its end."""
        done = subprocess.run(
            [sys.executable, "-m", "farm", *map(str, arguments)],
            env=self.environment,
            cwd=self.home,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=2 * LONG_S,
            check=False,
        )
        assert "Traceback" not in done.stderr, done.stderr
        assert not check or done.returncode == 0, (
            f"{arguments}: {done.returncode}\n{done.stdout}{done.stderr}"
        )
        return done

    def start(self, *arguments: object) -> subprocess.Popen[str]:
        """Start `farm` with these arguments in another terminal."""
        return subprocess.Popen(
            [sys.executable, "-m", "farm", *map(str, arguments)],
            env=self.environment,
            cwd=self.home,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def json(self, *arguments: object) -> Any:
        """Return what `farm ... --json` prints."""
        return json.loads(self.run(*arguments, "--json").stdout)

    def up(self, *arguments: object, workers: int = 2) -> None:
        """Start it, with one thread for each worker, and wait for its workers."""
        self.run("up", "--workers", workers, "--threads", 1, "--idle-exit", 0, *arguments)
        self.marks.add(self.file()["farm"])
        wait_until(lambda: len(self.workers()) == workers, f"{workers} workers came up")

    def down(self) -> subprocess.CompletedProcess[str]:
        """End it."""
        return self.run("down")

    # What it knows.

    def file(self) -> dict[str, Any]:
        """Return what is written down about it."""
        found: dict[str, Any] = json.loads((self.home / "state/stylefarm/farm.json").read_text())
        return found

    @property
    def token(self) -> str:
        """The token of its api."""
        return Path(self.file()["api_token_file"]).read_text()

    @property
    def client(self) -> Client:
        """A new client of its api."""
        return Client(self.file()["api_url"], self.token)

    def http(self) -> httpx.Client:
        """Return a client for requests to its api, with its token."""
        headers = {"Authorization": f"Bearer {self.token}"}
        return httpx.Client(base_url=self.file()["api_url"], headers=headers, timeout=LONG_S, trust_env=False)

    def workers(self) -> list[dict[str, Any]]:
        """Return the workers in service."""
        return self.client.workers()

    def controller(self) -> psutil.Process:
        """Return the process of the controller that answers."""
        return psutil.Process(self.client.health()["pid"])

    def job(self, job: str) -> Job:
        """Return a job as it stands."""
        return self.client.job(job)

    def tasks(self, job: str) -> list[dict[str, Any]]:
        """Return the tasks of a job."""
        return self.client.tasks(job)

    def items(self, job: str) -> list[dict[str, Any]]:
        """Return the items of a job."""
        found: list[dict[str, Any]] = self.client.items(job)["items"]
        return found

    def events(self, job: str, type_: str = "") -> list[dict[str, Any]]:
        """Return what happened in a job, of one type or of all."""
        return [event for event in self.client.events(job) if type_ in {"", event["type"]}]

    # Jobs.

    def submit(self, manifest: dict[str, Any]) -> str:
        """Hand in a manifest and return the job's id."""
        return str(self.client.submit(manifest, uuid.uuid4().hex)["id"])

    def wait(self, job: str, state: str = "") -> Job:
        """Return a job that has ended, or is in `state`."""

        def reached() -> Job | None:
            with contextlib.suppress(NoFarmError):  # a controller that is started again
                found = self.job(job)
                if found["state"] in ({state} if state else ENDED_JOBS):
                    return found
            return None

        found: Job = wait_until(reached, f"job {job} is {state or 'over'}")
        return found

    def wait_done(self, job: str, done: int = 1) -> Job:
        """Return a job of which at least `done` items are done."""
        found: Job = wait_until(
            lambda: (now := self.job(job))["items"]["done"] >= done and now, f"{done} items of {job} are done"
        )
        assert found["state"] not in ENDED_JOBS, "it was over before anything could happen to it"
        return found

    def attempts(self, job: str) -> list[dict[str, Any]]:
        """Return all attempts of a job as the ledger has them, in the order in which they started."""
        ledger = sqlite3.connect(f"file:{self.file()['ledger']}?mode=ro", uri=True)
        ledger.row_factory = sqlite3.Row
        with contextlib.closing(ledger):
            rows = ledger.execute(
                "SELECT a.*, t.job FROM attempts a JOIN tasks t ON t.id=a.task WHERE t.job=? "
                "ORDER BY a.started_at, a.task",
                (job,),
            )
            return [dict(row) for row in rows]

    def add_style(self, name: str, width: int = 2, seed: int = 0) -> None:
        """Add a style of random weights, made by our own code."""
        import torch

        from workers.nst.style_models import StyleMetadata, save_style_model
        from workers.nst.transformer import TransformerNet

        with torch.random.fork_rng():
            torch.manual_seed(seed)
            net = TransformerNet(width)
        file = self.home / f"{name}.safetensors"
        save_style_model(file, net, StyleMetadata(name, width))
        self.run("styles", "add", file, "--name", name, "--format", "stylefarm")

    # Processes.

    def processes(self, title: str = "") -> list[psutil.Process]:
        """Return the living processes that carry its mark, all or those with `title` in what `ps` shows."""
        return [
            process
            for process in processes.marked(self.marks.__contains__)
            if not title or title in _title(process)
        ]

    def kill(self, title: str) -> list[int]:
        """Kill its processes with `title` in what `ps` shows, at once; return their ids."""
        found = self.processes(title)
        assert found, f"no process of the farm is called {title}"
        for process in found:
            process.send_signal(signal.SIGKILL)
        return [process.pid for process in found]


def _title(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.NoSuchProcess):
        return " ".join(process.cmdline())
    return ""


@contextlib.contextmanager
def running_farm(*arguments: object, workers: int = 2, **environment: str) -> Iterator[RealFarm]:
    """Start a farm; at the end, end it and make sure that nothing of it is left."""
    with tempfile.TemporaryDirectory(prefix="sf-", dir="/tmp") as folder:
        farm = RealFarm(Path(folder), **environment)
        try:
            farm.up(*arguments, workers=workers)
            yield farm
        finally:
            farm.down()
        assert farm.processes() == []


def photos(folder: Path, count: int, side_px: int = 32) -> Path:
    """Make a folder of pictures that all differ."""
    folder.mkdir(parents=True)
    for number in range(count):
        noise = np.random.default_rng(number).integers(0, 256, (side_px, side_px, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"p{number:03d}.png")
    return folder


def stylize_manifest(inputs: Path, output: Path, style: str, **job: Any) -> dict[str, Any]:
    """Return a manifest that renders a folder in a style, four pictures in a task."""
    step: dict[str, Any] = {"name": "render", "kind": "stylize", "inputs": [str(inputs)], "styles": [style]}
    step["chunk"] = {"items": 4}
    return {"version": 1, "name": "photos", "output": str(output), "steps": [step], **job}


# --- what a job leaves in its output ----------------------------------------------------------------


def toy_manifest(output: Path, name: str = "job", **step: Any) -> dict[str, Any]:
    """Return a manifest with one step of the toy kind, and what is said of the job in `job_...` words."""
    job = {key.removeprefix("job_"): step.pop(key) for key in [*step] if key.startswith("job_")}
    return {
        "version": 1,
        "name": name,
        "output": str(output),
        "steps": [{"name": "count", "kind": "toy", **step}],
        **job,
    }


def records(output: Path) -> dict[str, list[Record]]:
    """Return the records of an output by the key of the result, oldest generation first."""
    found: dict[str, list[Record]] = {}
    for path in sorted((output / ".farm/results").rglob("*.json")):
        record = Record.from_json(path.read_bytes())
        assert re.search(rf"\.{record.generation}\.json$", path.name)
        found.setdefault(record.key, []).append(record)
    return found


def results(output: Path) -> dict[str, Path]:
    """Return the results in an output by key."""
    return {
        str(path.relative_to(output)): path
        for path in sorted(output.rglob("*"))
        if path.is_file() and ".farm" not in path.relative_to(output).parts
    }


def staged(output: Path) -> list[str]:
    """Return the temporary names that are left in an output."""
    return [str(path) for path in (output / ".farm/staging").glob("*")]


def stamps(output: Path) -> Iterator[tuple[str, int, int, int]]:
    """Yield name, inode, mtime and size of each result: they change when it is written again."""
    for key, path in results(output).items():
        status = path.stat()
        yield key, status.st_ino, status.st_mtime_ns, status.st_size
