"""One contestant of `train.py`, in a process of its own: steps of the trainer; prints JSON."""

from __future__ import annotations

import argparse
import json
import statistics
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import torch
from hardware import convolution_peak, peak_bytes, timed_s

from workers.memory import tune_allocator
from workers.nst.features import LossNetwork
from workers.nst.inference import DTYPES
from workers.nst.loss_networks import import_loss_network
from workers.nst.training import Training, untrained
from workers.nst.training_data import CropRule
from workers.nst.training_presets import training_preset
from workers.nst.transformer import TransformerNet


class Contest:
    """Trainings of one recipe over the same photograph."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        content, style = (torch.load(f, weights_only=True) for f in (options.content, options.style))
        side = content.shape[-1]
        preset = training_preset("pytorch-examples")
        self.recipe = replace(preset, crop=CropRule(side, "center"), batch=options.batch)
        self.network = import_loss_network(options.weights, "vgg16", "torchvision").to(options.device)
        self.batch = (content * 255).round().to(torch.uint8).repeat(options.batch, 1, 1, 1)
        self.style = style

    def training(self) -> Training:
        """Return one that has taken its first step, which is slower."""
        options = self.options
        net = untrained(self.recipe, options.width, 0)
        styles = [(1.0, self.style)]
        training = Training(self.recipe, self.network, net, styles, precision=options.precision)
        training.step(self.batch)
        return training


def operations(network: LossNetwork, net: TransformerNet, side_px: int, content_layer: str) -> int:
    """Return the multiplications and additions of the convolutions of one step, for one photograph.

    The loss network goes forth for the photograph as far as content is compared, forth for the picture, and
    back to its pixels; the network itself forth, and back both to its features and to its weights.
    """
    total, reached = 0, False
    side = side_px
    for layer in network.layers:
        side = side // 2 if layer.kind == "pool" else side
        if layer.weight is not None:
            total += (2 if reached else 3) * 2 * layer.weight.numel() * side**2
        reached = reached or layer.name == content_layer
    sides = {"conv1": 1.0, "conv2": 0.5, "deconv1": 0.5, "deconv2": 1.0, "deconv3": 1.0}
    for name, value in net.named_parameters():
        if value.dim() == 4:
            total += 3 * 2 * value.numel() * int(side_px * sides.get(name.split(".")[0], 0.25)) ** 2
    return total


def one_after_the_other(contest: Contest) -> dict[str, float]:
    """Return the figures of a single training; several styles one after the other go at this rate."""
    training, options = contest.training(), contest.options
    times = [timed_s(lambda: training.step(contest.batch), options.device) for _ in range(options.steps)]
    recipe = contest.recipe
    network = contest.network.up_to(recipe.objective.layers)
    each = operations(network, training.trained(), contest.batch.shape[-1], *recipe.content_layers)
    return {
        "seconds": statistics.median(times),
        "memory_bytes": peak_bytes(options.device),
        "operations": each * options.batch,
    }


def side_by_side(contest: Contest) -> dict[str, float]:
    """Return the seconds of a step of one style, where several are trained at once with a share each."""
    options = contest.options
    trainings = [contest.training() for _ in range(options.styles)]

    def run(training: Training) -> None:
        torch.set_num_threads(max(1, options.threads // options.styles))
        for _ in range(options.steps):
            training.step(contest.batch)

    with ThreadPoolExecutor(options.styles) as pool:
        seconds = timed_s(lambda: list(pool.map(run, trainings)), options.device)
    steps = options.steps * options.styles
    return {"seconds": seconds / steps, "memory_bytes": peak_bytes(options.device)}


def main() -> None:
    """Run what the options say and print JSON."""
    tune_allocator()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peak", action="store_true", help="only measure the machine's convolutions")
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--content", type=Path)
    parser.add_argument("--style", type=Path)
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--styles", type=int, default=1, help="trained at once")
    parser.add_argument("--precision", choices=DTYPES, default="fp32")
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.peak:
        print(json.dumps({"peak": convolution_peak(DTYPES[options.precision], options.device)}))
        return
    contest = Contest(options)
    print(json.dumps(one_after_the_other(contest) if options.styles == 1 else side_by_side(contest)))


if __name__ == "__main__":
    main()
