"""What a person sees of optimized pictures in a terminal."""

from __future__ import annotations

from typing import Any

from farm.cli import renders
from tests.farm.cli.played import make_job


def running(**said: Any) -> dict[str, Any]:
    return {
        "task": 7, "state": "leased", "workers": ["w1", "w2"], "fraction": 0.413, "item": "town.png",
        "message": "scale 2 of 3, 96 px", "loss": 12.345, "scale": 1, "preview": "previews/town.png.jpg",
        **said,
    }  # fmt: skip


def test_a_line_says_where_a_picture_stands() -> None:
    assert renders.task_line(running()) == "town.png: 41 %, scale 2 of 3, 96 px, loss 12.35, on 2 workers"
    waiting = running(
        state="queued", item=None, fraction=0, loss=None, workers=[], message="waits for 2 workers"
    )
    assert renders.task_line(waiting) == "task 7: waits for 2 workers"


def test_the_curve_is_left_out_where_there_is_no_room() -> None:
    job = make_job(running=[running()])
    curves = [{"task": 7, "item": "town.png", "points": [{"loss": 9.0}, {"loss": 3.0}, {"loss": 1.0}]}]
    tall, low = (renders.lines(job, curves, 60, height) for height in (30, 10))
    assert tall[0] == low[0] == renders.task_line(running())
    assert len(low) == 1
    assert tall[1] == "to look at: /renders/july/.farm/jobs/j7/previews/town.png.jpg"
    assert len(tall) == 10
    assert tall[2].split()[0] == "9"
    assert tall[-1].split()[0] == "1"


def test_what_is_known_of_a_finished_picture_is_one_line() -> None:
    made = {
        "output": "/out/town.png", "preset": "gatys", "network": "vgg19", "tile_px": 128, "tiles": 12,
        "workers": 2, "threads": 1, "evaluations": 100, "loss": 1.5, "look": 0.123, "seconds": 61.0,
    }  # fmt: skip
    assert renders.how(made) == (
        "preset gatys, network vgg19, 12 tiles of 128 px on 2 workers with 1 thread each, 100 evaluations, "
        "loss 1.5, look 0.123, 1 min 01 s"
    )
    assert renders.how({"output": "/out/skipped.png"}) == ""


def test_previews_are_named_by_their_full_place() -> None:
    facts = renders.running_facts(make_job(running=[running()]))
    assert ("preview", "/renders/july/.farm/jobs/j7/previews/town.png.jpg") in facts
