"""Documents from people: what YAML and JSON may hold, and how a mistake in one is told."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs import documents
from jobs.documents import read_document, read_value
from jobs.errors import ManifestError
from jobs.manifest import load_manifest


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "the manifest is empty"),
        ("# only a comment", "the manifest is empty"),
        ("- version", "not a mapping"),
        ("just words", "not a mapping"),
        ("version: 1\nname: a\nname: b", "line 3: the key 'name' is there twice (see line 2)"),
        ('{"version": 1, "name": "a", "name": "b"}', "the key 'name' is there twice"),
        ("steps:\n  - name: a\n    name: b", "line 3: the key 'name' is there twice"),
        ("1: 2", "line 1: a key is not text"),
        ("on: 2", "line 1: a key is not text"),
        ("[a]: 2", "line 1: a key is not text"),
        ("a: [1", "cannot be read: line "),
        ('{"a": [1}', "cannot be read: line 1"),
        ("a: b: c", "cannot be read: line 1"),
        ("a: 1\n---\na: 2", "cannot be read: line 2"),
        ("a: 2024-13-99", "cannot be read: month must be in 1..12"),
        ("a: !!python/object/apply:os.system [x]", "could not determine a constructor"),
        ("a: *b", "undefined alias"),
        ("a: &b [*b]", "&b refers to itself"),
        ("a: \0", "cannot be read"),
        ("a: \ud800", "cannot be read"),
        ("a: " + "[" * 3000, "nested too deeply"),
        ('{"a":' + "[" * 100_000, "nested too deeply"),
        ("a: " + "x" * documents.LIMIT_BYTES, "larger than"),
    ],
)
def test_a_document_that_cannot_be_read_is_told_in_a_line(text, says):
    with pytest.raises(ManifestError) as caught:
        read_document(text)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_aliases_cannot_stand_for_billions():
    """Ten lines of ten aliases each would be ten billion values."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]
    with pytest.raises(ManifestError, match="more than 200000 values"):
        read_document("\n".join(lines))


def test_aliases_save_writing():
    """Lists can be named once and used again; merged keys may be overwritten."""
    text = """
version: 1
name: twice
steps:
  - &first {name: a, kind: stylize, inputs: &photos [photos], styles: [candy]}
  - {<<: *first, name: b, inputs: *photos, styles: [mosaic]}
"""
    first, second = read_document(text)["steps"]
    assert second == {**first, "name": "b", "styles": ["mosaic"]}


@given(st.text(max_size=200))
def test_any_text_is_a_manifest_or_a_clear_error(text):
    with pytest.raises(ManifestError):
        load_manifest(text)


def test_a_file_that_is_no_manifest_is_named(tmp_path):
    (tmp_path / "photo.jpg").write_bytes(b"\xff\xd8\xff\xe0")
    for path in (tmp_path / "missing.yaml", tmp_path, tmp_path / "photo.jpg"):
        with pytest.raises(ManifestError, match=path.name):
            read_document(path)


def test_a_byte_order_mark_does_no_harm(tmp_path):
    (tmp_path / "job.yaml").write_bytes(b"\xef\xbb\xbfname: holiday")
    assert read_document(tmp_path / "job.yaml") == {"name": "holiday"}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("40", 40),
        ("1e-3", 0.001),
        ("yuv", "yuv"),
        ("true", True),
        ("", None),
        ("[1, 2]", [1, 2]),
        ("{relu1_1: 1, relu2_1: 0.5}", {"relu1_1": 1, "relu2_1": 0.5}),
        ('{"a": {"b": 1}}', {"a": {"b": 1}}),
    ],
)
def test_one_value_is_read_as_json_or_yaml(text, value):
    """JSON first: it takes 1e-3 for a number, where YAML sees text."""
    assert read_value(text) == value


@pytest.mark.parametrize("text", ["{", "[1", "a: b: c", '{"a": 1, "a": 2}', "[" * 1000, "\x00", "&a [*a]"])
def test_what_is_no_value_is_refused(text):
    with pytest.raises(ManifestError):
        read_value(text)
