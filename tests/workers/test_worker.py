"""A worker on its own: attempts, leases, what is skipped, replaced and refused, checkpoints, assets."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from jobs.errors import Failure, FarmError, LeaseLostError
from jobs.states import ItemState
from jobs.tasks import Item, ItemFinished, ItemStarted, TaskEnded, TaskMessage
from tests.workers.bench import PATIENCE_S, Bench
from workers.kinds import KINDS, Context, Kind, Prepared, Produced, register


def test_an_attempt_says_what_it_begins_what_it_finished_and_that_it_is_over(bench):
    bench.run(bench.message())
    kinds = [type(e) for e in bench.events]
    assert kinds[0] is ItemStarted
    assert kinds.index(ItemFinished) < kinds.index(TaskEnded)
    assert (bench.folder / "out/a.txt").read_text() == "hi 2 "


def test_a_finished_item_is_skipped_and_its_file_not_touched(bench):
    bench.run(bench.message())
    before = (bench.folder / "out/a.txt").stat()
    [outcome] = bench.run(bench.message(task=2))
    assert outcome.state is ItemState.SKIPPED
    after = (bench.folder / "out/a.txt").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_what_an_attempt_of_the_same_job_finished_unheard_is_done_and_not_made_again(bench):
    bench.run(bench.message())
    before = (bench.folder / "out/a.txt").stat()
    [outcome] = bench.run(bench.message(attempt=2))
    assert (outcome.state, outcome.reason) == (ItemState.DONE, "")
    assert (bench.folder / "out/a.txt").stat().st_mtime_ns == before.st_mtime_ns


def test_a_result_with_other_settings_is_replaced_as_the_next_generation(bench):
    bench.run(bench.message())
    [outcome] = bench.run(bench.message(task=2, payload={"word": "ho"}))
    assert outcome.state is ItemState.DONE
    assert outcome.detail["generation"] == 2
    assert (bench.folder / "out/a.txt").read_text() == "ho 2 "


@pytest.mark.parametrize("rule", ["fail", "rename", "replace"])
def test_a_file_that_the_farm_did_not_make_is_treated_by_the_rule(bench, rule):
    mine = bench.folder / "out/a.txt"
    mine.parent.mkdir()
    mine.write_text("mine")
    [outcome] = bench.run(bench.message(on_existing=rule))
    assert mine.read_text() == ("hi 2 " if rule == "replace" else "mine")
    if rule == "fail":
        assert outcome.failure is Failure.BAD_INPUT
        assert "was not made by the farm" in outcome.reason
    if rule == "rename":
        assert (bench.folder / "out/a-1.txt").read_text() == "hi 2 "
        [again] = bench.run(bench.message(task=2, on_existing=rule))
        assert again.state is ItemState.SKIPPED


def test_an_asset_travels_by_its_content_hash(bench):
    sha256 = bench.library.put(b"the asset")
    bench.run(bench.message(payload={"asset": sha256}))
    assert (bench.folder / "out/a.txt").read_text() == "hi 2 the asset"


def test_an_asset_that_is_not_there_fails_the_task_and_not_the_worker(bench):
    bench.run(bench.message(payload={"asset": "0" * 64}))
    assert bench.ended().outcome == "failed"
    [outcome] = bench.run(bench.message(task=2))
    assert outcome.state is ItemState.DONE


def test_an_attempt_goes_on_from_the_checkpoint_of_the_one_before(bench):
    log = bench.folder / "log"
    slow = {"count": 6, "seconds": 0.05, "log": str(log)}
    bench.worker.submit(bench.message(payload=slow))
    bench.wait_for(lambda _: log.exists() and len(log.read_text().splitlines()) >= 3)
    bench.worker.stop(1, 1)
    bench.run(bench.message(attempt=2, payload=slow))
    counts = [int(line.split()[1]) for line in log.read_text().splitlines()]
    assert sorted(set(counts)) == list(range(6))
    assert len(counts) <= 7
    assert (bench.folder / "out/a.txt").read_text() == "hi 6 "


def stopped_in_the_middle(bench, payload: dict[str, Any]) -> int:
    """Run an attempt of task 1 and stop it for good after three counts; return how many lines it wrote."""
    log = bench.folder / "log"
    bench.worker.submit(bench.message(payload=payload))
    bench.wait_for(lambda _: log.exists() and len(log.read_text().splitlines()) >= 3)
    bench.worker.stop(1, 1)
    bench.wait_for(lambda events: any(isinstance(e, TaskEnded) for e in events))
    return len(log.read_text().splitlines())


def left_of_tasks(bench) -> list[Path]:
    """Return what of checkpoints, and of notes about them, is left in the output."""
    farm = bench.folder / "out/.farm"
    return [*farm.glob("unfinished/**/*"), *farm.glob("jobs/*/checkpoints/*/*")]


@pytest.mark.parametrize("change", [{}, {"word": "ho"}], ids=["the same", "with other settings"])
def test_a_job_that_is_submitted_again_goes_on_where_the_canceled_one_was(bench, change):
    """It has another id; what it makes is recognized. Other settings make something else, from the start."""
    slow = {"count": 6, "seconds": 0.05, "log": str(bench.folder / "log")}
    before = stopped_in_the_middle(bench, slow)
    assert left_of_tasks(bench)
    [outcome] = bench.run(bench.message(task=2, payload={**slow, **change}))
    assert outcome.state is ItemState.DONE
    lines = (bench.folder / "log").read_text().splitlines()[before:]
    assert len(lines) == 6 if change else len(lines) <= 4
    assert (bench.folder / "out/a.txt").read_text() == f"{change.get('word', 'hi')} 6 "
    assert [path for path in left_of_tasks(bench) if "task 2" not in str(path)] == []


def test_an_attempt_that_wakes_up_after_another_took_over_keeps_nothing(bench):
    """Frozen between two counts while a later attempt went on: its next checkpoint is refused."""
    asleep, awake = threading.Event(), threading.Event()
    refused: list[Exception] = []

    def run(task: TaskMessage, context: Context) -> dict[str, Any]:
        context.load_checkpoint()
        context.save_checkpoint(b"one")
        asleep.set()
        awake.wait(PATIENCE_S)
        try:
            context.save_checkpoint(b"two")
        except LeaseLostError as error:
            refused.append(error)
            raise
        return {}

    register(Kind("sleeper", run))
    bench.worker.submit(bench.message(kind="sleeper"))
    assert asleep.wait(PATIENCE_S)
    other = Bench(bench.folder)
    other.run(bench.message(attempt=2, payload={"count": 1}))
    awake.set()
    bench.wait_for(lambda events: any(isinstance(e, TaskEnded) for e in events))
    assert refused
    assert bench.ended().outcome == "stopped"
    other.close()


def test_an_attempt_whose_lease_ran_out_commits_nothing_and_cannot_be_revived(bench):
    def run(task: TaskMessage, context: Context) -> dict[str, Any]:
        time.sleep(0.3)
        bench.worker.renew({task.task: 60.0})
        context.finish_item(task.items[0], lambda: Produced(b"late"))
        return {}

    register(Kind("late", run))
    bench.run(bench.message(kind="late", lease_s=0.2))
    assert not (bench.folder / "out/a.txt").exists()
    assert bench.ended().outcome == "stopped"


def test_two_workers_that_finish_one_item_leave_one_record_and_its_bytes(bench):
    """Both looked before either had committed; exactly one wins and the other says so."""
    gate = threading.Barrier(2, timeout=PATIENCE_S)

    def run(task: TaskMessage, context: Context) -> dict[str, Any]:
        for item, _ in context.read_ahead():
            gate.wait()
            context.finish_item(item, lambda: Produced(f"attempt {task.attempt}".encode()))
        return {}

    register(Kind("race", run, settings=lambda _: {}))
    other = Bench(bench.folder)
    other.worker.submit(other.message(kind="race", attempt=2))
    [mine] = bench.run(bench.message(kind="race"))
    other.wait_for(lambda events: any(isinstance(e, TaskEnded) for e in events))
    [theirs] = [e for e in other.events if isinstance(e, ItemFinished)]
    assert {mine.state, theirs.state} == {ItemState.DONE, ItemState.SKIPPED}
    assert mine.detail["sha256"] == theirs.detail["sha256"]
    winner = 1 if mine.state is ItemState.DONE else 2
    assert (bench.folder / "out/a.txt").read_text() == f"attempt {winner}"
    records = list((bench.folder / "out/.farm/results").rglob("*.json"))
    assert len(records) == 1
    other.close()


def test_stop_acts_within_a_chunk_and_leaves_the_rest_without_outcome(bench):
    items = [Item(n, "", -1, "", f"{n}.txt") for n in range(50)]
    bench.worker.submit(bench.message(*items, payload={"seconds": 0.02}))
    bench.wait_for(lambda events: any(isinstance(e, ItemFinished) for e in events))
    assert bench.worker.stop(1, 1)
    bench.wait_for(lambda events: any(isinstance(e, TaskEnded) for e in events))
    finished = [e for e in bench.events if isinstance(e, ItemFinished)]
    assert 0 < len(finished) < 50
    assert bench.ended().outcome == "stopped"
    assert not bench.worker.stop(1, 1)


def test_what_a_kind_raises_fails_its_task_with_the_class_of_the_failure(bench):
    failures = {
        "value": ValueError("x"),
        "disk": OSError("full"),
        "memory": MemoryError(),
        "own": FarmError("own", "hint"),
    }

    def run(task: TaskMessage, context: Context) -> dict[str, Any]:
        raise failures[task.payload["word"]]

    register(Kind("raises", run))
    wanted = {
        "value": Failure.ERROR,
        "disk": Failure.STORAGE,
        "memory": Failure.OUT_OF_MEMORY,
        "own": Failure.ERROR,
    }
    for number, word in enumerate(failures):
        bench.run(bench.message(kind="raises", task=number, payload={"word": word}))
        assert (bench.ended().outcome, bench.ended().failure) == ("failed", wanted[word])


def test_a_kind_that_leaves_items_without_outcome_has_failed(bench):
    register(Kind("lazy", lambda task, context: {}))
    bench.run(bench.message(kind="lazy"))
    assert bench.ended().failure is Failure.ERROR
    assert "without an outcome" in bench.ended().reason


def test_a_kind_that_is_not_known_fails_its_task_naming_those_that_are(bench):
    bench.run(bench.message(kind="unheard-of"))
    assert "unheard-of" in bench.ended().reason
    assert "stylize" in bench.ended().reason


def _reader(bench: Bench, prepare: Callable[[TaskMessage, Item, bytes], Prepared]) -> list[Item]:
    items = []
    for n in range(12):
        path = bench.folder / f"in{n}"
        path.write_bytes(bytes([n]))
        items.append(Item(n, str(path), 1, "stamp", f"{n}.txt"))

    def run(task: TaskMessage, context: Context) -> dict[str, Any]:
        for item, value in context.read_ahead():
            time.sleep(0.01)
            context.finish_item(item, lambda value=value: Produced(value))  # type: ignore[misc]
        return {}

    register(Kind("reader", run, prepare, settings=lambda _: {}))
    return items


def test_one_input_that_cannot_be_read_fails_itself_and_the_others_are_in_order(bench):
    def prepare(task: TaskMessage, item: Item, content: bytes) -> Prepared:
        if content == b"\x03":
            raise ValueError("broken")
        return Prepared(content, 1)

    items = _reader(bench, prepare)
    Path(items[5].input).unlink()
    outcomes = {e.item: e for e in bench.run(bench.message(*items, kind="reader"))}
    assert [n for n, e in outcomes.items() if e.state is ItemState.FAILED] == sorted({3, 5})
    assert outcomes[5].failure is Failure.BAD_INPUT
    assert all(
        (bench.folder / f"out/{n}.txt").read_bytes() == bytes([n]) for n in range(12) if n not in {3, 5}
    )


def test_reading_ahead_stays_within_its_bounds(bench):
    ahead = 0
    most = 0
    lock = threading.Lock()

    def prepare(task: TaskMessage, item: Item, content: bytes) -> Prepared:
        nonlocal ahead, most
        with lock:
            ahead += 1
            most = max(most, ahead)
        return Prepared(content, 300 << 20)

    items = _reader(bench, prepare)
    inner = KINDS["reader"].run

    def run(task: TaskMessage, context: Context) -> dict[str, Any]:
        nonlocal ahead
        original = context.read_ahead

        def counted() -> Iterator[tuple[Item, Any]]:
            nonlocal ahead
            for pair in original():
                with lock:
                    ahead -= 1
                yield pair

        context.read_ahead = counted  # type: ignore[method-assign]
        return inner(task, context)

    register(Kind("reader", run, prepare, settings=lambda _: {}))
    bench.run(bench.message(*items, kind="reader"))
    assert 2 <= most <= 6


def test_an_unchanged_input_is_not_read_again_to_know_that_it_is_finished(bench):
    def prepare(task: TaskMessage, item: Item, content: bytes) -> Prepared:
        return Prepared(content, 1)

    items = _reader(bench, prepare)
    bench.run(bench.message(*items, kind="reader"))
    Path(items[0].input).unlink()
    outcomes = bench.run(bench.message(*items, kind="reader", task=2))
    assert {e.state for e in outcomes} == {ItemState.SKIPPED}


def test_a_changed_input_is_rendered_again(bench):
    items = _reader(bench, lambda task, item, content: Prepared(content, 1))
    bench.run(bench.message(*items, kind="reader"))
    Path(items[0].input).write_bytes(b"changed")
    changed = [Item(0, items[0].input, 7, "later", "0.txt"), *items[1:]]
    outcomes = {e.item: e.state for e in bench.run(bench.message(*changed, kind="reader", task=2))}
    assert [n for n, state in outcomes.items() if state is ItemState.DONE] == [0]
    assert (bench.folder / "out/0.txt").read_bytes() == b"changed"


def test_a_worker_says_what_it_is_at_and_which_folders_it_cannot_see(bench):
    report = bench.worker.report()
    assert report.worker == "w1"
    assert bench.worker.sees(
        [str(bench.folder), str(bench.folder / "nowhere")], bench.message().store_options
    ) == [str(bench.folder / "nowhere")]
