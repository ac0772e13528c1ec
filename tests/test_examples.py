"""Every manifest in examples/ is valid and plans what its comments say."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jsonschema
import pytest

from jobs.documents import read_document
from jobs.manifest import Manifest, load_manifest
from jobs.optimize_step import OptimizeStep
from jobs.paths import is_picture, is_s3, split_glob
from jobs.plan import begin_planning, plan_step, validate_plan
from jobs.storage.base import Store
from jobs.storage.local import LocalStore
from jobs.stylize_step import StylizeStep
from jobs.tasks import StoreOptions
from jobs.train_step import TrainStep

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.yaml"))


@dataclass(frozen=True)
class Known:
    """A style or a loss network that every library has."""

    name: str
    sha256: str = "0" * 64
    width: int = 16


class AnyAsset:
    """A library that has every style and loss network, and keeps nothing."""

    def style(self, name: str) -> Known:
        """Return it."""
        return Known(name)

    network = style

    def check_style_name(self, name: str, *, made_in: str, replacing: bool) -> None:
        """Give every style its name."""

    def put(self, data: bytes | Path) -> str:
        """Return a hash."""
        return "1" * 64


TRAINED_ON = 20
"""Pictures in the data of a training."""


class Disk:
    """Opens a folder for each bucket, so that manifests for S3 are planned without a server."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, url: str) -> Path:
        """Return where the content of a URL lies."""
        return self.folder / url.removeprefix("s3://") if is_s3(url) else Path(url)

    def open(self, url: str, _: StoreOptions | None) -> Store:
        """Open a store as `jobs.storage.open_store` does."""
        store = LocalStore(str(self.path(url)))
        store.url = url
        return store

    def fill(self, place: str, tag: str, numbers: Sequence[int] = (2, 10)) -> None:
        """Put pictures whose names begin with `tag` where an entry of `inputs` finds them.

        A file that is named is put there itself.
        """
        if is_picture(place) and "*" not in place:
            root, name = place.rsplit("/", 1)
            names = [name]
        elif "*" in place:
            root, pattern = split_glob(place)
            names = [pattern.replace("**", "deep/er").replace("*", f"{tag}{number}") for number in numbers]
        else:
            root, names = place, [f"{tag}{numbers[0]}.jpg", *(f"below/{tag}{n}.JPG" for n in numbers[1:])]
        for name in names:
            path = self.path(root) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"x")


def planned(example: Path, folder: Path) -> dict[str, list[str]]:
    """Return the output names of an example by step, planned in a folder with pictures for all its inputs."""
    manifest = load_manifest(example).anchored(folder)
    disk = Disk(folder)
    made = {}
    for step in manifest.steps:
        assert isinstance(step, StylizeStep | OptimizeStep | TrainStep)
        for number, place in enumerate(step.inputs):
            disk.fill(place, "ab"[number], range(TRAINED_ON) if isinstance(step, TrainStep) else (2, 10))
        for painting in [] if isinstance(step, StylizeStep) else step.style_images:
            disk.fill(painting.image, "")
        if isinstance(step, TrainStep):
            made[step.name] = {"name": step.style, "sha256": "2" * 64}
            for image in step.test_images:
                disk.fill(image, "")
    checked = validate_plan(manifest, AnyAsset(), opener=disk.open)
    planning = begin_planning(manifest, checked, results=made, opener=disk.open)
    return {
        step.name: [item.output_key for task in plan_step(step, planning) for item in task.items]
        for step in manifest.steps
    }


def test_there_are_examples():
    names = {path.name for path in EXAMPLES}
    assert names >= {"folder.yaml", "many-styles.yaml", "s3.yaml", "frames.yaml"}
    assert names >= {"optimize.yaml", "optimize-tiles.yaml", "train-styles.yaml", "train-bundled.yaml"}


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_an_example_is_valid_by_the_schema_too(example):
    schema = Manifest.model_json_schema()
    validator = jsonschema.validators.validator_for(schema)(schema)
    assert [error.message for error in validator.iter_errors(read_document(example))] == []


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_an_example_can_be_planned(example, tmp_path):
    """Every input of every step finds its pictures, in every style, under names of their own."""
    keys = planned(example, tmp_path)
    manifest = load_manifest(example)
    for step in manifest.steps:
        if isinstance(step, TrainStep):
            assert keys[step.name] == [f"{step.style}.safetensors"]
            continue
        assert isinstance(step, StylizeStep | OptimizeStep)
        pictures = sum(1 if is_picture(place) and "*" not in place else 2 for place in step.inputs)
        assert len(keys[step.name]) == pictures * len(getattr(step, "styles", [""]))
    together = [key for each in keys.values() for key in each]
    assert len(set(together)) == len(together)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_an_example_explains_itself(example):
    """It begins with a comment, and the commands in it name the file itself."""
    text = example.read_text()
    assert text.startswith("# ")
    assert set(re.findall(r"examples/\S+\.yaml", text)) <= {f"examples/{example.name}"}


@pytest.mark.parametrize(
    ("name", "step", "expected"),
    [
        ("folder.yaml", "render", ["a2.jpg", "below/a10.JPG"]),
        ("frames.yaml", "render", ["frame_00001.png", "frame_00002.png"]),
        ("optimize.yaml", "render", ["a2.jpg", "below/a10.JPG"]),
        ("optimize-tiles.yaml", "render", ["harbor-starry-night.png"]),
        ("train-styles.yaml", "train-night", ["night.safetensors"]),
        ("train-styles.yaml", "render-wave", ["wave/a2.jpg", "wave/below/a10.JPG"]),
        ("s3.yaml", "render", ["a2.webp", "below/a10.webp", "b2.webp", "b10.webp"]),
    ],
)
def test_the_names_are_those_that_the_comments_promise(name, step, expected, tmp_path):
    (example,) = [path for path in EXAMPLES if path.name == name]
    assert planned(example, tmp_path)[step] == expected
