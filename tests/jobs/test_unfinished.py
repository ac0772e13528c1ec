"""The state of a picture that an earlier job began is found by what it will be, and by nothing else."""

from __future__ import annotations

import pytest

from jobs.checkpoints import Checkpoints, Saved
from jobs.storage import Store
from jobs.storage.local import LocalStore
from jobs.storage.memory import MemoryStore
from jobs.tasks import Item, TaskMessage
from jobs.unfinished import Resumable


@pytest.fixture(params=["memory", "local"])
def store(request: pytest.FixtureRequest) -> Store:
    if request.param == "memory":
        return MemoryStore()
    return LocalStore(request.getfixturevalue("tmp_path") / "output")


def task(
    store: Store,
    job: str,
    *,
    attempt: int = 1,
    render_key: str = "key",
    outputs: tuple[str, ...] = ("a.jpg",),
) -> Resumable:
    items = tuple(Item(number, "", -1, "", key) for number, key in enumerate(outputs))
    return Resumable(store, TaskMessage(job, "s", 7, attempt, "k", 9.0, "", {}, items), lambda: render_key)


def content(saved: Saved | None) -> bytes | None:
    """Return the data of a state, if there is one."""
    return saved.data if saved else None


def left(store: Store) -> list[str]:
    return sorted(entry.key for entry in store.list(".farm"))


def test_a_later_job_goes_on_from_the_last_state_of_the_same(store: Store) -> None:
    first = task(store, "j1", attempt=5)
    assert content(first.take_over()) is None
    first.save(b"one")
    first.save(b"two")
    assert content(task(store, "j2").take_over()) == b"two"


@pytest.mark.parametrize(
    "other",
    [{"render_key": "other"}, {"render_key": ""}, {"outputs": ("b.jpg",)}, {"outputs": ("a.jpg", "b.jpg")}],
)
def test_what_is_something_else_begins_anew(store: Store, other: dict[str, object]) -> None:
    task(store, "j1").save(b"one")
    assert content(task(store, "j2", **other).take_over()) is None  # type: ignore[arg-type]


def test_the_own_state_comes_first(store: Store) -> None:
    task(store, "j1").save(b"one")
    task(store, "j2").save(b"own")
    assert content(task(store, "j2", attempt=2).take_over()) == b"own"
    assert content(task(store, "j1", attempt=2).take_over()) == b"one"
    assert content(task(store, "j3").take_over()) == b"own", "the latest of all is the one to go on from"


def test_looking_takes_nothing_from_a_job_that_is_still_at_work(store: Store) -> None:
    first = task(store, "j1")
    first.save(b"one")
    task(store, "j2").take_over()
    first.save(b"two")
    assert content(task(store, "j1", attempt=2).take_over()) == b"two"


def test_what_is_finished_leaves_no_state_of_its_own_or_of_other_jobs(store: Store) -> None:
    tasks = [task(store, job) for job in ("j1", "j2", "j3")]
    for each in tasks:
        each.take_over()
        each.save(b"state")
    tasks[-1].finished()
    assert left(store) == []
    assert content(task(store, "j4").take_over()) is None


def test_a_task_of_several_outputs_keeps_its_state_to_itself(store: Store) -> None:
    both = ("a.jpg", "b.jpg")
    task(store, "j1", outputs=both).save(b"one")
    task(store, "j1", outputs=both).finished()
    assert content(task(store, "j1", attempt=2, outputs=both).take_over()) == b"one"
    assert not [key for key in left(store) if "unfinished" in key]


@pytest.mark.parametrize("data", [b"", b"[1]", b'{"render_key": "key", "tasks": [1]}'])
def test_a_damaged_note_is_no_state(store: Store, data: bytes) -> None:
    task(store, "j1").save(b"one")
    store.write(".farm/unfinished/a.jpg.json", data)
    second = task(store, "j2")
    assert content(second.take_over()) is None
    second.save(b"two")
    assert content(task(store, "j3").take_over()) == b"two"


def test_states_that_are_gone_or_damaged_are_none(store: Store) -> None:
    task(store, "j1").save(b"one")
    Checkpoints(store, "j1", 7, 1).clear()
    assert content(task(store, "j2").take_over()) is None
