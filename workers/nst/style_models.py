"""Style models: the project's own file of one style, safetensors with what must be known to use it.

The same network and metadata always give the same bytes, so that a style has one content hash. Tensors are
float16 where that loses nothing, else float32.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from workers.nst.inference import InferenceNet, Precision, prepare_for_inference
from workers.nst.transformer import TransformerNet
from workers.nst.weights_files import check_file, network_from

FILE_VERSION = 1

NETWORK = "transformer"
IO_RGB_255 = "rgb-0-255"
"""RGB in 0..255 in and out."""

_METADATA_KEY = "stylefarm"


@dataclass(frozen=True, slots=True)
class StyleMetadata:
    """What a style model says of itself.

    Attributes:
        name: What the style was called when the file was made.
        width: Base width of the network.
        network: Which network: `transformer`.
        io: What it takes and gives: `rgb-0-255`.
        origin: Format of the file it was made from (`pytorch-examples`), or how it was trained.
        origin_sha256: Content hash of that file, or an empty string.
        license: Name of a license, or an empty string where none is known.
        source: Where it comes from, in a person's words or as a URL.
        version: Of this layout.
    """

    name: str
    width: int
    network: str = NETWORK
    io: str = IO_RGB_255
    origin: str = ""
    origin_sha256: str = ""
    license: str = ""
    source: str = ""
    version: int = FILE_VERSION


def encode_style_model(net: TransformerNet, metadata: StyleMetadata) -> bytes:
    """Return the file of a style model.

    Raises:
        ValueError: If the metadata names another width than the network has.
    """
    if metadata.width != net.width:
        raise ValueError(f"the network has base width {net.width}, the metadata says {metadata.width}")
    tensors = {name: _compact(value) for name, value in net.state_dict().items()}
    return save(tensors, {_METADATA_KEY: json.dumps(asdict(metadata), sort_keys=True)})


def save_style_model(path: Path, net: TransformerNet, metadata: StyleMetadata) -> None:
    """Write a style model to `path`, over what is there."""
    path.write_bytes(encode_style_model(net, metadata))


def read_style_model(path: Path) -> tuple[TransformerNet, StyleMetadata]:
    """Return the network, float32 on the CPU, and what the file says of itself.

    Raises:
        ValueError: If it is no style model, is damaged, or was made by a later version.
    """
    check_file(path)
    try:
        with safe_open(path, "pt") as file:
            metadata = _metadata(file.metadata() or {}, path)
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    except SafetensorError as error:
        raise ValueError(f"{path.name} is not a safetensors file, or cut off ({error})") from error
    net = network_from(state, path)
    if net.width != metadata.width:
        raise ValueError(f"{path.name} says it has base width {metadata.width} and has {net.width}")
    return net, metadata


def load_style_model(path: Path, device: str = "cpu", precision: Precision = "fp32") -> InferenceNet:
    """Return a style model ready for `render_batch` on a device.

    Raises:
        ValueError: As `read_style_model`.
    """
    net, _ = read_style_model(path)
    return prepare_for_inference(net, precision, device)


def is_style_model(path: Path) -> bool:
    """Return whether the file looks like safetensors with metadata of ours, without reading its weights."""
    try:
        check_file(path)
        with safe_open(path, "pt") as file:
            return _METADATA_KEY in (file.metadata() or {})
    except (SafetensorError, ValueError):
        return False


def _compact(value: Tensor) -> Tensor:
    half = value.half()
    return half if torch.equal(half.float(), value.float()) else value.float()


def _metadata(found: dict[str, str], path: Path) -> StyleMetadata:
    if _METADATA_KEY not in found:
        raise ValueError(f"{path.name} says nothing of its network: it is not a style model of stylefarm")
    try:
        document = json.loads(found[_METADATA_KEY])
        known = {field.name for field in fields(StyleMetadata)}
        metadata = StyleMetadata(**{name: value for name, value in document.items() if name in known})
    except (TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{path.name} has metadata that cannot be read ({error})") from error
    if metadata.version != FILE_VERSION:
        raise ValueError(f"{path.name} has layout {metadata.version}; this version reads {FILE_VERSION}")
    if (metadata.network, metadata.io) != (NETWORK, IO_RGB_255):
        raise ValueError(
            f"{path.name} has network {metadata.network!r} and I/O {metadata.io!r}, which are not known"
        )
    return metadata
