"""Names: order, extensions, output names, globs, and which folder lies inside which."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs import paths
from jobs.errors import UsageError
from jobs.paths import (
    OutputNames,
    check_pattern,
    default_output,
    default_pattern,
    is_hidden,
    is_inside,
    is_picture,
    matches_glob,
    natural_key,
    output_extension,
    output_key,
    split_glob,
    split_url,
)


@pytest.mark.parametrize(
    "ordered",
    [
        ["img2.jpg", "img10.jpg", "img100.jpg"],
        ["a1b10", "a1b11", "a2b1"],
        ["frame_0009.png", "frame_010.png", "frame_11.png"],
        ["Anna.jpg", "bert.jpg", "Clara.jpg"],
        ["a/1.jpg", "a/2.jpg", "a-b/1.jpg", "b.jpg"],
        ["1.jpg", "2.jpg", "a.jpg"],
    ],
)
def test_natural_order_is_the_order_a_person_expects(ordered):
    shuffled = ordered[:]
    random.shuffle(shuffled)
    assert sorted(shuffled, key=natural_key) == ordered


@given(st.lists(st.text(), unique=True))
def test_natural_order_is_total(names):
    """No two names share a key, so the order never depends on how they were listed."""
    assert len({natural_key(name) for name in names}) == len(names)


@pytest.mark.parametrize("key", ["a.jpg", "b/c.JPEG", "x.PNG", "x.tif", "x.gif", "x.webp", "photo.v2.bmp"])
def test_a_picture_is_known_by_its_extension(key):
    assert is_picture(key)


@pytest.mark.parametrize("key", ["a.txt", "jpg", "a.jpg.part", "a.", "b/.jpg", "x.svg", ""])
def test_other_files_are_no_pictures(key):
    assert not is_picture(key)


@pytest.mark.parametrize("key", [".farm/results/a.json", ".a.jpg", "b/.DS_Store", "b/.git/x.png"])
def test_dots_hide_files_and_folders(key):
    assert is_hidden(key)


@pytest.mark.parametrize("key", ["a.jpg", "b/a.b.c", "b.d/a", "a..b"])
def test_a_dot_inside_a_name_hides_nothing(key):
    assert not is_hidden(key)


@pytest.mark.parametrize(
    ("name", "format_", "expected"),
    [
        ("a.jpg", "keep", ".jpg"),
        ("a.JPG", "keep", ".JPG"),
        ("a.jpeg", "keep", ".jpeg"),
        ("a.tif", "keep", ".tif"),
        ("a.gif", "keep", ".png"),
        ("a.avif", "keep", ".png"),
        ("a", "keep", ".png"),
        ("a.JPEG", "jpg", ".JPEG"),
        ("a.png", "jpg", ".jpg"),
        ("a.jpg", "png", ".png"),
        ("a.tif", "tiff", ".tif"),
        ("a.jpg", "tiff", ".tiff"),
        ("a.jpg", "webp", ".webp"),
        ("a.jpg", "bmp", ".bmp"),
    ],
)
def test_the_extension_stays_where_it_fits(name, format_, expected):
    assert output_extension(name, format_) == expected


@pytest.mark.parametrize(
    ("pattern", "key", "expected"),
    [
        (default_pattern(several_styles=False), "a.jpg", "a.jpg"),
        (default_pattern(several_styles=False), "2024/may/a.JPG", "2024/may/a.JPG"),
        (default_pattern(several_styles=True), "a.jpg", "candy/a.jpg"),
        (default_pattern(several_styles=True), "2024/a.gif", "candy/2024/a.png"),
        ("{name}-{style}.{ext}", "x/a.b.jpg", "a.b-candy.jpg"),
        ("frame_{index:05}.{ext}", "a.png", "frame_00007.png"),
        ("{index:03d}-{name}.{ext}", "a.png", "007-a.png"),
        ("{index}.{ext}", "a.png", "7.png"),
        ("{{{name}}}.{ext}", "a.png", "{a}.png"),
        ("{folder}/{name}.{ext}", "{style}/{0}.jpg", "{style}/{0}.jpg"),
    ],
)
def test_patterns_name_results(pattern, key, expected):
    check_pattern(pattern)
    assert output_key(pattern, key, style="candy", index=7) == expected


@pytest.mark.parametrize(
    ("pattern", "says"),
    [
        ("{names}.{ext}", "did you mean name?"),
        ("{name.upper}.{ext}", "there are {folder} {name} {ext} {style} {index}"),
        ("{}.{ext}", "there is no {}"),
        ("{name!r}.{ext}", "takes no such format"),
        ("{name:>900000000}.{ext}", "takes no such format"),
        ("{index:900000000}.{ext}", "takes no such format"),
        ("{index:x}.{ext}", "takes no such format"),
        ("{name.{ext}", "cannot be read"),
        ("{name}.{ext", "cannot be read"),
        ("{style}.{ext}", "every input the same name"),
        ("{name}", "does not end with .{ext}"),
        ("{name}.jpg", "does not end with .{ext}"),
        ("{name}{ext}", "does not end with .{ext}"),
        ("/{name}.{ext}", "may leave the output"),
        ("../{name}.{ext}", "may leave the output"),
        ("a/../{name}.{ext}", "may leave the output"),
        (".farm/{name}.{ext}", "may leave the output"),
        ("a\\{name}.{ext}", "may leave the output"),
        ("", "every input the same name"),
    ],
)
def test_patterns_that_cannot_work_are_refused(pattern, says):
    with pytest.raises(ValueError, match=r".+") as caught:
        check_pattern(pattern)
    assert says in str(caught.value)


# --- two results, one name ------------------------------------------------------------------------


def test_two_inputs_cannot_have_one_output_name(tmp_path):
    """The refusal names both inputs."""
    names = OutputNames(str(tmp_path / "out"))
    assert names.claim("a.png", "/photos/a.gif")
    with pytest.raises(UsageError) as caught:
        names.claim("a.png", "/photos/a.png")
    assert "/photos/a.gif and /photos/a.png would both be written to a.png" in str(caught.value)


def test_one_file_under_two_paths_is_taken_once(tmp_path):
    """A link to the photo folder, given as a second input, adds nothing."""
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/a.jpg").write_bytes(b"x")
    (tmp_path / "link").symlink_to(tmp_path / "photos")
    names = OutputNames(str(tmp_path / "out"))
    assert names.claim("a.jpg", str(tmp_path / "photos/a.jpg"))
    assert not names.claim("a.jpg", str(tmp_path / "link/a.jpg"))


def test_names_that_differ_in_case_are_two_where_the_disk_says_so(tmp_path, monkeypatch):
    assert OutputNames(str(tmp_path)).claim("a.jpg", "/p/a.jpg")
    here, there = OutputNames(str(tmp_path)), OutputNames("s3://bucket/out")
    for names in (here, there):
        assert names.claim("a.jpg", "/p/a.jpg")
        assert names.claim("A.jpg", "/p/A.jpg")
    monkeypatch.setattr(paths, "ignores_case", lambda _: True)
    names = OutputNames(str(tmp_path))
    assert names.claim("a.jpg", "/p/a.jpg")
    with pytest.raises(UsageError, match=r"/p/a\.jpg and /p/A\.jpg"):
        names.claim("A.jpg", "/p/A.jpg")


def test_no_result_is_written_over_an_input(tmp_path):
    """Whichever becomes known first, the input or the result; through a link too."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    names = OutputNames(str(tmp_path / "real"))
    names.protect(str(tmp_path / "link/b.jpg"))
    assert names.claim("a.jpg", "/p/a.jpg")
    with pytest.raises(UsageError, match="over the input"):
        names.claim("b.jpg", "/p/b.jpg")
    with pytest.raises(UsageError, match="over the input"):
        names.protect(str(tmp_path / "real/a.jpg"))


def test_no_result_is_written_over_an_input_on_s3():
    names = OutputNames("s3://bucket/out")
    names.protect("s3://bucket/out/candy/a.jpg")
    names.protect("s3://bucket/outside/a.jpg")
    assert names.claim("a.jpg", "s3://bucket/outside/a.jpg")
    with pytest.raises(UsageError, match="over the input"):
        names.claim("candy/a.jpg", "s3://bucket/in/a.jpg")


# --- where things are -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("/photos/a.jpg", ("/photos", "a.jpg")),
        ("/a.jpg", ("/", "a.jpg")),
        ("s3://bucket/p/a.jpg", ("s3://bucket/p", "a.jpg")),
        ("s3://bucket/a.jpg", ("s3://bucket", "a.jpg")),
    ],
)
def test_a_url_splits_into_folder_and_name(url, expected):
    assert split_url(url) == expected


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("/photos/*.jpg", ("/photos", "*.jpg")),
        ("/photos/**/a?.jpg", ("/photos", "**/a?.jpg")),
        ("/*/a.jpg", ("/", "*/a.jpg")),
        ("s3://bucket/p/[ab]/x.png", ("s3://bucket/p", "[ab]/x.png")),
        ("s3://bucket/*.png", ("s3://bucket", "*.png")),
    ],
)
def test_a_glob_splits_above_its_first_wildcard(url, expected):
    assert split_glob(url) == expected


@pytest.mark.parametrize(
    ("pattern", "matching", "other"),
    [
        ("*.jpg", ["a.jpg", ".jpg"], ["a.JPG", "b/a.jpg", "a.jpgx"]),
        ("*/*.jpg", ["b/a.jpg"], ["a.jpg", "c/b/a.jpg"]),
        ("**/*.jpg", ["a.jpg", "b/a.jpg", "c/b/a.jpg"], ["a.png", "c/b/a.png"]),
        ("x/**/y/*.png", ["x/y/a.png", "x/1/y/a.png", "x/1/2/y/a.png"], ["x/a.png", "y/a.png"]),
        ("**", ["a", "b/a"], []),
        ("**/**/a.jpg", ["a.jpg", "b/a.jpg", "c/b/a.jpg"], ["a.png"]),
        ("x/**", ["x/a", "x/b/a"], ["y/a"]),
        ("img?[0-9].png", ["img_1.png"], ["img1.png", "img_a.png"]),
        ("[!a].png", ["b.png"], ["a.png"]),
    ],
)
def test_globs_match_as_in_a_shell(pattern, matching, other):
    assert [key for key in matching if not matches_glob(key, pattern)] == []
    assert [key for key in other if matches_glob(key, pattern)] == []


def test_a_hostile_glob_costs_no_time():
    """Many `**` grow with the product of lengths, not exponentially."""
    assert not matches_glob("/".join("a" * 60), "/".join(["**", "a"] * 40) + "/b")


def test_inside_means_the_same_folder_or_below(tmp_path):
    inner = tmp_path / "photos" / "out"
    inner.mkdir(parents=True)
    (tmp_path / "photos2").mkdir()
    assert is_inside(str(inner), str(tmp_path / "photos"))
    assert is_inside(str(tmp_path / "photos"), str(tmp_path / "photos"))
    assert is_inside(str(tmp_path / "photos/not/yet/there"), str(tmp_path / "photos"))
    assert not is_inside(str(tmp_path / "photos2"), str(tmp_path / "photos"))
    assert not is_inside(str(tmp_path), str(tmp_path / "photos"))


def test_inside_sees_through_links(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "photos")
    assert is_inside(str(tmp_path / "link/out"), str(tmp_path / "photos"))
    assert is_inside(str(tmp_path / "photos/out"), str(tmp_path / "link"))
    assert is_inside(str(tmp_path / "photos/../photos/out"), str(tmp_path / "photos"))


@pytest.mark.parametrize(
    ("url", "folder", "expected"),
    [
        ("s3://b/p/q", "s3://b/p", True),
        ("s3://b/p", "s3://b/p/", True),
        ("s3://b/p", "s3://b", True),
        ("s3://b/pq", "s3://b/p", False),
        ("s3://b", "s3://b/p", False),
        ("s3://b/p", "/b", False),
        ("/b/p", "s3://b", False),
    ],
)
def test_inside_on_s3_goes_by_prefixes(url, folder, expected):
    assert is_inside(url, folder) is expected


# --- the default output ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("inputs", "styles", "expected"),
    [
        (["photos"], ["candy"], "photos-candy"),
        (["photos/"], ["candy"], "photos-candy"),
        (["photos"], ["candy", "mosaic"], "photos-styled"),
        (["photos/*.jpg"], ["candy"], "photos-candy"),
        (["photos/a.jpg"], ["candy"], "photos/a-candy"),
        (["photos/a.jpg", "photos/b.jpg"], ["candy"], "photos-candy"),
        (["photos", "more"], ["candy"], "photos-candy"),
    ],
)
def test_results_go_beside_the_input(tmp_path, inputs, styles, expected):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/a.jpg").write_bytes(b"x")
    assert default_output([f"{tmp_path}/{each}" for each in inputs], styles) == f"{tmp_path}/{expected}"


def test_a_folder_of_somebody_else_is_left_alone(tmp_path):
    """One with files that the farm did not make is passed over; our own and an empty one are used."""
    photos, taken, ours = (tmp_path / name for name in ("photos", "photos-candy", "photos-candy-2"))
    for folder in (photos, taken, ours / ".farm"):
        folder.mkdir(parents=True)
    assert default_output([str(photos)], ["candy"]) == str(taken), "an empty folder is free"
    (taken / "holiday.jpg").write_bytes(b"x")
    (ours / "a.jpg").write_bytes(b"x")
    assert default_output([str(photos)], ["candy"]) == str(ours)


def test_results_go_beside_a_prefix():
    assert default_output(["s3://bucket/in/photos/"], ["candy"]) == "s3://bucket/in/photos-candy"


@pytest.mark.parametrize("place", ["/", "s3://bucket", "s3://bucket/*.jpg"])
def test_where_nothing_is_beside_the_input_an_output_must_be_named(place):
    with pytest.raises(UsageError, match="--output"):
        default_output([place], ["candy"])


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ("photos", "/home/x/photos"),
        ("photos/", "/home/x/photos/"),
        ("./a/../photos/*.jpg", "/home/x/photos/*.jpg"),
        ("/data", "/data"),
        ("/", "/"),
        (".", "/home/x"),
        ("s3://bucket/p", "s3://bucket/p"),
        ("ftp://host/p", "ftp://host/p"),
        ("~/p", f"{Path.home()}/p"),
        ("~no-such-user/p", "/home/x/~no-such-user/p"),
    ],
)
def test_paths_are_made_absolute_from_where_the_manifest_is(place, expected):
    assert paths.anchor(place, Path("/home/x")) == expected
