"""Files of weights that other people made: read without running code, checked to the last shape.

What is certain is detected; what is not is asked for. Two files can hold the same keys and shapes and want
their pictures in another form (BGR, normalized), which gives a plausible and wrong picture. So the caller
says which format a file has, and a file that shows itself to be of another one is refused.
"""

from __future__ import annotations

import re
import struct
import zipfile
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor

from workers.nst.transformer import TransformerNet, parameter_shapes

LARGEST_FILE_BYTES = 1 << 30
"""Far above any style model: the published ones have 6.7 MB."""

LARGEST_WIDTH = 256

_RUNNING_STATISTICS = re.compile(r"(^|\.)in\d+\.(running_mean|running_var|num_batches_tracked)$")

_WRAPPERS = ("state_dict", "model_state_dict")

_NOT_TORCH = (
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself: fetch it with git lfs pull"),
    (b"<", "a web page, not weights: the download went wrong"),
    (b"\x89HDF", "an HDF5 file (Keras), not a PyTorch one"),
    (b"\x08", "an ONNX file or another protocol buffer, not a PyTorch one"),
    (b"\x03\x00\x00\x00", "a Torch7 .t7 file, not a PyTorch one"),
    (b"\x04\x00\x00\x00", "a Torch7 .t7 file, not a PyTorch one"),
)

_OTHER_NETWORKS = (
    ("up1.conv2d.conv2d.weight", "gordicaleksa's", "it takes normalized RGB"),
    ("ConvBlock.0.conv_layer.weight", "rrmina's", "it takes BGR, and variants of it have the same keys"),
    ("features.0.weight", "a VGG", "that is a loss network and not a style"),
    ("DenseBlock.0.conv1.conv_layer.weight", "rrmina's experimental DenseNet", "it takes BGR"),
)


def read_pytorch_examples(path: Path) -> TransformerNet:
    """Return the network in a file of pytorch/examples `fast_neural_style` (`.pth`, `.model`).

    RGB in 0..255 in and out. Any base width; zip and legacy files; with the running statistics of old torch
    versions, which were never used and are dropped; wrapped in `{"state_dict": ...}`; with the prefix
    `module.` of data-parallel training.

    Raises:
        ValueError: Saying what is wrong with the file.
    """
    state = read_state(path)
    state = {name: value for name, value in state.items() if not _RUNNING_STATISTICS.search(name)}
    return network_from(state, path)


def read_state(path: Path) -> dict[str, Tensor]:
    """Return the parameters in a file of torch, without running code and without the prefix `module.`.

    Raises:
        ValueError: Saying what is wrong with the file.
    """
    state = _state_dict(_load(path), path)
    if all(name.startswith("module.") for name in state):
        return {name.removeprefix("module."): value for name, value in state.items()}
    return state


def network_from(state: dict[str, Tensor], path: Path) -> TransformerNet:
    """Return the network with these parameters, as float32, its width taken from their shapes.

    Raises:
        ValueError: If a name or a shape is wrong, or a value is no finite number; `path` is what to blame.
    """
    for key, whose, why in _OTHER_NETWORKS:
        if key in state:
            raise ValueError(f"{path.name} holds {whose} network: {why}; it is not supported yet")
    first = state.get("conv1.conv2d.weight")
    if first is None or first.dim() != 4:
        raise ValueError(f"{path.name} holds no network of pytorch/examples: it has {_some(list(state))}")
    width = first.shape[0]
    if not 1 <= width <= LARGEST_WIDTH:
        raise ValueError(f"{path.name} has a base width of {width}; 1 to {LARGEST_WIDTH} are supported")
    _check_parameters(state, parameter_shapes(width), path)
    net = TransformerNet(width)
    net.load_state_dict(state)
    return net.eval()


def check_file(path: Path) -> None:
    """Refuse a file that is missing, empty or too large before anything of it is read.

    Raises:
        ValueError: Saying which of these it is.
    """
    if not path.is_file():
        raise ValueError(f"{path} is {'a folder' if path.is_dir() else 'not there'}")
    size_bytes = path.stat().st_size
    if size_bytes == 0:
        raise ValueError(f"{path.name} is empty")
    if size_bytes > LARGEST_FILE_BYTES:
        raise ValueError(f"{path.name} has {size_bytes >> 20} MiB; {LARGEST_FILE_BYTES >> 20} are allowed")


def is_safetensors(path: Path) -> bool:
    """Return whether a file begins as safetensors do.

    Raises:
        ValueError: If there is no file to be read.
    """
    check_file(path)
    with path.open("rb") as file:
        return _is_safetensors(file.read(9))


def _is_safetensors(head: bytes) -> bool:
    return head[8:9] == b"{"


def _load(path: Path) -> Any:
    """Return what is in a file of torch, made of tensors and plain containers alone."""
    check_file(path)
    with path.open("rb") as file:
        head = file.read(32)
    for magic, what in _NOT_TORCH:
        if head.startswith(magic):
            raise ValueError(f"{path.name} is {what}")
    if _is_safetensors(head):
        raise ValueError(f"{path.name} is a safetensors file, not one of torch")
    if head.startswith(b"PK"):
        _check_archive(path)
    elif not head.startswith(b"\x80"):
        raise ValueError(f"{path.name} is not a file of weights")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        raise ValueError(f"{path.name} {_why_not_unpickled(str(error))}") from error
    except (EOFError, RuntimeError, struct.error, OSError) as error:
        raise ValueError(f"{path.name} is cut off or damaged") from error
    except (AttributeError, IndexError, KeyError, TypeError, ValueError, UnicodeError) as error:
        raise ValueError(f"{path.name} is damaged, or not a file of weights") from error


def _check_archive(path: Path) -> None:
    """Refuse an archive that is cut off, or that would unpack to more than may be loaded."""
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked_bytes = sum(entry.file_size for entry in archive.infolist())
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, struct.error) as error:
        raise ValueError(f"{path.name} is cut off or damaged") from error
    if unpacked_bytes > LARGEST_FILE_BYTES:
        raise ValueError(f"{path.name} unpacks to {unpacked_bytes >> 20} MiB, more than is allowed")
    if not any(name.endswith("/data.pkl") for name in names):
        raise ValueError(f"{path.name} is an archive of something else ({_some(names)})")


def _why_not_unpickled(message: str) -> str:
    if "Unsupported global" in message or "Unsupported class" in message or "GLOBAL" in message:
        return (
            "holds Python code or objects beside numbers, and code in a file of weights is never run: "
            "save the state_dict of the network alone"
        )
    if "truncated" in message or "ran out of input" in message:
        return "is cut off or damaged"
    return "is not a file of weights, or damaged"


def _state_dict(document: Any, path: Path) -> dict[str, Tensor]:
    """Return the parameters in what a file held."""
    if isinstance(document, dict):
        if {"param_groups", "state"} <= document.keys():
            raise ValueError(f"{path.name} holds the state of an optimizer, not a network")
        for wrapper in _WRAPPERS:
            if isinstance(document.get(wrapper), dict):
                document = document[wrapper]
                break
    if not isinstance(document, dict) or not all(isinstance(name, str) for name in document):
        raise ValueError(f"{path.name} holds a {type(document).__name__}, not the state_dict of a network")
    odd = [name for name, value in document.items() if not isinstance(value, Tensor)]
    if odd:
        raise ValueError(
            f"{path.name} holds other things than parameters ({_some(odd)}): it looks like the checkpoint of "
            "a training; save the state_dict of the network alone"
        )
    if not document:
        raise ValueError(f"{path.name} holds no parameters")
    return dict(document)


def _check_parameters(state: dict[str, Tensor], shapes: dict[str, tuple[int, ...]], path: Path) -> None:
    missing = [name for name in shapes if name not in state]
    if missing:
        raise ValueError(f"{path.name} lacks {_some(missing)}: it is incomplete or another network")
    unknown = [name for name in state if name not in shapes]
    if unknown:
        raise ValueError(f"{path.name} has {_some(unknown)} beside the network: it may be another one")
    for name, shape in shapes.items():
        value = state[name]
        if tuple(value.shape) != shape:
            raise ValueError(f"{path.name}: {name} has shape {tuple(value.shape)}, not {shape}")
        if not value.is_floating_point():
            raise ValueError(f"{path.name}: {name} holds {value.dtype}, not floating-point numbers")
        if not bool(torch.isfinite(value).all()):
            raise ValueError(f"{path.name}: {name} holds values that are no finite numbers")


def _some(names: list[str]) -> str:
    """Return the first few names, and how many more there are."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(sorted(names)[:3]) + more
