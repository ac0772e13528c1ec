"""Taking in a loss network: somebody's file, or torchvision's own, becomes a verified file of ours."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlparse

import torch

from jobs.errors import FarmError, UsageError
from jobs.library import FETCHED_NETWORKS
from jobs.storage.files import sha256_of
from workers.nst.features import BLOCKS, PREPROCESSING, LossNetwork
from workers.nst.loss_networks import (
    ForeignNetwork,
    NetworkMetadata,
    encode_loss_network,
    is_loss_network,
    load_loss_network,
)

FAMILIES = tuple(PREPROCESSING)
"""What a file may be said to want; see `workers.nst.features.PREPROCESSING`."""

_KNOWN_FAMILIES = {
    "dcbb9e9d": "torchvision",  # VGG-19 and VGG-16 of torchvision
    "397923af": "torchvision",
    "d01eb7cb": "caffe",  # VGG-19 and VGG-16 of jcjohnson, which neural-style-pt fetches
    "00b39a1b": "caffe",
}
"""Family by the beginning of a file's sha256, which such files also have in their names."""

_HOW_TO_TELL = (
    "say --preprocessing torchvision for weights that want RGB in 0..1, normalized by a mean and a deviation "
    "(PyTorch's own), or caffe for BGR in 0..255 less a mean (converted from Caffe or Keras)"
)


@dataclass(frozen=True, slots=True)
class ImportedNetwork:
    """A loss network that is ready for the library.

    Attributes:
        data: Our own file of it; the same file and choices always give the same bytes.
        metadata: What is in the file.
        deepest_layer: The last layer that a loss can use, such as `relu5_4`.
        source: Where it came from: the name of a file, or what was fetched with its license.
    """

    data: bytes
    metadata: NetworkMetadata
    deepest_layer: str
    source: str


def import_network(
    path: Path | str,
    *,
    name: str = "",
    family: str = "",
    architecture: str = "",
    channel_scale: Path | None = None,
) -> ImportedNetwork:
    """Read, verify and convert a file; one of ours is kept byte for byte.

    Args:
        path: The file.
        name: What the network will be called; the beginning may say its architecture.
        family: Of the weights; empty where the file itself makes it certain.
        architecture: `vgg16`, `vgg19`; empty for what `name` or else the file says.
        channel_scale: A file with a factor for each channel, by which it is divided.

    Raises:
        UsageError: If the file is no such network, or does not say enough of itself.
    """
    path = Path(path)
    for value, allowed in ((family, FAMILIES), (architecture, tuple(BLOCKS))):
        if value and value not in allowed:
            raise UsageError(f"{value!r} is not known", f"there are: {', '.join(allowed)}")
    architecture = architecture or next((known for known in BLOCKS if name.lower().startswith(known)), "")
    try:
        if is_loss_network(path):
            return _of_ours(path, family, architecture, channel_scale)
        return _of_others(path, family, architecture, channel_scale)
    except ValueError as error:
        raise UsageError(str(error)) from error
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror or error}") from error


def fetch_network(architecture: str) -> ImportedNetwork:
    """Return torchvision's own network, downloaded once into the cache of torch by its own loader.

    Args:
        architecture: One of `FETCHED_NETWORKS`.

    Raises:
        UsageError: If there is none of this name.
        FarmError: If it cannot be downloaded, or is damaged; the hint says what to do without a connection.
    """
    weights = _torchvision_weights(architecture)
    path = _cached(weights)
    if not path.exists():
        _download(architecture, weights, path)
    if not sha256_of(path).startswith(_hash_prefix(weights)):
        raise FarmError(f"{path} is damaged: its content has another hash than its name says", "remove it")
    made = import_network(path, family="torchvision", architecture=architecture)
    source = f"torchvision {weights} (BSD-3-Clause), {weights.url}"
    return ImportedNetwork(made.data, made.metadata, made.deepest_layer, source)


def is_fetched(architecture: str, origin_sha256: str) -> bool:
    """Return whether a network that was made from a file of this hash is what `fetch_network` returns.

    Raises:
        UsageError: If nothing of this name can be fetched.
    """
    return origin_sha256.startswith(_hash_prefix(_torchvision_weights(architecture)))


def _of_ours(path: Path, family: str, architecture: str, channel_scale: Path | None) -> ImportedNetwork:
    network, metadata = load_loss_network(path)
    for said, found in ((family, metadata.family), (architecture, metadata.architecture)):
        if said and said != found:
            raise ValueError(f"{path.name} is a file of ours, of {found} and not of {said}")
    if channel_scale is not None:
        raise ValueError(f"{path.name} is a file of ours: scale the channels of the file it was made from")
    return ImportedNetwork(path.read_bytes(), metadata, _deepest(network), path.name)


def _of_others(path: Path, family: str, architecture: str, channel_scale: Path | None) -> ImportedNetwork:
    file = ForeignNetwork.read(path)
    origin_sha256 = sha256_of(path)
    network = file.network(
        _architecture(file, architecture), _family(file, family, origin_sha256), channel_scale
    )
    metadata = NetworkMetadata(
        network.name, network.preprocessing.name, channel_scale is not None, origin_sha256
    )
    return ImportedNetwork(encode_loss_network(network, metadata), metadata, _deepest(network), path.name)


def _architecture(file: ForeignNetwork, said: str) -> str:
    found = file.architectures
    if said in found or (said and not found):
        return said
    if said:
        raise UsageError(
            f"{file.path.name} holds no {said} but a {' or '.join(found)}",
            f"say --architecture {found[0]}, and take a name that fits",
        )
    if len(found) > 1:
        raise UsageError(
            f"{file.path.name} ends before its architecture shows: it may be {' or '.join(found)}",
            f"say --architecture {' or '.join(found)}",
        )
    return found[0] if found else next(iter(BLOCKS))  # which says what is missing


def _family(file: ForeignNetwork, said: str, origin_sha256: str) -> str:
    """Return the family of a file's weights, as it was said or else is certain.

    Raises:
        UsageError: If it is neither, or what was said is wrong.
    """
    known = _KNOWN_FAMILIES.get(origin_sha256[:8], "")
    if known and said not in {"", known}:
        raise UsageError(
            f"{file.path.name} is a file that wants the preprocessing {known}, not {said}",
            f"say --preprocessing {known}",
        )
    family = said or known or file.family
    if not family:
        raise UsageError(f"{file.path.name} does not show which pictures it wants", _HOW_TO_TELL)
    return family


def _deepest(network: LossNetwork) -> str:
    return next(layer.name for layer in reversed(network.layers) if layer.kind == "relu")


def _torchvision_weights(architecture: str) -> Any:
    if architecture not in FETCHED_NETWORKS:
        raise UsageError(
            f"no loss network {architecture!r} can be fetched", f"there are: {', '.join(FETCHED_NETWORKS)}"
        )
    from torchvision.models import get_model_weights  # slow to import

    return get_model_weights(architecture).IMAGENET1K_V1


def _cached(weights: Any) -> Path:
    """Return where torch keeps what it has downloaded."""
    return Path(torch.hub.get_dir()) / "checkpoints" / PurePosixPath(urlparse(weights.url).path).name


def _hash_prefix(weights: Any) -> str:
    """Return the beginning of the sha256 of a file, which torch writes into its name."""
    return PurePosixPath(urlparse(weights.url).path).stem.rpartition("-")[2]


def _download(architecture: str, weights: Any, path: Path) -> None:
    try:
        with redirect_stdout(sys.stderr):  # where torch says what it does; stdout is for results
            weights.get_state_dict(progress=sys.stderr.isatty(), check_hash=True, weights_only=True)
    except (OSError, RuntimeError) as error:
        raise FarmError(
            f"{weights.url} cannot be fetched: {error}",
            f"where there is a connection, get that file and put it at {path}, or add it with "
            f"`farm weights add {architecture} {path.name} --preprocessing torchvision`",
        ) from error
