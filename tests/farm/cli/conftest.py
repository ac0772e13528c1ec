"""The command line, on a machine of its own, with and without a farm to talk to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from tests.farm.cli.played import TOKEN, PlayedFarm, play

Cli = Callable[..., Result]


@pytest.fixture
def played() -> Iterator[PlayedFarm]:
    """Return a farm that is played, and runs on a port of its own."""
    with play() as farm:
        yield farm


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the home of a user with XDG folders of its own, who works in it and has no farm."""
    for name in ("data", "config", "state", "cache"):
        monkeypatch.setenv(f"XDG_{name.upper()}_HOME", str(tmp_path / "xdg" / name))
    for name in ("FARM_ADDRESS", "FARM_TOKEN", "FORCE_COLOR", "NO_COLOR", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("USER", "ada")
    monkeypatch.setenv("LOGNAME", "ada")
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.chdir(home)
    return home


@pytest.fixture
def photos(machine: Path) -> Path:
    """Return a folder with a picture in it, in the home of the user."""
    folder = machine / "photos"
    folder.mkdir()
    (folder / "a.jpg").write_bytes(b"only listed, never opened here")
    return folder


@pytest.fixture
def cli(machine: Path) -> Cli:
    """Return a function that runs a command line on a machine without a farm."""

    def run(*args: str, **env: str) -> Result:
        from farm.cli.app import app

        result = CliRunner(env=env).invoke(app, args, prog_name="farm")
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        assert "Traceback" not in result.output
        return result

    return run


@pytest.fixture
def farm_cli(cli: Cli, played: PlayedFarm, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """Return a function that runs a command line which talks to the played farm."""
    monkeypatch.setenv("FARM_ADDRESS", played.url)
    monkeypatch.setenv("FARM_TOKEN", TOKEN)
    played.on("GET", "/v1/health", {"farm": "f1", "version": "1.2.3", "pid": 7, "uptime_s": 1.0})
    return cli
