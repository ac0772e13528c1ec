"""Looking at jobs: from a farm that answers, from one that does not, and with nothing running."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import time
from pathlib import Path

import pytest

from farm import client, folders
from farm.ledger import Ledger
from tests.farm.cli.conftest import Cli
from tests.farm.cli.played import PlayedFarm, ended_job, make_job


@pytest.fixture
def history(machine: Path) -> str:
    """Return the id of a finished job in the ledger of a farm that runs no more."""
    ledger = Ledger(folders.data_dir() / "ledger.sqlite")
    job = {
        "id": "j1",
        "number": 1,
        "name": "old-times",
        "user": "ada",
        "tier": "default",
        "priority": 50,
        "state": "completed",
        "manifest": {},
        "styles": {},
        "output": "/renders/old",
        "created_at": time.time(),
    }
    ledger.insert("jobs", job)
    ledger.insert("jobs", {**job, "id": "j2", "number": 2, "name": "cut-off", "state": "active"})
    ledger.event("j1", "finished", "it went [well]")
    ledger.close()
    return "j1"


def test_status_without_any_history_exits_0(cli: Cli) -> None:
    result = cli("status")
    assert result.exit_code == 0
    assert "no jobs yet" in result.stdout


def test_status_json_without_any_history_is_an_empty_list(cli: Cli) -> None:
    assert json.loads(cli("status", "--json").stdout) == {"jobs": []}


@pytest.mark.parametrize("command", ["status", "tasks", "logs", "wait", "sheet"])
def test_a_job_that_is_not_there_is_a_usage_error(cli: Cli, command: str) -> None:
    result = cli(command, "nothing")
    assert result.exit_code == 2
    assert "there is no job 'nothing'" in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("version", "said", "hint"),
    [(1, "has schema 1, older than", "farm up"), (99, "has schema 99, newer than", "install")],
)
@pytest.mark.usefixtures("history")
def test_a_ledger_of_another_version_is_one_line_that_says_what_to_do(
    cli: Cli, version: int, said: str, hint: str
) -> None:
    with contextlib.closing(sqlite3.connect(folders.data_dir() / "ledger.sqlite")) as ledger:
        ledger.execute(f"PRAGMA user_version={version}")
    result = cli("status")
    assert result.exit_code == 1
    error, way_out = result.stderr.splitlines()
    assert said in error
    assert hint in way_out


def test_a_file_that_is_no_ledger_is_one_line(cli: Cli) -> None:
    (folders.data_dir() / "ledger.sqlite").write_bytes(b"no ledger at all" * 100)
    result = cli("status")
    assert result.exit_code == 1
    assert "cannot be read" in result.stderr.splitlines()[0]


def test_history_is_read_from_the_ledger_when_nothing_runs(cli: Cli, history: str) -> None:
    assert "old-times" in cli("status").stdout
    assert json.loads(cli("status", "old-times", "--json").stdout)["jobs"][0]["id"] == history
    assert "it went [well]" in cli("logs", history).stdout
    assert cli("tasks", history, "--json").stdout == '{\n  "tasks": []\n}\n'


@pytest.mark.usefixtures("history")
def test_wait_for_an_ended_job_needs_no_farm(cli: Cli) -> None:
    assert cli("wait", "old-times").exit_code == 0


@pytest.mark.usefixtures("history")
@pytest.mark.parametrize("command", ["wait", "watch"])
def test_nobody_waits_for_a_job_that_nobody_works_on(cli: Cli, command: str) -> None:
    result = cli(command, "cut-off")
    assert result.exit_code == 7
    assert "no farm is running" in result.stderr


@pytest.mark.parametrize("command", [("workers",), ("pause", "x"), ("cancel", "x")])
def test_commands_that_need_a_farm_exit_7_without_one(cli: Cli, command: tuple[str, ...]) -> None:
    result = cli(*command)
    assert result.exit_code == 7
    assert "farm up" in result.stderr


def test_a_named_farm_that_does_not_answer_is_exit_7(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "FIRST_PATIENCE_S", 0.0)
    result = cli("status", FARM_ADDRESS="http://127.0.0.1:1", FARM_TOKEN="x")
    assert result.exit_code == 7
    assert "does not answer" in result.stderr


@pytest.mark.usefixtures("history")
def test_this_machines_ledger_is_read_when_its_farm_does_not_answer(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "FIRST_PATIENCE_S", 0.0)
    monkeypatch.setattr(client, "find", lambda: client.Farm("http://127.0.0.1:1", here=True))
    result = cli("status", "--json")
    assert [job["id"] for job in json.loads(result.stdout)["jobs"]] == ["j2", "j1"]
    assert "this is what its ledger says" in result.stderr


def test_status_json_is_what_the_farm_says(farm_cli: Cli, played: PlayedFarm) -> None:
    jobs = [make_job(), ended_job(id="j6")]
    played.on("GET", "/v1/jobs", {"jobs": jobs})
    assert json.loads(farm_cli("status", "--json").stdout) == {"jobs": jobs}


def test_status_lists_jobs_with_what_is_left(farm_cli: Cli, played: PlayedFarm) -> None:
    played.on("GET", "/v1/jobs", {"jobs": [make_job(name="[b]x[/b]")]})
    out = farm_cli("status").stdout
    assert "[b]x[/b]" in out
    assert "4 of 10" in out
    assert "3 s to 5 s" in out


def test_status_all_asks_for_more(farm_cli: Cli, played: PlayedFarm) -> None:
    played.on("GET", "/v1/jobs", {"jobs": []})
    farm_cli("status")
    farm_cli("status", "--all")
    few, many = (int(request.query["limit"]) for request in played.asked("GET", "/v1/jobs"))
    assert few < many


def test_status_of_a_job_names_every_failed_file_with_its_reason(farm_cli: Cli, played: PlayedFarm) -> None:
    played.has_job(ended_job("completed with errors", failed=3))
    out = farm_cli("status", "j7").stdout
    for n in range(3):
        assert f"/photos/bad-{n}.jpg" in out
    assert out.count("the file is cut off") == 3


def test_more_failures_than_the_job_shows_are_fetched(farm_cli: Cli, played: PlayedFarm) -> None:
    job = ended_job("completed with errors", failed=10)
    failures, job["failures"] = job["failures"], job["failures"][:2]
    played.has_job(job)
    played.on("GET", "/v1/jobs/j7/items", {"items": failures, "total": 10})
    assert "/photos/bad-9.jpg" in farm_cli("status", "j7").stdout


@pytest.mark.parametrize(
    ("state", "failed", "code"),
    [("completed", 0, 0), ("completed with errors", 1, 3), ("failed", 1, 4), ("canceled", 0, 5)],
)
@pytest.mark.parametrize("command", ["wait", "watch"])
def test_the_exit_code_says_what_became_of_the_job(
    farm_cli: Cli, played: PlayedFarm, command: str, state: str, failed: int, code: int
) -> None:
    played.has_job(make_job(), make_job(state="active"), ended_job(state, failed))
    result = farm_cli(command, "j7")
    assert result.exit_code == code
    assert state in result.stdout


def test_wait_gives_up_when_its_time_is_over(farm_cli: Cli, played: PlayedFarm) -> None:
    played.has_job(make_job())
    result = farm_cli("wait", "j7", "--timeout", "0.01")
    assert result.exit_code == 6
    assert "active" in result.stdout


def test_wait_json_is_the_job(farm_cli: Cli, played: PlayedFarm) -> None:
    played.has_job(ended_job())
    assert json.loads(farm_cli("wait", "j7", "--json").stdout) == ended_job()


def test_watch_takes_the_latest_job_that_is_not_over(farm_cli: Cli, played: PlayedFarm) -> None:
    played.on("GET", "/v1/jobs", {"jobs": [ended_job(id="j9"), make_job(id="j8")]})
    played.has_job(ended_job("canceled", id="j8"))
    result = farm_cli("watch", "--json")
    assert json.loads(result.stdout)["id"] == "j8"
    assert result.exit_code == 5


def test_watch_without_any_job_is_a_usage_error(farm_cli: Cli, played: PlayedFarm) -> None:
    played.on("GET", "/v1/jobs", {"jobs": []})
    assert farm_cli("watch").exit_code == 2


def test_progress_in_a_pipe_is_a_few_plain_lines_on_stderr(farm_cli: Cli, played: PlayedFarm) -> None:
    looks = [make_job(items={"done": n // 10, "pending": 10 - n // 10}) for n in range(0, 100, 2)]
    played.has_job(
        make_job(state="queued", items={"done": 0, "pending": 10}), *looks[:3], *looks[25:28], ended_job()
    )
    result = farm_cli("watch", "j7", "--json")
    assert [line.split(",")[0] for line in result.stderr.splitlines()] == [
        "j7: queued",
        "j7: active",
        "j7: active",
        "j7: completed",
    ]
    assert json.loads(result.stdout)["state"] == "completed"


def test_tasks_show_attempts_workers_and_reasons(farm_cli: Cli, played: PlayedFarm) -> None:
    task = {
        "id": 12,
        "step": "render",
        "state": "failed",
        "attempt": 3,
        "worker": "w-1",
        "items": {"total": 5, "done": 3, "failed": 1, "skipped": 1},
        "failure": "worker_lost",
        "reason": "it died [again]",
    }
    played.on("GET", "/v1/jobs/j7/tasks", {"tasks": [task]})
    assert json.loads(farm_cli("tasks", "j7", "--json").stdout) == {"tasks": [task]}
    out = farm_cli("tasks", "j7").stdout
    for part in ("12", "5 of 5, 1 failed, 1 skipped", "w-1", "worker_lost: it died [again]"):
        assert part in out


def event(number: int, text: str = "ok") -> dict[str, object]:
    return {"id": number, "job": "j7", "at": 1_700_000_000.0, "type": "message", "text": text, "data": {}}


def test_logs_come_whole_and_in_order(farm_cli: Cli, played: PlayedFarm) -> None:
    played.has_job(make_job())
    played.on(
        "GET", "/v1/jobs/j7/events", {"events": [event(1), event(2)]}, {"events": [event(3)]}, {"events": []}
    )
    assert [e["id"] for e in json.loads(farm_cli("logs", "j7", "--json").stdout)["events"]] == [1, 2, 3]
    assert [r.query["after"] for r in played.asked("GET", "/v1/jobs/j7/events")] == ["0", "2", "3"]


def test_logs_follow_a_job_to_its_end_with_one_object_a_line(
    farm_cli: Cli, played: PlayedFarm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("farm.cli.status._LOOK_S", 0.0)
    played.has_job(make_job(), make_job(), ended_job())
    played.on(
        "GET",
        "/v1/jobs/j7/events",
        {"events": [event(1)]},
        {"events": []},
        {"events": [event(2, "the last")]},
        {"events": []},
    )
    lines = farm_cli("logs", "j7", "--follow", "--json").stdout.splitlines()
    assert [json.loads(line)["id"] for line in lines] == [1, 2]


def test_workers_json_is_what_the_farm_says(farm_cli: Cli, played: PlayedFarm) -> None:
    worker = {
        "id": "w-1",
        "pid": 77,
        "node": "n",
        "device": "cuda:0",
        "state": "busy",
        "styles": ["candy", "mosaic"],
        "task": 12,
        "job": "j7",
        "item": "a.jpg",
        "items_done": 5,
        "device_s": 1.0,
        "held_bytes": 1,
        "loads": 2,
    }
    played.on("GET", "/v1/workers", {"workers": [worker]})
    assert json.loads(farm_cli("workers", "--json").stdout) == {"workers": [worker]}
    out = farm_cli("workers").stdout
    for part in ("w-1", "77", "cuda:0", "busy", "candy, mosaic", "12"):
        assert part in out
