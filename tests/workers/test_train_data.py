"""The photographs of a training: those that cannot be read are replaced, and each is decoded once."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from jobs.errors import BadInputError, FarmError
from tests.workers.rendering import picture_bytes
from tests.workers.studying import School
from workers.nst.group import Group
from workers.nst.thread_group import run_together
from workers.nst.training_data import CropRule, crop, pick
from workers.train_data import Batches, Photographs, decoded

RULE = CropRule(16)
GONE = b"\xff\xd8\xff no picture"


class Shelf:
    """Photographs in memory, and which were read."""

    def __init__(self, count: int, bad: set[int] | None = None) -> None:
        self.reads: list[str] = []
        self.contents = {
            f"{n:02d}.jpg": GONE if n in (bad or ()) else picture_bytes(44, 36, n, "JPEG")
            for n in range(count)
        }

    def read(self, url: str) -> bytes:
        self.reads.append(url)
        return self.contents[url]

    def photographs(self, limit_bytes: int = 1 << 20, bad: Mapping[int, str] | None = None) -> Photographs:
        return Photographs([*self.contents], self.read, RULE, limit_bytes=limit_bytes, bad=dict(bad or {}))


def all_batches(
    shelf: Shelf, steps: int, part: tuple[int, int] = (0, 1), seed: int = 1
) -> list[torch.Tensor]:
    count = len(shelf.contents)
    with Batches(shelf.photographs(), range(count), seed, 3, part) as batches:
        return [batches.at(step) for step in range(steps)]


def test_a_batch_is_what_its_picks_show() -> None:
    shelf = Shelf(5)
    batches = all_batches(shelf, 4)
    for step, batch in enumerate(batches):
        assert batch.shape == (3, 3, 16, 16)
        for place, got in enumerate(batch):
            where = pick(1, step * 3 + place, 5)
            assert torch.equal(got, crop(decoded([*shelf.contents.values()][where.index]), RULE, where))


def test_batches_may_be_gone_back_to() -> None:
    with Batches(Shelf(5).photographs(), range(5), 1, 3) as batches:
        there = [batches.at(step) for step in range(6)]
        back = [batches.at(step) for step in (2, 3, 0, 5)]
    assert all(torch.equal(got, there[step]) for got, step in zip(back, (2, 3, 0, 5), strict=True))


def test_members_have_all_of_a_batch_together() -> None:
    whole = all_batches(Shelf(5), 3)
    parts = [all_batches(Shelf(5), 3, (rank, 2)) for rank in range(2)]
    assert [part[0].shape[0] for part in parts] == [1, 2]
    for step, batch in enumerate(whole):
        assert torch.equal(torch.cat([part[step] for part in parts]), batch)


def test_each_is_read_once_while_there_is_room() -> None:
    shelf = Shelf(5)
    all_batches(shelf, 20)
    assert len(shelf.reads) <= 5 + 1, "two threads may begin with one at the same time"


def test_there_is_no_more_kept_than_there_is_room_for() -> None:
    shelf = Shelf(4)
    bytes_of_one = 44 * 36 * 3
    photographs = shelf.photographs(limit_bytes=2 * bytes_of_one + 1)
    for number in [0, 1, 2, 3] * 3:
        assert photographs.pixels(number) is not None
    assert [shelf.reads.count(url) for url in shelf.contents] == [1, 1, 3, 3]


def test_those_that_cannot_be_read_are_replaced_always_by_the_same() -> None:
    """By others, and whether it was known before or not."""
    found = all_batches(Shelf(5, bad={1, 3}), 8)
    shelf = Shelf(5, bad={1, 3})
    known = shelf.photographs(bad={1: "damaged", 3: "damaged"})
    with Batches(known, range(5), 1, 3) as batches:
        assert all(torch.equal(batches.at(step), batch) for step, batch in enumerate(found))
    assert {"01.jpg", "03.jpg"}.isdisjoint(shelf.reads)
    sound = all_batches(Shelf(5), 8)
    kept = [
        (step, place)
        for step in range(8)
        for place in range(3)
        if pick(1, step * 3 + place, 5).index not in {1, 3}
    ]
    assert kept
    assert all(torch.equal(found[step][place], sound[step][place]) for step, place in kept)


def test_one_that_can_be_read_is_enough() -> None:
    batch = all_batches(Shelf(60, bad=set(range(60)) - {41}), 1)[0]
    assert batch.shape == (3, 3, 16, 16)


def test_none_that_can_be_read_is_said() -> None:
    with pytest.raises(BadInputError, match="none of 4 photographs can be read"):
        all_batches(Shelf(4, bad={0, 1, 2, 3}), 1)


def test_members_know_what_others_could_not_read() -> None:
    def member(group: Group) -> dict[int, str]:
        photographs = Shelf(4).photographs(bad={group.rank: f"by {group.rank}"})
        with Batches(photographs, range(4), 1, 3, (group.rank, group.size)) as batches:
            batches.share_bad(group)
        return photographs.bad

    assert run_together(3, member) == [{0: "by 0", 1: "by 1", 2: "by 2"}] * 3


def test_large_photographs_are_decoded_at_about_the_size_of_the_crops() -> None:
    for format_ in ("JPEG", "PNG"):
        large = picture_bytes(640, 480, 1, format_)
        assert tuple(decoded(large, 32).shape) == (60, 80, 3)
        assert tuple(decoded(large, 200).shape) == (240, 320, 3)
        assert tuple(decoded(large, 500).shape) == (480, 640, 3)


def test_a_training_names_what_it_leaves_out_once(tmp_path: Path) -> None:
    school = School(tmp_path)
    for name in ("/p/03.jpg", "/p/07.jpg"):
        school.inputs[name] = GONE
    said: dict[str, Any] = {"steps": 8, "checkpoint": {"steps": 2}, "validation": {"pictures": 0, "every": 4}}
    school.trained(school.message(**said))
    told = " ".join(text for text in school.said() if "left out" in text)
    assert (told.count("03.jpg"), told.count("07.jpg")) == (1, 1)
    assert "begins as JPEG" in told


def test_a_training_goes_on_where_some_of_the_held_out_cannot_be_read(tmp_path: Path) -> None:
    school = School(tmp_path)
    other = School(tmp_path)
    for name in [*other.inputs][:3]:
        school.inputs[f"/v{name}"] = GONE if name.endswith("00.jpg") else other.inputs[name]
    listed = [f"/v{name}" for name in [*other.inputs][:3]]
    school.trained(
        school.message(
            data=school.listing([*other.inputs]),
            validation_data={**school.listing(listed), "name": "validation data"},
        )
    )
    assert [text for text in school.said() if "00.jpg" in text and "to validate with" in text]
    assert school.returned["entry"]["metadata"]["training"]["data"]["photographs"] == 12


@pytest.mark.parametrize("size", [1, 2])
def test_a_training_without_any_photograph_fails_with_a_reason(tmp_path: Path, size: int) -> None:
    school = School(tmp_path)
    listed = school.listing()
    school.inputs = dict.fromkeys(school.inputs, GONE)
    outcome = school.run(school.message(data=listed), size)
    assert isinstance(outcome, FarmError)
    assert "can be read" in str(outcome)
    assert "begins as JPEG" in str(outcome)
