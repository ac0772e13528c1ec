"""What is installed from a wheel has the styles that come with the farm, and renders with them.

The wheel is built and unpacked without a network, into a folder of its own, and what runs from there is told
apart from this checkout by a style that only the installed package has.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest
from PIL import Image

from examples.bundle_styles import bundle
from jobs.bundled import FOLDER, bundled_store
from jobs.library import Library
from tests.end_to_end.real_farm import RealFarm, photos
from tests.workers.nst.plain import seeded_state
from workers.nst.style_models import StyleMetadata, save_style_model
from workers.nst.transformer import TransformerNet

ROOT = Path(__file__).parent.parent
STYLES = Library(bundled_store(), FOLDER).styles()

pytestmark = pytest.mark.slow


def pip(*arguments: object) -> None:
    """Run pip, which may not reach any index."""
    done = subprocess.run(
        [sys.executable, "-m", "pip", "--disable-pip-version-check", *map(str, arguments)],
        env=os.environ | {"PIP_NO_INDEX": "1"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the wheel of this checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, ROOT)
    [wheel] = folder.glob("stylefarm-*.whl")
    return wheel


@pytest.fixture
def installed(wheel: Path, tmp_path: Path) -> Path:
    """Return a folder in which the wheel is installed; a test may change what is in it."""
    folder = tmp_path / "installed"
    pip("install", "--no-deps", "--no-compile", "--target", folder, wheel)
    return folder


@pytest.fixture
def farm(installed: Path) -> Iterator[RealFarm]:
    """Return the farm of somebody who has the installed package only, and has never used it."""
    with tempfile.TemporaryDirectory(prefix="sf-", dir="/tmp") as home:
        farm = RealFarm(Path(home), PYTHONPATH=str(installed), FARM_KINDS="")
        asked = [sys.executable, "-c", "import farm, jobs, workers; print(farm, jobs, workers)"]
        found = subprocess.run(
            asked, env=farm.environment, cwd=home, capture_output=True, text=True, check=True
        )
        for name in ("farm", "jobs", "workers"):
            assert str(installed / name / "__init__.py") in found.stdout
        yield farm
        farm.down()


def bundled(farm: RealFarm) -> list[dict[str, Any]]:
    """Return the styles that the command lists as bundled."""
    return [style for style in farm.json("styles", "list")["styles"] if style["bundled"]]


def test_a_wheel_has_every_file_of_the_styles(wheel: Path) -> None:
    """Byte for byte, with what is said of them."""
    shipped = {
        f"jobs/bundled/{file.relative_to(FOLDER)}": file.read_bytes()
        for file in FOLDER.rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    with ZipFile(wheel) as archive:
        found = {name: archive.read(name) for name in archive.namelist() if name.startswith("jobs/bundled/")}
    assert found == shipped
    assert len(found) >= 2 + 3 * len(STYLES)


def test_an_installed_farm_lists_the_styles_that_came_with_it(farm: RealFarm) -> None:
    assert [(style["name"], style["sha256"]) for style in bundled(farm)] == [
        (s.name, s.sha256) for s in STYLES
    ]
    shown = farm.json("styles", "show", STYLES[0].name)
    assert shown["license"] == STYLES[0].license
    assert "came with the farm" in farm.run("styles", "remove", STYLES[0].name, check=False).stderr


def test_an_installed_farm_renders_with_them_at_once(farm: RealFarm, installed: Path, tmp_path: Path) -> None:
    """Command, controller and workers find them in the installed package: one of them lies only there."""
    net = TransformerNet(2)
    net.load_state_dict(seeded_state(2))
    file = tmp_path / "only.safetensors"
    save_style_model(file, net, StyleMetadata("only-installed", 2, license="CC0-1.0", source="made up"))
    bundle([file], installed / "jobs" / "bundled")
    names = [style["name"] for style in bundled(farm)]
    assert sorted(names) == sorted(["only-installed", *(style.name for style in STYLES)])

    asked = [word for name in names for word in ("--style", name)]
    farm.up(workers=1)
    farm.run("render", photos(tmp_path / "photos", 1), *asked, "--output", tmp_path / "out")
    for name in names:
        with Image.open(tmp_path / "out" / name / "p000.png") as image:
            assert image.size == (32, 32)
    report = json.loads((tmp_path / "out/.farm/report.json").read_text())
    assert report["state"] == "completed"
    assert not [*(farm.home / "data/stylefarm").glob("store/assets/*/*")]
