"""Only the latest attempt of a task can go on with its state, and a damaged state is not the end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.checkpoints import Checkpoints, Saved, kept_states
from jobs.errors import LeaseLostError, StorageError
from jobs.storage import Store
from jobs.storage.local import LocalStore
from jobs.storage.memory import MemoryStore

FOLDER = ".farm/jobs/job-1/checkpoints/7"


@pytest.fixture(params=["memory", "local"])
def store(request: pytest.FixtureRequest) -> Store:
    if request.param == "memory":
        return MemoryStore()
    return LocalStore(request.getfixturevalue("tmp_path") / "output")


def attempt(store: Store, number: int) -> Checkpoints:
    return Checkpoints(store, "job-1", 7, number)


def content(saved: Saved | None) -> bytes | None:
    """Return the data of a state, if there is one."""
    return saved.data if saved else None


def blobs(store: Store) -> dict[str, bytes]:
    return {e.key: store.read(e.key) for e in store.list(FOLDER) if e.key.endswith(".data")}


def test_there_is_no_state_at_first(store: Store) -> None:
    assert content(attempt(store, 1).take_over()) is None
    assert content(attempt(store, 2).take_over()) is None


def test_the_next_attempt_goes_on_from_the_last_state(store: Store) -> None:
    first = attempt(store, 1)
    assert content(first.take_over()) is None
    for data in (b"10", b"20", b"30"):
        first.save(data)
    second = attempt(store, 2)
    assert content(second.take_over()) == b"30"
    assert content(attempt(store, 3).take_over()) == b"30"


def test_a_state_may_be_empty(store: Store) -> None:
    attempt(store, 1).save(b"")
    assert content(attempt(store, 2).take_over()) == b""


def test_tasks_and_jobs_do_not_meet(store: Store) -> None:
    Checkpoints(store, "job-1", 1, 1).save(b"one")
    assert content(Checkpoints(store, "job-1", 2, 2).take_over()) is None
    assert content(Checkpoints(store, "job-2", 1, 2).take_over()) is None
    assert content(Checkpoints(store, "job-1", 1, 2).take_over()) == b"one"


def test_an_attempt_that_never_asked_takes_over_when_it_saves(store: Store) -> None:
    old, new = attempt(store, 1), attempt(store, 2)
    old.save(b"old")
    new.save(b"new")
    with pytest.raises(LeaseLostError):
        old.save(b"older")
    assert content(attempt(store, 3).take_over()) == b"new"


@pytest.mark.parametrize("saves", [0, 1, 2, 3, 10])
def test_an_earlier_attempt_that_wakes_up_changes_nothing(store: Store, saves: int) -> None:
    """Also when the numbers that it could make were made and pruned while it was stopped."""
    old = attempt(store, 1)
    old.save(b"old")
    new = attempt(store, 2)
    assert content(new.take_over()) == b"old"
    for number in range(saves):
        new.save(b"%d" % number)
    before = {e.key: store.read(e.key) for e in store.list(FOLDER)}
    for _ in range(3):
        with pytest.raises(LeaseLostError, match="attempt 1"):
            old.save(b"late")
        with pytest.raises(LeaseLostError):
            old.take_over()
    assert [store.read(key) for key in before] == list(before.values())
    new.save(b"goes on")
    assert b"late" not in blobs(store).values()
    assert content(attempt(store, 3).take_over()) == b"goes on"


def test_two_attempts_that_take_over_at_once_leave_one(store: Store) -> None:
    attempt(store, 1).save(b"state")
    second, third = attempt(store, 2), attempt(store, 3)
    assert content(second.take_over()) == content(third.take_over()) == b"state"
    with pytest.raises(LeaseLostError):
        second.save(b"two")
    third.save(b"three")
    assert content(attempt(store, 4).take_over()) == b"three"


def test_an_attempt_that_is_overtaken_while_it_takes_over_tries_again_or_loses() -> None:
    for other, expected in ((1, b"newest"), (3, None)):
        store = Interrupted()
        attempt(store, 1).save(b"state")
        store.before_create = lambda store=store, other=other: attempt(store, other).save(b"newest")
        late = attempt(store, 2)
        if expected is None:
            with pytest.raises(LeaseLostError):
                late.take_over()
        else:
            assert content(late.take_over()) == expected


class Interrupted(MemoryStore):
    """A store in which something happens just before something else is created."""

    before_create: Callable[[], object] | None = None

    def create(self, key: str, data: bytes) -> bool:
        """Put `data` under `key`, after what happens before."""
        act, self.before_create = self.before_create, None
        if act is not None:
            act()
        return super().create(key, data)


def test_two_states_are_kept_and_no_more(store: Store) -> None:
    holder = attempt(store, 1)
    for number in range(20):
        holder.save(b"%d" % number)
    assert sorted(blobs(store).values()) == [b"18", b"19"]
    for number in range(2, 20):
        attempt(store, number).take_over()
    assert sorted(blobs(store).values()) == [b"18", b"19"]
    attempt(store, 20).save(b"20")
    assert sorted(blobs(store).values()) == [b"19", b"20"]


@pytest.mark.parametrize("damage", ["torn", "gone", "changed"])
def test_a_damaged_state_falls_back_to_the_one_before(store: Store, damage: str) -> None:
    first = attempt(store, 1)
    first.save(b"older state")
    first.save(b"newer state")
    (newest,) = [key for key, data in blobs(store).items() if data == b"newer state"]
    if damage == "gone":
        store.delete(newest)
    else:
        store.write(newest, b"newer" if damage == "torn" else b"newer STATE")
    second = attempt(store, 2)
    assert content(second.take_over()) == b"older state"
    second.save(b"newest state")
    assert content(attempt(store, 3).take_over()) == b"newest state"


@pytest.mark.parametrize("damage", [b"", b'{"attempt": 1', b"[]", b'{"attempt": 1}'])
def test_a_damaged_number_falls_back_to_the_one_before(store: Store, damage: bytes) -> None:
    first = attempt(store, 1)
    first.save(b"older state")
    first.save(b"newer state")
    newest = max(e.key for e in store.list(FOLDER) if e.key.endswith(".json"))
    store.write(newest, damage)
    assert content(attempt(store, 2).take_over()) == b"older state"


def test_all_states_damaged_is_a_new_beginning(store: Store) -> None:
    first = attempt(store, 1)
    first.save(b"one")
    first.save(b"two")
    for key in blobs(store):
        store.write(key, b"")
    assert content(attempt(store, 2).take_over()) is None


def test_when_the_job_is_done_nothing_is_left(store: Store) -> None:
    holder, sleeper = attempt(store, 2), attempt(store, 1)
    sleeper.save(b"one")
    holder.save(b"two")
    holder.clear()
    assert list(store.list()) == []
    with pytest.raises(LeaseLostError):
        sleeper.save(b"late")
    assert list(store.list()) == []


def test_data_of_an_attempt_that_died_before_its_number_is_removed(store: Store) -> None:
    attempt(store, 1).save(b"state")
    store.write(f"{FOLDER}/1-9-00000000.data", b"orphan of an earlier attempt")
    store.write(f"{FOLDER}/1-9-00000001.1.part", b"orphan of an earlier attempt")
    store.write(f"{FOLDER}/3-9-00000000.data", b"of a later attempt, about to get a number")
    attempt(store, 2).save(b"next")
    assert b"orphan of an earlier attempt" not in [store.read(entry.key) for entry in store.list(FOLDER)]
    assert b"of a later attempt, about to get a number" in blobs(store).values()


def parts(saved: Saved | None) -> list[bytes]:
    """Return the parts of a state that there is."""
    assert saved is not None
    return list(saved.parts())


def test_a_state_in_parts_is_read_as_it_was_kept(store: Store) -> None:
    holder = attempt(store, 1)
    holder.save(b"head", (b"part %d" % number for number in range(12)))
    holder.save(b"next", [b"", b"b"])
    found = attempt(store, 2).take_over()
    assert (content(found), parts(found)) == (b"next", [b"", b"b"])
    again = attempt(store, 2).read()
    assert parts(again) == parts(again) == [b"", b"b"]


def test_parts_are_asked_for_one_after_the_other(store: Store) -> None:
    """So no more than one needs room at once."""

    def made() -> Iterator[bytes]:
        for number in range(4):
            assert len([e for e in store.list(FOLDER) if e.key.endswith(".part")]) == number
            yield b"%d" % number

    attempt(store, 1).save(b"head", made())
    assert parts(attempt(store, 2).take_over()) == [b"0", b"1", b"2", b"3"]


def test_two_states_are_kept_with_their_parts_and_no_more(store: Store) -> None:
    holder = attempt(store, 1)
    for number in range(5):
        holder.save(b"%d" % number, [b"of %d" % number] * 2)
    files = sorted(store.read(e.key) for e in store.list(FOLDER) if not e.key.endswith(".json"))
    assert files == [b"3", b"4", b"of 3", b"of 3", b"of 4", b"of 4"]
    holder.clear()
    assert list(store.list()) == []


@pytest.mark.parametrize("error", [StorageError("the disk is full"), RuntimeError("the gang is gone")])
def test_of_a_state_that_could_not_be_kept_whole_nothing_is_left(store: Store, error: Exception) -> None:
    def broken() -> Iterator[bytes]:
        yield b"one"
        yield b"two"
        raise error

    holder = attempt(store, 1)
    holder.save(b"head", [b"part"])
    before = sorted(entry.key for entry in store.list())
    with pytest.raises(type(error)):
        holder.save(b"next", broken())
    assert sorted(entry.key for entry in store.list()) == before
    holder.save(b"after", [b"that"])
    assert parts(attempt(store, 2).take_over()) == [b"that"]


@pytest.mark.parametrize("damage", ["torn", "gone", "changed"])
def test_a_damaged_part_falls_back_to_the_state_before(store: Store, damage: str) -> None:
    first = attempt(store, 1)
    first.save(b"older", [b"older part"])
    first.save(b"newer", [b"a part", b"newer part"])
    (newest,) = [e.key for e in store.list(FOLDER) if store.read(e.key) == b"newer part"]
    if damage == "gone":
        store.delete(newest)
    else:
        store.write(newest, b"newer" if damage == "torn" else b"newer PART")
    found = attempt(store, 2).take_over()
    assert (content(found), parts(found)) == (b"older", [b"older part"])


def test_a_part_that_is_removed_while_it_is_read_is_said(store: Store) -> None:
    attempt(store, 1).save(b"head", [b"one"])
    found = attempt(store, 2).read()
    attempt(store, 3).clear()
    with pytest.raises(StorageError, match=r"1\.part was removed"):
        parts(found)


def test_a_state_beyond_the_end_of_a_job_is_kept_by_name(store: Store) -> None:
    assert not kept_states(store, "job-1", "final/a.png.state").is_there()
    kept_states(store, "job-1", "final/a.png.state", 3).save(b"head", [b"part"])
    assert kept_states(store, "job-1", "final/a.png.state").is_there()
    assert parts(kept_states(store, "job-1", "final/a.png.state").read()) == [b"part"]
    assert {entry.key.rpartition("/")[0] for entry in store.list()} == {".farm/jobs/job-1/final/a.png.state"}
    with pytest.raises(LeaseLostError):
        kept_states(store, "job-1", "final/a.png.state", 2).save(b"of an earlier attempt")


steps = st.lists(st.tuples(st.integers(1, 4), st.sampled_from(["take over", "save"])), max_size=30)


@given(steps)
def test_in_any_order_the_state_is_the_last_one_saved_by_whom_was_let(
    happenings: list[tuple[int, str]],
) -> None:
    store = MemoryStore()
    attempts = {number: attempt(store, number) for number in range(1, 5)}
    holder, state = 0, None
    for count, (number, what) in enumerate(happenings):
        data = b"%d" % count
        act = attempts[number].take_over if what == "take over" else partial(attempts[number].save, data)
        if number < holder:
            with pytest.raises(LeaseLostError):
                act()
            continue
        holder = number
        loaded = act()
        if what == "save":
            state = data
        else:
            assert content(loaded) == state
    assert content(attempt(store, 9).take_over()) == state
