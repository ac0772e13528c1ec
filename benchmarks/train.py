"""Training a style: the trainer against the loop of pytorch/examples at equal settings, and several at once.

`make bench-train` runs it. Every contestant is a process of its own with the same threads, weights, picture
and batch; rounds are interleaved, and ratios are taken round by round: absolute times say little on shared
machines. Weights are seeded unless a file is named (speed does not depend on their values), so nothing is
downloaded.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from hardware import described, precisions, spread

from workers.nst.features import seeded

HERE = Path(__file__).parent

Answer = dict[str, float]

LOOP = "pytorch/examples"


class Bench:
    """Starts contestants over the same picture and weights."""

    def __init__(self, folder: Path, options: argparse.Namespace) -> None:
        self.folder = folder
        self.options = options
        self.weights = options.weights or self._seeded_weights()

    def run(self, script: str, *arguments: object) -> Answer:
        """Run a contestant and return its figures."""
        files = {"weights": self.weights, "content": self._picture(0), "style": self._picture(1)}
        command: list[object] = [sys.executable, HERE / script, *arguments]
        for name, file in files.items():
            command += [f"--{name}", file]
        for name in ("batch", "width", "threads"):
            command += [f"--{name}", getattr(self.options, name)]
        environment = os.environ | {"PYTHONPATH": str(HERE.parent)}
        done = subprocess.run(
            [*map(str, command)], env=environment, stdout=subprocess.PIPE, text=True, check=True
        )
        answer: Answer = json.loads(done.stdout)
        return answer

    def engine(self, precision: str, *arguments: object) -> Answer:
        """Run the trainer."""
        return self.run(
            "training_run.py", "--precision", precision, "--device", self.options.device, *arguments
        )

    def _picture(self, seed: int) -> Path:
        file = self.folder / f"picture-{seed}.pt"
        if not file.exists():
            generator = torch.Generator().manual_seed(seed)
            side = self.options.side
            steps = torch.linspace(0, 20, side)
            waves = 0.5 + 0.2 * (steps[:, None].sin() + steps[None].cos())
            noise = torch.rand(1, 3, side, side, generator=generator)
            torch.save((0.7 * waves + 0.3 * noise).clamp(0, 1), file)
        return file

    def _seeded_weights(self) -> Path:
        network = seeded("vgg16", 64, 0, "torchvision")
        parameters = {}
        for index, layer in enumerate(network.layers):
            if layer.weight is not None and layer.bias is not None:
                parameters[f"features.{index}.weight"] = layer.weight.contiguous()
                parameters[f"features.{index}.bias"] = layer.bias
        torch.save(parameters, self.folder / "weights.pth")
        return self.folder / "weights.pth"


def table(bench: Bench) -> list[str]:
    """Run all contestants in turn, several times, and return the table."""
    options = bench.options
    contestants: dict[str, Callable[[], Answer]] = {
        LOOP: lambda: bench.run("examples_training.py"),
    }
    measured = precisions(options.device)
    for precision in measured:
        contestants[precision] = lambda precision=precision: bench.engine(precision)
    contestants[f"{measured[-1]}, {options.styles} styles at once"] = lambda: bench.engine(
        measured[-1], "--styles", options.styles
    )
    peaks = {precision: bench.engine(precision, "--peak")["peak"] for precision in measured}
    answers: dict[str, list[Answer]] = {name: [] for name in contestants}
    for number in range(options.rounds):
        for name, run in contestants.items():
            answers[name].append(run())
            print(f"round {number + 1}, {name}: {answers[name][-1]['seconds']:.3f} s", flush=True)
    setting = f"{options.side} px, batch {options.batch}, base width {options.width}"
    lines = [
        f"| {setting} | one step | ratio (min to max) | peak memory | of the convolution peak |",
        "|---|---|---|---|---|",
    ]
    for name, runs in answers.items():
        seconds = statistics.median(run["seconds"] for run in runs)
        memory = statistics.median(run["memory_bytes"] for run in runs) / 2**20
        pairs = zip(runs, answers[LOOP], strict=True)
        ratio = spread([one["seconds"] / other["seconds"] for one, other in pairs])
        part = f"{runs[0]['operations'] / seconds / peaks[name]:.0%}" if name in peaks else ""
        lines.append(f"| {name} | {seconds:.2f} s | {ratio} | {memory:.0f} MiB | {part} |")
    found = ", ".join(f"{rate / 1e9:.0f} GFLOP/s {name}" for name, rate in peaks.items())
    return [*lines, "", f"Convolutions alone reach {found} here."]


def main() -> None:
    """Measure and print; `--save FILE` keeps the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=Path, help="of a VGG-16 by torch, torchvision's keys")
    parser.add_argument("--side", type=int, default=256, help="of the photographs, px")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--width", type=int, default=32, help="base width of the network")
    parser.add_argument("--styles", type=int, default=2, help="trained at once in the last contest")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--save", type=Path, help="append the table to this file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fb-") as folder:
        lines = table(Bench(Path(folder), options))
    heading = f"{described('stylefarm', 'torch')}; {options.threads} threads, {options.rounds} rounds"
    text = "\n".join(["", heading, "", *lines, ""])
    print(text)
    if options.save:
        with options.save.open("a") as file:
            file.write(text)


if __name__ == "__main__":
    main()
