"""`farm render`: waiting, progress, summary, exit codes, ctrl-C."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from farm.cli import styles
from jobs.errors import FarmError
from jobs.library import NetworkEntry
from tests.farm.cli.conftest import Cli
from tests.farm.cli.played import TOKEN, PlayedFarm, ended_job, make_job

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize(
    ("state", "failed", "code"),
    [("completed", 0, 0), ("completed with errors", 2, 3), ("failed", 2, 4), ("canceled", 0, 5)],
)
def test_render_waits_and_sums_up(
    farm_cli: Cli, played: PlayedFarm, photos: Path, state: str, failed: int, code: int
) -> None:
    played.on("POST", "/v1/jobs", make_job(state="planning"), status=201)
    played.has_job(make_job(), ended_job(state, failed))
    result = farm_cli("render", str(photos), "-s", "candy")
    assert result.exit_code == code
    for part in (state, "/renders/july", "/renders/july/.farm/jobs/j7/report.json", "1.6 images/s"):
        assert part in result.stdout
    assert result.stdout.count("the file is cut off") == failed


def test_what_should_be_known_of_results_is_said_once_with_an_example(
    farm_cli: Cli, played: PlayedFarm, photos: Path
) -> None:
    remarks = [
        {"text": "first of 3 frames", "input": "/photos/wave.gif", "items": 1},
        {"text": "first of 2 pages", "input": "/photos/scan.tif", "items": 5},
    ]
    played.on("POST", "/v1/jobs", make_job(), status=201)
    played.has_job(ended_job(remarks=remarks))
    out = farm_cli("render", str(photos), "-s", "candy").stdout
    assert "first of 3 frames: /photos/wave.gif\n" in out
    assert "first of 2 pages: /photos/scan.tif and 4 more\n" in out


@pytest.mark.parametrize("options", [[], ["--json"]], ids=["text", "json"])
def test_render_of_what_planning_refused_is_wrong_usage(
    farm_cli: Cli, played: PlayedFarm, photos: Path, options: list[str]
) -> None:
    """Such a job failed before it had a plan; what is wrong with it is said as if it were found at once."""
    refused = ended_job("failed", reason="a.gif and a.png would both become a.png", plan=None)
    played.on("POST", "/v1/jobs", make_job(state="planning", plan=None), status=201)
    played.has_job(refused)
    result = farm_cli("render", str(photos), "-s", "candy", *options)
    assert result.exit_code == 2
    assert "error: a.gif and a.png would both become a.png" in result.stderr.splitlines()
    assert (json.loads(result.stdout) if options else result.stdout) == (refused if options else "")


def test_render_json_is_the_ended_job_alone(farm_cli: Cli, played: PlayedFarm, photos: Path) -> None:
    played.on("POST", "/v1/jobs", make_job(), status=201)
    played.has_job(ended_job())
    assert json.loads(farm_cli("render", str(photos), "-s", "candy", "--json").stdout) == ended_job()


def test_render_goes_on_waiting_while_the_controller_restarts(
    farm_cli: Cli, played: PlayedFarm, photos: Path
) -> None:
    played.on("POST", "/v1/jobs", make_job(), status=201)
    played.has_job(make_job(), ended_job())

    def lose_connections(request: object) -> Any:
        played.hang_ups = 2
        played.answer = answer  # type: ignore[method-assign]
        return answer(request)  # type: ignore[arg-type]

    answer = played.answer
    played.answer = lose_connections  # type: ignore[method-assign]
    assert farm_cli("render", str(photos), "-s", "candy").exit_code == 0


def test_a_terminal_gets_a_bar_that_is_gone_at_the_end(played: PlayedFarm, photos: Path) -> None:
    """On a real pseudo-terminal: numbers are drawn while it runs, and the summary is all that stays."""
    played.on("POST", "/v1/jobs", make_job(), status=201)
    played.has_job(make_job(), ended_job())
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "farm", "render", str(photos), "-s", "candy"],
        env=_environment(played) | {"TERM": "xterm", "COLUMNS": "120"},
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=theirs,
    )
    os.close(theirs)
    drawn = b""
    with contextlib.suppress(OSError):  # Linux says EIO when the other side is closed
        while part := os.read(ours, 4096):
            drawn += part
    os.close(ours)
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    assert "━".encode() in drawn
    assert b"4 of 10, 1.6 images/s, 3 s to 5 s left" in drawn
    assert b"\x1b[2K" in drawn, "the bar is wiped"
    assert b"/renders/july" in out
    assert b"\x1b" not in out


def _environment(played: PlayedFarm) -> dict[str, str]:
    return os.environ | {"FARM_ADDRESS": played.url, "FARM_TOKEN": TOKEN, "PYTHONPATH": str(ROOT)}


def test_ctrl_c_leaves_the_job_alone_and_says_how_to_end_it(played: PlayedFarm, photos: Path) -> None:
    """In a process of its own: it is interrupted while it waits, as a terminal would."""
    looked = threading.Event()
    played.on("POST", "/v1/jobs", make_job(), status=201)
    played.has_job(make_job())
    answer = played.answer

    def note(request: Any) -> Any:
        if request.path == "/v1/jobs/j7":
            looked.set()
        return answer(request)

    played.answer = note  # type: ignore[method-assign]
    process = subprocess.Popen(
        [sys.executable, "-m", "farm", "render", str(photos), "-s", "candy"],
        env=_environment(played),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert looked.wait(30)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "farm cancel j7" in said
    assert "Traceback" not in said
    assert not played.asked("POST", "/v1/jobs/j7:cancel")


def test_a_render_that_the_farm_may_still_refuse_leaves_no_folder_before_it_is_asked(
    cli: Cli, photos: Path, machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kind of work looks at an optimization, on the farm that is started for it."""

    def up(_: Any) -> None:
        raise FarmError("no farm today")

    monkeypatch.setattr("farm.local.up", up)
    (machine / "night.jpg").write_bytes(b"a painting, for all that is known here")
    library = styles.library()
    sha256 = library.put(b"weights")
    library.add_network(NetworkEntry("vgg19", sha256, "vgg19", "torchvision", False, "conv5_4", 7, 0.0))
    result = cli("render", "photos", "--style-image", "night.jpg")
    assert "no farm today" in result.stderr
    assert {path.name for path in machine.iterdir()} == {"photos", "night.jpg"}
