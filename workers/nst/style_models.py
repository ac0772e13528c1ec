"""Style models: the project's own file of one style."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from workers.nst.inference import InferenceNet, Precision, prepare_for_inference
from workers.nst.own_files import Document, OwnFile
from workers.nst.transformer import TransformerNet
from workers.nst.weights_files import network_from

NETWORK = "transformer"
IO_RGB_255 = "rgb-0-255"
"""RGB in 0..255 in and out."""


@dataclass(frozen=True, slots=True)
class StyleMetadata(Document):
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
        training: How it was trained, as JSON has it: paintings, data, steps, losses; of imported files
            nothing.
    """

    name: str
    width: int
    network: str = NETWORK
    io: str = IO_RGB_255
    origin: str = ""
    origin_sha256: str = ""
    license: str = ""
    source: str = ""
    training: dict[str, Any] = field(default_factory=dict)


_FILE = OwnFile("stylefarm", StyleMetadata, "style model")


def encode_style_model(net: TransformerNet, metadata: StyleMetadata) -> bytes:
    """Return the file of a style model.

    Raises:
        ValueError: If the metadata names another width than the network has.
    """
    if metadata.width != net.width:
        raise ValueError(f"the network has base width {net.width}, the metadata says {metadata.width}")
    return _FILE.encode(net.state_dict(), metadata)


def save_style_model(path: Path, net: TransformerNet, metadata: StyleMetadata) -> None:
    """Write a style model to `path`, over what is there."""
    path.write_bytes(encode_style_model(net, metadata))


def read_style_model(path: Path) -> tuple[TransformerNet, StyleMetadata]:
    """Return the network, float32 on the CPU, and what the file says of itself.

    Raises:
        ValueError: If it is no style model, is damaged, or was made by a later version.
    """
    state, metadata = _FILE.read(path)
    if (metadata.network, metadata.io) != (NETWORK, IO_RGB_255):
        raise ValueError(
            f"{path.name} has network {metadata.network!r} and I/O {metadata.io!r}, which are not known"
        )
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
    return _FILE.recognizes(path)
