"""The styles that come with the farm, and the tool that puts them into the package."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from examples.bundle_styles import assets_of, bundle, described, halved, remove
from jobs.bundled import FOLDER, bundled_store
from jobs.errors import UsageError
from jobs.library import Library, StyleEntry
from jobs.storage.local import LocalStore
from tests.workers.nst.plain import seeded_state
from workers.importing import import_style
from workers.nst.style_models import StyleMetadata, read_style_model, save_style_model
from workers.nst.transformer import TransformerNet

ROOT = Path(__file__).parent.parent
STYLES = Library(bundled_store(), FOLDER).styles()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return an empty folder of bundled styles, with the beginning of its README."""
    folder = tmp_path / "bundled"
    folder.mkdir()
    (folder / "README.md").write_text("# Mine\n\n")
    return folder


def model(path: Path, name: str = "moss", seed: int = 0, lacking: str = "") -> Path:
    """Write a style model of weights that float16 does not hold."""
    return written(path, {key: value / 3 for key, value in seeded_state(2, seed).items()}, name, lacking)


def written(path: Path, state: dict[str, torch.Tensor], name: str = "loud", lacking: str = "") -> Path:
    """Write a style model of these weights of base width 2."""
    net = TransformerNet(2)
    net.load_state_dict(state)
    said = {word: "" if word == lacking else "anything" for word in ("license", "source")}
    save_style_model(path, net, StyleMetadata(name, 2, license=said["license"], source=said["source"]))
    return path


def content(folder: Path) -> dict[str, bytes]:
    """Return all files of a folder by their names in it."""
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


# --- what comes with the farm -----------------------------------------------------------------------


def test_there_are_styles() -> None:
    assert "ink" in {style.name for style in STYLES}


@pytest.mark.parametrize("style", STYLES, ids=lambda style: style.name)
def test_a_style_that_comes_with_the_farm_is_whole_small_and_says_what_it_is(
    style: StyleEntry, tmp_path: Path
) -> None:
    """It is what its entry says: the same file, added by anybody, would get the same entry."""
    library = Library(LocalStore(tmp_path / "empty"), tmp_path / "unused", bundled_store())
    file = library.path(style.sha256)
    made = import_style(file, format="stylefarm", name=style.name)
    said = {key: value for key, value in style.metadata.items() if key != "thumbnail_sha256"}
    # A later version may know more of a style than its entry was made with.
    assert {"name", "width", "license", "source"} <= set(said) <= set(made.metadata)
    assert said == json.loads(json.dumps({key: made.metadata[key] for key in said}))
    assert (style.width, style.size_bytes, style.format) == (made.width, file.stat().st_size, "stylefarm")
    assert style.metadata["name"] == style.name
    assert style.license == style.metadata["license"] != ""
    assert style.source == style.metadata["source"] != ""
    assert style.created_at == 0
    assert style.size_bytes < 4_000_000
    with (
        Image.open(library.path(style.metadata["thumbnail_sha256"])) as kept,
        Image.open(io.BytesIO(made.thumbnail)) as now,
    ):
        # Another processor may round otherwise.
        assert np.abs(np.asarray(kept).astype(int) - np.asarray(now)).max() <= 2


def test_nothing_else_comes_with_them() -> None:
    """No file that no style needs, none that a store left behind; README says what the entries say."""
    assets = {f"assets/{sha[:2]}/{sha}" for style in STYLES for sha in assets_of(style)}
    entries = {f"styles/{style.name}.json" for style in STYLES}
    there = {name for name in content(FOLDER) if "__pycache__" not in name}
    assert there == {"__init__.py", "README.md"} | assets | entries
    assert (FOLDER / "README.md").read_text().endswith(f"\n\n{described(STYLES)}")


def test_the_first_of_them_is_of_our_own_making() -> None:
    [ink] = [style for style in STYLES if style.name == "ink"]
    assert ink.size_bytes < 250_000
    assert ink.license == "Apache-2.0"
    assert "examples/demo_style.py" in ink.source
    assert (ROOT / "examples" / "demo_style.py").exists()


# --- the tool ---------------------------------------------------------------------------------------


def test_a_style_model_is_put_into_the_package_as_it_is(folder: Path, tmp_path: Path) -> None:
    file = model(tmp_path / "moss.safetensors")
    [entry] = bundle([file], folder)
    library = Library(LocalStore(folder), tmp_path / "unused")
    assert library.styles() == [entry]
    assert library.path(entry.sha256).read_bytes() == file.read_bytes()
    with Image.open(library.path(entry.metadata["thumbnail_sha256"])) as thumbnail:
        assert thumbnail.format == "PNG"
    readme = (folder / "README.md").read_text()
    assert readme.startswith("# Mine\n\n## ")
    assert "| license | anything |" in readme
    assert entry.sha256 in readme


def test_the_same_files_give_the_same_folder_wherever_and_whenever(folder: Path, tmp_path: Path) -> None:
    """In any order, and again: nothing is said of time or place, and nothing is left over."""
    first, second = model(tmp_path / "moss.safetensors"), model(tmp_path / "rust.safetensors", "rust", 1)
    bundle([first, second], folder)
    before = content(folder)
    bundle([second], folder)
    assert content(folder) == before
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "README.md").write_text("# Mine\n\n")
    moved = tmp_path / "further" / "a.safetensors"
    moved.parent.mkdir()
    shutil.move(first, moved)
    bundle([second], elsewhere)
    bundle([moved], elsewhere)
    assert content(elsewhere) == before
    assert not [data for data in before.values() if str(tmp_path).encode() in data]


def test_a_better_one_takes_its_place_and_a_removed_one_leaves_nothing(folder: Path, tmp_path: Path) -> None:
    bundle([model(tmp_path / "moss.safetensors")], folder)
    [better] = bundle([model(tmp_path / "moss.safetensors", seed=1)], folder)
    assert set(content(folder)) == {
        "README.md",
        "styles/moss.json",
        *(f"assets/{sha[:2]}/{sha}" for sha in assets_of(better)),
    }
    remove(["moss"], folder)
    assert set(content(folder)) == {"README.md"}
    assert "moss" not in (folder / "README.md").read_text()
    with pytest.raises(UsageError, match="no style 'moss'"):
        remove(["moss"], folder)


def test_the_page_says_what_is_known_in_figures_too() -> None:
    """Figures are short, what is long is left to the command, and nothing breaks the table."""
    facts = {
        "network": "transformer",
        "painting": "a|b\nc",
        "style error": {"kodim05": 0.123456789, "all": [1, 2]},
    }
    entry = replace(STYLES[0], name="moss", metadata={**facts, "trace": [0.5] * 1000, "nothing": None})
    text = described([entry])
    assert "\n### moss\n" in text
    assert "| painting | a\\|b c |" in text
    assert "| style error: kodim05 | 0.123457 |" in text
    assert "| style error: all | 1, 2 |" in text
    assert "trace" not in text
    assert "nothing" not in text


@pytest.mark.parametrize("lacking", ["license", "source"])
def test_a_style_that_does_not_say_where_it_is_from_is_not_shipped(
    folder: Path, tmp_path: Path, lacking: str
) -> None:
    file = model(tmp_path / "moss.safetensors", lacking=lacking)
    with pytest.raises(UsageError, match=f"does not say its {lacking}"):
        bundle([file], folder)
    assert set(content(folder)) == {"README.md"}


def test_half_the_bytes_where_nobody_sees_the_difference(folder: Path, tmp_path: Path) -> None:
    file = model(tmp_path / "moss.safetensors")
    [entry] = bundle([file], folder, half=True)
    assert entry.size_bytes < 0.7 * file.stat().st_size
    kept, metadata = read_style_model(Library(LocalStore(folder), tmp_path / "unused").path(entry.sha256))
    original, said = read_style_model(file)
    assert metadata == said
    for name, value in kept.state_dict().items():
        assert torch.equal(value, original.state_dict()[name].half().float())


def test_weights_whose_rounding_would_be_seen_stay_as_they_are(tmp_path: Path) -> None:
    """Large values that cancel each other are off by much when each is rounded."""
    state = seeded_state(2)
    state["in5.bias"] += 100
    state["deconv3.conv2d.bias"] -= 100 * state["deconv3.conv2d.weight"].sum(dim=(1, 2, 3))
    with pytest.raises(UsageError, match="in float16 its pixels change by up to") as caught:
        halved(written(tmp_path / "loud.safetensors", state))
    assert "without --half" in caught.value.hint


def test_weights_that_float16_does_not_hold_stay_as_they_are(tmp_path: Path) -> None:
    state = seeded_state(2)
    state["deconv3.conv2d.bias"][0] = 70_000
    with pytest.raises(UsageError, match="weights that are too large for float16") as caught:
        halved(written(tmp_path / "loud.safetensors", state))
    assert "without --half" in caught.value.hint


def test_the_tool_says_what_is_wrong_in_one_line(tmp_path: Path) -> None:
    """And changes nothing in the package."""
    file = tmp_path / "text.safetensors"
    file.write_text("hello")
    before = content(FOLDER / "styles")
    done = subprocess.run(
        [sys.executable, ROOT / "examples" / "bundle_styles.py", file],
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert line.startswith("error: text.safetensors")
    assert content(FOLDER / "styles") == before
    assert json.loads(before["ink.json"])["name"] == "ink"
