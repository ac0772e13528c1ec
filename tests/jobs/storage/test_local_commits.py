"""A commit to a folder may be cut off or overtaken between any two of its file operations."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.errors import ConflictError
from jobs.storage import Committed, Found
from jobs.storage.local import LocalStore
from tests.jobs.storage import script_commit, script_crash
from tests.jobs.storage.results import KEY, commit, scratch, sha256, stored_record, temporary
from tests.jobs.storage.steps import at_step, interleave

ROOT = Path(__file__).parents[3]


def run_script(script: str, *arguments: str) -> str:
    command = [sys.executable, script, *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, check=True, timeout=120
    ).stdout


class TestCrashes:
    """A process that ends at once, at every step of a commit."""

    def test_a_first_commit_is_all_or_nothing(self, tmp_path: Path) -> None:
        seen = set()
        for store in crashed(tmp_path, "first"):
            found = store.find(KEY)
            seen.add(found.record is not None)
            if found.record is None:
                assert not found.exists
            else:
                assert found.ours
                assert store.read(KEY) == b"new"
            goes_on(store)
        assert seen == {True, False}

    def test_a_replacing_commit_leaves_the_old_or_the_new_result(self, tmp_path: Path) -> None:
        seen = set()
        for store in crashed(tmp_path, "replacing"):
            found = store.find(KEY)
            assert found.ours
            assert found.record is not None
            seen.add(found.record.generation)
            assert store.read(KEY) == (b"old" if found.record.generation == 1 else b"new")
            goes_on(store)
        assert seen == {1, 2}

    def test_a_file_of_others_that_may_be_replaced_stays_whole(self, tmp_path: Path) -> None:
        seen = set()
        for store in crashed(tmp_path, "over_foreign"):
            found = store.find(KEY)
            seen.add((found.record is not None, found.ours))
            assert store.read(KEY) == (b"new" if found.ours else b"mine")
            goes_on(store, on_existing="replace")
        assert seen == {(False, False), (True, False), (True, True)}

    @pytest.mark.parametrize("scenario", ["first", "replacing", "over_foreign"])
    def test_a_sweep_alone_leaves_nothing_temporary(self, tmp_path: Path, scenario: str) -> None:
        for store in crashed(tmp_path, scenario):
            store.sweep(0)
            assert temporary(store) == []
            if not store.find(KEY).ours:
                assert store.stat(KEY) is None or store.read(KEY) == b"mine"

    def test_a_sweep_spares_what_is_young(self, folder: LocalStore) -> None:
        with pytest.raises(KeyboardInterrupt), at_step(8, _interrupt):
            commit(folder, b"new")
        before = temporary(folder)
        assert folder.sweep(3600) == 0
        assert temporary(folder) == before


def _interrupt() -> None:
    raise KeyboardInterrupt


def crashed(folder: Path, scenario: str) -> list[LocalStore]:
    count = int(run_script(script_crash.__file__, str(folder), scenario))
    assert count > 5
    return [LocalStore(folder / str(step)) for step in range(1, count + 1)]


def goes_on(store: LocalStore, on_existing: str = "fail") -> None:
    """Check that the next attempt finishes the item, and that a sweep then leaves nothing temporary."""
    assert commit(store, b"next", attempt=2, on_existing=on_existing).won
    assert store.read(KEY) == b"next"
    store.sweep(0)
    assert temporary(store) == []
    assert store.find(KEY).ours


class TestOvertaking:
    """An attempt that is frozen at any step while others go on."""

    def test_a_frozen_attempt_that_wakes_after_another_has_finished_changes_nothing(
        self, tmp_path: Path
    ) -> None:
        won = set()
        for step in range(1, 40):
            store, others = LocalStore(tmp_path / str(step)), list[Committed]()

            def overtake(store: LocalStore = store, others: list[Committed] = others) -> None:
                others.append(commit(store, b"other", attempt=2))

            with at_step(step, overtake):
                mine = commit(store, b"mine", found=Found(), attempt=1)
            if not others:  # the commit had fewer steps
                break
            check(store, {1: mine, 2: others[0]})
            # Whoever came later to a recorded result made the next generation.
            assert others[0].won
            assert store.read(KEY) == b"other"
            won.add(mine.won)
        assert won == {True, False}

    def test_a_frozen_attempt_at_an_old_generation_never_overwrites_a_newer_one(self, tmp_path: Path) -> None:
        for step in range(1, 40):
            store, others = LocalStore(tmp_path / str(step)), list[Committed]()
            commit(store, b"old", attempt=1)

            def overtake(store: LocalStore = store, others: list[Committed] = others) -> None:
                others.extend(commit(store, b"%d" % n, attempt=n) for n in (3, 4))

            before = store.find(KEY)
            with at_step(step, overtake):
                commit(store, b"mine", found=before, attempt=2)
            if not others:
                break
            assert all(other.won for other in others)
            assert store.read(KEY) == b"4"
            store.sweep(0)
            assert temporary(store) == []
        else:
            pytest.fail("a commit has too many steps for this test")

    def test_a_frozen_attempt_over_a_file_of_others_never_overwrites_a_newer_result(
        self, tmp_path: Path
    ) -> None:
        for step in range(1, 40):
            store, others = LocalStore(tmp_path / str(step)), list[Committed]()
            store.write(KEY, b"of others")

            def overtake(store: LocalStore = store, others: list[Committed] = others) -> None:
                others.append(commit(store, b"newer", attempt=2, on_existing="replace"))

            before = store.find(KEY)
            with at_step(step, overtake):
                mine = commit(store, b"mine", found=before, attempt=1, on_existing="replace")
            if not others:
                break
            check(store, {1: mine, 2: others[0]})
            assert store.read(KEY) == b"newer"
        else:
            pytest.fail("a commit has too many steps for this test")

    @settings(max_examples=60)
    @given(
        choices=st.lists(st.integers(0, 3), max_size=120),
        frozen=st.frozensets(st.integers(0, 3), max_size=3),
        old=st.booleans(),
    )
    def test_in_any_order_of_steps_one_attempt_is_recorded_per_generation(
        self, choices: list[int], frozen: frozenset[int], old: bool
    ) -> None:
        with scratch() as path:
            store = LocalStore(path)
            if old:
                commit(store, b"old", attempt=9)
            before = store.find(KEY)
            actors = interleave(
                [
                    lambda: commit(store, b"first", found=before, attempt=1),
                    lambda: commit(store, b"second", found=before, attempt=2),
                    lambda: commit(store, b"third", attempt=3),
                    lambda: store.find(KEY),
                ],
                choices,
                frozen,
            )
            outcomes = {n + 1: actor.outcome for n, actor in enumerate(actors[:3]) if actor.done}
            assert all(isinstance(outcome, Committed) for outcome in outcomes.values()), outcomes
            check(store, {n: o for n, o in outcomes.items() if isinstance(o, Committed)})
            seen = actors[3].outcome
            if isinstance(seen, Found) and seen.exists:
                assert seen.ours, "a result of the farm was taken for a file of others"
            for actor in actors:
                if not actor.done:
                    actor.abandon()

    @settings(max_examples=40)
    @given(choices=st.lists(st.integers(0, 2), max_size=80))
    def test_in_any_order_of_steps_a_file_of_others_stays(self, choices: list[int]) -> None:
        with scratch() as path:
            store = LocalStore(path)

            def somebody() -> bool:
                source = Path(path) / "source"
                source.write_bytes(b"mine")
                (Path(path) / KEY).parent.mkdir(exist_ok=True)
                try:
                    os.link(source, Path(path) / KEY)
                except FileExistsError:
                    return False
                return True

            acts = [lambda n=n: commit(store, b"%d" % n, found=Found(), attempt=n) for n in (1, 2)]
            first, second, other = interleave([*acts, somebody], choices, frozenset())
            came_first = other.outcome
            if came_first:
                assert store.read(KEY) == b"mine"
                assert not store.find(KEY).ours
            for attempt in (first.outcome, second.outcome):
                assert isinstance(attempt, Committed | ConflictError)
                assert not (came_first and isinstance(attempt, Committed) and attempt.won)
            store.sweep(0)
            assert temporary(store) == []


def check(store: LocalStore, outcomes: dict[int, Committed]) -> None:
    """Check what must be true whenever attempts are done, frozen or dead: outcomes by attempt."""
    found = store.find(KEY)
    if found.record is not None:
        assert found.ours
        assert sha256(store.read(KEY)) == found.record.sha256
    else:
        assert not found.exists
    for attempt, outcome in outcomes.items():
        record = outcome.record
        assert outcome.won == (record.attempt == attempt)
        assert stored_record(store, KEY, record.generation) == record
    copy = LocalStore(f"{store.url}-swept")
    shutil.copytree(store.url, copy.url)
    try:
        copy.sweep(0)
        assert temporary(copy) == []
        assert copy.find(KEY).ours == found.ours
    finally:
        shutil.rmtree(copy.url)


def test_of_many_processes_that_commit_at_once_exactly_one_wins(folder: LocalStore) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    processes = [
        subprocess.Popen(
            [sys.executable, script_commit.__file__, folder.url, str(attempt)],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for attempt in range(1, 5)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.close()
    won = []
    for process in processes:
        assert process.stdout is not None
        with process.stdout:
            won.append(process.stdout.read() == "True\n")
        assert process.wait(60) == 0
    assert won.count(True) == 1
    record = stored_record(folder, KEY, 1)
    assert record.attempt == won.index(True) + 1
    assert sha256(folder.read(KEY)) == record.sha256
    assert temporary(folder) == []
