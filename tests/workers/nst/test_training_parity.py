"""Training begins with the losses that pytorch/examples itself prints."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.models.vgg import cfgs, make_layers

from workers.nst.features import LossNetwork, build_network
from workers.nst.training import Training
from workers.nst.training_data import CropRule
from workers.nst.training_presets import training_preset
from workers.nst.weights_files import read_pytorch_examples

DATA = Path(os.environ.get("FARM_TEST_DATA", ""))

pytestmark = pytest.mark.skipif(
    not (DATA / "parity" / "style_a.png").is_file(), reason="FARM_TEST_DATA has no parity/style_a.png"
)

SIDE_PX = 96

PRINTED = (
    (96434.476562, 3170095.750000),
    (88553.738281, 2676552.625000),
    (79962.529948, 2263211.375000),
    (72998.712891, 1939974.171875),
)
"""Content and style after each step: means over the steps so far."""

TOLERANCES = (1e-5, 1e-4, 1e-3, 1e-3)
"""Relative. The first step differs by the rounding of float32 alone. Adam then divides gradients by their own
size, which turns the rounding of those near zero into moves of a full step; so the later losses part a
little."""


def seeded_vgg16() -> LossNetwork:
    """Return the network of the trace, made and checked as it says."""
    torch.manual_seed(1)
    parameters = []
    for layer in make_layers(cfgs["D"], batch_norm=False):
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)
            parameters.append((layer.weight, layer.bias))
    expected = torch.tensor([-0.0414364, -0.0226251, 0.1249309])
    torch.testing.assert_close(parameters[0][0][0, 0, 0].detach(), expected)
    return build_network("vgg16", parameters, "torchvision")


def pixels(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.asarray(image.convert("RGB")).copy()).permute(2, 0, 1)


def photograph(path: Path) -> Tensor:
    """Return a center crop, made as torchvision's Resize and CenterCrop do of a Pillow image."""
    with Image.open(path) as image:
        width, height = image.size
        shorter = min(width, height)
        size = (int(SIDE_PX * width / shorter), int(SIDE_PX * height / shorter))
        small = image.convert("RGB").resize(size, Image.Resampling.BILINEAR)
    left, top = round((size[0] - SIDE_PX) / 2), round((size[1] - SIDE_PX) / 2)
    return pixels(small.crop((left, top, left + SIDE_PX, top + SIDE_PX)))


def test_four_steps_print_the_losses_of_pytorch_examples() -> None:
    recipe = replace(training_preset("pytorch-examples"), crop=CropRule(SIDE_PX, "center"), batch=2)
    with Image.open(DATA / "parity" / "style_a.png") as image:
        painting = pixels(image)[None] / 255
    net = read_pytorch_examples(DATA / "checkpoints" / "candy.pth")
    training = Training(recipe, seeded_vgg16(), net, [(1.0, painting)])
    photographs = [photograph(path) for path in sorted((DATA / "photos" / "kodak").glob("*.jpg"))[:8]]
    content, style = 0.0, 0.0
    for step, (printed, tolerance) in enumerate(zip(PRINTED, TOLERANCES, strict=True)):
        terms = training.step(torch.stack(photographs[2 * step : 2 * step + 2]))
        content, style = content + terms["content"], style + terms["style"]
        assert content / (step + 1) == pytest.approx(printed[0], rel=tolerance)
        assert style / (step + 1) == pytest.approx(printed[1], rel=tolerance)
