"""Kinds of work that make what later steps name: files they read beside their items, assets, their result."""

from __future__ import annotations

import hashlib
import os
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from jobs.errors import BadInputError, Failure
from jobs.states import ItemState
from jobs.tasks import Item, ItemFinished, TaskMessage
from tests.workers.bench import Bench
from workers.kinds import Context, Kind, Produced, register

ITEM = Item(1, "", -1, "", "wave.bin")


@pytest.fixture
def makers(bench: Bench) -> list[str]:
    """Register `make`, a kind whose result is its item's content as an asset; return what it made anew."""
    made: list[str] = []

    def run(task: TaskMessage, context: Context) -> dict[str, Any]:
        for item, _ in context.read_ahead():
            data = b"".join(map(context.read, task.payload["data"]))
            made.append(item.output_key)
            context.finish_item(item, partial(Produced, data))
            return {"sha256": context.keep_asset(data)}
        data = context.finished(task.items[0]) or b""
        return {"sha256": context.keep_asset(data), "again": True}

    register(Kind("make", run, settings=lambda payload: {"data": payload["data"]}))
    return made


def order(bench: Bench, *data: Path, **more: Any) -> TaskMessage:
    return bench.message(ITEM, kind="make", payload={"data": [str(path) for path in data]}, **more)


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Two files."""
    paths = [tmp_path / "a", tmp_path / "b"]
    for path in paths:
        path.write_text(path.name)
    return paths


SHA256 = hashlib.sha256(b"ab").hexdigest()


def test_a_result_names_an_asset_that_the_farm_keeps(bench, makers, files):
    [outcome] = bench.run(order(bench, *files))
    assert outcome.state is ItemState.DONE
    assert bench.ended().result == {"sha256": SHA256}
    assert bench.library.path(SHA256).read_bytes() == b"ab"


@pytest.mark.parametrize(
    ("again", "state"),
    [({"task": 2}, ItemState.SKIPPED), ({"attempt": 2}, ItemState.DONE)],
    ids=("by an earlier job", "by an attempt that was not heard"),
)
def test_what_was_finished_before_is_returned_and_not_made_again(bench, makers, files, again, state):
    bench.run(order(bench, *files))
    [outcome] = bench.run(order(bench, *files, **again))
    assert outcome.state is state
    assert bench.ended().result == {"sha256": SHA256, "again": True}
    assert makers == ["wave.bin"]


def test_what_is_to_be_made_is_not_finished(bench, files):
    """Neither is the result of other settings, nor a file that the farm did not make."""
    seen: list[bytes | None] = []

    def run(task: TaskMessage, context: Context) -> dict[str, Any]:
        seen.append(context.finished(task.items[0]))
        for item, _ in context.read_ahead():
            context.finish_item(item, partial(Produced, task.payload["word"].encode()))
        return {}

    register(Kind("word", run, settings=lambda payload: {"word": payload["word"]}))
    (bench.folder / "out").mkdir()
    (bench.folder / "out/wave.bin").write_text("mine")
    for task, word in enumerate(("one", "two", "two")):
        payload = {"word": word}
        bench.run(bench.message(ITEM, kind="word", task=task, payload=payload, on_existing="replace"))
    assert seen == [None, None, b"two"]


def test_a_finished_result_that_is_damaged_is_not_returned(bench, makers, files):
    """The file is as large and as old as its record says, and has other bytes."""
    bench.run(order(bench, *files))
    kept = bench.folder / "out/wave.bin"
    times = kept.stat()
    kept.write_bytes(b"xy")
    os.utime(kept, ns=(times.st_atime_ns, times.st_mtime_ns))
    bench.run(order(bench, *files, attempt=2))
    ended = bench.ended()
    assert (ended.outcome, ended.failure) == ("failed", Failure.STORAGE)
    assert "wave.bin is not what was written there" in ended.reason


def test_a_file_that_is_gone_is_a_bad_input(bench, makers, files):
    files[1].unlink()
    bench.run(order(bench, *files))
    ended = bench.ended()
    assert (ended.outcome, ended.failure) == ("failed", Failure.BAD_INPUT)
    assert f"{files[1]} is not there any more" in ended.reason


def test_nothing_is_kept_when_the_lease_is_over(bench, files):
    kept: list[str] = []

    def run(_task: TaskMessage, context: Context) -> dict[str, Any]:
        while not context.should_stop():
            pass
        kept.append(context.keep_asset(b"late"))
        return {}

    register(Kind("late", run))
    bench.run(bench.message(ITEM, kind="late", lease_s=0.05))
    assert bench.ended().outcome == "stopped"
    assert kept == []
    assert not any(isinstance(event, ItemFinished) for event in bench.events)


def test_what_is_read_beside_the_items_may_be_anywhere_that_inputs_may(bench, files):
    caught: list[Exception] = []

    def run(_task: TaskMessage, context: Context) -> dict[str, Any]:
        assert context.read(str(files[0])) == b"a"
        with pytest.raises(BadInputError) as error:
            context.read(str(files[0].with_name("none")))
        caught.append(error.value)
        for item, _ in context.read_ahead():
            context.finish_item(item, partial(Produced, b""))
        return {}

    register(Kind("read", run))
    bench.run(bench.message(ITEM, kind="read"))
    assert bench.ended().outcome == "finished"
    assert len(caught) == 1
