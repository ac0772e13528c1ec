"""The demo does what it says: with the real command and a farm of its own, from nothing to the results."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image, ImageChops

from workers.nst.style_models import read_style_model

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
    assert "6 done" in printed
    photos = sorted((folder / "photos").iterdir())
    assert len(photos) == 6
    for photo in photos:
        with Image.open(photo) as before, Image.open(folder / "styled" / photo.name) as after:
            assert after.size == before.size
            assert ImageChops.difference(after.convert("RGB"), before.convert("RGB")).getbbox()
    for place in ("styled", "contact-sheet.jpg", "before-and-after.jpg", "styled/.farm/report.json"):
        assert (folder / place).exists()
        assert f"{folder / place}\n" in printed
    assert json.loads((folder / "styled/.farm/report.json").read_text())["state"] == "completed"
    assert not (folder / "farm/state/stylefarm/farm.json").exists()

    assert "6 skipped" in run_demo(folder)


def test_the_style_of_the_demo_says_what_it_is() -> None:
    """Small, of our own making, under our license."""
    file = EXAMPLES / "ink.safetensors"
    _, metadata = read_style_model(file)
    assert file.stat().st_size < 250_000
    assert (metadata.name, metadata.license) == ("ink", "Apache-2.0")
    assert "examples/demo_style.py" in metadata.source
    assert (EXAMPLES / "demo_style.py").exists()
