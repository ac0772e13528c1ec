"""A folder as a store: what is special about disks."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from jobs.errors import ConflictError, StorageError, UsageError
from jobs.storage import Found, open_store
from jobs.storage.local import LocalStore
from jobs.storage.rules import record_key
from tests.jobs.storage.results import KEY, commit, names, temporary


class TestListing:
    """Listing a folder that anything may be in."""

    def test_each_folder_is_in_natural_order(self, folder: LocalStore) -> None:
        for name in ("img10.jpg", "img2.jpg", "Img1.jpg", "b/10.png", "b/9.png", "a/x"):
            folder.write(name, b"")
        listed = [entry.key for entry in folder.list()]
        assert listed == ["a/x", "b/9.png", "b/10.png", "Img1.jpg", "img2.jpg", "img10.jpg"]

    def test_links_are_followed_but_not_in_circles(self, folder: LocalStore, tmp_path: Path) -> None:
        folder.write("photos/1.jpg", b"one")
        folder.write("elsewhere", b"")
        (tmp_path / "outside").mkdir()
        (tmp_path / "outside" / "2.jpg").write_bytes(b"two!")
        photos = Path(folder.url) / "photos"
        (photos / "self").symlink_to(photos)
        (photos / "up").symlink_to(folder.url)
        (photos / "linked").symlink_to(tmp_path / "outside")
        (photos / "linked.jpg").symlink_to(tmp_path / "outside" / "2.jpg")
        (photos / "dangling.jpg").symlink_to("nowhere")
        (photos / "circle.jpg").symlink_to("circle.jpg")
        listed = {entry.key: entry.size_bytes for entry in folder.list("photos")}
        # `up` leads to the folder above once, where the same links are met again and left alone.
        below = {key: size for key, size in listed.items() if not key.startswith("photos/up/")}
        assert below == {"photos/1.jpg": 3, "photos/linked/2.jpg": 4, "photos/linked.jpg": 4}
        assert "photos/up/elsewhere" in listed
        assert not any("photos/up/photos/" in key for key in listed)

    def test_pipes_and_folders_are_no_files(self, folder: LocalStore) -> None:
        folder.write("sub/a", b"")
        os.mkfifo(Path(folder.url) / "pipe")
        assert names(folder) == ["sub/a"]
        assert folder.stat("pipe") is None
        with pytest.raises(FileNotFoundError):
            folder.read("pipe")

    def test_a_folder_that_may_not_be_read_is_named(
        self, folder: LocalStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Permissions do not stop root, so the refusal is made up."""
        folder.write("closed/a", b"")
        scandir = os.scandir

        def refuse(path: Path) -> object:
            if Path(path).name == "closed":
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
            return scandir(path)

        monkeypatch.setattr(os, "scandir", refuse)
        with pytest.raises(UsageError, match=r"output/closed: Permission denied"):
            names(folder)

    def test_the_stamp_changes_with_the_content(self, folder: LocalStore) -> None:
        folder.write("a", b"one")
        path = Path(folder.url) / "a"
        os.utime(path, ns=(5, 1_700_000_000_000_000_007))
        assert [entry.stamp for entry in folder.list()] == ["1700000000000000007"]


class TestWhereThingsGo:
    """Nothing outside of the folder is written."""

    def test_a_link_that_leads_outside_is_not_written_through(
        self, folder: LocalStore, tmp_path: Path
    ) -> None:
        outside = tmp_path / "outside"
        outside.mkdir()
        (outside / "kept").write_bytes(b"kept")
        folder.write("a", b"")
        (Path(folder.url) / "door").symlink_to(outside)
        for act in (
            lambda: folder.write("door/x", b""),
            lambda: folder.create("door/x", b""),
            lambda: folder.delete("door/kept"),
            lambda: commit(folder, b"", key="door/x"),
        ):
            with pytest.raises(UsageError, match="leads outside"):
                act()
        assert [path.name for path in outside.iterdir()] == ["kept"]
        assert folder.read("door/kept") == b"kept"

    def test_a_link_in_place_of_a_file_is_replaced_and_not_followed(
        self, folder: LocalStore, tmp_path: Path
    ) -> None:
        target = tmp_path / "precious"
        target.write_bytes(b"precious")
        folder.write("a", b"")
        for name in ("written", KEY):
            (Path(folder.url) / name).parent.mkdir(exist_ok=True)
            (Path(folder.url) / name).symlink_to(target)
        folder.write("written", b"new")
        assert not folder.find(KEY).ours
        with pytest.raises(ConflictError):
            commit(folder, b"picture")
        assert commit(folder, b"picture", on_existing="replace").won
        assert (folder.read("written"), folder.read(KEY)) == (b"new", b"picture")
        assert target.read_bytes() == b"precious"

    def test_a_link_inside_the_folder_is_followed(self, folder: LocalStore) -> None:
        folder.write("real/a", b"")
        (Path(folder.url) / "alias").symlink_to("real")
        assert commit(folder, b"picture", key="alias/b").won
        assert folder.read("real/b") == b"picture"

    def test_a_link_to_the_store_itself_is_the_store(self, folder: LocalStore, tmp_path: Path) -> None:
        folder.write("a", b"content")
        (tmp_path / "link").symlink_to(folder.url)
        linked = open_store(str(tmp_path / "link"))
        assert linked.url == folder.url
        linked.write("b", b"")
        assert names(folder) == ["a", "b"]

    def test_nothing_is_made_until_something_is_written(self, tmp_path: Path) -> None:
        store = LocalStore(tmp_path / "new" / "output")
        assert names(store) == []
        assert store.find(KEY) == Found()
        assert store.sweep(0) == 0
        assert store.free_bytes() > 0
        store.delete("a")
        assert list(tmp_path.iterdir()) == []

    def test_a_file_where_a_folder_must_be_is_a_clear_error(self, folder: LocalStore) -> None:
        folder.write("july", b"")
        for act in (lambda: commit(folder, b"", key="july/1.jpg"), lambda: folder.write("july/1.jpg", b"")):
            with pytest.raises(UsageError, match="july"):
                act()

    def test_a_folder_where_a_result_must_be_is_a_clear_error(self, folder: LocalStore) -> None:
        folder.write(f"{KEY}/inside", b"")
        for on_existing in ("fail", "replace"):
            with pytest.raises(ConflictError):
                commit(folder, b"picture", on_existing=on_existing)
        assert names(folder) == [f"{KEY}/inside"]

    def test_a_name_that_is_too_long_for_the_disk_is_a_clear_error(self, folder: LocalStore) -> None:
        with pytest.raises(UsageError, match="name too long"):
            folder.write("n" * 256, b"")
        with pytest.raises(UsageError, match="name too long"):
            commit(folder, b"", key="n" * 256)

    def test_results_may_be_read_by_whom_the_umask_lets(self, folder: LocalStore) -> None:
        before = os.umask(0o027)
        try:
            commit(folder, b"picture")
        finally:
            os.umask(before)
        assert (Path(folder.url) / KEY).stat().st_mode & 0o777 == 0o640


class TestWhoseFile:
    """A result is known as ours without reading it, and never by mistake."""

    def test_an_untouched_result_is_not_read(
        self, folder: LocalStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        commit(folder, b"picture")
        monkeypatch.setattr("jobs.storage.files.sha256_of", lambda path: pytest.fail(f"{path} was read"))
        assert folder.find(KEY).ours

    def test_a_copied_output_with_new_times_is_still_ours(self, folder: LocalStore, tmp_path: Path) -> None:
        commit(folder, b"picture")
        shutil.copytree(folder.url, tmp_path / "copy", copy_function=shutil.copy)
        copy = LocalStore(tmp_path / "copy")
        os.utime(copy.path(KEY), ns=(1, 1))
        assert copy.find(KEY).ours
        assert commit(copy, b"second", attempt=2).won

    def test_an_edit_in_place_makes_it_theirs(self, folder: LocalStore) -> None:
        commit(folder, b"picture")
        with folder.path(KEY).open("r+b") as file:
            file.write(b"P")
        assert not folder.find(KEY).ours
        with pytest.raises(ConflictError):
            commit(folder, b"second")
        assert folder.read(KEY) == b"Picture"

    def test_an_edit_that_hides_its_time_is_still_not_overwritten(self, folder: LocalStore) -> None:
        commit(folder, b"picture")
        path = folder.path(KEY)
        details = path.stat()
        path.write_bytes(b"Picture")
        os.utime(path, ns=(details.st_atime_ns, details.st_mtime_ns))
        with pytest.raises(ConflictError):
            commit(folder, b"second")
        assert folder.read(KEY) == b"Picture"

    def test_an_older_result_that_was_put_back_is_replaced(self, folder: LocalStore) -> None:
        commit(folder, b"first")
        commit(folder, b"second", attempt=2)
        folder.write(KEY, b"first")
        assert commit(folder, b"third", attempt=3).won
        assert folder.read(KEY) == b"third"

    def test_a_damaged_record_is_named(self, folder: LocalStore) -> None:
        commit(folder, b"picture")
        folder.write(record_key(KEY, 1), b'{"key": "jul')
        with pytest.raises(StorageError, match=r"beach 1\.jpg\.1\.json is damaged"):
            folder.find(KEY)


class TestTroubles:
    """Disks that are full or cannot do what is needed."""

    def test_a_disk_without_hard_links_is_refused_by_the_probe(
        self, folder: LocalStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(*_: object, **__: object) -> None:
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

        monkeypatch.setattr(os, "link", refuse)
        with pytest.raises(UsageError, match="no hard link"):
            folder.probe()
        assert names(folder) == []

    def test_a_full_disk_is_named_and_leaves_nothing_half_written(self, full_disk: LocalStore) -> None:
        data = os.urandom(3_000_000)
        for act in (
            lambda: commit(full_disk, data),
            lambda: full_disk.write("a", data),
            lambda: full_disk.create("a", data),
        ):
            with pytest.raises(StorageError, match=r"the disk is full: 3000000 bytes for .*output"):
                act()
            assert names(full_disk) == []

    @pytest.mark.parametrize("failing", range(1, 6))
    def test_a_disk_that_fills_up_at_any_moment_of_a_commit_leaves_the_old_or_the_new_result(
        self, folder: LocalStore, monkeypatch: pytest.MonkeyPatch, failing: int
    ) -> None:
        commit(folder, b"old")
        fsync, count = os.fsync, 0

        def fail_once(descriptor: int) -> None:
            nonlocal count
            count += 1
            if count == failing:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            fsync(descriptor)

        before = folder.find(KEY)
        monkeypatch.setattr(os, "fsync", fail_once)
        with pytest.raises(StorageError, match="the disk is full"):
            commit(folder, b"new", found=before, attempt=2)
        found = folder.find(KEY)
        assert found.ours
        assert found.record is not None
        assert folder.read(KEY) == {1: b"old", 2: b"new"}[found.record.generation]
        assert commit(folder, b"new", found=before, attempt=2).won
        folder.sweep(0)
        assert temporary(folder) == []


@pytest.fixture
def full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalStore]:
    """Return a store on a disk of 2 MB; where none may be mounted, one that refuses larger files."""
    disk = tmp_path / "disk"
    disk.mkdir()
    with ExitStack() as stack:
        mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)]
        if shutil.which("mount") and subprocess.run(mount, capture_output=True, check=False).returncode == 0:
            stack.callback(subprocess.run, ["umount", str(disk)], check=True)
        else:
            _limit_files(monkeypatch, 2_000_000)
        yield LocalStore(disk / "output")


def _limit_files(monkeypatch: pytest.MonkeyPatch, limit_bytes: int) -> None:
    fsync = os.fsync

    def refuse(descriptor: int) -> None:
        if os.fstat(descriptor).st_size > limit_bytes:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", refuse)
