"""`farm weights add` and `fetch`: files of every family become one verified file of ours."""

from __future__ import annotations

import functools
import hashlib
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torchvision.models import VGG19_Weights

from jobs.errors import FarmError, UsageError
from tests.workers.nst.network_files import NETWORK, gatys_state, named_by_hash, torchvision_state
from workers import loss_weights
from workers.loss_weights import ImportedNetwork, fetch_network, import_network, is_fetched
from workers.nst.features import LossNetwork, seeded
from workers.nst.loss_networks import load_loss_network


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """Return a file with torchvision's keys, which may be of any family."""
    path = tmp_path / "weights.pth"
    torch.save(torchvision_state(), path)
    return path


def network_in(made: ImportedNetwork, folder: Path) -> LossNetwork:
    path = folder / "made.safetensors"
    path.write_bytes(made.data)
    network, metadata = load_loss_network(path)
    assert metadata == made.metadata
    return network


def is_same(one: LossNetwork, other: LossNetwork) -> bool:
    states = (gatys_state(one), gatys_state(other))
    return states[0].keys() == states[1].keys() and all(
        torch.equal(value, states[1][name]) for name, value in states[0].items()
    )


class TestAdd:
    """Files that people have."""

    @pytest.mark.parametrize("family", ["torchvision", "caffe"])
    def test_torchvisions_keys_are_of_the_family_that_is_said(
        self, weights: Path, tmp_path: Path, family: str
    ) -> None:
        made = import_network(weights, name="vgg19", family=family)
        assert (made.metadata.architecture, made.metadata.family) == ("vgg19", family)
        assert not made.metadata.channel_scaled
        assert made.metadata.origin_sha256 == hashlib.sha256(weights.read_bytes()).hexdigest()
        assert (made.deepest_layer, made.source) == ("relu5_4", "weights.pth")
        network = network_in(made, tmp_path)
        assert is_same(network, NETWORK)
        assert network.preprocessing.name == family

    def test_gatys_keys_need_nothing_said(self, tmp_path: Path) -> None:
        torch.save(gatys_state(), tmp_path / "vgg_conv.pth")
        made = import_network(tmp_path / "vgg_conv.pth")
        assert (made.metadata.architecture, made.metadata.family) == ("vgg19", "caffe")
        assert is_same(network_in(made, tmp_path), NETWORK)

    def test_safetensors_are_read_too(self, tmp_path: Path) -> None:
        save_file(gatys_state(), tmp_path / "vgg_conv.safetensors")
        assert is_same(network_in(import_network(tmp_path / "vgg_conv.safetensors"), tmp_path), NETWORK)

    def test_a_file_without_a_certain_family_is_refused_and_the_hint_says_how_to_tell(
        self, weights: Path
    ) -> None:
        with pytest.raises(UsageError, match=r"weights\.pth does not show which pictures it wants") as caught:
            import_network(weights, name="vgg19")
        assert all(word in caught.value.hint for word in ("torchvision", "RGB", "caffe", "BGR"))

    def test_published_files_are_known_by_their_hash(
        self, weights: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """They need no family, and refuse a wrong one."""
        begin = hashlib.sha256(weights.read_bytes()).hexdigest()[:8]
        monkeypatch.setitem(loss_weights._KNOWN_FAMILIES, begin, "torchvision")
        assert import_network(weights).metadata.family == "torchvision"
        with pytest.raises(UsageError, match="wants the preprocessing torchvision, not caffe"):
            import_network(weights, family="caffe")

    def test_the_files_known_by_hash_are_those_that_torchvision_has(self) -> None:
        for architecture in ("vgg16", "vgg19"):
            begin = loss_weights._hash_prefix(loss_weights._torchvision_weights(architecture))
            assert loss_weights._KNOWN_FAMILIES[begin] == "torchvision"

    def test_channel_factors_are_part_of_the_network(self, weights: Path, tmp_path: Path) -> None:
        factors = {
            name.removesuffix(".bias"): torch.full_like(value, 2.0)
            for name, value in torchvision_state().items()
            if name.endswith(".bias")
        }
        torch.save(factors, tmp_path / "factors.pth")
        made = import_network(weights, name="vgg19", family="caffe", channel_scale=tmp_path / "factors.pth")
        assert made.metadata.channel_scaled
        first, scaled = NETWORK.layers[0].bias, network_in(made, tmp_path).layers[0].bias
        assert first is not None
        assert scaled is not None
        torch.testing.assert_close(scaled, first / 2)

    def test_the_name_says_the_architecture_of_a_file_that_ends_early(self, tmp_path: Path) -> None:
        path = tmp_path / "early.pth"
        torch.save(torchvision_state(NETWORK.up_to(["relu3_1"])), path)
        for name in ("vgg16-mine", "vgg19"):
            made = import_network(path, name=name, family="caffe")
            assert (made.metadata.architecture, made.deepest_layer) == (name[:5], "relu3_1")
        assert import_network(path, architecture="vgg16", family="caffe").metadata.architecture == "vgg16"
        with pytest.raises(UsageError, match="may be vgg16 or vgg19") as caught:
            import_network(path, name="mine", family="caffe")
        assert "--architecture" in caught.value.hint

    def test_a_name_that_promises_another_architecture_is_refused(self, weights: Path) -> None:
        with pytest.raises(UsageError, match="holds no vgg16 but a vgg19") as caught:
            import_network(weights, name="vgg16-caffe", family="caffe")
        assert "--architecture vgg19" in caught.value.hint

    def test_the_same_file_gives_the_same_network_each_time(self, weights: Path) -> None:
        first, second = (import_network(weights, name="vgg19", family="caffe") for _ in range(2))
        assert first == second

    def test_a_file_of_ours_is_kept_byte_for_byte(self, weights: Path, tmp_path: Path) -> None:
        made = import_network(weights, name="vgg19", family="caffe")
        path = tmp_path / "from-a-friend.safetensors"
        path.write_bytes(made.data)
        again = import_network(path, name="mine")
        assert (again.data, again.metadata) == (made.data, made.metadata)
        with pytest.raises(UsageError, match="of caffe and not of torchvision"):
            import_network(path, name="mine", family="torchvision")
        with pytest.raises(UsageError, match="of vgg19 and not of vgg16"):
            import_network(path, name="vgg16", family="caffe")
        with pytest.raises(UsageError, match="scale the channels of the file it was made from"):
            import_network(path, name="mine", channel_scale=weights)

    @pytest.mark.parametrize(
        ("content", "said"),
        [
            (None, "is not there"),
            (b"", "is empty"),
            (b"hello, world", "not a file of weights"),
            (b"\x10\x00\x00\x00\x00\x00\x00\x00{ }", "not a safetensors file, or cut off"),
            ({"conv1.conv2d.weight": torch.ones(2, 3, 9, 9)}, "holds no vgg19: it lacks conv1_1"),
        ],
    )
    def test_what_is_no_loss_network_is_refused_by_its_name(
        self, tmp_path: Path, content: object, said: str
    ) -> None:
        path = tmp_path / "strange.pth"
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif content is not None:
            torch.save(content, path)
        with pytest.raises(UsageError, match=rf"strange\.pth.*{said}"):
            import_network(path, name="vgg19", family="caffe")

    def test_missing_channel_factors_are_named(self, weights: Path, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match=r"factors\.pth is not there"):
            import_network(weights, name="vgg19", family="caffe", channel_scale=tmp_path / "factors.pth")

    @pytest.mark.parametrize("choice", [{"family": "keras"}, {"architecture": "vgg11"}])
    def test_unknown_choices_are_refused_with_those_there_are(
        self, weights: Path, choice: dict[str, Any]
    ) -> None:
        with pytest.raises(UsageError, match="is not known") as caught:
            import_network(weights, name="vgg19", **choice)
        assert "there are: " in caught.value.hint

    @pytest.mark.parametrize("scaled", [True, False])
    def test_real_weights_are_taken_in(self, test_data: Path, tmp_path: Path, scaled: bool) -> None:
        made = import_network(
            test_data / "vgg" / "vgg19_features_caffe.fp16.pth",
            name="vgg19",
            family="caffe",
            channel_scale=test_data / "vgg" / "vgg19_channel_normaliser.pth" if scaled else None,
        )
        assert (made.metadata.channel_scaled, made.deepest_layer) == (scaled, "relu5_4")
        assert network_in(made, tmp_path).channels("relu5_4") == 512
        assert (len(made.data) < 50e6) is not scaled  # what was float16 stays so, where that loses nothing


class _Quiet(SimpleHTTPRequestHandler):
    """Serves files and says nothing."""

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the signature is http.server's
        """Say nothing."""


@pytest.fixture
def site(tmp_path: Path) -> Iterator[SimpleNamespace]:
    """Return a web site on this machine: its address, and the folder that it serves."""
    folder = tmp_path / "site"
    folder.mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield SimpleNamespace(url=f"http://127.0.0.1:{server.server_port}", folder=folder)
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder into which torch downloads."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    folder = tmp_path / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Return a function that lets torchvision's VGG-19 lie at an address."""

    def publish(url: str) -> None:
        member = VGG19_Weights.IMAGENET1K_V1
        known = member.value
        monkeypatch.setattr(member, "_value_", type(known)(url, known.transforms, known.meta))

    return publish


class TestFetch:
    """torchvision's own weights."""

    def test_they_are_downloaded_once_and_checked(
        self,
        site: SimpleNamespace,
        cache: Path,
        published: Callable[[str], None],
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        file = named_by_hash(site.folder, "vgg19", torchvision_state())
        published(f"{site.url}/{file.name}")
        made = fetch_network("vgg19")
        assert (made.metadata.architecture, made.metadata.family) == ("vgg19", "torchvision")
        assert "torchvision" in made.source
        assert "BSD-3-Clause" in made.source
        assert made.source.endswith(f"{site.url}/{file.name}")
        assert is_same(network_in(made, tmp_path), NETWORK)
        assert is_fetched("vgg19", made.metadata.origin_sha256)
        assert capsys.readouterr().out == ""
        file.unlink()
        assert fetch_network("vgg19") == made

    def test_the_same_file_that_is_added_is_the_same_network(
        self, site: SimpleNamespace, cache: Path, published: Callable[[str], None]
    ) -> None:
        file = named_by_hash(site.folder, "vgg19", torchvision_state())
        published(f"{site.url}/{file.name}")
        assert fetch_network("vgg19").data == import_network(file, family="torchvision").data

    def test_a_file_in_the_cache_needs_no_connection(
        self, cache: Path, published: Callable[[str], None], tmp_path: Path
    ) -> None:
        published(f"http://nowhere.invalid/{named_by_hash(cache, 'vgg19', torchvision_state()).name}")
        assert is_same(network_in(fetch_network("vgg19"), tmp_path), NETWORK)

    def test_a_damaged_file_in_the_cache_is_named(
        self, cache: Path, published: Callable[[str], None]
    ) -> None:
        file = named_by_hash(cache, "vgg19", torchvision_state())
        published(f"http://nowhere.invalid/{file.name}")
        torch.save(torchvision_state(seeded("vgg19", 2, seed=1)), file)
        with pytest.raises(FarmError, match=f"{file.name} is damaged") as caught:
            fetch_network("vgg19")
        assert caught.value.hint == "remove it"

    def test_a_download_with_another_hash_is_refused_and_not_kept(
        self, site: SimpleNamespace, cache: Path, published: Callable[[str], None]
    ) -> None:
        file = named_by_hash(site.folder, "vgg19", torchvision_state())
        torch.save(torchvision_state(seeded("vgg19", 2, seed=1)), file)
        published(f"{site.url}/{file.name}")
        with pytest.raises(FarmError, match="invalid hash value"):
            fetch_network("vgg19")
        assert list(cache.iterdir()) == []

    def test_without_a_connection_it_says_what_to_do(
        self, cache: Path, published: Callable[[str], None]
    ) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
        published(f"http://127.0.0.1:{port}/vgg19-dcbb9e9d.pth")
        with pytest.raises(FarmError, match=r"vgg19-dcbb9e9d\.pth cannot be fetched: .*refused") as caught:
            fetch_network("vgg19")
        assert str(cache / "vgg19-dcbb9e9d.pth") in caught.value.hint
        assert "farm weights add vgg19 vgg19-dcbb9e9d.pth" in caught.value.hint

    def test_only_what_torchvision_has_can_be_fetched(self) -> None:
        with pytest.raises(UsageError, match="no loss network 'vgg11' can be fetched") as caught:
            fetch_network("vgg11")
        assert caught.value.hint == "there are: vgg16, vgg19"
