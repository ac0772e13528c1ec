"""The command line as a whole: help, names, errors, start-up."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import typer.main
from typer.testing import CliRunner

from farm import folders
from farm.cli.app import app
from farm.cli.render_options import RenderOptions
from jobs.manifest import Manifest
from jobs.optimize import ColorSettings, OptimizerSettings, RenderSettings
from jobs.stylize_step import StylizeStep
from tests.farm.cli.conftest import Cli

ROOT = Path(__file__).resolve().parents[3]

JOB_OPTIONS = [
    *("--style", "-s", "--output", "-o", "--recursive", "--no-recursive", "--pattern", "--on-existing"),
    *("--format", "--quality", "--max-size", "--max-megapixels", "--precision", "--device", "--threads"),
    *("--chunk-items", "--workers", "--set", "--priority", "--tier", "--user", "--name", "--max-failed"),
    *("--s3-endpoint-url", "--s3-region", "--s3-profile", "--s3-path-style", "--no-s3-path-style", "--json"),
    *("--style-image", "--style-weights", "--preset", "--loss-network", "--optimizer", "--size", "--scales"),
    *("--iterations", "--smallest", "--tile", "--save-every", "--content-weight", "--style-weight"),
    *("--tv-weight", "--style-scale", "--init", "--colors", "--seed", "--dry-run"),
]

FROZEN = {
    "render": ["inputs", *JOB_OPTIONS, "--sheet"],
    "submit": ["inputs", *JOB_OPTIONS],
    "train": [
        *(
            "inputs",
            "--style-image",
            "--style-weights",
            "--name",
            "--replace",
            "--begin-with",
            "--style-size",
        ),
        *("--license", "--source", "--onnx", "--output", "-o", "--preset", "--loss-network", "--network"),
        *("--steps", "--batch", "--crop", "--learning-rate", "--precision", "--seed", "--test-image"),
        *("--validation", "--checkpoint-steps", "--content-weight", "--style-weight", "--tv-weight"),
        *("--workers", "--device", "--threads", "--set", "--recursive", "--no-recursive", "--on-existing"),
        *("--priority", "--tier", "--user", "--max-failed", "--s3-endpoint-url", "--s3-region"),
        *("--s3-profile", "--s3-path-style", "--no-s3-path-style"),
        *("--wait", "--no-wait", "--dry-run", "--json"),
    ],
    "extend": ["job", "--iterations", "--steps", "--wait", "--no-wait", "--json"],
    "status": ["job", "--all", "--json"],
    "watch": ["job", "--json"],
    "wait": ["job", "--timeout", "--json"],
    "tasks": ["job", "--json"],
    "logs": ["job", "--follow", "-f", "--json"],
    "sheet": ["job", "--output", "-o"],
    "workers": ["--json"],
    "pause": ["job", "--json"],
    "resume": ["job", "--json"],
    "cancel": ["job", "--json"],
    "retry": ["job", "--json"],
    "up": [
        *("--workers", "--max-workers", "--device", "--threads", "--share", "--store"),
        *("--host", "--port", "--idle-exit", "--ray-address"),
    ],
    "down": [],
    "styles add": ["file", "--name", "--format", "--license", "--source", "--json"],
    "styles list": ["--json"],
    "styles show": ["name", "--json"],
    "styles remove": ["name"],
    "weights list": ["--json"],
    "weights fetch": ["name", "--replace", "--json"],
    "weights add": [
        *("name", "file", "--preprocessing", "--channel-scale", "--architecture", "--replace", "--json")
    ],
    "weights remove": ["name"],
    "presets": ["name", "--json"],
    "schema": [],
    "version": ["--json"],
}
"""Scripts out there rely on these: add to them, but take nothing away without a major version."""


def leaves(command: Any, words: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    if not hasattr(command, "commands"):
        yield " ".join(words), command
    for name, child in getattr(command, "commands", {}).items():
        yield from leaves(child, (*words, name))


COMMANDS = dict(leaves(typer.main.get_command(app)))


def test_commands_and_options_are_those_that_scripts_rely_on() -> None:
    names = {
        words: [
            name
            for p in command.params
            for name in [*p.opts, *p.secondary_opts]
            if name not in {"--help", "-h"}
        ]
        for words, command in COMMANDS.items()
    }
    assert {words: sorted(found) for words, found in names.items()} == {
        words: sorted(frozen) for words, frozen in FROZEN.items()
    }


@pytest.mark.parametrize("words", [*COMMANDS, "", "styles", "weights"])
def test_help_says_what_a_command_does_and_shows_an_example(cli: Cli, words: str) -> None:
    result = cli(*words.split(), "--help")
    assert result.exit_code == 0
    assert "Usage: farm" in result.stdout
    assert f"Example: farm {words}".rstrip() in " ".join(result.stdout.split())


@pytest.mark.parametrize("words", ["", "styles", "weights"])
def test_a_group_alone_shows_its_help_and_is_wrong_usage(cli: Cli, words: str) -> None:
    result = cli(*words.split())
    assert result.exit_code == 2
    assert "Usage: farm" in result.output


def _choices(annotation: Any) -> tuple[str, ...]:
    """Return the words of a Literal, also where it may be None."""
    found = get_args(annotation)
    return found if isinstance(found[0], str) else get_args(found[0])


def test_choices_are_those_of_the_manifest() -> None:
    """What an option offers and what a manifest takes is one list."""
    offered = {name: get_args(get_args(hint)[0]) for name, hint in get_type_hints(RenderOptions).items()}
    offered = {name: values for name, values in offered.items() if values and isinstance(values[0], str)}
    taken = {
        "optimizer": OptimizerSettings.model_fields["kind"],
        "colors": ColorSettings.model_fields["method"],
        **{name: RenderSettings.model_fields[name] for name in ("preset", "format", "precision", "device")},
        **{name: Manifest.model_fields[name] for name in ("on_existing", "tier")},
    }
    assert offered == {name: _choices(field.annotation) for name, field in taken.items()}
    for name in ("format", "device"):
        assert offered[name] == get_args(StylizeStep.model_fields[name].annotation)
    assert set(get_args(StylizeStep.model_fields["precision"].annotation)) < set(offered["precision"])


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["rendr"], "Did you mean 'render'"),
        (["status", "--al"], "--al"),
        (["status", "a", "b"], "b"),
        (["wait"], "JOB"),
        (["wait", "j", "--timeout", "soon"], "--timeout"),
        (["wait", "j", "--timeout", "-1"], "--timeout"),
        (["up", "--port", "70000"], "--port"),
        (["up", "--workers", "0"], "0 workers"),
        (["up", "--device", "tpu"], "tpu"),
        (["up", "--threads", "none"], "--threads"),
        (["up", "--idle-exit", "-1"], "--idle-exit"),
        (["up", "--store", "ftp://x"], "ftp://x"),
        (["styles", "add", "f.pth"], "--name"),
        (["styles", "add", "f.pth", "--name", "x"], "--format"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_usage_is_one_line_with_a_hint(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, args: list[str], said: str
) -> None:
    monkeypatch.setattr("farm.local.up", lambda _: pytest.fail("a farm was started"))
    result = cli(*args)
    assert result.exit_code == 2
    error, hint = result.stderr.splitlines()
    assert error.startswith("error: ")
    assert said in error
    assert hint.startswith("hint: ")


def test_a_surprise_is_one_line_and_its_traceback_is_in_a_log(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    def break_down() -> None:
        raise ZeroDivisionError("[bold]a surprise[/bold]")

    monkeypatch.setattr("farm.client.find", break_down)
    result = cli("status")
    assert result.exit_code == 1
    log = folders.state_dir() / "logs" / "cli.log"
    error, hint = result.stderr.splitlines()
    assert error.endswith("ZeroDivisionError: [bold]a surprise[/bold]")
    assert hint.endswith(str(log))
    assert "in break_down" in log.read_text()


def test_debug_shows_the_traceback(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def break_down() -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("farm.client.find", break_down)
    result = CliRunner().invoke(app, ["--debug", "status"])
    assert result.exit_code == 1
    assert "Traceback" in result.stderr


def run(*args: str, **env: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, *args],
        env=os.environ | {"PYTHONPATH": str(ROOT)} | env,
        capture_output=True,
        check=False,
    )


@pytest.mark.usefixtures("machine")
def test_the_command_starts_without_anything_heavy() -> None:
    """Not only the import: reading the history loads nothing slow either."""
    script = """
import sys
sys.argv = ["farm", "status"]
from farm.__main__ import main
try:
    main()
except SystemExit as end:
    assert end.code == 0
slow = {"torch", "torchvision", "ray", "boto3", "botocore", "PIL", "numpy", "fastapi", "httpx", "yaml"}
found = sorted((slow | {"asyncio", "psutil", "jobs.manifest"}) & set(sys.modules))
sys.exit(", ".join(found) or 0)
"""
    done = run("-c", script)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_every_encoding_can_print_every_name(encoding: str) -> None:
    done = run("-m", "farm", "status", "写真-é", PYTHONIOENCODING=encoding)
    assert done.returncode == 2
    assert b"Traceback" not in done.stderr
    assert b"there is no job" in done.stderr


@pytest.mark.usefixtures("machine")
def test_a_reader_that_goes_away_is_no_surprise() -> None:
    """As in `farm schema | head -1`."""
    command = f"{sys.executable} -m farm schema | head -1"
    done = subprocess.run(
        ["bash", "-c", command], env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, check=False
    )
    assert done.stdout == b"{\n"
    assert done.stderr == b""
