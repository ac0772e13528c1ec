"""Disks that are full, and folders that may not be read or written, under the real farm."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.end_to_end.awkward import photos
from tests.end_to_end.conftest import AddStyle, SeededStyle
from tests.end_to_end.real_farm import RealFarm, records, results

pytestmark = pytest.mark.slow

AS_A_PLAIN_USER = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH: what lets root read and write everything
    if os.geteuid() == 0 and libc.prctl(24, capability, 0, 0, 0) != 0:  # PR_CAPBSET_DROP
        sys.exit(os.strerror(ctypes.get_errno()))
os.execv(sys.executable, [sys.executable, "-m", "farm", *sys.argv[1:]])
"""
"""Runs `farm` so that permissions count for it, and for the farm that it starts, even if root runs it."""

DISK_BYTES = 256 * 1024


def run_as_a_plain_user(farm: RealFarm, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", AS_A_PLAIN_USER, *map(str, arguments)],
        env=farm.environment,
        cwd=farm.home,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.fixture
def no_farm_yet(add_style: AddStyle) -> Iterator[RealFarm]:
    """A machine with a style, on which no farm runs yet."""
    with tempfile.TemporaryDirectory(prefix="sf-", dir="/tmp") as home:
        farm = RealFarm(Path(home))
        add_style(farm, SeededStyle("waves", width=2, seed=0))
        yield farm
        farm.down()


@pytest.fixture
def locked(tmp_path: Path) -> Iterator[Path]:
    """Return a folder with a readable photo, an unreadable one, and an unreadable folder."""
    folder = photos(tmp_path / "photos", 2)
    (folder / "photo2.jpg").chmod(0)
    photos(folder / "unreadable", 1)
    (folder / "unreadable").chmod(0)
    yield folder
    (folder / "unreadable").chmod(0o700)


def test_what_may_not_be_read_or_written_is_named(
    no_farm_yet: RealFarm, locked: Path, tmp_path: Path
) -> None:
    """Before a farm is started where it can be found so early, else by the farm that the command starts."""
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    for options, place in (
        ([locked / "unreadable", "--output", tmp_path / "out"], locked / "unreadable"),
        ([locked / "photo1.jpg", "--output", closed / "out"], closed / "out"),
    ):
        done = run_as_a_plain_user(no_farm_yet, "render", *options, "--style", "waves")
        assert done.returncode == 2, done.stderr
        error, hint = done.stderr.splitlines()
        assert str(place) in error
        assert "Permission denied" in error
        assert hint.startswith("hint: ")

    done = run_as_a_plain_user(no_farm_yet, "render", locked, "-s", "waves", "-o", tmp_path / "out")
    assert done.returncode == 2, done.stderr
    assert f"error: {locked / 'unreadable'}: Permission denied" in done.stderr
    assert "Traceback" not in done.stderr

    done = run_as_a_plain_user(
        no_farm_yet, "render", locked, "--no-recursive", "-s", "waves", "-o", tmp_path / "out"
    )
    assert done.returncode == 3, done.stderr
    assert f"{locked / 'photo2.jpg'}  {locked / 'photo2.jpg'}: Permission denied" in done.stdout
    assert set(results(tmp_path / "out")) == {"photo1.jpg"}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Return a folder on a small file system of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "none", folder],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip(f"a small disk needs a tmpfs, which only root may mount: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.mark.timeout(180)
def test_a_full_disk_fails_what_did_not_fit_and_a_retry_goes_on_when_there_is_room(
    farm: RealFarm, style: SeededStyle, tmp_path: Path, small_disk: Path
) -> None:
    """Nothing half-written stands under a final name, and what fitted is whole and recorded."""
    output = small_disk / "out"
    folder = photos(tmp_path / "photos", 24, 96, 64)
    job = farm.run(
        "submit", folder, "--style", style.name, "--format", "bmp", "--output", output
    ).stdout.strip()
    done = farm.run("wait", job, check=False)
    assert done.returncode == 3
    ended = farm.job(job)
    assert ended["state"] == "completed with errors"
    assert 0 < ended["items"]["done"] < 24
    assert ended["items"]["done"] + ended["items"]["failed"] == 24
    assert ended["failures"]
    for failure in ended["failures"]:
        assert failure["reason"].startswith("the disk is full: ")
        assert str(output) in failure["reason"]
    (note,) = ended["notes"]
    assert "the report could not be written: the disk is full" in ended["reason"]
    assert note == "the results may need 0.7 MB, but the output has 0.3 MB left", "said before it began"

    made = results(output)
    assert len(made) == ended["items"]["done"]
    recorded = records(output)
    for key, path in made.items():
        (record,) = recorded[key]
        assert record.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()

    subprocess.run(["mount", "-o", f"remount,size={8 * DISK_BYTES}", small_disk], check=True)
    farm.run("retry", job)
    assert farm.run("wait", job).returncode == 0
    assert len(results(output)) == 24
    assert farm.job(job)["reason"] == ""
    assert len(json.loads((output / ".farm/report.json").read_text())["items"]) == 24
