"""`farm extend`: a finished optimization goes on as a new job."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.farm.cli.conftest import Cli
from tests.farm.cli.played import PlayedFarm, ended_job, make_job


@pytest.fixture
def extended(played: PlayedFarm) -> dict[str, Any]:
    """Return the job that goes on with j7."""
    job = make_job(id="j8", name="more")
    played.on("POST", "/v1/jobs/j7:extend", job, status=201)
    return job


@pytest.mark.parametrize(("state", "code"), [("completed", 0), ("completed with errors", 3), ("failed", 4)])
def test_the_new_job_is_followed_to_its_end(
    farm_cli: Cli, played: PlayedFarm, extended: dict[str, Any], state: str, code: int
) -> None:
    played.has_job(extended, ended_job(state, id="j8"))
    result = farm_cli("extend", "j7", "--iterations", "200")
    assert result.exit_code == code
    assert "job j8 (more)" in result.stderr
    assert state in result.stdout
    (request,) = played.asked("POST", "/v1/jobs/j7:extend")
    assert (request.body["iterations"], request.body["steps"]) == (200, None)


def test_trainings_go_on_by_steps(farm_cli: Cli, played: PlayedFarm, extended: dict[str, Any]) -> None:
    played.has_job(ended_job(id="j8"))
    assert farm_cli("extend", "j7", "--steps", "500").exit_code == 0
    (request,) = played.asked("POST", "/v1/jobs/j7:extend")
    assert (request.body["iterations"], request.body["steps"]) == (None, 500)


def test_it_can_be_left_to_the_farm(farm_cli: Cli, played: PlayedFarm, extended: dict[str, Any]) -> None:
    played.has_job(extended)
    assert farm_cli("extend", "j7", "--iterations", "200", "--no-wait").stdout == "j8\n"
    result = farm_cli("extend", "j7", "--iterations", "200", "--no-wait", "--json")
    assert json.loads(result.stdout) == extended


def test_what_cannot_go_on_is_said(farm_cli: Cli, played: PlayedFarm) -> None:
    played.refuse("POST", "/v1/jobs/j7:extend", "UsageError", "job j7 has no optimization", "submit one")
    result = farm_cli("extend", "j7", "--iterations", "200")
    assert result.exit_code == 2
    assert result.stderr.splitlines() == ["error: job j7 has no optimization", "hint: submit one"]


@pytest.mark.parametrize("options", [[], ["--iterations", "0"], ["--iterations", "many"]], ids=str)
def test_it_needs_a_number_of_iterations_or_steps(
    farm_cli: Cli, played: PlayedFarm, options: list[str]
) -> None:
    result = farm_cli("extend", "j7", *options)
    assert result.exit_code == 2
    assert "--iterations" in result.stderr
    assert not played.requests
