"""Files of loss networks: those that others made, and our own.

Ours is safetensors with what must be known to use it. The same network and metadata always give the same
bytes, so that a network has one content hash. Tensors are float16 where that loses nothing, else float32.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from workers.nst.features import PREPROCESSING, LossNetwork, architecture, build_network
from workers.nst.weights_files import check_file, read_state

FILE_VERSION = 1

_METADATA_KEY = "stylefarm-loss-network"

_FEATURES = re.compile(r"(?:features\.)?(\d+)\.(weight|bias)")
_NAMED = re.compile(r"(conv\d_\d)\.(weight|bias)")


@dataclass(frozen=True, slots=True)
class NetworkMetadata:
    """What a file of a loss network says of itself.

    Attributes:
        architecture: `vgg16`, `vgg19`.
        family: Of the weights, and so the preprocessing: `torchvision`, `caffe`.
        channel_scaled: Whether every channel was divided by a factor when the weights were added.
        origin_sha256: Content hash of the file it was made from, or an empty string.
        version: Of this layout.
    """

    architecture: str
    family: str
    channel_scaled: bool = False
    origin_sha256: str = ""
    version: int = FILE_VERSION


def import_loss_network(path: Path, name: str, family: str, channel_scale: Path | None = None) -> LossNetwork:
    """Return the network in a file of torch that someone else made.

    Keys may be torchvision's and jcjohnson's (`features.0.weight`; classifiers are dropped) or Gatys'
    (`conv1_1.weight`). Any floating dtype; the network is float32.

    Args:
        path: The file.
        name: Of the architecture: `vgg16`, `vgg19`. A file may end early, at any convolution.
        family: Of the weights: the same keys may want different preprocessing, so it must be said.
        channel_scale: A file of torch with a positive factor for each channel of each convolution
            (`features.0` or `conv1_1`), such as its mean activation, which is folded into the weights.

    Raises:
        ValueError: Saying what is wrong with the file.
    """
    convolutions = [layer for layer, kind in architecture(name) if kind == "conv"]
    state = _by_layer(read_state(path), name)
    found = [layer for layer in convolutions if f"{layer}.weight" in state]
    if not found or found != convolutions[: len(found)]:
        missing = next(layer for layer in convolutions if layer not in found)
        raise ValueError(f"{path.name} holds no {name}: it lacks {missing}")
    strange = [key.removesuffix(".unknown") for key in state if key.split(".")[0] not in found]
    if strange:
        raise ValueError(f"{path.name} holds no {name}: it has {strange[0]} beside it")
    parameters = []
    for layer in found:
        pair = tuple(_number(state, f"{layer}.{part}", path) for part in ("weight", "bias"))
        parameters.append((pair[0], pair[1]))
    if channel_scale is not None:
        parameters = _fold(parameters, _scales(channel_scale, name), found, channel_scale)
    try:
        return build_network(name, parameters, family)
    except ValueError as error:
        raise ValueError(f"{path.name}: {error}") from error


def encode_loss_network(network: LossNetwork, metadata: NetworkMetadata) -> bytes:
    """Return our own file of a loss network.

    Raises:
        ValueError: If the metadata is of another network.
    """
    if (metadata.architecture, metadata.family) != (network.name, network.preprocessing.name):
        raise ValueError(
            f"the metadata is of a {metadata.architecture} of {metadata.family}, the network is a "
            f"{network.name} of {network.preprocessing.name}"
        )
    tensors = {}
    for layer in network.layers:
        for part, value in (("weight", layer.weight), ("bias", layer.bias)):
            if value is not None:
                tensors[f"{layer.name}.{part}"] = _compact(value.cpu().contiguous())
    return save(tensors, {_METADATA_KEY: json.dumps(asdict(metadata), sort_keys=True)})


def load_loss_network(path: Path) -> tuple[LossNetwork, NetworkMetadata]:
    """Return the network in our own file, float32 on the CPU, and what the file says of itself.

    Raises:
        ValueError: If it is no such file, is damaged, or was made by a later version.
    """
    check_file(path)
    try:
        with safe_open(path, "pt") as file:
            metadata = _metadata(file.metadata() or {}, path)
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    except SafetensorError as error:
        raise ValueError(f"{path.name} is not a safetensors file, or cut off ({error})") from error
    convolutions = [layer for layer, kind in architecture(metadata.architecture) if kind == "conv"]
    parameters = [
        (_number(state, f"{layer}.weight", path), _number(state, f"{layer}.bias", path))
        for layer in convolutions
        if f"{layer}.weight" in state
    ]
    return build_network(metadata.architecture, parameters, metadata.family), metadata


def _by_layer(state: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """Return the parameters under our names of layers; those of a classifier are left out."""
    layers = dict(enumerate(layer for layer, _ in architecture(name)))
    renamed = {}
    for key, value in state.items():
        if key.startswith(("classifier.", "fc")):
            continue
        if (match := _FEATURES.fullmatch(key)) and int(match[1]) in layers:
            renamed[f"{layers[int(match[1])]}.{match[2]}"] = value
        elif _NAMED.fullmatch(key):
            renamed[key] = value
        else:
            renamed[f"{key}.unknown"] = value
    return renamed


def _number(state: Mapping[str, Tensor], key: str, path: Path) -> Tensor:
    """Return a parameter as float32.

    Raises:
        ValueError: If it is missing, or no finite floating-point number.
    """
    value = state.get(key)
    if value is None:
        raise ValueError(f"{path.name} lacks {key}")
    if not value.is_floating_point() or not bool(torch.isfinite(value).all()):
        raise ValueError(f"{path.name}: {key} holds values that are no finite floating-point numbers")
    return value.float()


def _scales(path: Path, name: str) -> dict[str, Tensor]:
    """Return the factor of each channel by layer."""
    layers = {f"features.{index}": layer for index, (layer, _) in enumerate(architecture(name))}
    return {layers.get(key, key): value for key, value in read_state(path).items()}


def _fold(
    parameters: list[tuple[Tensor, Tensor]], scales: Mapping[str, Tensor], names: list[str], path: Path
) -> list[tuple[Tensor, Tensor]]:
    """Return weights of a network whose channels are the given one's divided by their factors.

    ReLU and every pooling keep a positive factor, so the function stays the same up to it:
    `W'_n = W_n * m_(n-1) / m_n`, `b'_n = b_n / m_n`.
    """
    folded = []
    before = torch.ones(3, dtype=torch.float64)
    for layer, (weight, bias) in zip(names, parameters, strict=True):
        factors = _number(scales, layer, path).double()
        if factors.shape != bias.shape or not bool((factors > 0).all()):
            raise ValueError(f"{path.name}: {layer} needs {len(bias)} factors above 0")
        scaled = weight.double() * before.view(1, -1, 1, 1) / factors.view(-1, 1, 1, 1)
        folded.append((scaled.float(), (bias.double() / factors).float()))
        before = factors
    return folded


def _compact(value: Tensor) -> Tensor:
    half = value.half()
    return half if torch.equal(half.float(), value.float()) else value.float()


def _metadata(found: dict[str, str], path: Path) -> NetworkMetadata:
    if _METADATA_KEY not in found:
        raise ValueError(f"{path.name} says nothing of its network: it is no loss network of stylefarm")
    try:
        document = json.loads(found[_METADATA_KEY])
        known = {field.name for field in fields(NetworkMetadata)}
        metadata = NetworkMetadata(**{key: value for key, value in document.items() if key in known})
    except (TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{path.name} has metadata that cannot be read ({error})") from error
    if metadata.version != FILE_VERSION:
        raise ValueError(f"{path.name} has layout {metadata.version}; this version reads {FILE_VERSION}")
    if metadata.family not in PREPROCESSING:
        raise ValueError(f"{path.name} has preprocessing {metadata.family!r}, which is not known")
    return metadata
