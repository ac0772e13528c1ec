"""The training loop that people start from, restated plainly: pytorch/examples fast_neural_style.

What its `train` does, in our words: a transformer network of modules in eager mode, VGG-16 as four slices,
mean squared differences of relu2_2 and of four Gram matrices, `backward`, Adam; with no thought for speed.
Run as a process of its own, so that neither the allocator nor anything else of ours is in it; it writes one
line of JSON.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import time
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

CONTENT_WEIGHT, STYLE_WEIGHT = 1e5, 1e10
SLICES = ((3, 64, 64), (64, "pool", 128, 128), (128, "pool", 256, 256, 256), (256, "pool", 512, 512, 512))
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class PlainVgg(nn.Module):
    """VGG-16 up to relu4_3, cut behind the layers that are compared."""

    def __init__(self) -> None:
        super().__init__()
        self.slices = nn.ModuleList()
        for channels, *layers in SLICES:
            steps: list[nn.Module] = []
            inputs = int(channels)
            for layer in layers:
                if layer == "pool":
                    steps.append(nn.MaxPool2d(2))
                    continue
                steps += [nn.Conv2d(inputs, int(layer), 3, padding=1), nn.ReLU(inplace=True)]
                inputs = int(layer)
            self.slices.append(nn.Sequential(*steps))
        for parameter in self.parameters():
            parameter.requires_grad = False

    def forward(self, pictures: Tensor) -> list[Tensor]:
        """Return the features behind each slice."""
        found = []
        for part in self.slices:
            pictures = part(pictures)
            found.append(pictures)
        return found


class Conv(nn.Module):
    """Reflection padding and a convolution, behind nearest up-sampling where it is asked for."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, upsample: int = 0) -> None:
        super().__init__()
        self.upsample = upsample
        self.pad = nn.ReflectionPad2d(kernel // 2)
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Return the features."""
        if self.upsample:
            x = functional.interpolate(x, mode="nearest", scale_factor=self.upsample)
        result: Tensor = self.conv(self.pad(x))
        return result


class Residual(nn.Module):
    """Two convolutions beside an identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first, self.second = Conv(channels, channels, 3), Conv(channels, channels, 3)
        self.norms = nn.ModuleList(nn.InstanceNorm2d(channels, affine=True) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        """Return the features."""
        inner = functional.relu(self.norms[0](self.first(x)))
        result: Tensor = self.norms[1](self.second(inner)) + x
        return result


def transformer(width: int) -> nn.Sequential:
    """Return the network of pytorch/examples at a base width."""

    def normed(conv: Conv, channels: int) -> list[nn.Module]:
        return [conv, nn.InstanceNorm2d(channels, affine=True), nn.ReLU()]

    return nn.Sequential(
        *normed(Conv(3, width, 9), width),
        *normed(Conv(width, 2 * width, 3, 2), 2 * width),
        *normed(Conv(2 * width, 4 * width, 3, 2), 4 * width),
        *(Residual(4 * width) for _ in range(5)),
        *normed(Conv(4 * width, 2 * width, 3, upsample=2), 2 * width),
        *normed(Conv(2 * width, width, 3, upsample=2), width),
        Conv(width, 3, 9),
    )


def gram(features: Tensor) -> Tensor:
    """Return the Gram matrices, divided by the number of features."""
    batch, channels, height, width = features.shape
    flat = features.view(batch, channels, height * width)
    return flat.bmm(flat.transpose(1, 2)) / (channels * height * width)


def normalized(pictures: Tensor) -> Tensor:
    """Return what the VGG takes, of RGB in 0..255."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    return (pictures / 255 - mean) / std


def train(options: argparse.Namespace, vgg: PlainVgg) -> list[float]:
    """Return the seconds of each step."""
    torch.manual_seed(0)
    net = transformer(options.width)
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)
    style = torch.load(options.style, weights_only=True) * 255
    targets = [gram(features) for features in vgg(normalized(style.repeat(options.batch, 1, 1, 1)))]
    content = torch.load(options.content, weights_only=True) * 255
    batch = content.repeat(options.batch, 1, 1, 1)
    times = []
    for _ in range(options.steps):
        began = time.perf_counter()
        optimizer.zero_grad()
        pictures = net(batch)
        made, given = vgg(normalized(pictures)), vgg(normalized(batch))
        loss = CONTENT_WEIGHT * functional.mse_loss(made[1], given[1])
        for features, target in zip(made, targets, strict=True):
            loss = loss + STYLE_WEIGHT * functional.mse_loss(gram(features), target)
        loss.backward()
        optimizer.step()
        times.append(time.perf_counter() - began)
    return times


def main() -> None:
    """Time steps and print JSON: seconds of one, memory."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=Path, required=True, help="features.N.weight and .bias, float32")
    parser.add_argument("--content", type=Path, required=True, help="tensor [1, 3, H, W], RGB in 0..1")
    parser.add_argument("--style", type=Path, required=True)
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--threads", type=int, required=True)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    vgg = PlainVgg()
    state = torch.load(options.weights, weights_only=True)
    for parameter, value in zip(vgg.parameters(), state.values(), strict=False):
        parameter.copy_(value)
    times = train(options, vgg)
    memory_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"seconds": statistics.median(times[1:]), "memory_bytes": memory_bytes}))


if __name__ == "__main__":
    main()
