"""Renders by optimization: the engine against Gatys' loop, tiles against one piece, the farm against it.

`make bench-optimize` runs all of it: one evaluation (loss and gradient) at several sizes, in tiles, by
several members; and the same through a farm with its optimizer, checkpoints and previews. Every contestant is
a process of its own with the same threads, rounds are interleaved, and ratios are taken round by round:
absolute times say little on shared machines. Weights are seeded unless a file is named (speed does not depend
on their values), so nothing is downloaded.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from hardware import described, precisions, spread
from optimize_farm import FarmContest

from workers.nst.features import seeded

HERE = Path(__file__).parent

Answer = dict[str, float]
Contestants = Mapping[str, Callable[[], Answer]]

LOOP = "Gatys' loop"

INNER_WORK = {256: 1.86, 512: 1.39, 1024: 1.19, 2048: 1.09}
"""Of a tile with neighbors on all sides, by its side in px: its work over its part of a whole picture's."""


class Bench:
    """Starts contestants over the same pictures and weights."""

    def __init__(self, folder: Path, options: argparse.Namespace) -> None:
        self.folder = folder
        self.options = options
        self.weights = options.weights or self._seeded_weights()

    def gatys(self, side_px: int, evaluations: int = 4, after: int = 1) -> Answer:
        """Run Gatys' loop."""
        more = ("--evaluations", str(evaluations), "--after", str(after))
        return self._run("gatys_loop.py", side_px, *more, "--threads", str(self.options.threads))

    def engine(self, side_px: int, engine: str, *more: object, threads: int | None = None) -> Answer:
        """Run the engine."""
        arguments = ("--engine", engine, "--threads", str(threads or self.options.threads))
        return self._run("engine_run.py", side_px, *arguments, *map(str, more))

    def peak(self, precision: str, device: str = "cpu") -> float:
        """Return the operations a second of this machine's convolutions."""
        return self.engine(64, "peak", "--precision", precision, "--device", device)["peak"]

    def picture(self, name: str, side_px: int) -> Path:
        """Return a file with a made-up picture: waves and noise, the same for the same name."""
        file = self.folder / f"{name}-{side_px}.pt"
        if not file.exists():
            generator = torch.Generator().manual_seed(len(name))
            steps = torch.linspace(0, 20, side_px)
            waves = 0.5 + 0.2 * (steps[:, None].sin() + steps[None].cos())
            noise = torch.rand(1, 3, side_px, side_px, generator=generator)
            torch.save((0.7 * waves + 0.3 * noise).clamp(0, 1), file)
        return file

    def _seeded_weights(self) -> Path:
        network = seeded("vgg19", 64, 0, "caffe")
        parameters = {}
        for index, layer in enumerate(network.layers):
            if layer.weight is not None and layer.bias is not None:
                parameters[f"features.{index}.weight"] = layer.weight.contiguous()
                parameters[f"features.{index}.bias"] = layer.bias
        torch.save(parameters, self.folder / "weights.pth")
        return self.folder / "weights.pth"

    def _run(self, script: str, side_px: int, *arguments: str) -> Answer:
        pictures = ("--content", self.picture("content", side_px), "--style", self.picture("style", side_px))
        command = [sys.executable, HERE / script, "--weights", self.weights, *pictures, *arguments]
        environment = os.environ | {"PYTHONPATH": str(HERE.parent)}
        done = subprocess.run(
            [*map(str, command)], env=environment, stdout=subprocess.PIPE, text=True, check=True
        )
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer


def rounds(count: int, contestants: Contestants) -> dict[str, list[Answer]]:
    """Run all contestants in turn, several times."""
    answers: dict[str, list[Answer]] = {name: [] for name in contestants}
    for number in range(count):
        for name, run in contestants.items():
            answers[name].append(run())
            print(f"round {number + 1}, {name}: {answers[name][-1]['seconds']:.3f} s", flush=True)
    return answers


def ratios(answers: dict[str, list[Answer]], name: str, base: str) -> list[float]:
    """Return the ratio of the seconds in each round."""
    pairs = zip(answers[name], answers[base], strict=True)
    return [one["seconds"] / other["seconds"] for one, other in pairs]


def median(runs: list[Answer], key: str) -> float:
    """Return the median of a figure over the rounds."""
    return statistics.median(run[key] for run in runs)


def sizes(bench: Bench) -> list[str]:
    """Compare the engine with Gatys' loop at several sizes."""
    lines = [
        "| side | contestant | one evaluation | ratio (min to max) | peak memory | of the convolution peak |",
        "|---|---|---|---|---|---|",
    ]
    peaks: dict[str, list[float]] = {precision: [] for precision in precisions("cpu")}
    for side_px in bench.options.sizes:
        contestants: dict[str, Callable[[], Answer]] = {LOOP: lambda side=side_px: bench.gatys(side)}
        for precision, measured in peaks.items():
            measured.append(bench.peak(precision))
            contestants[precision] = lambda side=side_px, precision=precision: bench.engine(
                side, "whole", "--precision", precision
            )
        answers = rounds(bench.options.rounds, contestants)
        for name, runs in answers.items():
            part = ""
            if name in peaks:
                rate = median(runs, "operations") / median(runs, "seconds")
                part = f"{rate / max(peaks[name]):.0%}"
            lines.append(
                f"| {side_px} px | {name} | {median(runs, 'seconds'):.2f} s "
                f"| {spread(ratios(answers, name, LOOP))} "
                f"| {median(runs, 'memory_bytes') / 2**20:.0f} MiB | {part} |"
            )
    found = ", ".join(f"{max(rates) / 1e9:.0f} GFLOP/s {name}" for name, rates in peaks.items())
    return [*lines, "", f"Convolutions alone reach {found} here."]


def tiles(bench: Bench) -> list[str]:
    """Compare tiles with one piece: graphs kept, and computed twice."""
    side_px = bench.options.tiled_size
    contestants: dict[str, Callable[[], Answer]] = {"one piece": lambda: bench.engine(side_px, "whole")}
    for tile_px in bench.options.tiles:
        for engine in ("resident", "recomputed"):
            contestants[f"{tile_px} px, {engine}"] = lambda engine=engine, tile=tile_px: bench.engine(
                side_px, engine, "--tile", tile, "--evaluations", 2
            )
    answers = rounds(bench.options.rounds, contestants)
    lines = [
        f"| tiles of {side_px} px | time (min to max) | work | work of an inner tile | peak memory |",
        "|---|---|---|---|---|",
    ]
    for name, runs in answers.items():
        tile_px = name.partition(" ")[0]
        known = (
            f"{INNER_WORK[int(tile_px)]:.2f}" if tile_px.isdecimal() and int(tile_px) in INNER_WORK else ""
        )
        lines.append(
            f"| {name} | {spread(ratios(answers, name, 'one piece'))} | {median(runs, 'work'):.2f} | {known} "
            f"| {median(runs, 'memory_bytes') / 2**20:.0f} MiB |"
        )
    return lines


def members(bench: Bench) -> list[str]:
    """Let several members, one thread each, share the tiles of a picture; count what they send."""
    side_px, tile_px = bench.options.tiled_size, bench.options.member_tile
    tiled = ("--tile", tile_px, "--evaluations", 2)
    answers = rounds(
        bench.options.rounds,
        {
            f"{count}": lambda count=count: bench.engine(
                side_px, "resident", *tiled, "--members", count, threads=1
            )
            for count in (1, 2, 4)
        },
    )
    lines = [
        f"| members, {side_px} px in tiles of {tile_px} | time (min to max) | pixels sent | sums sent |",
        "|---|---|---|---|",
    ]
    for name, runs in answers.items():
        lines.append(
            f"| {name} | {spread(ratios(answers, name, '1'))} "
            f"| {median(runs, 'pixels_bytes') / 1e6:.2f} MB | {median(runs, 'sums_bytes') / 1e6:.2f} MB |"
        )
    return lines


def errors(bench: Bench, device: str) -> list[str]:
    """Compare gradients in lower precision with float64, at a small size."""
    side_px = 256

    def gradient(precision: str) -> tuple[float, torch.Tensor]:
        file = bench.folder / f"gradient-{precision}.pt"
        more = ("--precision", precision, "--device", device, "--gradient", file)
        answer = bench.engine(side_px, "whole", *more)
        return answer["loss"], torch.load(file, weights_only=True)

    true_loss, true = gradient("fp64")
    lines = [f"| against float64, {side_px} px, {device} | loss | gradient, L2 |", "|---|---|---|"]
    for precision in ("fp32", "bf16") if device == "cpu" else ("fp32", "tf32", "bf16"):
        loss, found = gradient(precision)
        off = float((found - true).norm() / true.norm())
        lines.append(f"| {precision} | {abs(loss / true_loss - 1):.1e} | {off:.1e} |")
    return lines


def accelerator(bench: Bench) -> list[str]:
    """Measure a GPU: seconds of an evaluation by size, and the largest picture in one piece."""
    lines = ["| side | precision | one evaluation | peak memory |", "|---|---|---|---|"]
    largest: dict[str, int] = {}
    for precision in ("fp32", "tf32", "bf16"):
        more = ("--precision", precision, "--device", "cuda")
        for side_px in (512, 1024, 2048, 4096, 5120, 6144, 7168, 8192, 10240, 12288, 16384):
            try:
                answer = bench.engine(side_px, "whole", *more)
            except subprocess.CalledProcessError:
                break  # out of memory: the traceback is on the terminal
            largest[precision] = side_px
            memory = answer["memory_bytes"] / 2**30
            lines.append(f"| {side_px} px | {precision} | {answer['seconds']:.3f} s | {memory:.1f} GiB |")
    found = ", ".join(f"{side_px} px in {precision}" for precision, side_px in largest.items())
    return [*lines, "", f"Largest in one piece of those tried: {found}.", "", *errors(bench, "cuda")]


def through_farm(bench: Bench) -> list[str]:
    """Compare renders through a farm with Gatys' loop: what an iteration more costs."""
    options = bench.options
    side_px, few, many = options.farm_size, options.few, options.many
    lines = ["| through the farm | an iteration | ratio (min to max) |", "|---|---|---|"]
    files = bench.picture("content", side_px), bench.picture("style", side_px)
    with FarmContest(bench.folder, bench.weights, files, options.threads) as farm:
        contestants: dict[str, Callable[[], Answer]] = {
            LOOP: lambda: {"seconds": bench.gatys(side_px, many, few)["marginal_s"]}
        }
        for precision in precisions("cpu"):
            contestants[precision] = lambda precision=precision: {
                "seconds": farm.marginal_s(precision, side_px, few, many)
            }
        answers = rounds(options.rounds, contestants)
    for name, runs in answers.items():
        ratio = spread(ratios(answers, name, LOOP))
        lines.append(f"| {name}, {side_px} px | {median(runs, 'seconds'):.2f} s | {ratio} |")
    return [*lines, "", f"Iterations {few + 1} to {many}, with the optimizer, checkpoints and all."]


PARTS: dict[str, Callable[[Bench], list[str]]] = {
    "sizes": sizes,
    "tiles": tiles,
    "members": members,
    "errors": lambda bench: errors(bench, "cpu"),
    "farm": through_farm,
    "gpu": accelerator,
}


def main() -> None:
    """Measure and print; `--save FILE` keeps the tables."""
    usual = [part for part in PARTS if part != "gpu" or torch.cuda.is_available()]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=usual)
    parser.add_argument("--through-farm", action="store_const", const=["farm"], dest="parts")
    parser.add_argument(
        "--weights", type=Path, help="of a VGG-19 by torch, Caffe's family, `features.0.weight`"
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 512, 768, 1024])
    parser.add_argument("--tiled-size", type=int, default=1024, help="side of the picture in tiles, px")
    parser.add_argument("--tiles", type=int, nargs="+", default=[256, 512, 1024], help="sides of tiles, px")
    parser.add_argument("--member-tile", type=int, default=512)
    parser.add_argument("--farm-size", type=int, default=512)
    parser.add_argument("--few", type=int, default=4, help="iterations of the shorter render")
    parser.add_argument("--many", type=int, default=24, help="iterations of the longer render")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--save", type=Path, help="append the tables to this file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fb-") as folder:
        bench = Bench(Path(folder), options)
        heading = (
            f"{described('stylefarm', 'torch', 'ray')}; {options.threads} threads, {options.rounds} rounds"
        )
        text = "\n\n".join(["", heading, *("\n".join(PARTS[part](bench)) for part in options.parts), ""])
    print(text)
    if options.save:
        with options.save.open("a") as file:
            file.write(text)


if __name__ == "__main__":
    main()
