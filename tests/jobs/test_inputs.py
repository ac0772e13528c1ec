"""Inputs: which files a folder, a glob, a file or a prefix stands for, in which order, without which."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.errors import UsageError
from jobs.inputs import NAMED_LIMIT, Ignored, Inputs
from jobs.storage.base import Store
from jobs.storage.local import LocalStore
from jobs.storage.memory import MemoryStore
from jobs.tasks import StoreOptions


def fill(folder: Path, *keys: str) -> Path:
    """Make files whose content is their own key."""
    for key in keys:
        path = folder / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(key.encode())
    return folder


def found(spec: str, ignored: Ignored | None = None, *, recursive: bool = True) -> list[str]:
    """Return the keys of the pictures that `spec` stands for, after it has passed the check at submit."""
    inputs = Inputs()
    source = inputs.locate(spec, recursive=recursive)
    inputs.check(source)
    return [picture.key for picture in inputs.pictures(source, ignored or Ignored())]


def bucket(*keys: str) -> Inputs:
    """Return inputs that see a bucket `b` with these objects."""

    def opener(url: str, _: StoreOptions | None) -> Store:
        store = MemoryStore()
        store.url = url
        prefix = url.removeprefix("s3://b").strip("/")
        for key in keys:
            if not prefix:
                store._files[key] = (b"x", 0)
            elif key.startswith(f"{prefix}/") and key != f"{prefix}/":
                store._files[key[len(prefix) + 1 :]] = (b"x", 0)
        return store

    return Inputs(opener=opener)


def test_a_folder_is_listed_in_natural_order(tmp_path):
    fill(tmp_path, "img10.jpg", "img2.jpg", "IMG1.JPG", "b/2.png", "b/10.png", "a.webp")
    assert found(str(tmp_path)) == ["a.webp", "b/2.png", "b/10.png", "IMG1.JPG", "img2.jpg", "img10.jpg"]
    assert found(f"{tmp_path}/") == found(str(tmp_path))


def test_a_picture_is_described_as_it_was_listed(tmp_path):
    fill(tmp_path, "sub/a.jpg")
    inputs = Inputs()
    (picture,) = inputs.pictures(inputs.locate(str(tmp_path)), Ignored())
    entry = LocalStore(str(tmp_path)).stat("sub/a.jpg")
    assert entry is not None
    assert (picture.url, picture.key) == (f"{tmp_path}/sub/a.jpg", "sub/a.jpg")
    assert (picture.size_bytes, picture.stamp) == (9, entry.stamp)


def test_folders_below_can_be_left_out(tmp_path):
    fill(tmp_path, "a.jpg", "sub/b.jpg")
    assert found(str(tmp_path), recursive=False) == ["a.jpg"]


def test_what_is_no_picture_is_reported(tmp_path):
    """Counted and named with the reason, never dropped in silence; the list of names stays short."""
    fill(tmp_path, "a.jpg", "notes.txt", "sub/clip.mp4", "README")
    ignored = Ignored()
    assert found(str(tmp_path), ignored) == ["a.jpg"]
    assert ignored.count == 3
    assert ignored.names == [
        f"{tmp_path}/notes.txt (not a type of picture that is read)",
        f"{tmp_path}/README (not a type of picture that is read)",
        f"{tmp_path}/sub/clip.mp4 (not a type of picture that is read)",
    ]
    for number in range(300):
        ignored.add(f"/more/{number}", "reason")
    assert (ignored.count, len(ignored.names)) == (303, NAMED_LIMIT)


def test_a_file_that_is_found_twice_is_reported_once(tmp_path):
    fill(tmp_path, "a.jpg", "notes.txt")
    ignored = Ignored()
    found(str(tmp_path), ignored)
    found(f"{tmp_path}/*", ignored)
    assert ignored.count == 1


def test_hidden_files_are_no_inputs(tmp_path):
    fill(tmp_path, "a.jpg", ".b.jpg", ".farm/jobs/1/preview.jpg", ".git/c.jpg", "sub/.d.jpg")
    ignored = Ignored()
    assert found(str(tmp_path), ignored) == ["a.jpg"]
    assert ignored.count == 0


def test_results_of_earlier_jobs_are_no_inputs(tmp_path):
    """A folder below that has a `.farm` is the output of a job; it is reported once, whatever its size."""
    fill(tmp_path, "a.jpg", "a-candy/a.jpg", "a-candy/sub/b.jpg", "a-candy/.farm/results/a.jpg.1.json")
    fill(tmp_path, "a-candy-2/c.jpg")
    for spec in (str(tmp_path), f"{tmp_path}/**/*.jpg"):
        ignored = Ignored()
        assert found(spec, ignored) == ["a-candy-2/c.jpg", "a.jpg"]
        assert ignored.names == [f"{tmp_path}/a-candy (results of an earlier job)"]


def test_results_of_an_earlier_job_can_be_asked_for(tmp_path):
    """Naming that folder itself is meant: styles can be laid over each other."""
    fill(tmp_path, "out/a.jpg", "out/.farm/results/a.jpg.1.json")
    assert found(str(tmp_path / "out")) == ["a.jpg"]


@pytest.mark.parametrize(
    ("glob", "expected"),
    [
        ("*.jpg", ["a.jpg", "b.jpg"]),
        ("[ab].*", ["a.jpg", "b.jpg", "b.png"]),
        ("**/*.jpg", ["a.jpg", "b.jpg", "sub/a.jpg", "sub/deep/c.jpg"]),
        ("sub/*", ["a.jpg"]),
        ("s*/*.jpg", ["sub/a.jpg"]),
        ("**/deep/*", ["sub/deep/c.jpg"]),
    ],
)
def test_globs_name_files(tmp_path, glob, expected):
    """Keys start below the last folder without a wildcard, and results keep them."""
    fill(tmp_path, "a.jpg", "b.jpg", "b.png", "sub/a.jpg", "sub/deep/c.jpg", ".hidden.jpg")
    assert found(f"{tmp_path}/{glob}") == expected


def test_a_name_with_wildcards_in_it_is_taken_as_it_is(tmp_path):
    """Files and folders that are really called so come before the meaning as a glob."""
    fill(tmp_path, "a[1].jpg", "a1.jpg", "holiday [2024]/b.jpg")
    assert found(f"{tmp_path}/a[1].jpg") == ["a[1].jpg"]
    assert found(f"{tmp_path}/a[12].jpg") == ["a1.jpg"]
    assert found(f"{tmp_path}/holiday [2024]") == ["b.jpg"]


def test_one_file_is_an_input(tmp_path):
    fill(tmp_path, "sub/a.jpg", "sub/b.jpg")
    assert found(f"{tmp_path}/sub/a.jpg") == ["a.jpg"]


def test_names_that_no_store_would_read_are_reported(tmp_path):
    fill(tmp_path, "a.jpg", "b\nc.jpg")
    ignored = Ignored()
    assert found(str(tmp_path), ignored) == ["a.jpg"]
    assert "control characters" in ignored.names[0]


def test_a_name_that_is_no_text_is_reported_as_text(tmp_path):
    """What is noted of it goes into reports and over HTTP, which carry text alone."""
    fill(tmp_path, "a.jpg")
    (tmp_path / "b\udcff.jpg").touch()
    ignored = Ignored()
    assert found(str(tmp_path), ignored) == ["a.jpg"]
    assert ignored.names[0].startswith(rf"{tmp_path}/b\udcff.jpg (")
    assert ignored.names[0].isprintable()


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("{}/missing", "there is no file or folder {}/missing"),
        ("{}/missing.jpg", "there is no file or folder {}/missing.jpg"),
        ("{}/a.jpg/", "there is no file or folder {}/a.jpg/"),
        ("{}/*.png", "no file matches {}/*.png"),
        ("{}/missing/*.jpg", "no file matches {}/missing/*.jpg"),
        ("{}/*.txt", "there is no picture in {}/*.txt"),
        ("{}/empty", "there is nothing in {}/empty"),
        ("{}/text", "there is no picture in {}/text (these are read: .apng .avif"),
        ("{}/secret", "there is nothing in {}/secret"),
        ("{}/.b.jpg", "{}/.b.jpg is a hidden file"),
        ("{}/.farm/jobs", "{}/.farm/jobs lies in a folder of the farm itself"),
        ("photos", "photos is a relative path"),
        ("./*.jpg", "./*.jpg is a relative path"),
    ],
)
def test_an_input_that_cannot_be_is_refused_by_name(tmp_path, spec, says):
    fill(tmp_path, "a.jpg", ".b.jpg", "notes.txt", "text/a.txt", "secret/.c.jpg", ".farm/jobs/d.jpg")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError) as caught:
        found(spec.format(tmp_path))
    assert str(caught.value).startswith(says.format(tmp_path))


def test_the_check_at_submit_does_not_list_everything(tmp_path, monkeypatch):
    """It believes a folder that shows no picture for long; the plan finds out."""
    fill(tmp_path, *(f"{number}.txt" for number in range(50)))
    inputs = Inputs()
    source = inputs.locate(str(tmp_path))
    with pytest.raises(UsageError, match="there is no picture"):
        inputs.check(source)
    monkeypatch.setattr("jobs.inputs.LOOK_LIMIT", 10)
    inputs.check(source)
    assert inputs.pictures(source, Ignored()) == []


@pytest.mark.parametrize(
    ("spec", "output", "covered"),
    [
        ("{}/photos", "{}/photos", True),
        ("{}/photos", "{}/photos/out/deep", True),
        ("{}/photos", "{}/photos-candy", False),
        ("{}/photos", "{}", False),
        ("{}/photos/**/*.jpg", "{}/photos/out", True),
        ("{}/photos/*.jpg", "{}/photos/out", False),
        ("{}/photos/*.jpg", "{}/photos", True),
        ("{}/photos/a.jpg", "{}/photos", False),
        ("{}/link", "{}/photos/out", True),
        ("{}/photos", "{}/link/out", True),
    ],
)
def test_a_source_knows_whether_results_would_become_inputs(tmp_path, spec, output, covered):
    fill(tmp_path, "photos/a.jpg")
    (tmp_path / "link").symlink_to(tmp_path / "photos")
    assert Inputs().locate(spec.format(tmp_path)).covers(output.format(tmp_path)) is covered


def test_a_folder_without_those_below_does_not_cover_them(tmp_path):
    fill(tmp_path, "photos/a.jpg")
    source = Inputs().locate(str(tmp_path / "photos"), recursive=False)
    assert source.covers(str(tmp_path / "photos"))
    assert not source.covers(str(tmp_path / "photos/out"))


@pytest.mark.parametrize(
    ("spec", "form", "expected"),
    [
        ("s3://b/p", "folder", ["s3://b/p/2.jpg", "s3://b/p/10.jpg", "s3://b/p/q/c.png"]),
        ("s3://b/p/", "folder", ["s3://b/p/2.jpg", "s3://b/p/10.jpg", "s3://b/p/q/c.png"]),
        ("s3://b/p/2.jpg", "file", ["s3://b/p/2.jpg"]),
        ("s3://b/p/*.jpg", "glob", ["s3://b/p/2.jpg", "s3://b/p/10.jpg"]),
        ("s3://b/**/c.png", "glob", ["s3://b/p/q/c.png"]),
        ("s3://b/[x].jpg", "file", ["s3://b/[x].jpg"]),
        ("s3://b/[xy].jpg", "glob", ["s3://b/x.jpg"]),
        ("s3://b/pq", "folder", ["s3://b/pq/d.jpg"]),
    ],
)
def test_prefixes_objects_and_globs_on_s3(spec, form, expected):
    """`p` is not `pq`; markers of folders are no files."""
    inputs = bucket("p/", "p/10.jpg", "p/2.jpg", "p/q/c.png", "pq/d.jpg", "[x].jpg", "x.jpg", "p/.e.jpg")
    source = inputs.locate(spec)
    inputs.check(source)
    assert source.form == form
    assert [picture.url for picture in inputs.pictures(source, Ignored())] == expected


def test_an_empty_prefix_is_refused():
    inputs = bucket("p/", "p/a.jpg")
    with pytest.raises(UsageError, match="there is nothing in s3://b/missing"):
        inputs.check(inputs.locate("s3://b/missing"))


def test_a_key_with_an_empty_segment_is_reported():
    """Local paths cannot have one, and a store may make one of two slashes."""
    inputs = bucket("p/a.jpg", "p//b.jpg")
    ignored = Ignored()
    assert [p.key for p in inputs.pictures(inputs.locate("s3://b/p"), ignored)] == ["a.jpg"]
    assert ignored.count == 1
