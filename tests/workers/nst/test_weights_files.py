"""Files of other people load exactly, or are refused with a line that says why; no code in them ever runs."""

from __future__ import annotations

import os
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.workers.nst.plain import seeded_state
from workers.nst import weights_files
from workers.nst.weights_files import read_pytorch_examples

State = dict[str, torch.Tensor]


@pytest.fixture
def state() -> State:
    return seeded_state(2)


def saved(folder: Path, content: Any, name: str = "style.pth", *, legacy: bool = False) -> Path:
    path = folder / name
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    return path


def with_running_statistics(state: State) -> State:
    """Return the state as torch up to 0.3 saved it."""
    norms = [
        name.removesuffix(".weight") for name in state if ".in" in f".{name}" and name.endswith(".weight")
    ]
    extra = {f"{norm}.running_{kind}": torch.ones(3) for norm in norms for kind in ("mean", "var")}
    assert len(extra) == 30
    return state | extra


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize(
    "dress",
    [
        lambda state: state,
        OrderedDict,
        with_running_statistics,
        lambda state: {"state_dict": state},
        lambda state: {"epoch": 2, "loss": 0.5, "model_state_dict": state},
        lambda state: {f"module.{name}": value for name, value in state.items()},
        lambda state: {"state_dict": {f"module.{n}": v for n, v in with_running_statistics(state).items()}},
    ],
    ids=["plain", "ordered", "running", "wrapped", "training", "module", "all"],
)
def test_every_known_dress_of_the_format_loads(
    tmp_path: Path, state: State, dress: Any, legacy: bool
) -> None:
    net = read_pytorch_examples(saved(tmp_path, dress(state), legacy=legacy))
    assert net.width == 2
    loaded = net.state_dict()
    assert loaded.keys() == state.keys()
    assert all(torch.equal(loaded[name], value) for name, value in state.items())


@pytest.mark.parametrize("width", [1, 2, 5])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_any_width_and_floating_dtype_loads(tmp_path: Path, width: int, dtype: torch.dtype) -> None:
    stored = {name: value.to(dtype) for name, value in seeded_state(width).items()}
    net = read_pytorch_examples(saved(tmp_path, stored))
    assert net.width == width
    assert all(torch.equal(value, stored[name].float()) for name, value in net.state_dict().items())


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("kept", [0.0003, 0.01, 0.3, 0.9, 0.9999])
def test_a_file_that_is_cut_off_is_said_to_be(
    tmp_path: Path, state: State, legacy: bool, kept: float
) -> None:
    path = saved(tmp_path, state, legacy=legacy)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * kept)])
    with pytest.raises(ValueError, match=r"style\.pth is (cut off or damaged|not a file of weights)"):
        read_pytorch_examples(path)


def test_the_real_truncated_file_is_said_to_be_cut_off(test_data: Path) -> None:
    with pytest.raises(ValueError, match=r"truncated_checkpoint\.pth is cut off or damaged"):
        read_pytorch_examples(test_data / "broken" / "truncated_checkpoint.pth")


class _Command:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("ran",)


@pytest.mark.parametrize("container", ["zip", "legacy", "pickle"])
@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_code_in_a_file_never_runs(
    tmp_path: Path, state: State, container: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    content = state | {"extra": _Command()}
    if container == "pickle":
        path = tmp_path / "style.pth"
        path.write_bytes(pickle.dumps(content, protocol=2))
    else:
        path = saved(tmp_path, content, legacy=container == "legacy")
    with pytest.raises(ValueError, match=r"holds Python code or objects|not a file of weights"):
        read_pytorch_examples(path)
    assert not (tmp_path / "ran").exists()


def test_a_whole_pickled_network_is_refused_with_what_to_do(tmp_path: Path) -> None:
    path = saved(tmp_path, torch.nn.Linear(2, 2))
    with pytest.raises(ValueError, match="save the state_dict"):
        read_pytorch_examples(path)


def _optimizer() -> Any:
    layer = torch.nn.Linear(2, 2)
    return torch.optim.Adam(layer.parameters()).state_dict()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda _: _optimizer(), "state of an optimizer"),
        (lambda s: {"weights": s, "epoch": 3}, "checkpoint of a training"),
        (lambda _: [torch.ones(3)], "holds a list"),
        (lambda _: {}, "no parameters"),
        (lambda _: {"fc.weight": torch.ones(2, 2)}, "no network of pytorch/examples: it has fc.weight"),
        (lambda s: {"up1.conv2d.conv2d.weight": s["deconv1.conv2d.weight"]} | s, "gordicaleksa's"),
        (lambda _: {"ConvBlock.0.conv_layer.weight": torch.ones(32, 3, 9, 9)}, "rrmina's"),
        (lambda _: {"features.0.weight": torch.ones(64, 3, 3, 3)}, "a VGG"),
        (lambda s: {n: v for n, v in s.items() if n != "res3.in2.bias"}, r"lacks res3\.in2\.bias"),
        (lambda s: {n: v for n, v in s.items() if "res5" not in n}, "and 5 more"),
        (lambda s: s | {"tanh.scale": torch.ones(1)}, r"has tanh\.scale beside"),
        (lambda s: s | {"conv2.conv2d.weight": torch.ones(4, 2, 5, 5)}, r"shape \(4, 2, 5, 5\), not"),
        (lambda s: s | {"conv1.conv2d.weight": torch.ones(2)}, "no network of pytorch/examples"),
        (lambda s: s | {"conv1.conv2d.weight": torch.ones(300, 1, 1, 1)}, "base width of 300"),
        (lambda s: s | {"in1.bias": torch.ones(2, dtype=torch.int64)}, "not floating-point"),
        (lambda s: s | {"in1.bias": torch.tensor([1.0, torch.nan])}, "no finite numbers"),
        (lambda s: s | {"in1.bias": torch.tensor([torch.inf, 1.0])}, "no finite numbers"),
    ],
)
def test_what_is_no_style_is_refused_with_its_reason(
    tmp_path: Path, state: State, change: Any, reason: str
) -> None:
    with pytest.raises(ValueError, match=reason):
        read_pytorch_examples(saved(tmp_path, change(state)))


def test_a_tensor_that_claims_a_huge_shape_is_refused_before_it_takes_memory(
    tmp_path: Path, state: State
) -> None:
    """A file of some bytes can claim any shape by repeating one number."""
    state["conv1.conv2d.weight"] = torch.ones(1).expand(2, 3, 10_000_000, 1_000_000)
    with pytest.raises(ValueError, match="has shape"):
        read_pytorch_examples(saved(tmp_path, state))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty"),
        (b"<!DOCTYPE html><html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git lfs pull"),
        (b"\x89HDF\r\n\x1a\n", "HDF5"),
        (b"\x08\x04\x12\x07pytorch", "ONNX"),
        (b"\x04\x00\x00\x00\x01\x00\x00\x00", "Torch7"),
        (b"\x10\x00\x00\x00\x00\x00\x00\x00{ }", "safetensors"),
        (b"just some text", "not a file of weights"),
        (b"\x80\x02}q\x00.", "not a file of weights|damaged"),
    ],
)
def test_files_of_another_kind_are_named(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "style.pth"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=reason):
        read_pytorch_examples(path)


def test_an_archive_of_something_else_is_named(tmp_path: Path) -> None:
    np.savez(tmp_path / "style.npz", W=np.ones(3))
    path = (tmp_path / "style.npz").rename(tmp_path / "style.model")
    with pytest.raises(ValueError, match=r"archive of something else \(W\.npy\)"):
        read_pytorch_examples(path)


def test_an_archive_that_unpacks_to_too_much_is_not_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "style.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("style/data.pkl", bytes(4 << 20))
    monkeypatch.setattr(weights_files, "LARGEST_FILE_BYTES", 1 << 20)
    assert path.stat().st_size < 1 << 20
    with pytest.raises(ValueError, match="unpacks to 4 MiB"):
        read_pytorch_examples(path)


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "style.pth"
    with path.open("wb") as file:
        file.truncate(5 << 30)  # a hole, not bytes
    with pytest.raises(ValueError, match="5120 MiB; 1024 are allowed"):
        read_pytorch_examples(path)


def test_a_missing_file_and_a_folder_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not there"):
        read_pytorch_examples(tmp_path / "no.pth")
    with pytest.raises(ValueError, match="a folder"):
        read_pytorch_examples(tmp_path)


@pytest.mark.parametrize(
    ("name", "width"),
    [("candy.pth", 32), ("mosaic.pth", 32), ("udnie_nc16.model", 16), ("mosaic_nc8.model", 8)],
)
def test_published_files_load(test_data: Path, name: str, width: int) -> None:
    assert read_pytorch_examples(test_data / "checkpoints" / name).width == width


def test_a_loss_network_is_no_style(test_data: Path) -> None:
    with pytest.raises(ValueError, match="loss network"):
        read_pytorch_examples(test_data / "vgg" / "vgg19_features_caffe.fp16.pth")
