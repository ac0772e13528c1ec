"""The check at submit: what is refused while the user waits, all at once and each with its path."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from jobs.errors import ManifestError, StorageError
from jobs.library import Library
from jobs.manifest import Manifest
from jobs.plan import validate_plan
from jobs.storage.base import Store
from jobs.storage.local import LocalStore
from jobs.storage.memory import MemoryStore
from tests.jobs.plans import keys_of, manifest_of, tasks_of


def refusals(manifest: Manifest, library: Library) -> list[str]:
    """Return the lines that a manifest is refused with at submit."""
    with pytest.raises(ManifestError) as caught:
        validate_plan(manifest, library)
    return caught.value.message.splitlines()


def test_a_good_manifest_passes_and_its_styles_are_pinned(photos, tmp_path, library):
    """The content hash found at submit is kept; what the name means later is no matter."""
    step = {"inputs": [str(photos)], "styles": ["candy", "mosaic"]}
    checked = validate_plan(manifest_of(step, output=tmp_path / "out"), library)
    assert {name: style.sha256 for name, style in checked.styles.items()} == {
        name: library.style(name).sha256 for name in ("candy", "mosaic")
    }
    assert checked.notes == ()


def test_the_check_leaves_no_file_behind(photos, tmp_path, library):
    validate_plan(manifest_of({"inputs": [str(photos)]}, output=tmp_path / "out"), library)
    assert [path for path in (tmp_path / "out").rglob("*") if path.is_file()] == []


def test_without_writing_nothing_is_made_and_everything_else_is_checked(photos, tmp_path, library):
    good = manifest_of({"inputs": [str(photos)]}, output=tmp_path / "out")
    assert validate_plan(good, library, try_writing=False).styles
    assert not (tmp_path / "out").exists()
    with pytest.raises(ManifestError, match="missing"):
        validate_plan(manifest_of({"inputs": ["/missing"]}, output="/out"), library, try_writing=False)


def test_everything_that_is_missing_is_told_at_once(photos, tmp_path, library):
    """Styles and inputs of all steps, each with its path."""
    manifest = manifest_of(
        {"inputs": [str(photos), f"{tmp_path}/missing"], "styles": ["candy", "mosaik"]},
        {"inputs": [f"{photos}/*.bmp"], "styles": ["udnie"]},
        output=tmp_path / "out",
    )
    lines = refusals(manifest, library)
    assert [line.partition(":")[0] for line in lines] == [
        "steps[0].styles[1]",
        "steps[0].inputs[1]",
        "steps[1].styles[0]",
        "steps[1].inputs[0]",
    ]
    assert "mosaik" in lines[0]
    assert "mosaic" in lines[0], "the nearest name is offered"


@pytest.mark.parametrize("output", ["photos", "photos/out", "photos/sub/../out", "link/out"])
def test_an_output_inside_its_own_input_is_refused(photos, tmp_path, library, output):
    (tmp_path / "link").symlink_to(photos)
    manifest = manifest_of({"inputs": [str(photos)]}, output=tmp_path / output)
    (line,) = refusals(manifest, library)
    assert line.startswith(f"steps[0].inputs[0]: the output {tmp_path / output} lies inside the input")
    assert not list(photos.rglob(".farm")), "nothing is left of a refused job"


def test_an_output_beside_or_below_what_is_not_listed_is_fine(photos, tmp_path, library):
    cases: list[tuple[dict[str, Any], Path]] = [
        ({"inputs": [str(photos)]}, tmp_path / "photos-candy"),
        ({"inputs": [str(photos)], "recursive": False}, photos / "out"),
        ({"inputs": [f"{photos}/*.jpg"]}, photos / "out2"),
        ({"inputs": [str(photos)]}, tmp_path),
    ]
    for step, output in cases:
        assert validate_plan(manifest_of(step, output=output), library).styles


@pytest.mark.parametrize(
    ("output", "says"),
    [
        ("{}/photos/notes.txt", "output: {}/photos/notes.txt"),
        ("relative/out", "output: relative/out is a relative path"),
    ],
)
def test_an_output_that_cannot_be_written_is_refused(photos, tmp_path, library, output, says):
    manifest = manifest_of({"inputs": [f"{photos}/img1.jpg"]}, output=output.format(tmp_path))
    (line,) = refusals(manifest, library)
    assert line.startswith(says.format(tmp_path))


def test_a_missing_output_is_named(photos, library):
    manifest = manifest_of({"inputs": [str(photos)]}, output="x").model_copy(update={"output": None})
    assert refusals(manifest, library) == ["output: missing: name a folder or s3://bucket/prefix"]


def test_named_files_that_are_no_pictures_are_reported_and_not_refused(photos, tmp_path, library):
    """What a shell makes of `photos/*` may hold a text file; alone it is refused."""
    both = manifest_of({"inputs": [f"{photos}/notes.txt", f"{photos}/img1.jpg"]}, output=tmp_path / "out")
    tasks, ignored = tasks_of(both, library)
    assert keys_of(tasks) == ["img1.jpg"]
    assert ignored.names == [f"{photos}/notes.txt (not a type of picture that is read)"]
    alone = manifest_of({"inputs": [f"{photos}/notes.txt"]}, output=tmp_path / "out")
    assert refusals(alone, library)[0].startswith("steps[0].inputs: none of the files is a type of picture")


class _Careless(MemoryStore):
    """A store that ignores conditions."""

    def probe(self) -> None:
        """Find that out."""
        super().probe()
        self.honors_conditions = False


class _Broken(MemoryStore):
    """A store that does not answer."""

    def probe(self) -> None:
        """Fail in a way that may pass."""
        raise StorageError("the store is busy")


def opening(store: Store) -> Any:
    """Return an opener that gives `store` for the output and local folders for the rest."""
    return lambda url, _: store if url.startswith("s3://") else LocalStore(url)


def test_a_store_that_ignores_conditions_is_told(photos, library):
    manifest = manifest_of({"inputs": [str(photos)]}, output="s3://bucket/out")
    checked = validate_plan(manifest, library, opener=opening(_Careless()))
    (note,) = checked.notes
    assert "ignores conditional writes" in note


def test_a_store_that_may_answer_later_makes_no_wrong_manifest(photos, library):
    manifest = manifest_of({"inputs": [str(photos)]}, output="s3://bucket/out")
    with pytest.raises(StorageError, match="busy"):
        validate_plan(manifest, library, opener=opening(_Broken()))
