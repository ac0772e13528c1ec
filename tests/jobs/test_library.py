"""Assets are what their hash says, and a style's name means one style."""

from __future__ import annotations

import hashlib
import logging
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from jobs.errors import StorageError, UsageError
from jobs.library import FETCHED_NETWORKS, Library, NetworkEntry, StyleEntry
from jobs.storage import Store
from jobs.storage.local import LocalStore
from jobs.storage.memory import MemoryStore

MODEL = b"weights of a style model"
SHA256 = hashlib.sha256(MODEL).hexdigest()
ASSET = f"assets/{SHA256[:2]}/{SHA256}"


@pytest.fixture(params=["local", "remote"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """The farm's store: on this disk, or somewhere else."""
    return LocalStore(tmp_path / "store") if request.param == "local" else MemoryStore()


@pytest.fixture
def library(store: Store, tmp_path: Path) -> Library:
    return Library(store, tmp_path / "cache")


def entry(name: str = "candy", **changes: object) -> StyleEntry:
    made = StyleEntry(
        name=name,
        sha256=SHA256,
        format="pytorch-examples",
        width=32,
        size_bytes=len(MODEL),
        created_at=1_700_000_000.0,
        source="candy.pth",
        metadata={"epochs": 2},
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def network(name: str = "vgg19", **changes: object) -> NetworkEntry:
    made = NetworkEntry(
        name=name,
        sha256=SHA256,
        architecture="vgg19",
        family="caffe",
        channel_scaled=True,
        deepest_layer="relu5_4",
        size_bytes=len(MODEL),
        created_at=1_700_000_000.0,
        source="vgg_conv.pth",
        metadata={"origin_sha256": "ab"},
    )
    return replace(made, **changes)  # type: ignore[arg-type]


class TestAssets:
    """Files by the hash of their content."""

    def test_bytes_and_files_are_kept_by_their_hash(self, library: Library, tmp_path: Path) -> None:
        source = tmp_path / "candy.pth"
        source.write_bytes(MODEL)
        assert not library.has(SHA256)
        assert library.put(source) == library.put(MODEL) == SHA256
        assert library.has(SHA256)
        path = library.path(SHA256)
        assert path.read_bytes() == MODEL
        assert library.path(SHA256) == path

    def test_an_asset_of_a_local_store_is_not_copied(self, tmp_path: Path) -> None:
        library = Library(LocalStore(tmp_path / "store"), tmp_path / "cache")
        library.put(MODEL)
        assert library.path(SHA256) == tmp_path / "store" / ASSET
        assert not (tmp_path / "cache").exists()

    def test_an_asset_of_a_remote_store_is_fetched_once(self, tmp_path: Path) -> None:
        store = MemoryStore()
        Library(store, tmp_path / "cache").put(MODEL)
        Library(store, tmp_path / "cache").path(SHA256)
        store.delete(ASSET)
        assert Library(store, tmp_path / "cache").path(SHA256).read_bytes() == MODEL

    def test_an_asset_that_is_not_there_is_a_clear_error(self, library: Library) -> None:
        with pytest.raises(UsageError, match=SHA256):
            library.path(SHA256)

    @pytest.mark.parametrize("sha256", ["", "../../etc/passwd", SHA256.upper(), SHA256[:-1]])
    def test_what_is_no_hash_is_refused(self, library: Library, sha256: str) -> None:
        for act in (library.path, library.has):
            with pytest.raises(UsageError, match="no sha256"):
                act(sha256)

    @pytest.mark.parametrize("damaged", [b"", b"torn", b"weights of a STYLE model"])
    def test_a_damaged_asset_is_found_and_healed_by_adding_it_again(
        self, store: Store, library: Library, damaged: bytes
    ) -> None:
        library.put(MODEL)
        store.write(ASSET, damaged)
        with pytest.raises(StorageError, match=r"is damaged.*again"):
            library.path(SHA256)
        if isinstance(store, LocalStore) or len(damaged) != len(MODEL):
            library.put(MODEL)
            assert library.path(SHA256).read_bytes() == MODEL

    def test_a_damaged_copy_is_fetched_again(self, tmp_path: Path) -> None:
        store = MemoryStore()
        library = Library(store, tmp_path / "cache")
        library.put(MODEL)
        path = library.path(SHA256)
        path.write_bytes(b"weights of a STYLE model")
        os.utime(path, ns=(1, 1))
        assert library.path(SHA256).read_bytes() == MODEL

    def test_an_asset_is_read_once_until_it_changes(
        self, library: Library, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        library.put(MODEL)
        library.path(SHA256)
        monkeypatch.setattr("jobs.library.sha256_of", lambda path: pytest.fail(f"{path} was read again"))
        assert library.path(SHA256).read_bytes() == MODEL

    def test_a_file_that_cannot_be_read_is_a_clear_error(self, library: Library, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match=r"Is a directory"):
            library.put(tmp_path)


class TestStyles:
    """Names of style models."""

    def test_a_style_that_was_added_is_there(self, library: Library) -> None:
        assert library.styles() == []
        assert library.add_style(entry())
        assert library.add_style(entry("a-10.b_c"))
        assert library.style("candy") == entry()
        assert library.style("CANDY") == entry()
        assert [style.name for style in library.styles()] == ["a-10.b_c", "candy"]

    def test_adding_the_same_style_again_is_no_news(self, library: Library) -> None:
        library.add_style(entry())
        assert not library.add_style(entry(created_at=1_800_000_000.0, source="elsewhere/candy.pth"))
        assert library.style("candy") == entry()

    @pytest.mark.parametrize("change", [{"sha256": "0" * 64}, {"format": "other"}, {"width": 16}])
    def test_a_name_that_is_taken_stays_what_it_is(self, library: Library, change: dict[str, Any]) -> None:
        library.add_style(entry())
        with pytest.raises(UsageError, match="another style named 'candy'") as caught:
            library.add_style(entry(**change))
        assert "remove" in caught.value.hint
        assert library.style("candy") == entry()

    @pytest.mark.parametrize(
        "name", ["", "Candy", "-candy", ".candy", "a/b", "../x", "candy 2", "é", "x" * 101]
    )
    def test_a_name_that_is_not_allowed_is_refused_with_one_that_is(
        self, library: Library, name: str
    ) -> None:
        with pytest.raises(UsageError, match="cannot be the name") as caught:
            library.add_style(entry(name))
        suggested = caught.value.hint.rpartition(": ")[2].strip("'")
        assert library.add_style(entry(suggested))

    def test_an_unknown_style_names_those_that_are_near(self, library: Library) -> None:
        for name in ("candy", "mosaic", "udnie"):
            library.add_style(entry(name))
        with pytest.raises(UsageError, match="no style 'cndy'") as caught:
            library.style("cndy")
        assert caught.value.hint == "did you mean candy?"
        with pytest.raises(UsageError) as caught:
            library.style("../../x")
        assert caught.value.hint == "there are: candy, mosaic, udnie"

    def test_an_empty_library_says_how_to_add_a_style(self, library: Library) -> None:
        with pytest.raises(UsageError) as caught:
            library.style("candy")
        assert "farm styles add" in caught.value.hint

    def test_a_style_that_is_removed_is_gone_and_its_asset_stays(self, library: Library) -> None:
        library.put(MODEL)
        library.add_style(entry())
        library.remove_style("Candy")
        assert library.styles() == []
        assert library.has(SHA256)
        with pytest.raises(UsageError):
            library.remove_style("candy")
        assert library.add_style(entry(width=16))

    @pytest.mark.parametrize(
        "damage",
        [
            b"",
            b"{",
            b"[]",
            b"null",
            b'{"name": "candy"}',
            entry("mosaic").to_json(),
            entry(sha256="x").to_json(),
        ],
    )
    def test_one_damaged_entry_does_not_hide_the_others(
        self, store: Store, library: Library, damage: bytes, caplog: pytest.LogCaptureFixture
    ) -> None:
        for name in ("udnie", "candy"):
            library.add_style(entry(name))
        store.write("styles/candy.json", damage)
        store.write("styles/notes.txt", b"not an entry")
        with caplog.at_level(logging.WARNING):
            assert [style.name for style in library.styles()] == ["udnie"]
        assert "styles/candy.json" in caplog.text
        with pytest.raises(UsageError, match=r"entry of style 'candy'.*is damaged"):
            library.style("candy")
        assert library.add_style(entry())
        assert library.style("candy") == entry()

    def test_a_damaged_entry_can_be_removed(self, store: Store, library: Library) -> None:
        store.write("styles/candy.json", b"{")
        library.remove_style("candy")
        assert store.stat("styles/candy.json") is None

    def test_an_entry_of_a_later_version_is_read(self, store: Store, library: Library) -> None:
        store.write("styles/candy.json", entry().to_json()[:-1] + b', "mood": "sweet"}')
        assert library.style("candy") == entry()


class TestNetworks:
    """Names of loss networks: what holds for styles, and their own rules."""

    def test_a_network_that_was_added_is_there(self, library: Library) -> None:
        assert library.networks() == []
        assert library.add_network(network("vgg19-caffe"))
        assert library.add_network(network())
        assert library.network("VGG19") == network()
        assert library.networks() == [network(), network("vgg19-caffe")]

    def test_networks_and_styles_have_names_of_their_own(self, library: Library) -> None:
        library.add_style(entry("vgg19", sha256="1" * 64))
        library.add_network(network())
        assert library.style("vgg19").sha256 == "1" * 64
        assert library.network("vgg19") == network()
        library.remove_style("vgg19")
        assert library.networks() == [network()]

    def test_another_network_takes_a_name_only_when_it_is_asked_for(self, library: Library) -> None:
        other = network(sha256="2" * 64)
        library.add_network(network())
        assert not library.add_network(network(created_at=0.0, source="elsewhere"))
        with pytest.raises(UsageError, match="another loss network named 'vgg19'") as caught:
            library.add_network(other)
        assert "--replace" in caught.value.hint
        assert library.network("vgg19") == network()
        assert library.add_network(other, replacing=True)
        assert library.network("vgg19") == other

    def test_a_network_that_came_with_the_farm_is_not_replaced(self, store: Store, tmp_path: Path) -> None:
        shipped = LocalStore(tmp_path / "shipped")
        Library(shipped, tmp_path / "unused").add_network(network())
        both = Library(store, tmp_path / "cache", shipped)
        with pytest.raises(UsageError, match="another loss network"):
            both.add_network(network(sha256="2" * 64), replacing=True)
        assert both.network("vgg19") == network(bundled=True)

    @pytest.mark.parametrize("name", FETCHED_NETWORKS)
    def test_a_missing_network_comes_with_the_commands_that_get_it(self, library: Library, name: str) -> None:
        library.add_network(network("mine"))
        with pytest.raises(UsageError, match=f"no loss network '{name}'") as caught:
            library.network(name)
        assert f"farm weights fetch {name}" in caught.value.hint
        assert f"farm weights add {name} FILE --preprocessing torchvision" in caught.value.hint
        assert "there are: mine" in caught.value.hint

    def test_what_cannot_be_fetched_is_added(self, library: Library) -> None:
        with pytest.raises(UsageError) as caught:
            library.network("vgg19-caffe")
        assert caught.value.hint == (
            "add it with `farm weights add vgg19-caffe FILE --preprocessing caffe`; there are: none yet"
        )

    def test_a_name_that_is_nearly_right_is_recognized(self, library: Library) -> None:
        library.add_network(network("vgg19-caffe"))
        with pytest.raises(UsageError) as caught:
            library.network("vgg19-cafe")
        assert caught.value.hint.startswith("did you mean vgg19-caffe?")

    def test_a_damaged_entry_is_left_out_and_healed(self, store: Store, library: Library) -> None:
        store.write("networks/vgg19.json", b"{")
        assert library.networks() == []
        with pytest.raises(UsageError, match=r"entry of loss network 'vgg19'.*is damaged"):
            library.network("vgg19")
        assert library.add_network(network())
        assert library.network("vgg19") == network()

    def test_a_network_that_is_removed_is_gone_and_its_asset_stays(self, library: Library) -> None:
        library.put(MODEL)
        library.add_network(network())
        library.remove_network("vgg19")
        assert library.networks() == []
        assert library.has(SHA256)


class TestBundled:
    """Styles that came with the farm."""

    @pytest.fixture
    def both(self, store: Store, tmp_path: Path) -> Library:
        shipped = LocalStore(tmp_path / "shipped")
        maker = Library(shipped, tmp_path / "unused")
        maker.put(MODEL)
        maker.add_style(entry())
        return Library(store, tmp_path / "cache", shipped)

    def test_they_are_there_and_say_so(self, both: Library) -> None:
        assert both.style("candy") == entry(bundled=True)
        assert both.styles() == [entry(bundled=True)]
        assert both.has(SHA256)
        assert both.path(SHA256).read_bytes() == MODEL

    def test_they_stay(self, both: Library) -> None:
        with pytest.raises(UsageError, match="came with the farm"):
            both.remove_style("candy")
        assert both.style("candy").bundled

    def test_their_names_are_taken(self, both: Library) -> None:
        assert not both.add_style(entry())
        with pytest.raises(UsageError, match="another style") as caught:
            both.add_style(entry(width=16))
        assert caught.value.hint == "take another name"

    def test_the_same_style_from_before_is_the_one_that_came(self, store: Store, both: Library) -> None:
        """It was added before a version came with it; taking the name away from it leaves the other."""
        own = Library(store, Path("unused"))
        own.add_style(entry(created_at=1.0))
        assert both.styles() == [both.style("candy")] == [entry(bundled=True)]
        both.remove_style("candy")
        assert own.styles() == []
        assert both.style("candy") == entry(bundled=True)

    def test_another_style_from_before_does_not_take_its_place_unseen(
        self, store: Store, both: Library
    ) -> None:
        """Both are listed; whoever names one is told that there are two, and how to tell them apart."""
        other = entry(sha256="2" * 64)
        Library(store, Path("unused")).add_style(other)
        assert both.styles() == [other, entry(bundled=True)]
        with pytest.raises(UsageError, match="two styles named 'candy'") as caught:
            both.style("Candy")
        assert "`farm styles remove candy`" in caught.value.hint
        with pytest.raises(UsageError) as caught:
            both.style("candi")
        assert caught.value.hint == "did you mean candy?"
        with pytest.raises(UsageError, match="came with the farm"):
            both.add_style(entry(sha256="3" * 64))
        both.remove_style("candy")
        assert both.style("candy") == entry(bundled=True)

    def test_a_damaged_entry_from_before_does_not_hide_it(self, store: Store, both: Library) -> None:
        store.write("styles/candy.json", b"{")
        assert both.style("candy") == entry(bundled=True)

    def test_what_neither_has_is_perhaps_of_another_version(self, both: Library) -> None:
        """A worker whose package is another one than the controller's can say no more than that."""
        with pytest.raises(UsageError, match=r"neither the farm's store nor stylefarm \S+") as caught:
            both.path("4" * 64)
        assert "4" * 64 in caught.value.message
        assert "one version of stylefarm on all machines" in caught.value.hint

    def test_styles_of_ones_own_stand_beside_them(self, both: Library) -> None:
        both.add_style(entry("abstract"))
        assert [(style.name, style.bundled) for style in both.styles()] == [
            ("abstract", False),
            ("candy", True),
        ]


def test_what_is_put_aside_leaves_the_store_as_it_is(store: Store, tmp_path: Path) -> None:
    """And is found, as is all that the store has."""
    Library(store, tmp_path / "cache").add_style(entry())
    aside = LocalStore(tmp_path / "aside")
    library = Library(store, tmp_path / "cache", aside=aside)
    assert library.put(MODEL) == SHA256
    assert library.path(SHA256).read_bytes() == MODEL
    assert aside.stat(ASSET) is not None
    assert store.stat(ASSET) is None
    assert library.style("candy") == entry()


def test_a_style_model_of_the_real_world_travels(test_data: Path, tmp_path: Path) -> None:
    library = Library(MemoryStore(), tmp_path / "cache")
    source = test_data / "checkpoints" / "candy.pth"
    sha256 = library.put(source)
    assert library.path(sha256).read_bytes() == source.read_bytes()
