"""Any sequence of attempts and of people who change files ends alike in every store."""

from __future__ import annotations

import os
import secrets
from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jobs.errors import ConflictError
from jobs.storage import Found, Store, open_store
from jobs.storage.local import LocalStore
from jobs.storage.memory import MemoryStore
from tests.jobs.storage.conftest import BUCKET
from tests.jobs.storage.results import KEY, commit, names, scratch, sha256, temporary
from tests.servers import Server


@dataclass(frozen=True)
class Looks:
    """An attempt looks at what stands there; it commits later, or never."""

    attempt: int


@dataclass(frozen=True)
class Commits:
    """An attempt commits what it made of what it saw when it last looked, or looks now."""

    attempt: int
    data: bytes
    on_existing: str


@dataclass(frozen=True)
class Edits:
    """Somebody writes over the result, or where it will be."""

    data: bytes


@dataclass(frozen=True)
class Deletes:
    """Somebody deletes the result."""


attempts, contents = st.integers(1, 3), st.sampled_from([b"one", b"two", b"three", b""])
events = st.lists(
    st.one_of(
        st.builds(Looks, attempts),
        st.builds(Commits, attempts, contents, st.sampled_from(["fail", "fail", "replace"])),
        st.builds(Edits, st.sampled_from([b"uno", b"mine"])),
        st.just(Deletes()),
    ),
    max_size=14,
)


class Walk:
    """One store, and what its attempts have seen."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.seen: dict[int, Found] = {}
        self.won: dict[int, int] = {}

    def take(self, event: object) -> object:
        """Let one thing happen; return what can be compared between stores."""
        match event:
            case Looks(attempt):
                self.seen[attempt] = self.store.find(KEY)
                return shown(self.seen[attempt])
            case Commits(attempt, data, on_existing):
                return self._commit(attempt, data, on_existing)
            case Edits(data):
                self.store.write(KEY, data)
            case Deletes():
                self.store.delete(KEY)
        return None

    def check(self) -> object:
        """Check the promises; return what can be compared between stores."""
        found = self.store.find(KEY)
        if found.ours:
            assert found.record is not None
            assert sha256(self.store.read(KEY)) == found.record.sha256
            assert self.won[found.record.generation] == found.record.attempt
        assert temporary(self.store) == []
        content = self.store.read(KEY) if found.exists else None
        return shown(found), content, names(self.store)

    def _commit(self, attempt: int, data: bytes, on_existing: str) -> object:
        found = self.seen.pop(attempt, None) or self.store.find(KEY)
        before = self.store.find(KEY)
        content = self.store.read(KEY) if before.exists else None
        try:
            committed = commit(self.store, data, found=found, on_existing=on_existing, attempt=attempt)
        except ConflictError:
            assert content is not None
            assert self.store.read(KEY) == content
            return "conflict"
        generation = committed.record.generation
        if committed.won:
            assert self.won.setdefault(generation, attempt) == attempt
            if before.exists and not before.ours and content != data:
                assert on_existing == "replace"
        return committed.won, generation, committed.record.attempt


def shown(found: Found) -> object:
    record = (found.record.generation, found.record.attempt, found.record.sha256) if found.record else None
    return record, found.exists, found.ours


@settings(max_examples=60)
@given(events)
def test_a_folder_and_memory_end_alike(happenings: list[object]) -> None:
    with scratch() as path:
        walks = Walk(LocalStore(path)), Walk(MemoryStore())
        for event in happenings:
            on_disk, in_memory = (walk.take(event) for walk in walks)
            assert on_disk == in_memory
            on_disk, in_memory = (walk.check() for walk in walks)
            assert on_disk == in_memory


@pytest.mark.slow
@pytest.mark.parametrize("name", ["seaweedfs_server", "rclone_server"])
def test_a_real_s3_server_and_memory_end_alike(name: str, request: pytest.FixtureRequest) -> None:
    server: Server = request.getfixturevalue(name)

    @settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])
    @given(events)
    def walk(happenings: list[object]) -> None:
        store._prefix = secrets.token_hex(6)  # type: ignore[attr-defined]
        walks = Walk(store), Walk(MemoryStore())
        for event in happenings:
            in_s3, in_memory = (walk.take(event) for walk in walks)
            assert in_s3 == in_memory
            in_s3, in_memory = (walk.check() for walk in walks)
            assert in_s3 == in_memory

    with pytest.MonkeyPatch.context() as patch:
        for variable, value in server.environment.items():
            patch.setitem(os.environ, variable, value)
        store = open_store(f"s3://{BUCKET}/walk")
        walk()
