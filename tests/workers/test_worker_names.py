"""Names of results under `on_existing: rename`: no result takes the name of another one's."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from jobs.states import ItemState
from jobs.storage.local import LocalStore
from jobs.tasks import Item, ItemFinished
from tests.workers.bench import PATIENCE_S, Bench, prepare, register_copier
from workers.kinds import Context, Kind, Produced, register


@pytest.fixture
def photo(bench: Bench) -> Callable[[str, str], Item]:
    """Make an input with a content, which is to be copied under its own name."""
    register_copier()

    def make(name: str, content: str = "") -> Item:
        path = bench.folder / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content or f"of {name}")
        return Item(sum(map(ord, str(path))), str(path), path.stat().st_size, content, path.name)

    return make


def foreign(bench: Bench, *names: str) -> None:
    """Put somebody else's files where results should go."""
    (bench.folder / "out").mkdir(exist_ok=True)
    for name in names:
        (bench.folder / "out" / name).write_text("mine")


def results(bench: Bench) -> dict[str, str]:
    return {path.name: path.read_text() for path in (bench.folder / "out").iterdir() if path.is_file()}


def copied(bench: Bench, *items: Item, task: int = 1) -> dict[str, ItemFinished]:
    """Copy inputs, each in a task of its own, one after the other; return the outcomes by name."""
    outcomes = {}
    for number, item in enumerate(items):
        message = bench.message(item, kind="copy", task=task + number, on_existing="rename")
        [outcomes[item.output_key]] = bench.run(message)
    return outcomes


@pytest.mark.parametrize("order", [["a.jpg", "a-1.jpg"], ["a-1.jpg", "a.jpg"]])
def test_a_result_that_was_planned_and_one_that_was_renamed_both_stay(bench, photo, order):
    foreign(bench, "a.jpg")
    outcomes = copied(bench, *(photo(name) for name in order))
    assert {outcome.state for outcome in outcomes.values()} == {ItemState.DONE}
    assert sorted(results(bench).values()) == ["mine", "of a-1.jpg", "of a.jpg"]
    for name, outcome in outcomes.items():
        assert Path(outcome.output).read_text() == f"of {name}"


def test_each_finds_its_own_renamed_result_again(bench, photo):
    foreign(bench, "a.jpg")
    items = [photo("a.jpg"), photo("a-1.jpg")]
    first = copied(bench, *items)
    before = results(bench)
    again = copied(bench, *items, task=11)
    assert {outcome.state for outcome in again.values()} == {ItemState.SKIPPED}
    assert {k: o.output for k, o in again.items()} == {k: o.output for k, o in first.items()}
    assert results(bench) == before
    assert first["a.jpg"].detail["renamed_from"] == "a.jpg"


def test_a_renamed_result_is_replaced_when_its_own_input_has_changed(bench, photo):
    foreign(bench, "a.jpg")
    copied(bench, photo("a.jpg", "old"))
    outcome = copied(bench, photo("a.jpg", "new"), task=2)["a.jpg"]
    assert (outcome.state, outcome.detail["generation"]) == (ItemState.DONE, 2)
    assert results(bench) == {"a.jpg": "mine", "a-1.jpg": "new"}


def test_the_same_name_from_another_folder_takes_the_next_number(bench, photo):
    foreign(bench, "a.jpg")
    copied(bench, photo("july/a.jpg", "july"), photo("may/a.jpg", "may"))
    assert results(bench) == {"a.jpg": "mine", "a-1.jpg": "july", "a-2.jpg": "may"}


def test_items_without_input_are_told_apart_too(bench):
    foreign(bench, "a.txt")
    for number, key in enumerate(["a.txt", "a-1.txt"]):
        item = Item(number, "", -1, "", key)
        message = bench.message(item, task=number, on_existing="rename", payload={"word": key})
        bench.run(message)
    assert results(bench) == {"a.txt": "mine", "a-1.txt": "a.txt 2 ", "a-1-1.txt": "a-1.txt 2 "}


@pytest.mark.parametrize("winner", ["a.jpg", "a-1.jpg"])
def test_two_items_that_race_for_one_name_both_survive(bench, photo, monkeypatch, winner):
    """Both have looked and found `a-1.jpg` free; whoever comes second takes the next number."""
    foreign(bench, "a.jpg")
    looked, committed = threading.Barrier(2, timeout=PATIENCE_S), threading.Event()

    def run(task, context: Context):
        for item, content in context.read_ahead():
            looked.wait()
            context.finish_item(item, partial(Produced, content))
        return {}

    register(Kind("racing", run, prepare, settings=lambda _: {}))
    commit = LocalStore.commit

    def in_order(store, record, *rest, **options):
        first = Path(record.input).name == winner
        assert first or committed.wait(PATIENCE_S)
        done = commit(store, record, *rest, **options)
        committed.set()
        return done

    monkeypatch.setattr(LocalStore, "commit", in_order)
    other = Bench(bench.folder)
    other.worker.submit(other.message(photo("a-1.jpg"), kind="racing", task=2, on_existing="rename"))
    bench.run(bench.message(photo("a.jpg"), kind="racing", on_existing="rename"))
    other.close()
    outcomes = [e for e in [*bench.events, *other.events] if isinstance(e, ItemFinished)]
    assert [outcome.state for outcome in outcomes] == [ItemState.DONE] * 2
    assert {Path(o.output).read_text() for o in outcomes} == {"of a.jpg", "of a-1.jpg"}
    assert len(results(bench)) == 3


def test_a_foreign_file_that_appears_before_the_commit_moves_the_result_on(bench, photo):
    def run(task, context: Context):
        for item, content in context.read_ahead():
            foreign(bench, "a.jpg")
            context.finish_item(item, partial(Produced, content))
        return {}

    register(Kind("late", run, prepare, settings=lambda _: {}))
    [outcome] = bench.run(bench.message(photo("a.jpg"), kind="late", on_existing="rename"))
    assert outcome.state is ItemState.DONE
    assert results(bench) == {"a.jpg": "mine", "a-1.jpg": "of a.jpg"}
