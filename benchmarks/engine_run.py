"""One contestant of `optimize.py`, in a process of its own: the engine over given pictures; prints JSON.

Memory and the allocator belong to a process, so every figure gets a fresh one.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import torch
from hardware import convolution_peak, peak_bytes, timed_s
from torch import Tensor

from workers.memory import tune_allocator
from workers.nst.features import LossNetwork
from workers.nst.group import Alone, Group
from workers.nst.loss_networks import import_loss_network
from workers.nst.presets import preset
from workers.nst.regions import Region, TilePlan, plan_tile
from workers.nst.stages import Stage
from workers.nst.thread_group import run_together
from workers.nst.tiled_stage import TiledStage
from workers.nst.whole import WholeStage

RECIPE = preset("gatys")
DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "fp64": torch.float64}


@dataclass
class Counted:
    """A group that counts the bytes that its member sends."""

    group: Group
    pixels_bytes: int = 0
    sums_bytes: int = 0

    @property
    def rank(self) -> int:
        """Of this member."""
        return self.group.rank

    @property
    def size(self) -> int:
        """Of the group."""
        return self.group.size

    def exchange(self, outgoing: dict[int, Tensor]) -> dict[int, Tensor]:
        """Exchange with neighbors."""
        self.pixels_bytes += sum(tensor.nbytes for tensor in outgoing.values())
        return self.group.exchange(outgoing)

    def reduce(self, tensor: Tensor) -> Tensor:
        """Add up."""
        self.sums_bytes += tensor.nbytes * (self.size > 1)
        return self.group.reduce(tensor)

    def broadcast(self, tensor: Tensor, source: int = 0) -> Tensor:
        """Send to all."""
        if self.rank == source:
            self.sums_bytes += tensor.nbytes * (self.size - 1)
        return self.group.broadcast(tensor, source)


@contextmanager
def precise(precision: str) -> Iterator[None]:
    """Allow TF32 for `tf32` alone."""
    allowed = precision == "tf32"
    torch.backends.cuda.matmul.allow_tf32 = allowed
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=allowed):
        yield


class Contest:
    """Network and pictures of a run, and the stages that it may open."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        network = import_loss_network(options.weights, "vgg19", "caffe")
        self.network = RECIPE.prepare(network.to(options.device, DTYPES[options.precision]))
        pixels = torch.float64 if options.precision == "fp64" else torch.float32
        self.content, self.style = (
            torch.load(file, weights_only=True).to(options.device, pixels)
            - torch.tensor(RECIPE.center(network), dtype=pixels, device=options.device).view(3, 1, 1)
            for file in (options.content, options.style)
        )
        self.size = (self.content.shape[-2], self.content.shape[-1])
        self.objective = RECIPE.objective(self.network, self.size)
        self.cores = cut(*self.size, options.tile or max(self.size))

    def stage(self, group: Group) -> Stage:
        """Open the scale in one piece, or in tiles on a group."""
        styles = [(1.0, self.style)]
        if self.options.engine == "whole":
            return WholeStage(self.network, self.objective, self.content, styles)
        return TiledStage(
            self.network,
            self.objective,
            self.content,
            styles,
            group=group,
            cut=lambda height_px, width_px: cut(height_px, width_px, self.options.tile),
            resident_px=None if self.options.engine == "resident" else 0,
        )

    def work(self) -> float:
        """Return the work of the tiles, forth and back, over that of the picture in one piece."""
        whole = Region(0, 0, *self.size)
        layers = self.objective.layers
        tiles = [plan_tile(self.network.layers, layers, whole, Region(*core)) for core in self.cores]
        in_one = plan_tile(self.network.layers, layers, whole, whole)
        return operations(self.network, tiles) / operations(self.network, [in_one])


def cut(height_px: int, width_px: int, tile_px: int) -> list[tuple[int, int, int, int]]:
    """Return squares of a side, smaller ones at the right and at the bottom."""
    corners = product(range(0, height_px, tile_px), range(0, width_px, tile_px))
    return [(y, x, min(y + tile_px, height_px), min(x + tile_px, width_px)) for y, x in corners]


def operations(network: LossNetwork, plans: Iterable[TilePlan]) -> int:
    """Return the multiplications and additions of one evaluation: convolutions and Gram matrices."""
    total = 0
    channels = {layer.name: network.channels(layer.name) for layer in network.layers}
    for plan in plans:
        for layer, output in zip(network.layers, plan.outputs, strict=False):
            if layer.weight is not None:
                total += 4 * layer.weight.numel() * output.area
        for name in RECIPE.active_style_layers:
            total += 4 * channels[name] ** 2 * plan.owned[name].area
    return total


def run(contest: Contest) -> dict[str, float]:
    """Return the figures of one run."""
    options = contest.options
    members: list[Counted] = []

    def program(group: Group) -> list[float]:
        torch.set_num_threads(options.threads)
        counted = Counted(group)
        stage = contest.stage(counted)
        tiles = stage.begin(contest.content * RECIPE.pixel_range)
        stage.evaluate(tiles)
        counted.pixels_bytes = counted.sums_bytes = 0
        times = [timed_s(lambda: stage.evaluate(tiles), options.device) for _ in range(options.evaluations)]
        members.append(counted)
        return times

    times = [program(Alone())] if options.members == 1 else run_together(options.members, program)
    whole = Region(0, 0, *contest.size)
    plan = plan_tile(contest.network.layers, contest.objective.layers, whole, whole)
    return {
        "seconds": statistics.median(max(together) for together in zip(*times, strict=True)),
        "memory_bytes": peak_bytes(options.device),
        "work": contest.work(),
        "operations": operations(contest.network, [plan]),
        "pixels_bytes": max(member.pixels_bytes for member in members) / options.evaluations,
        "sums_bytes": max(member.sums_bytes for member in members) / options.evaluations,
    }


def gradient(contest: Contest) -> dict[str, float]:
    """Write the gradient at the content to a file, and return the loss."""
    stage = contest.stage(Alone())
    sample = stage.evaluate(stage.begin(contest.content * RECIPE.pixel_range))
    torch.save(stage.gather(sample.gradients).double().cpu(), contest.options.gradient)
    return {"loss": sample.loss}


def main() -> None:
    """Run what the options say and print JSON."""
    tune_allocator()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", choices=("whole", "resident", "recomputed", "peak"), required=True)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--content", type=Path)
    parser.add_argument("--style", type=Path)
    parser.add_argument("--precision", choices=DTYPES, default="fp32")
    parser.add_argument("--tile", type=int, default=0, help="side of tiles, px")
    parser.add_argument("--members", type=int, default=1)
    parser.add_argument("--threads", type=int, required=True, help="of each member")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--evaluations", type=int, default=3)
    parser.add_argument("--gradient", type=Path, help="write the gradient here instead of timing")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with precise(options.precision):
        began = time.perf_counter()
        if options.engine == "peak":
            answer = {"peak": convolution_peak(DTYPES[options.precision], options.device)}
        else:
            contest = Contest(options)
            answer = gradient(contest) if options.gradient else run(contest)
        print(json.dumps(answer | {"total_s": time.perf_counter() - began}))


if __name__ == "__main__":
    main()
