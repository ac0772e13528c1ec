"""How things look: plain, literal, honest."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from rich.console import Console

from farm.cli import view
from jobs.states import ENDED_JOBS
from tests.farm.cli.played import ended_job, make_job


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0, "0 s"),
        (0.44, "0.4 s"),
        (8, "8 s"),
        (59.6, "1 min"),
        (120, "2 min"),
        (125, "2 min 05 s"),
        (3600, "1 h 00 min"),
        (3 * 86400 + 7200, "3 d 2 h"),
    ],
)
def test_durations_are_said_as_a_person_would(seconds: float, said: str) -> None:
    assert view.duration(seconds) == said


@pytest.mark.parametrize(
    ("count", "said"),
    [(0, "0 bytes"), (999, "999 bytes"), (2_500_000, "2.5 MB"), (7e12, "7.0 TB"), (7e15, "7000.0 TB")],
)
def test_sizes_have_the_unit_that_suits_them(count: float, said: str) -> None:
    assert view.size(count) == said


def test_the_eta_is_a_range_and_is_missing_before_anything_is_measured() -> None:
    assert view.eta(make_job(eta_s=[60.2, 125.0])) == "1 min to 2 min 05 s left"
    assert view.eta(make_job(eta_s=[3.1, 3.3])) == "3 s left"
    assert view.eta(make_job(eta_s=None)) == ""
    assert "left" not in view.progress_line(make_job(eta_s=None))
    assert "left" not in view.progress_line(make_job(state="paused"))


def test_progress_says_counts_speed_and_what_is_left() -> None:
    job = make_job(items={"failed": 1, "skipped": 2, "pending": 3})
    assert view.progress_line(job) == "active, 7 of 10, 1 failed, 2 skipped, 1.6 images/s, 3 s to 5 s left"


def test_a_job_that_is_being_planned_claims_no_total() -> None:
    assert " of " not in view.progress_line(make_job(state="planning"))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("[bold]a[/bold].jpg", "[bold]a[/bold].jpg"),
        ("two\nlines\x1b[31m", r"two\nlines\x1b[31m"),
        ("undecodable \udcff", r"undecodable \udcff"),
        ("Größe 写真.png", "Größe 写真.png"),
    ],
)
def test_text_of_users_is_one_literal_line(text: str, shown: str, capsys: pytest.CaptureFixture[str]) -> None:
    view.show(text)
    assert capsys.readouterr().out == f"{shown}\n"


def test_tables_take_brackets_and_emoji_codes_literally(capsys: pytest.CaptureFixture[str]) -> None:
    view.failures_table(
        [{"input": "/p/[red]x[/red].jpg", "style": "candy", "reason": "[link] :smile:"}],
        1,
        ended_job(failed=1),
    )
    assert "/p/[red]x[/red].jpg  [link] :smile:" in capsys.readouterr().out


def test_a_pipe_gets_whole_lines_without_colors(capsys: pytest.CaptureFixture[str]) -> None:
    long = "/photos/" + 20 * "very-long-folder-name/" + "a.jpg"
    view.failures_table([{"input": long, "style": "candy", "reason": 30 * "why "}], 1, ended_job(failed=1))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert long in lines[1]
    assert "\x1b" not in "".join(lines)


@pytest.mark.parametrize("width", [20, 40, 80, 200])
def test_a_narrow_terminal_loses_no_letter_of_a_name(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Long cells are folded, not cut."""
    file = io.StringIO()
    terminal = Console(file=file, width=width, force_terminal=True, color_system=None, markup=False)
    monkeypatch.setattr(view, "console", lambda **_: terminal)
    name = "abcdefghijklmnopqrstuvwxyz-0123456789.jpg"
    view.failures_table([{"input": name, "style": "candy", "reason": "x"}], 1, ended_job(failed=1))
    lines = file.getvalue().splitlines()[1:]
    assert "".join(line.split(" ")[0] for line in lines) == name
    assert all(len(line) <= width for line in lines)


def test_no_color_is_respected(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("NO_COLOR", "1")
    view.jobs_table([ended_job("failed")])
    assert "\x1b[31m" not in capsys.readouterr().out


def test_json_is_ascii_so_that_every_pipe_can_carry_it(capsys: pytest.CaptureFixture[str]) -> None:
    document = {"input": "写真 \udcff [x]"}
    view.show_json(document)
    out = capsys.readouterr().out
    assert out.isascii()
    assert json.loads(out) == document


def test_every_end_of_a_job_has_an_exit_code_of_its_own() -> None:
    assert set(view.EXIT_CODES) == ENDED_JOBS
    assert sorted(view.EXIT_CODES.values()) == [0, 3, 4, 5]


def test_a_summary_says_everything_there_is_to_know(capsys: pytest.CaptureFixture[str]) -> None:
    job: dict[str, Any] = ended_job(
        "completed with errors",
        failed=1,
        ignored={"count": 3, "names": ["notes.txt", "raw.cr2"]},
        warnings=["the store ignores conditions"],
        notes=["a.gif: first of 12 frames"],
        reason="because",
    )
    view.job_facts(job)
    out = capsys.readouterr().out
    for part in (
        "completed with errors",
        "10: 9 done, 1 failed",
        "1.6 images/s",
        "3 files: notes.txt, raw.cr2, ...",
        "the store ignores conditions",
        "a.gif: first of 12 frames",
        "/renders/july/.farm/jobs/j7/report.json",
        "because",
        "10 items in 3 tasks, 2.0 MB to read, about 3.0 MB to write, about 6 s of device time",
    ):
        assert part in out
