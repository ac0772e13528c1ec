"""Names of styles that the farm trained, and what is only put aside."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from jobs.errors import UsageError
from jobs.library import Library, StyleEntry
from jobs.storage import Store
from jobs.storage.local import LocalStore
from tests.jobs.test_library import MODEL, SHA256, entry, library, store

__all__ = ["library", "store"]


class TestTrained:
    """Styles that were trained here, known by the output that each was made in."""

    @staticmethod
    def made(output: str = "/out", **changes: Any) -> StyleEntry:
        return entry(format="trained", metadata={"output": output}, **changes)

    def test_the_newer_one_of_an_output_takes_the_name(self, library: Library) -> None:
        assert library.add_trained(self.made(sha256="1" * 64))
        library.check_style_name("candy", made_in="/out")
        assert library.add_trained(self.made(sha256="2" * 64))
        assert library.style("candy").sha256 == "2" * 64
        assert not library.add_trained(self.made(sha256="2" * 64))

    @pytest.mark.parametrize("other", [entry(), made("/elsewhere")], ids=("imported", "trained"))
    def test_another_style_loses_it_only_when_that_is_asked_for(
        self, library: Library, other: StyleEntry
    ) -> None:
        library.add_style(other)
        wanted = self.made(sha256="2" * 64)
        with pytest.raises(UsageError, match="another style named 'candy'") as caught:
            library.check_style_name("candy", made_in=wanted.made_in)
        assert "--replace" in caught.value.hint
        with pytest.raises(UsageError, match="another style named 'candy'"):
            library.add_trained(wanted)
        assert library.style("candy") == other
        library.check_style_name("candy", made_in=wanted.made_in, replacing=True)
        assert library.add_trained(wanted, replacing=True)
        assert library.style("candy") == wanted

    def test_a_name_that_is_free_or_of_a_damaged_entry_can_be_given(
        self, store: Store, library: Library
    ) -> None:
        library.check_style_name("candy", made_in="/out")
        store.write("styles/candy.json", b"{")
        library.check_style_name("candy", made_in="/out")
        assert library.add_trained(self.made())


def test_what_is_put_aside_changes_nothing_in_the_store(store: Store, tmp_path: Path) -> None:
    """A library that is only asked: what it needs for that is kept elsewhere."""
    known = Library(store, tmp_path / "cache")
    known.put(MODEL)
    known.add_style(entry())
    before = {listed.key for listed in store.list()}
    asked = Library(store, tmp_path / "cache", aside=LocalStore(tmp_path / "aside"))
    assert asked.put(MODEL) == SHA256
    assert asked.path(asked.put(b"new")).read_bytes() == b"new"
    assert {listed.key for listed in store.list()} == before
    assert asked.style("candy") == entry()
    assert asked.path(SHA256).read_bytes() == MODEL
