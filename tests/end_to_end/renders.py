"""What renders need that are optimized: a small loss network, a photograph and a painting, and manifests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from tests.end_to_end.real_farm import RealFarm
from workers.nst.features import architecture, seeded

NETWORK = "tiny"


def weights_file(path: Path, name: str = "vgg19", width: int = 4, seed: int = 0) -> Path:
    """Write a file as torchvision's are, of a narrow random network, and return its path."""
    numbers = {layer: number for number, (layer, _) in enumerate(architecture(name))}
    state = {}
    for layer in seeded(name, width, seed).layers:
        for part in ("weight", "bias"):
            if getattr(layer, part) is not None:
                state[f"features.{numbers[layer.name]}.{part}"] = getattr(layer, part)
    torch.save(state, path)
    return path


def add_network(farm: RealFarm, name: str = NETWORK) -> None:
    """Give a farm a narrow random network."""
    file = weights_file(farm.home / f"{name}.pth")
    farm.run("weights", "add", name, file, "--preprocessing", "torchvision", "--architecture", "vgg19")


def picture(path: Path, width_px: int, height_px: int, seed: int = 0) -> Path:
    """Write a picture of soft waves and some noise, and return its path."""
    dice = np.random.default_rng(seed)
    y, x = np.mgrid[0:height_px, 0:width_px]
    waves = [
        np.sin(x / dice.uniform(3, 30) + dice.uniform(0, 6)) + np.cos(y / dice.uniform(3, 30)) for _ in "rgb"
    ]
    pixels = 128 + 55 * np.stack(waves, -1) + dice.normal(0, 6, (height_px, width_px, 3))
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path)
    return path


def optimize_manifest(
    photo: Path | str, painting: Path | str, output: Path | str, **said: Any
) -> dict[str, Any]:
    """Return a manifest that renders a photograph; words that begin with `job_` are said of the job."""
    job = {key.removeprefix("job_"): said.pop(key) for key in [*said] if key.startswith("job_")}
    step = {
        "name": "render",
        "kind": "optimize",
        "inputs": [str(photo)],
        "style_images": [str(painting)],
        "loss_network": NETWORK,
        "threads": 1,
        **said,
    }
    return {"version": 1, "name": "one picture", "output": str(output), "steps": [step], **job}
