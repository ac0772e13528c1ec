"""The demo does what it says: with the real command and a farm of its own, from nothing to the results."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image, ImageChops

from examples.demo import PHOTOGRAPHS, before_and_after
from jobs.bundled import bundled_store
from jobs.library import Library

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"


def run_demo(folder: Path) -> str:
    """Run the demo, where the farm of another machine is named, and return what it printed."""
    done = subprocess.run(
        [sys.executable, EXAMPLES / "demo.py", folder],
        env=os.environ | {"FARM_ADDRESS": "http://127.0.0.1:9", "FARM_TOKEN": "x"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_demo_renders_its_photographs_and_skips_them_the_second_time(tmp_path: Path) -> None:
    """Every place that it names is there; the farm that it starts is its own, and is ended."""
    folder = tmp_path / "demo output"
    printed = run_demo(folder)
    styles = [style.name for style in Library(bundled_store(), tmp_path / "unused").styles()]
    assert f"{6 * len(styles)} done" in printed
    photos = sorted((folder / "photos").iterdir())
    assert len(photos) == 6
    results = [folder / "styled" / style for style in styles] if len(styles) > 1 else [folder / "styled"]
    for photo, result in itertools.product(photos, results):
        with Image.open(photo) as before, Image.open(result / photo.name) as after:
            assert after.size == before.size
            assert ImageChops.difference(after.convert("RGB"), before.convert("RGB")).getbbox()
    for place in ("styled", "contact-sheet.jpg", "before-and-after.jpg", "styled/.farm/report.json"):
        assert (folder / place).exists()
        assert f"{folder / place}\n" in printed
    assert json.loads((folder / "styled/.farm/report.json").read_text())["state"] == "completed"
    assert not (folder / "farm/state/stylefarm/farm.json").exists()

    assert f"{6 * len(styles)} skipped" in run_demo(folder)


@pytest.mark.parametrize("count", [1, 2, 4])
def test_before_and_after_shows_every_photograph_with_all_its_results(tmp_path: Path, count: int) -> None:
    """However many styles there are: one photograph is never parted from its results."""
    folders = [tmp_path / str(number) for number in range(count + 1)]
    for folder in folders:
        folder.mkdir()
        for name in PHOTOGRAPHS:
            Image.new("RGB", (40, 30), "navy").save(folder / name)
    sheet = before_and_after(folders[0], folders[1:])
    width_px = (sheet.width + 6) / (4 if count == 1 else count + 1)
    rows = 3 if count == 1 else 6
    assert abs(sheet.height - rows * (width_px * 30 / 40)) < 8 * rows
