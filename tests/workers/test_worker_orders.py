"""What a worker is asked, on whatever thread and in whatever order: every attempt gets its answer."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Callable

import pytest

from jobs.errors import Failure
from jobs.states import ItemState
from jobs.storage import Store, open_store
from jobs.tasks import Emitted, Event, Item, ItemFinished, ItemStarted, StoreOptions, TaskEnded, TaskMessage
from tests.workers.bench import PATIENCE_S, Bench, register_copier
from workers.kinds import Context, Kind, register


@pytest.fixture
def gate(bench: Bench) -> threading.Event:
    """Let the first attempt, task 0, hold the device until the gate opens."""
    opened = threading.Event()
    begun = threading.Event()

    def run(_task: TaskMessage, _context: Context) -> dict[str, str]:
        begun.set()
        assert opened.wait(PATIENCE_S)
        return {}

    register(Kind("holding", run))
    bench.worker.submit(bench.message(kind="holding", task=0))
    assert begun.wait(PATIENCE_S)
    return opened


def inputs(bench: Bench, name: str, count: int) -> list[Item]:
    items = []
    for n in range(count):
        path = bench.folder / f"{name}{n}"
        path.write_text(f"{name}{n}")
        items.append(Item(n, str(path), 2, "stamp", f"{name}{n}.txt"))
    return items


def ends(bench: Bench, task: int) -> list[TaskEnded]:
    return [event for event in bench.events if isinstance(event, TaskEnded) and event.task == task]


# --- stopping ---------------------------------------------------------------------------------------


def test_an_attempt_that_waits_behind_another_stops_at_once(bench, gate):
    """And what was read ahead for it makes room for those behind it."""
    register_copier()
    bench.worker.submit(bench.message(*inputs(bench, "b", 9), kind="copy", task=1))
    bench.wait_for(lambda events: sum(isinstance(e, ItemStarted) for e in events) >= 4)
    assert bench.worker.stop(1, 1)
    bench.wait_for(lambda _: ends(bench, 1))
    assert not ends(bench, 0)
    assert (ends(bench, 1)[0].outcome, ends(bench, 1)[0].device_s) == ("stopped", 0.0)
    assert bench.worker.report().tasks == (0,)
    bench.worker.submit(bench.message(*inputs(bench, "c", 4), kind="copy", task=2))
    bench.wait_for(lambda events: sum(isinstance(e, ItemStarted) and e.task == 2 for e in events) == 4)
    gate.set()
    bench.wait_for(lambda _: ends(bench, 2))
    assert ends(bench, 2)[0].outcome == "finished"
    assert len(ends(bench, 1)) == 1
    assert not (bench.folder / "out/b0.txt").exists()


def test_a_stop_that_overtakes_its_attempt_is_answered_when_that_comes(bench):
    assert not bench.worker.stop(1, 1)
    assert bench.run(bench.message()) == []
    assert (bench.ended().outcome, bench.ended().reason) == ("stopped", "it was asked to stop")
    [outcome] = bench.run(bench.message(attempt=2))
    assert outcome.state is ItemState.DONE


def test_only_so_many_early_stops_are_remembered(bench):
    for task in range(10_000):
        bench.worker.stop(task, 1)
    [outcome] = bench.run(bench.message(task=5))
    assert outcome.state is ItemState.DONE
    assert bench.run(bench.message(task=9_999)) == []


# --- submitting -------------------------------------------------------------------------------------


def test_two_attempts_that_come_at_once_are_read_in_the_order_in_which_they_run(bench, monkeypatch):
    """Else the pictures read ahead for the second fill all places, and the first waits forever."""
    register_copier()
    readers = bench.worker._services.readers
    feed, fed, second = readers.feed, threading.Event(), threading.Event()

    def slow_feed(slots: list[object]) -> None:
        feed(slots)
        if not fed.is_set():
            fed.set()
            second.wait(0.2)  # time for the other thread to come in between, if it can

    monkeypatch.setattr(readers, "feed", slow_feed)
    messages = [bench.message(*inputs(bench, f"t{n}-", 6), kind="copy", task=n) for n in (1, 2)]
    one = threading.Thread(target=bench.worker.submit, args=(messages[0],))
    one.start()
    assert fed.wait(PATIENCE_S)
    bench.worker.submit(messages[1])
    second.set()
    one.join()
    bench.wait_for(lambda _: ends(bench, 1) and ends(bench, 2))
    assert {end.outcome for end in ends(bench, 1) + ends(bench, 2)} == {"finished"}
    assert len([e for e in bench.events if isinstance(e, ItemFinished) and e.state is ItemState.DONE]) == 12


@pytest.mark.parametrize("broken", ["import no_such_module", "def", "1 / 0"])
def test_a_module_of_kinds_that_cannot_be_imported_fails_the_task_with_the_reason(
    bench, tmp_path, monkeypatch, broken
):
    (tmp_path / "broken_kinds.py").write_text(broken)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("FARM_KINDS", "tests.toy,broken_kinds")
    bench.run(bench.message())
    assert (bench.ended().outcome, bench.ended().failure) == ("failed", Failure.ERROR)
    assert any(word in bench.ended().reason for word in ("no_such_module", "SyntaxError", "ZeroDivision"))
    monkeypatch.setenv("FARM_KINDS", "tests.toy")
    [outcome] = bench.run(bench.message(attempt=2))
    assert outcome.state is ItemState.DONE


# --- saying -----------------------------------------------------------------------------------------


class Post:
    """What stands between a worker and whoever listens: takes what can be pickled, as Ray does."""

    def __init__(self, hear: Callable[[list[Event]], None]) -> None:
        self.hear = hear

    def __call__(self, events: list[Event]) -> None:
        pickle.dumps(events)
        self.hear(events)


def test_an_event_that_cannot_be_sent_keeps_no_other_back(bench, caplog):
    """A kind of work emits and returns what cannot travel."""
    bench.worker._send = Post(bench.worker._send)

    def run(_task: TaskMessage, context: Context) -> dict[str, object]:
        context.emit("loss", {"value": lambda: 1})
        context.emit("loss", {"value": 2})
        context.progress(0.5)
        return {"net": lambda: 1}

    register(Kind("talking", run))
    bench.run(bench.message(kind="talking"))
    assert [e.data for e in bench.events if isinstance(e, Emitted)] == [{"value": 2}]
    assert (bench.ended().outcome, bench.ended().result) == ("failed", {})
    assert "its result could not be sent" in bench.ended().reason
    assert "not sent" in caplog.text
    [outcome] = bench.run(bench.message(task=2))
    assert outcome.state is ItemState.DONE


# --- stores -----------------------------------------------------------------------------------------


def test_stores_stay_open_while_they_are_used_and_not_forever(bench, monkeypatch):
    opened: list[str] = []

    def counted(url: str, options: StoreOptions) -> Store:
        opened.append(url)
        return open_store(url, options)

    monkeypatch.setattr("workers.worker.open_store", counted)
    for number in range(200):
        bench.worker.store("/output", StoreOptions())
        bench.worker.store(f"/inputs/{number}", StoreOptions())
    assert opened.count("/output") == 1
    assert len(opened) == 201
    assert len(bench.worker._stores) <= 32
    bench.worker.store("/inputs/0", StoreOptions())
    assert opened[-1] == "/inputs/0"
