"""The loop that people start from, restated plainly: Gatys et al. in PyTorch, with no thought for speed.

What his notebook (leongatys/PytorchNeuralStyleTransfer) does, in our words: a VGG of modules in eager mode,
features of every layer in a dict, Gram matrices by batched products, the mean squared differences with his
weights added up, `backward`, `torch.optim.LBFGS`. Run as a process of its own, so that neither the allocator
nor anything else of ours is in it; it writes one line of JSON.
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

STYLE_LAYERS = ("r11", "r21", "r31", "r41", "r51")
STYLE_WEIGHTS = tuple(1000 / channels**2 for channels in (64, 128, 256, 512, 512))
CONTENT_LAYER = "r42"
BLOCKS = ((3, 64, 64), (64, 128, 128), (128, 256, 256, 256, 256), (256, 512, 512, 512, 512))
BLOCKS += ((512, 512, 512, 512, 512),)
MEAN_BGR = (103.939, 116.779, 123.68)


class PlainVgg(nn.Module):
    """VGG-19 as it is written everywhere."""

    def __init__(self) -> None:
        super().__init__()
        for block, channels in enumerate(BLOCKS, start=1):
            for index in range(1, len(channels)):
                conv = nn.Conv2d(channels[index - 1], channels[index], kernel_size=3, padding=1)
                setattr(self, f"conv{block}_{index}", conv)
        self.pool = nn.MaxPool2d(kernel_size=2, stride=2)
        for parameter in self.parameters():
            parameter.requires_grad = False

    def forward(self, picture: Tensor, names: list[str]) -> list[Tensor]:
        """Return the features of the named layers."""
        found = {}
        features = picture
        for block, channels in enumerate(BLOCKS, start=1):
            for index in range(1, len(channels)):
                features = functional.relu(getattr(self, f"conv{block}_{index}")(features))
                found[f"r{block}{index}"] = features
                if set(names) <= found.keys():
                    return [found[name] for name in names]
            features = self.pool(features)
        raise ValueError(f"no layers {names}")


def gram(features: Tensor) -> Tensor:
    """Return the Gram matrix, divided by the number of positions."""
    batch, channels, height, width = features.shape
    flat = features.view(batch, channels, height * width)
    return torch.bmm(flat, flat.transpose(1, 2)).div_(height * width)


def optimize(
    network: PlainVgg, content: Tensor, style: Tensor, evaluations: int
) -> list[tuple[float, float]]:
    """Return when each evaluation began, and how long it took, in seconds."""
    with torch.no_grad():
        targets = [gram(features) for features in network(style, list(STYLE_LAYERS))]
        targets += network(content, [CONTENT_LAYER])
    names, weights = [*STYLE_LAYERS, CONTENT_LAYER], [*STYLE_WEIGHTS, 1.0]
    picture = content.clone().requires_grad_()
    optimizer = torch.optim.LBFGS([picture])
    times: list[tuple[float, float]] = []

    def closure() -> Tensor:
        began = time.perf_counter()
        optimizer.zero_grad()
        features = network(picture, names)
        given = [gram(value) for value in features[:-1]] + features[-1:]
        losses = [
            weight * functional.mse_loss(have, want)
            for weight, have, want in zip(weights, given, targets, strict=True)
        ]
        loss = sum(losses[1:], losses[0])
        loss.backward()
        times.append((began, time.perf_counter() - began))
        return loss

    while len(times) < evaluations:
        optimizer.step(closure)
    return times[:evaluations]


def prepared(file: Path) -> Tensor:
    """Return an image as the network wants it: BGR in 0..255 less the mean, `[1, 3, H, W]`."""
    rgb = torch.load(file, weights_only=True)
    return rgb[:, [2, 1, 0]] * 255 - torch.tensor(MEAN_BGR).view(3, 1, 1)


def main() -> None:
    """Time evaluations and print JSON: seconds of one, marginal seconds with the optimizer, memory."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=Path, required=True, help="features.N.weight and .bias, float32")
    parser.add_argument("--content", type=Path, required=True, help="tensor [1, 3, H, W], RGB in 0..1")
    parser.add_argument("--style", type=Path, required=True)
    parser.add_argument("--evaluations", type=int, default=4)
    parser.add_argument("--after", type=int, default=1, help="evaluations that are not timed")
    parser.add_argument("--threads", type=int, required=True)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    network = PlainVgg()
    state = torch.load(options.weights, weights_only=True)
    values = [value.float() for key, value in state.items() if key.startswith("features.")]
    for parameter, value in zip(network.parameters(), values, strict=False):
        parameter.copy_(value)
    times = optimize(network, prepared(options.content), prepared(options.style), options.evaluations)
    timed = times[options.after :]
    answer = {
        "seconds": statistics.median(took for _, took in timed),
        "marginal_s": (sum(timed[-1]) - timed[0][0]) / len(timed),
        "memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
