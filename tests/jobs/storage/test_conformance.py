"""What every store promises, over all of them."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from jobs.errors import BadInputError, ConflictError, UsageError
from jobs.storage import Found, Store
from jobs.storage.rules import record_key
from tests.jobs.storage.results import KEY, commit, names, record_after, sha256, stored_record, temporary

ODD_NAMES = [
    "a.jpg",
    "deep/er/and/deeper.png",
    "with  two spaces/été 猫 🐈.jpg",
    "50%+1#2?x=y&z~'\"<>|*.png",
    "a.jpg.1.json",
    "a.jpg.1.json~/inside.png",
    "n" * 251 + ".png",
    "ü" * 125 + ".png",
    "d" * 255 + "/" + "e" * 250 + ".json/x.png",
]


class TestFiles:
    """Whole files under any name, and nothing outside."""

    @pytest.mark.parametrize("key", ODD_NAMES)
    def test_what_is_written_under_any_name_is_read_listed_and_deleted(self, store: Store, key: str) -> None:
        store.write(key, b"content")
        assert store.read(key) == b"content"
        assert names(store) == [key]
        entry = store.stat(key)
        assert entry == next(iter(store.list()))
        assert entry is not None
        assert entry.size_bytes == 7
        store.delete(key)
        store.delete(key)
        assert store.stat(key) is None
        assert names(store) == []

    def test_an_empty_store_lists_nothing_and_finds_nothing(self, store: Store) -> None:
        assert list(store.list()) == list(store.list("photos")) == []
        assert store.stat("a.jpg") is None
        assert store.find("a.jpg") == Found()

    def test_a_file_can_be_empty(self, store: Store) -> None:
        store.write("empty", b"")
        assert store.read("empty") == b""

    def test_a_write_replaces_and_changes_the_stamp(self, store: Store) -> None:
        store.write("a", b"one")
        before = store.stat("a")
        store.write("a", b"two")
        after = store.stat("a")
        assert before is not None
        assert after is not None
        assert before.stamp != after.stamp
        assert store.read("a") == b"two"

    def test_a_file_on_disk_can_be_written(self, store: Store, tmp_path: Path) -> None:
        source = tmp_path / "model.bin"
        source.write_bytes(bytes(range(256)) * 4096)
        store.write("assets/model", source)
        assert store.read("assets/model") == source.read_bytes()

    def test_reading_what_is_not_there_says_so(self, store: Store) -> None:
        store.write("a/b", b"")
        for key in ("missing", "a", "a/b/c"):
            with pytest.raises(FileNotFoundError):
                store.read(key)
            assert store.stat(key) is None

    def test_reading_stops_at_the_limit(self, store: Store) -> None:
        store.write("a", b"12345")
        assert store.read("a", limit_bytes=5) == b"12345"
        with pytest.raises(BadInputError, match="larger than 4 bytes"):
            store.read("a", limit_bytes=4)

    def test_a_listing_is_of_a_folder_and_not_of_a_beginning(self, store: Store) -> None:
        for key in ("photos/1.jpg", "photos/sub/2.jpg", "photos.jpg", "photos2/3.jpg", ".hidden/4.jpg"):
            store.write(key, key.encode())
        assert sorted(e.key for e in store.list("photos")) == ["photos/1.jpg", "photos/sub/2.jpg"]
        assert sorted(e.key for e in store.list("photos/")) == ["photos/1.jpg", "photos/sub/2.jpg"]
        assert [e.key for e in store.list("photos", recursive=False)] == ["photos/1.jpg"]
        assert [e.key for e in store.list(recursive=False)] == ["photos.jpg"]
        assert {e.size_bytes for e in store.list("photos2")} == {len("photos2/3.jpg")}
        assert len(names(store)) == 5

    @pytest.mark.parametrize(
        "key",
        [
            "",
            "/etc/passwd",
            "..",
            "../a",
            "a/../../b",
            "a/./b",
            "a//b",
            "a/",
            "..\\a",
            "a\\b",
            "a\nb",
            "a\x00",
        ],
    )
    def test_a_name_that_could_lead_elsewhere_is_refused_everywhere(self, store: Store, key: str) -> None:
        for act in (store.read, store.stat, store.delete, store.find, lambda k: store.write(k, b"")):
            with pytest.raises(UsageError) as caught:
                act(key)
            assert caught.value.hint
        with pytest.raises(UsageError):
            store.create(key, b"")

    def test_create_makes_only_what_is_not_there(self, store: Store) -> None:
        assert store.create("lock", b"first")
        assert not store.create("lock", b"second")
        assert not store.create("lock", b"first")
        assert store.read("lock") == b"first"
        store.delete("lock")
        assert store.create("lock", b"third")

    def test_of_many_that_create_at_once_exactly_one_does(self, strict_store: Store) -> None:
        won = at_once(8, lambda n: strict_store.create("lock", b"%d" % n))
        assert won.count(True) == 1
        assert strict_store.read("lock") == b"%d" % won.index(True)

    def test_a_probe_leaves_nothing_and_tells_whether_conditions_count(
        self, store: Store, request: pytest.FixtureRequest
    ) -> None:
        store.probe()
        assert names(store) == []
        assert store.honors_conditions == ("rclone" not in request.node.callspec.id)


class TestResults:
    """One recorded attempt per generation, and never a file of others."""

    @pytest.mark.parametrize("key", ODD_NAMES)
    def test_a_result_is_published_and_recorded_under_any_name(self, store: Store, key: str) -> None:
        committed = commit(store, b"picture", key=key)
        assert committed.won
        assert store.read(key) == b"picture"
        found = store.find(key)
        assert found.exists
        assert found.ours
        assert found.record == committed.record
        record = stored_record(store, key, 1)
        assert record == committed.record
        assert (record.extra, record.input) == (
            {"width_px": 640, "height_px": 480, "seconds": 0.25},
            "/photos/été  1.jpg",
        )
        assert temporary(store) == []

    def test_results_with_names_that_look_like_records_of_others_keep_apart(self, store: Store) -> None:
        keys = ["a", "a.1.json", "b.1.json/x", "b", "a.1", "c.json~/x", "c.json/x"]
        for number, key in enumerate(keys):
            assert commit(store, b"%d" % number, key=key).won
        for number, key in enumerate(keys):
            found = store.find(key)
            assert found.ours
            assert found.record is not None
            assert found.record.sha256 == sha256(b"%d" % number)

    def test_a_second_attempt_at_the_same_generation_is_superseded(self, store: Store) -> None:
        before = store.find(KEY)
        first = commit(store, b"first", found=before, attempt=1)
        second = commit(store, b"other", found=before, attempt=2)
        assert not second.won
        assert second.record == first.record
        assert store.read(KEY) == b"first"
        assert temporary(store) == []

    def test_an_attempt_that_commits_again_has_still_won(self, store: Store) -> None:
        before = store.find(KEY)
        assert commit(store, b"first", found=before) == commit(store, b"first", found=before)

    def test_a_result_of_ours_is_replaced_by_the_next_generation(self, store: Store) -> None:
        commit(store, b"first")
        committed = commit(store, b"second", attempt=2)
        assert committed.won
        assert committed.record.generation == 2
        assert store.read(KEY) == b"second"
        assert store.find(KEY).record == committed.record
        assert stored_record(store, KEY, 1).sha256 == sha256(b"first")
        assert temporary(store) == []

    def test_the_next_generation_may_have_the_same_bytes(self, store: Store) -> None:
        commit(store, b"same")
        committed = commit(store, b"same", attempt=2)
        assert committed.won
        assert store.find(KEY).record == committed.record

    def test_a_late_attempt_at_an_old_generation_changes_nothing(self, store: Store) -> None:
        at_first = store.find(KEY)
        commit(store, b"first", attempt=1)
        after_first = store.find(KEY)
        third = [commit(store, b"%d" % n, attempt=n) for n in (2, 3)][-1]
        for found in (at_first, after_first):
            late = commit(store, b"late", found=found, attempt=9)
            assert not late.won
            assert late.record == third.record
        assert store.read(KEY) == b"3"

    def test_a_file_of_others_is_not_touched(self, store: Store) -> None:
        store.write(KEY, b"mine")
        found = store.find(KEY)
        assert found.exists
        assert not found.ours
        with pytest.raises(ConflictError, match="not made by the farm") as caught:
            commit(store, b"picture")
        assert caught.value.hint
        assert store.read(KEY) == b"mine"
        assert names(store) == [KEY]

    def test_a_file_that_came_since_is_of_others(self, store: Store) -> None:
        before = store.find(KEY)
        store.write(KEY, b"mine")
        with pytest.raises(ConflictError):
            commit(store, b"picture", found=before)
        assert store.read(KEY) == b"mine"

    def test_a_file_of_others_is_replaced_when_that_is_allowed(self, store: Store) -> None:
        store.write(KEY, b"mine")
        assert commit(store, b"picture", on_existing="replace").won
        assert store.read(KEY) == b"picture"
        assert store.find(KEY).ours
        assert temporary(store) == []

    def test_a_file_that_came_since_is_replaced_when_that_is_allowed(self, store: Store) -> None:
        before = store.find(KEY)
        store.write(KEY, b"mine")
        assert commit(store, b"picture", found=before, on_existing="replace").won
        assert store.read(KEY) == b"picture"

    @pytest.mark.parametrize("edited", [b"edited!", b"edited, and of another size"])
    def test_a_result_that_somebody_edited_is_theirs(self, store: Store, edited: bytes) -> None:
        commit(store, b"picture")
        before = store.find(KEY)
        store.write(KEY, edited)
        found = store.find(KEY)
        assert found.exists
        assert not found.ours
        for seen in (before, found):
            with pytest.raises(ConflictError):
                commit(store, b"second", found=seen)
        assert store.read(KEY) == edited
        assert commit(store, b"second", on_existing="replace").record.generation == 2
        assert store.read(KEY) == b"second"

    def test_a_result_that_somebody_deleted_is_made_again_as_the_next_generation(self, store: Store) -> None:
        first = commit(store, b"first")
        store.delete(KEY)
        found = store.find(KEY)
        assert found == Found(record=first.record)
        second = commit(store, b"first")
        assert second.won
        assert second.record.generation == 2
        assert store.find(KEY).ours
        assert stored_record(store, KEY, 1) == first.record

    def test_a_copy_under_another_name_is_not_ours(self, store: Store) -> None:
        commit(store, b"picture")
        store.write("copy.jpg", store.read(KEY))
        assert store.find("copy.jpg") == Found(
            exists=True, stamp=getattr(store.stat("copy.jpg"), "stamp", "")
        )

    def test_parts_of_a_commit_that_do_not_belong_together_are_refused(self, store: Store) -> None:
        found = Found()
        record = record_after(found, b"picture")
        with pytest.raises(ValueError, match="not of this data"):
            store.commit(record, b"another", found)
        with pytest.raises(ValueError, match="generation 1 cannot follow"):
            store.commit(record, b"picture", Found(record=record))
        with pytest.raises(UsageError, match="cannot be named"):
            commit(store, b"", found=found, key=".farm/results/x")
        assert names(store) == []

    def test_of_many_attempts_at_once_exactly_one_is_recorded(self, strict_store: Store) -> None:
        for generation in (1, 2, 3):
            found = strict_store.find(KEY)
            data = [b"%d by %d" % (generation, n) for n in range(6)]
            outcomes = at_once(
                6, lambda n, found=found, data=data: commit(strict_store, data[n], found=found, attempt=n)
            )
            assert [o.won for o in outcomes].count(True) == 1
            assert len({(o.record.attempt, o.record.sha256) for o in outcomes}) == 1
            record = stored_record(strict_store, KEY, generation)
            assert sha256(strict_store.read(KEY)) == record.sha256
            assert outcomes[record.attempt].won
        assert strict_store.stat(record_key(KEY, 4)) is None
        assert temporary(strict_store) == []

    def test_of_many_attempts_with_the_same_bytes_exactly_one_is_recorded(self, strict_store: Store) -> None:
        """An etag does not tell them apart, not from the generation before either."""
        for generation in (1, 2):
            found = strict_store.find(KEY)
            outcomes = at_once(
                4, lambda n, found=found: commit(strict_store, b"same", found=found, attempt=n)
            )
            assert [o.won for o in outcomes].count(True) == 1
            assert outcomes[stored_record(strict_store, KEY, generation).attempt].won


def at_once(count: int, act):
    """Return what `act` returns for 0 to `count` - 1, all begun at the same moment."""
    start = threading.Barrier(count)

    def run(number: int):
        start.wait()
        return act(number)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(run, range(count)))
