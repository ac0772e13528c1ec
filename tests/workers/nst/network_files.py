"""Small files of loss networks in the dress of those that people have."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from torch import Tensor

from workers.nst.features import LossNetwork, seeded

NETWORK = seeded("vgg19", 2, seed=0)


def torchvision_state(network: LossNetwork = NETWORK) -> dict[str, Tensor]:
    """Return what torchvision saves: convolutions by their place among the features, and a classifier."""
    state = {f"classifier.{place}.weight": torch.ones(4, 4) for place in (0, 3, 6)}
    for place, layer in enumerate(network.layers):
        if layer.weight is not None and layer.bias is not None:
            state[f"features.{place}.weight"] = layer.weight.contiguous()
            state[f"features.{place}.bias"] = layer.bias
    return state


def gatys_state(network: LossNetwork = NETWORK) -> dict[str, Tensor]:
    """Return what Gatys' notebook loads: convolutions by their names."""
    state = {}
    for layer in network.layers:
        if layer.weight is not None and layer.bias is not None:
            state[f"{layer.name}.weight"] = layer.weight.contiguous()
            state[f"{layer.name}.bias"] = layer.bias
    return state


def named_by_hash(folder: Path, stem: str, state: dict[str, Tensor]) -> Path:
    """Write a file whose name says the beginning of its hash, as those have that torch downloads."""
    unnamed = folder / "unnamed.pth"
    torch.save(state, unnamed)
    digest = hashlib.sha256(unnamed.read_bytes()).hexdigest()
    return unnamed.rename(folder / f"{stem}-{digest[:8]}.pth")
