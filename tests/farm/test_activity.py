"""What is read of running tasks: how far they are, losses, previews, and how long they still take."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from farm.ledger import Ledger
from farm.views import View
from jobs.errors import UsageError

JOB = "j1"
STEP = {"name": "s", "kind": "stylize", "inputs": ["/in"], "styles": ["candy"]}
MANIFEST = {"version": 1, "name": "n", "output": "/out", "steps": [STEP]}


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    """A ledger with one active job of one step of two items."""
    made = Ledger(tmp_path / "ledger.sqlite")
    made.insert(
        "jobs",
        {
            "id": JOB, "number": 1, "name": "n", "user": "u", "tier": "default", "priority": 50,
            "state": "active", "manifest": MANIFEST, "styles": {}, "output": str(tmp_path / "out"),
            "created_at": 1.0,
            "started_at": time.time() - 100,
        },
    )  # fmt: skip
    made.insert(
        "steps",
        {
            "job": JOB, "name": "s", "position": 0, "kind": "optimize", "state": "ready", "needs": [],
            "planned": 1, "total": 2,
        },
    )  # fmt: skip
    return made


def task(ledger: Ledger, *, began_ago_s: float | None = None, **said: Any) -> int:
    """Write a task with an item, and an attempt of two workers if it has begun."""
    number = ledger.insert(
        "tasks",
        {
            "job": JOB, "step": "s", "state": "leased" if began_ago_s is not None else "queued",
            "kind": "optimize", "payload": {}, "affinity": "", "estimate_s": 1.0, "min_workers": 2,
            "max_workers": 2, "attempt": 1 if began_ago_s is not None else 0, **said,
        },
    )  # fmt: skip
    ledger.insert(
        "items",
        {
            "job": JOB, "step": "s", "task": number, "state": "pending", "input": f"/in/{number}.png",
            "size_bytes": 1, "stamp": "", "output_key": f"{number}.png", "style": "",
        },
    )  # fmt: skip
    if began_ago_s is not None:
        ledger.insert(
            "attempts",
            {
                "task": number, "number": 1, "worker": "w1", "members": ["w1", "w2"], "device": "cpu",
                "started_at": time.time() - began_ago_s,
            },
        )  # fmt: skip
    return number


def say(ledger: Ledger, type_: str, number: int, **data: Any) -> None:
    ledger.event(JOB, type_, "", {"task": number, "item": f"{number}.png", **data})


def view(ledger: Ledger) -> View:
    ledger.commit()
    return View(ledger.connection)


def test_a_running_task_shows_what_it_last_said(ledger: Ledger) -> None:
    number = task(ledger, began_ago_s=10, fraction=0.25, message="scale 2 of 3")
    for iteration in (1, 2):
        say(ledger, "loss", number, scale=1, size_px=96, iteration=iteration, budget=9, loss=5.0 / iteration)
    say(ledger, "preview", number, file="previews/1.jpg")
    task(ledger)
    [shown] = view(ledger).job(JOB)["running"]
    expected = {
        "task": number, "state": "leased", "workers": ["w1", "w2"], "fraction": 0.25,
        "message": "scale 2 of 3", "item": f"{number}.png", "scale": 1, "size_px": 96, "iteration": 2,
        "budget": 9, "loss": 2.5, "preview": "previews/1.jpg",
    }  # fmt: skip
    assert {name: shown[name] for name in expected} == expected


def test_a_gang_that_waits_says_why(ledger: Ledger) -> None:
    task(ledger, message="waits for 2 workers: 1 there")
    [shown] = view(ledger).job(JOB)["running"]
    assert (shown["state"], shown["workers"], shown["message"]) == (
        "queued",
        [],
        "waits for 2 workers: 1 there",
    )


def test_curves_come_by_item_in_order(ledger: Ledger) -> None:
    one, two = task(ledger, began_ago_s=1), task(ledger, began_ago_s=1)
    for iteration in range(3):
        for number in (one, two):
            say(ledger, "loss", number, iteration=iteration, loss=float(number + iteration))
    curves = view(ledger).losses(JOB)
    assert [(c["task"], c["item"]) for c in curves] == [(one, f"{one}.png"), (two, f"{two}.png")]
    assert [point["iteration"] for point in curves[1]["points"]] == [0, 1, 2]
    assert curves[0]["points"][2]["loss"] == one + 2


def test_the_rest_is_expected_to_be_as_fast_as_what_was_done(ledger: Ledger) -> None:
    """A quarter of the first of two pictures in 10 s: 70 s are left on the one gang that runs."""
    task(ledger, began_ago_s=10, fraction=0.25)
    task(ledger)
    low, high = view(ledger).job(JOB)["eta_s"]
    assert low < 70 < high


def test_nothing_is_said_of_the_rest_in_the_first_seconds(ledger: Ledger) -> None:
    task(ledger, began_ago_s=0.5, fraction=0.25)
    assert view(ledger).job(JOB)["eta_s"] is None


def test_the_newest_preview_is_found_below_the_jobs_own_folder(ledger: Ledger, tmp_path: Path) -> None:
    number = task(ledger, began_ago_s=1)
    with pytest.raises(UsageError, match="no job preview"):
        view(ledger).preview(JOB)
    say(ledger, "preview", number, file="previews/1.jpg")
    output, _, key = view(ledger).preview(JOB, number)
    assert (output, key) == (str(tmp_path / "out"), ".farm/jobs/j1/previews/1.jpg")
    with pytest.raises(UsageError, match="no job preview"):
        view(ledger).preview(JOB, number + 1)


def test_how_a_picture_was_made_is_part_of_its_job(ledger: Ledger) -> None:
    number = task(ledger, began_ago_s=1)
    detail = {"preset": "gatys", "network": "vgg19", "tile_px": 64, "workers": 2, "look": 0.5}
    ledger.update("items", {"state": "done", "output": "/out/1.png", "detail": detail}, task=number)
    [made] = view(ledger).job(JOB)["renders"]
    assert made == {"output": "/out/1.png", "kind": "optimize", "style": "", "state": "done", **detail}
    [item] = view(ledger).items(JOB)["items"]
    assert (item["preset"], item["workers"], item["width_px"]) == ("gatys", 2, None)
