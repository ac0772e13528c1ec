"""Keys and records: no name leads outside, and no two outputs share a record."""

from __future__ import annotations

import os
import posixpath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.errors import UsageError
from jobs.records import Record
from jobs.storage.metadata import LIMIT_BYTES, SHORTENED, from_metadata, to_metadata
from jobs.storage.rules import NAME_LIMIT_BYTES, RECORD_LIMIT_BYTES, record_key, safe_key

segments = st.one_of(
    st.sampled_from(["a", "a.1", "a.1.json", "a.1.json~", "a.json", "b", "..", ".", "", "\\", "é" * 130]),
    st.text(max_size=12),
    st.text(alphabet="ab.1~json", max_size=12),
    st.text(alphabet="aé猫", min_size=200, max_size=300),
)
keys = st.lists(segments, min_size=1, max_size=5).map("/".join)


def is_safe(key: str) -> bool:
    try:
        safe_key(key)
    except UsageError:
        return False
    return True


@given(keys)
def test_a_safe_key_names_one_thing_inside(key: str) -> None:
    if is_safe(key):
        path = posixpath.normpath(posixpath.join("/srv/store", key))
        assert path == f"/srv/store/{key}"
        assert key.encode().decode() == key
        assert key.isprintable() or not any(ord(c) < 32 for c in key)


@pytest.mark.parametrize("key", ["a", "a b/c.jpg", ".hidden/..x/x..", "~/$HOME", "C:/x", "-rf", "...", "été"])
def test_plain_names_are_allowed(key: str) -> None:
    assert safe_key(key) == key


def test_bytes_that_are_no_text_are_refused() -> None:
    with pytest.raises(UsageError, match="no text"):
        safe_key(b"\xe9t\xe9.jpg".decode(errors="surrogateescape"))


@given(st.lists(keys.filter(is_safe), min_size=2, max_size=6, unique=True), st.integers(1, 10**7))
def test_different_outputs_have_different_records_that_can_lie_side_by_side(
    outputs: list[str], number: int
) -> None:
    records = {key: record_key(key, number) for key in outputs}
    assert len(set(records.values())) == len(outputs)
    for record in records.values():
        assert is_safe(record)
        assert record.startswith(".farm/results/")
        assert not any(other.startswith(f"{record}/") for other in records.values())


@given(keys.filter(is_safe), st.integers(1, 10**7))
def test_a_record_fits_where_its_output_fits(key: str, generation: int) -> None:
    record = record_key(key, generation)
    assert all(len(segment.encode()) <= NAME_LIMIT_BYTES for segment in record.split("/"))
    assert len(record.encode()) <= RECORD_LIMIT_BYTES + 40


def test_a_record_is_found_by_eye() -> None:
    assert record_key("july/beach.jpg", 2) == ".farm/results/july/beach.jpg.2.json"


records = st.builds(
    Record,
    key=keys.filter(is_safe),
    generation=st.integers(1, 1000),
    job=st.text(max_size=30),
    task=st.integers(0, 10**6),
    attempt=st.integers(1, 10**6),
    render_key=st.sampled_from(["", "ab" * 32]),
    size_bytes=st.integers(0, 2**40),
    sha256=st.just("cd" * 32),
    input=st.one_of(st.text(max_size=400), st.binary(max_size=9).map(os.fsdecode)),
    input_size_bytes=st.integers(-1, 2**40),
    input_stamp=st.text(max_size=40),
    input_sha256=st.sampled_from(["", "ef" * 32]),
    extra=st.dictionaries(st.text(max_size=20), st.one_of(st.integers(), st.text(max_size=300)), max_size=3),
)


@given(records)
def test_a_record_travels_in_the_metadata_of_an_object(record: Record) -> None:
    metadata = to_metadata(record)
    assert sum(len(name) + len(value) for name, value in metadata.items()) <= LIMIT_BYTES
    for name, value in metadata.items():
        assert name.isascii()
        assert value.isascii()
        assert value.isprintable()
        assert value == value.strip()
    back = from_metadata(record.key, record.size_bytes, metadata)
    assert back is not None
    if SHORTENED not in metadata:
        assert back == record
    for name in ("key", "generation", "job", "task", "attempt", "render_key", "size_bytes", "sha256"):
        assert getattr(back, name) == getattr(record, name)
    assert (back.input_size_bytes, back.input_sha256) == (record.input_size_bytes, record.input_sha256)


@given(records, keys)
def test_the_metadata_of_a_copy_elsewhere_say_nothing(record: Record, other: str) -> None:
    if other != record.key:
        assert from_metadata(other, record.size_bytes, to_metadata(record)) is None


@given(records, st.data())
def test_metadata_that_somebody_edited_never_break_anything(record: Record, data: st.DataObject) -> None:
    metadata = to_metadata(record)
    name = data.draw(st.sampled_from(sorted(metadata)))
    metadata[name] = data.draw(st.text(max_size=5))
    found = from_metadata(record.key, record.size_bytes, metadata)
    assert found is None or found.key == record.key
