"""A worker in a gang: only the first member has items and is heard, and none waits longer than it may."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from jobs.errors import Failure
from jobs.tasks import GangPlace, Item, ItemFinished, ItemStarted, TaskEnded, TaskMessage
from tests.workers.bench import PATIENCE_S, Bench
from workers.kinds import Context, Kind, Produced, register
from workers.mail import Bytes, Letter, MailGroup, MailRoom
from workers.nst.group import Group


class Rooms:
    """Lets workers of one process form gangs (`workers.attempt.Groups`); each has a view of its own."""

    def __init__(self, rooms: list[MailRoom], rank: int) -> None:
        self._rooms = rooms
        self._rank = rank
        self.closed: list[tuple[int, int]] = []

    def open(self, message: TaskMessage, place: GangPlace, interrupted: Callable[[], None]) -> Group:
        """Return the group of a member."""
        room = self._rooms[self._rank]
        room.open((message.task, message.attempt))

        def post(letters: Mapping[int, Letter], content: Bytes) -> None:
            for rank, letter in letters.items():
                self._rooms[rank].deliver(letter, content)

        return MailGroup(
            (message.task, message.attempt),
            place.rank,
            len(place.workers),
            room=room,
            post=post,
            device=torch.device("cpu"),
            interrupted=interrupted,
        )

    def close(self, message: TaskMessage) -> None:
        """Forget a gang."""
        self.closed.append((message.task, message.attempt))
        self._rooms[self._rank].close((message.task, message.attempt))


class Gang:
    """Two workers that run everything together."""

    def __init__(self, folder: Path) -> None:
        rooms = [MailRoom(), MailRoom()]
        self.groups = [Rooms(rooms, rank) for rank in range(2)]
        self.members = [Bench(folder, groups) for groups in self.groups]

    def submit(self, *, kind: str, ranks: tuple[int, ...] = (0, 1), **more: Any) -> None:
        """Send an attempt to its members."""
        for rank in ranks:
            member = self.members[rank]
            message = member.message(kind=kind, gang=GangPlace(rank, ("w1", "w2")), **more)
            member.worker.submit(message)

    def ended(self, rank: int) -> TaskEnded:
        """Wait for the end of a member."""
        member = self.members[rank]
        member.wait_for(lambda events: any(isinstance(e, TaskEnded) for e in events))
        [ended] = [e for e in member.events if isinstance(e, TaskEnded)]
        return ended

    def kinds_of_events(self, rank: int) -> set[type]:
        """Return the classes of what a member said."""
        return {type(event) for event in self.members[rank].events}


@pytest.fixture
def gang(tmp_path) -> Iterator[Gang]:
    gang = Gang(tmp_path)
    yield gang
    for member in gang.members:
        member.close()


def adding(task: TaskMessage, context: Context) -> dict[str, Any]:
    """Add up ranks; the first member writes them down."""
    total = context.group.reduce(torch.tensor(context.group.rank + 1)).item()
    if context.group.rank == 0:
        context.progress(0.5)
        context.save_checkpoint(b"state")
        for item, _ in context.read_ahead():
            context.finish_item(item, lambda: Produced(str(total).encode()))
    return {}


def rounds(count: int, began: threading.Event) -> Callable[[TaskMessage, Context], dict[str, Any]]:
    """Return a program of so many sums, that all end when the first member is to stop."""

    def run(_task: TaskMessage, context: Context) -> dict[str, Any]:
        for number in range(count):
            stop = context.group.broadcast(torch.tensor(int(context.should_stop())))
            if stop:
                if context.group.rank == 0:
                    context.save_checkpoint(str(number).encode())
                break
            context.group.reduce(torch.ones(1))
            began.set()
        return {}

    return run


def test_only_the_first_member_has_items_and_is_heard(gang):
    register(Kind("adding", adding))
    gang.submit(kind="adding")
    assert [gang.ended(rank).outcome for rank in range(2)] == ["finished", "finished"]
    assert (gang.members[0].folder / "out/a.txt").read_text() == "3"
    assert {ItemStarted, ItemFinished, TaskEnded} <= gang.kinds_of_events(0)
    assert gang.kinds_of_events(1) == {TaskEnded}
    assert [groups.closed for groups in gang.groups] == [[(1, 1)], [(1, 1)]]


@pytest.mark.parametrize(
    "misuse",
    [
        lambda c, _: next(iter(c.read_ahead())),
        lambda c, item: c.finish_item(item, lambda: Produced(b"")),
        lambda c, _: c.save_checkpoint(b""),
        lambda c, _: c.load_checkpoint(),
        lambda c, _: c.progress(0.5),
        lambda c, _: c.emit("loss", {}),
        lambda c, _: c.keep_file("a", b""),
        lambda c, _: c.keep_asset(b""),
        lambda c, item: c.finished(item),
    ],
)
def test_what_only_the_first_member_may_do_fails_another_by_name(gang, misuse):
    def run(task: TaskMessage, context: Context) -> dict[str, Any]:
        misuse(context, Item(1, "", -1, "", "a.txt"))
        return {}

    register(Kind("misuse", run))
    gang.submit(kind="misuse", ranks=(1,))
    ended = gang.ended(1)
    assert (ended.outcome, ended.failure) == ("failed", Failure.ERROR)
    assert "member 1 of a gang must not" in ended.reason
    assert gang.kinds_of_events(1) == {TaskEnded}


def test_a_worker_that_takes_no_part_in_gangs_says_so(bench):
    bench.worker.submit(bench.message(gang=GangPlace(0, ("w1", "w2"))))
    bench.wait_for(lambda events: events)
    assert bench.ended().outcome == "failed"
    assert "takes no part in gangs" in bench.ended().reason


def test_a_polite_stop_lets_all_stop_at_one_place_with_their_state_kept(gang):
    began = threading.Event()
    register(Kind("rounds", rounds(10**9, began)))
    gang.submit(kind="rounds")
    assert began.wait(PATIENCE_S)
    for member in reversed(gang.members):
        assert member.worker.stop(1, 1)
    assert gang.ended(0).outcome == "stopped"
    assert gang.ended(1).outcome == "finished"
    kept: list[bytes | None] = []

    def look(_task: TaskMessage, context: Context) -> dict[str, Any]:
        kept.append(context.load_checkpoint())
        return {}

    register(Kind("look", look))
    gang.members[0].worker.submit(gang.members[0].message(kind="look", attempt=2))
    gang.members[0].wait_for(lambda _: kept)
    assert int(kept[0] or 0) > 0


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_a_polite_stop_does_not_end_the_wait_for_another_member(gang, order):
    """The member that is waited for comes only after it."""
    register(Kind("rounds", rounds(3, threading.Event())))
    first, last = order
    gang.submit(kind="rounds", ranks=(first,))
    if first == 1:
        gang.members[1].worker.stop(1, 1)
    gang.submit(kind="rounds", ranks=(last,))
    if first == 0:
        gang.members[1].worker.stop(1, 1)
    assert [gang.ended(rank).outcome for rank in range(2)] == ["failed", "finished"]


@pytest.mark.parametrize("rank", [0, 1])
def test_a_member_that_waits_for_one_that_never_comes_stops_at_once_when_told(gang, rank):
    register(Kind("adding", adding))
    gang.submit(kind="adding", ranks=(rank,))
    gang.members[rank].wait_for(lambda _: gang.members[rank].worker.report().tasks)
    gang.members[rank].worker.stop(1, 1)
    gang.members[rank].worker.stop(1, 1, at_once=True)
    ended = gang.ended(rank)
    assert (ended.outcome, ended.reason.endswith("it was asked to stop")) == ("stopped", True)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_member_that_waits_for_one_that_never_comes_stops_when_its_lease_runs_out(gang, rank):
    register(Kind("adding", adding))
    gang.submit(kind="adding", ranks=(rank,), lease_s=0.2)
    ended = gang.ended(rank)
    assert (ended.outcome, ended.reason.endswith("its lease ran out")) == ("stopped", True)


@pytest.mark.parametrize(("at_once", "outcome"), [(False, "finished"), (True, "stopped")])
def test_a_stop_that_comes_before_its_attempt_keeps_the_members_together(gang, at_once, outcome):
    register(Kind("adding", adding))
    assert not gang.members[1].worker.stop(1, 1, at_once=at_once)
    gang.submit(kind="adding", ranks=(1, 0) if not at_once else (1,))
    assert gang.ended(1).outcome == outcome


def test_a_stop_without_haste_lets_what_is_rendered_be_committed(bench):
    """And one at once does not: whoever cancels wants nothing more."""
    for task, at_once in ((1, False), (2, True)):
        stopped = threading.Event()

        def run(message: TaskMessage, context: Context, stopped: threading.Event = stopped) -> dict[str, Any]:
            for item, _ in context.read_ahead():
                assert stopped.wait(PATIENCE_S)
                context.finish_item(item, lambda: Produced(b"rendered"))
            return {}

        register(Kind("slow", run))
        items = [Item(n, "", -1, "", f"{task}-{n}.txt") for n in range(2)]
        bench.worker.submit(bench.message(*items, kind="slow", task=task))
        bench.wait_for(
            lambda events, task=task: any(isinstance(e, ItemStarted) and e.task == task for e in events)
        )
        bench.worker.stop(task, 1, at_once=at_once)
        stopped.set()
        bench.wait_for(
            lambda events, task=task: any(isinstance(e, TaskEnded) and e.task == task for e in events)
        )
        assert bench.ended().outcome == "stopped"
    assert sorted(path.name for path in (bench.folder / "out").glob("*.txt")) == ["1-0.txt"]


def test_a_worker_says_how_much_memory_its_device_has(bench):
    assert bench.worker.report().device_bytes > 1 << 28
