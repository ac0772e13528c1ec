"""A folder of photos: the farm, a plain PyTorch loop, and one process per picture, in one table.

Rates are marginal: two folder sizes, and the difference of pictures over the difference of seconds, so that
start-up does not hide in them. Rounds are interleaved; medians are shown. All contestants get the same number
of threads, the same weights (seeded, so nothing is downloaded: speed does not depend on their values) and
write JPEG at quality 95. Run it with nothing else on the machine: `make bench`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self

import numpy as np
import psutil
import torch
from PIL import Image

from workers.nst.transformer import TransformerNet

HERE = Path(__file__).parent
FARM = [sys.executable, "-m", "farm"]


@dataclass(frozen=True)
class Run:
    """One measured run over a number of pictures."""

    pictures: int
    seconds: float
    waited_s: float
    memory_bytes: int


class Peak:
    """The most memory that a process held while this was watching."""

    def __init__(self, pid: int) -> None:
        self._process = psutil.Process(pid)
        self._over = threading.Event()
        self.memory_bytes = 0
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(0.05):
            self.memory_bytes = max(self.memory_bytes, self._process.memory_info().rss)


class Bench:
    """The contestants, over the same photos."""

    def __init__(self, folder: Path, options: argparse.Namespace) -> None:
        self.folder = folder
        self.options = options
        self.weights = folder / "weights.pth"
        torch.manual_seed(0)
        torch.save(TransformerNet(width=options.width).state_dict(), self.weights)
        self.photos = make_photos(folder / "photos", options.photos, options.size, options.many)
        self.environment = os.environ | {
            f"XDG_{name}_HOME": str(folder / name.lower()) for name in ("DATA", "CONFIG", "STATE", "CACHE")
        }
        self._number = 0

    def farm(self, *arguments: str) -> str:
        """Run a command of the farm and return what it printed."""
        done = subprocess.run(
            [*FARM, *arguments], env=self.environment, capture_output=True, text=True, check=True
        )
        return done.stdout

    def start_farm(self) -> None:
        """Start a farm of one worker that holds the style."""
        add = ("styles", "add", str(self.weights), "--name", "bench", "--format", "pytorch-examples")
        self.farm(*add)
        self.farm("up", "--workers", "1", "--threads", str(self.options.threads))
        self.run_farm(self.photos[:1])

    def fresh(self, name: str) -> Path:
        """Return a folder that is not there yet."""
        self._number += 1
        return self.folder / f"{name}-{self._number}"

    def run_farm(self, photos: list[Path], precision: str = "fp32") -> Run:
        """Let the farm render the photos; the farm is warm."""
        workers = json.loads(self.farm("workers", "--json"))["workers"]
        output = self.fresh("farm")
        began = time.perf_counter()
        arguments = [
            "render",
            *map(str, photos),
            "--style",
            "bench",
            "--output",
            str(output),
            "--quality",
            "95",
        ]
        if not workers:
            self.farm(*arguments)
            return Run(len(photos), 0.0, 0.0, 0)
        with Peak(workers[0]["pid"]) as peak:
            self.farm(*arguments, "--precision", precision)
        seconds = time.perf_counter() - began
        report = json.loads((output / ".farm/report.json").read_text())
        return Run(len(photos), seconds, report["waited_s"], peak.memory_bytes)

    def run_plain(self, photos: list[Path], *more: str) -> Run:
        """Render the photos with the plain loop, in one process."""
        command = [
            *(sys.executable, str(HERE / "plain_loop.py"), "--weights", str(self.weights)),
            *("--output", str(self.fresh("plain")), "--threads", str(self.options.threads), *more),
            *map(str, photos),
        ]
        began = time.perf_counter()
        said = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, check=True
        ).stdout
        seconds = time.perf_counter() - began
        answer: dict[str, Any] = json.loads(said)
        return Run(len(photos), seconds, answer["waited_s"], answer["memory_bytes"])

    def run_processes(self, photos: list[Path]) -> Run:
        """Render each photo in a process of its own, as the command line of pytorch/examples does."""
        began = time.perf_counter()
        runs = [self.run_plain([photo]) for photo in photos]
        seconds = time.perf_counter() - began
        waited_s = seconds - sum(run.seconds - run.waited_s for run in runs)
        return Run(len(photos), seconds, max(waited_s, 0.0), max(run.memory_bytes for run in runs))


def make_photos(folder: Path, source: Path | None, size_px: int, count: int) -> list[Path]:
    """Write `count` square photographs, cut from those in `source` or from the ones scikit-image ships."""
    folder.mkdir(parents=True)
    if source:
        pictures = [Image.open(path).convert("RGB") for path in sorted(source.rglob("*.jpg"))]
    else:
        from skimage import data

        pictures = [Image.fromarray(array) for array in (data.astronaut(), data.coffee(), data.rocket())]
    dice = np.random.default_rng(0)
    photos = []
    for number in range(count):
        picture = pictures[number % len(pictures)]
        scale = max(1.0, size_px / min(picture.size)) * dice.uniform(1.0, 1.3)
        larger = picture.resize((round(picture.width * scale), round(picture.height * scale)))
        left = int(dice.integers(0, larger.width - size_px + 1))
        top = int(dice.integers(0, larger.height - size_px + 1))
        photos.append(folder / f"photo{number:03}.jpg")
        larger.crop((left, top, left + size_px, top + size_px)).save(photos[-1], quality=92)
    return photos


def marginal(few: Run, many: Run) -> dict[str, float]:
    """Return the rate between two sizes, and the share of that time in which the device waited."""
    seconds = many.seconds - few.seconds
    return {
        "images_per_s": (many.pictures - few.pictures) / seconds,
        "waited": max(0.0, many.waited_s - few.waited_s) / seconds,
        "memory_bytes": float(many.memory_bytes),
    }


def measure(bench: Bench, options: argparse.Namespace) -> dict[str, list[dict[str, float]]]:
    """Run all contestants in turn, `rounds` times."""
    few, many = bench.photos[: options.few], bench.photos
    few_alone, many_alone = bench.photos[:1], bench.photos[:3]
    contestants = {
        "farm, fp32": lambda: marginal(bench.run_farm(few), bench.run_farm(many)),
        "farm, bf16": lambda: marginal(bench.run_farm(few, "bf16"), bench.run_farm(many, "bf16")),
        "plain loop": lambda: marginal(bench.run_plain(few), bench.run_plain(many)),
        "plain loop, tuned allocator": lambda: marginal(
            bench.run_plain(few, "--allocator"), bench.run_plain(many, "--allocator")
        ),
        "one process per picture": lambda: marginal(
            bench.run_processes(few_alone), bench.run_processes(many_alone)
        ),
    }
    results: dict[str, list[dict[str, float]]] = {name: [] for name in contestants}
    for number in range(options.rounds):
        for name, contestant in contestants.items():
            results[name].append(contestant())
            rate = results[name][-1]["images_per_s"]
            print(f"round {number + 1}, {name}: {rate:.3f} images/s", flush=True)
    return results


def table(results: dict[str, list[dict[str, float]]]) -> str:
    """Return the medians as a Markdown table; ratios are taken round by round."""
    plain = [run["images_per_s"] for run in results["plain loop"]]
    lines = [
        "| contestant | images/s | ratio to the plain loop (min to max) | peak memory | device waited |",
        "|---|---|---|---|---|",
    ]
    for name, runs in results.items():
        ratios = [run["images_per_s"] / base for run, base in zip(runs, plain, strict=True)]
        rate, memory, waited = (
            statistics.median(run[key] for run in runs) for key in ("images_per_s", "memory_bytes", "waited")
        )
        ratio = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        lines.append(f"| {name} | {rate:.3f} | {ratio} | {memory / 2**20:.0f} MiB | {waited:.0%} |")
    return "\n".join(lines)


def latency(bench: Bench) -> str:
    """Return how long a warm farm takes from submit to the first result, beside the network's own time."""
    times = []
    for _ in range(5):
        output = bench.fresh("latency")
        began = time.perf_counter()
        bench.farm("submit", str(bench.photos[0]), "--style", "bench", "--output", str(output))
        while not list(output.glob("*.jpg")):
            time.sleep(0.005)
        times.append(time.perf_counter() - began)
    median_s = statistics.median(times)
    return f"Submit to first result on a warm farm, the command's own start included: {median_s:.2f} s."


def machine(options: argparse.Namespace) -> str:
    """Return what was measured on."""
    described = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next((line.split(":")[1].strip() for line in described if "model name" in line), platform.machine())
    packages = ", ".join(f"{name} {version(name)}" for name in ("stylefarm", "torch", "ray", "pillow"))
    return (
        f"{datetime.now(UTC):%Y-%m-%d}, {cpu}, {os.cpu_count()} cores, no GPU, "
        f"Python {platform.python_version()}, {packages}; {options.many} photos of {options.size} px "
        f"less {options.few}, width {options.width}, {options.threads} threads, {options.rounds} rounds"
    )


def main() -> None:
    """Measure and print; `--save FILE` keeps the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", type=Path, help="folder of JPEG photographs to cut from")
    parser.add_argument("--size", type=int, default=512, help="side of the photos, px")
    parser.add_argument("--few", type=int, default=16)
    parser.add_argument("--many", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--width", type=int, default=32, help="base width of the network")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--save", type=Path, help="append the table to this file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fb-") as folder:
        bench = Bench(Path(folder), options)
        bench.start_farm()
        try:
            results = measure(bench, options)
            text = f"\n{machine(options)}\n\n{table(results)}\n\n{latency(bench)}\n"
        finally:
            bench.farm("down")
    print(text)
    if options.save:
        with options.save.open("a") as file:
            file.write(text)


if __name__ == "__main__":
    main()
