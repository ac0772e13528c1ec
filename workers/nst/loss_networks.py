"""Files of loss networks: those that others made, and our own."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from workers.nst.features import BLOCKS, PREPROCESSING, LossNetwork, architecture, build_network
from workers.nst.own_files import Document, OwnFile, read_safetensors
from workers.nst.weights_files import is_safetensors, read_state

_FEATURES = re.compile(r"(?:features\.)?(\d+)\.(weight|bias)")
_NAMED = re.compile(r"(conv\d_\d)\.(weight|bias)")


@dataclass(frozen=True, slots=True)
class NetworkMetadata(Document):
    """What a file of a loss network says of itself.

    Attributes:
        architecture: `vgg16`, `vgg19`.
        family: Of the weights, and so the preprocessing: `torchvision`, `caffe`.
        channel_scaled: Whether every channel was divided by a factor when the weights were added.
        origin_sha256: Content hash of the file it was made from, or an empty string.
    """

    architecture: str
    family: str
    channel_scaled: bool = False
    origin_sha256: str = ""


_FILE = OwnFile("stylefarm-loss-network", NetworkMetadata, "loss network")


@dataclass(frozen=True, slots=True)
class ForeignNetwork:
    """A file of a loss network that someone else made, of torch or safetensors, as it was read.

    Keys may be torchvision's and jcjohnson's (`features.0.weight`; classifiers are dropped) or Gatys'
    (`conv1_1.weight`). It may end early, at any convolution.

    Attributes:
        path: The file.
        state: Its parameters, of any floating dtype.
    """

    path: Path
    state: Mapping[str, Tensor]

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a file, without running code.

        Raises:
            ValueError: Saying what is wrong with it.
        """
        return cls(path, read_safetensors(path)[0] if is_safetensors(path) else read_state(path))

    @property
    def architectures(self) -> list[str]:
        """Those whose keys these are: one if that is certain, several if the file ends before they differ."""
        return [name for name in BLOCKS if not self._objection(name)]

    @property
    def family(self) -> str:
        """Of the weights where the keys make it certain, else an empty string: others may be of any."""
        return "caffe" if any(map(_NAMED.fullmatch, self.state)) else ""

    def network(self, name: str, family: str, channel_scale: Path | None = None) -> LossNetwork:
        """Return the network, float32.

        Args:
            name: Of the architecture: `vgg16`, `vgg19`.
            family: Of the weights: the same keys may want different preprocessing, so it must be said.
            channel_scale: A file with a positive factor for each channel of each convolution (`features.0`
                or `conv1_1`), such as its mean activation, which is folded into the weights.

        Raises:
            ValueError: Saying what is wrong with a file.
        """
        if objection := self._objection(name):
            raise ValueError(f"{self.path.name} holds no {name}: {objection}")
        state = _by_layer(self.state, name)
        layers = [layer for layer in _convolutions(name) if f"{layer}.weight" in state]
        parameters = _parameters(state, layers, self.path)
        if channel_scale is not None:
            parameters = _fold(parameters, _scales(channel_scale, name), layers, channel_scale)
        try:
            return build_network(name, parameters, family)
        except ValueError as error:
            raise ValueError(f"{self.path.name}: {error}") from error

    def _objection(self, name: str) -> str:
        """Return why this is no network of an architecture, or an empty string if it is one."""
        convolutions = _convolutions(name)
        state = _by_layer(self.state, name)
        found = [layer for layer in convolutions if f"{layer}.weight" in state]
        if not found or found != convolutions[: len(found)]:
            return f"it lacks {next(layer for layer in convolutions if layer not in found)}"
        strange = [key.removesuffix(".unknown") for key in state if key.split(".")[0] not in found]
        return f"it has {strange[0]} beside it" if strange else ""


def import_loss_network(path: Path, name: str, family: str, channel_scale: Path | None = None) -> LossNetwork:
    """Return the network in a file that someone else made; see `ForeignNetwork`.

    Raises:
        ValueError: Saying what is wrong with the file.
    """
    return ForeignNetwork.read(path).network(name, family, channel_scale)


def is_loss_network(path: Path) -> bool:
    """Return whether the file looks like our own file of a loss network, without reading its weights."""
    return _FILE.recognizes(path)


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
                tensors[f"{layer.name}.{part}"] = value
    return _FILE.encode(tensors, metadata)


def load_loss_network(path: Path) -> tuple[LossNetwork, NetworkMetadata]:
    """Return the network in our own file, float32 on the CPU, and what the file says of itself.

    Raises:
        ValueError: If it is no such file, is damaged, or was made by a later version.
    """
    state, metadata = _FILE.read(path)
    if metadata.family not in PREPROCESSING:
        raise ValueError(f"{path.name} has preprocessing {metadata.family!r}, which is not known")
    layers = [layer for layer in _convolutions(metadata.architecture) if f"{layer}.weight" in state]
    return build_network(metadata.architecture, _parameters(state, layers, path), metadata.family), metadata


def _convolutions(name: str) -> list[str]:
    return [layer for layer, kind in architecture(name) if kind == "conv"]


def _parameters(state: Mapping[str, Tensor], layers: list[str], path: Path) -> list[tuple[Tensor, Tensor]]:
    """Return the weight and bias of each layer, float32."""
    return [
        (_number(state, f"{layer}.weight", path), _number(state, f"{layer}.bias", path)) for layer in layers
    ]


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
    return {layers.get(key, key): value for key, value in ForeignNetwork.read(path).state.items()}


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
