"""The contestant of `optimize.py` that renders through a farm of its own, as a user would."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import torch
from PIL import Image

NETWORK = "vgg19-bench"


class FarmContest:
    """A farm of one worker over made-up pictures, up while this is open.

    Args:
        folder: For all that the farm keeps; it must be there.
        weights: Of a VGG-19 by torch, Caffe's family.
        pictures: Files with the content's and the style's tensor, `[1, 3, H, W]`, RGB in 0..1.
        threads: Of the worker.
    """

    def __init__(self, folder: Path, weights: Path, pictures: tuple[Path, Path], threads: int) -> None:
        self._folder = folder
        self._weights = weights
        self._content, self._style = (_as_png(file) for file in pictures)
        self._threads = threads
        self._jobs = 0
        self._environment = os.environ | {
            f"XDG_{name}_HOME": str(folder / name.lower()) for name in ("DATA", "CONFIG", "STATE", "CACHE")
        }

    def __enter__(self) -> Self:
        kind = ("--preprocessing", "caffe", "--architecture", "vgg19")
        self._farm("weights", "add", NETWORK, str(self._weights), *kind)
        self._farm("up", "--workers", "1", "--threads", str(self._threads))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._farm("down")

    def marginal_s(self, precision: str, side_px: int, few: int, many: int) -> float:
        """Return what an iteration takes: the difference of two renders, by their iterations.

        The first render of a precision loads the network, so there is one before both.
        """
        took = [self._render_s(precision, side_px, iterations) for iterations in (1, few, many)]
        return (took[2] - took[1]) / (many - few)

    def _render_s(self, precision: str, side_px: int, iterations: int) -> float:
        self._jobs += 1
        output = self._folder / f"out-{self._jobs}"
        recipe = ("--preset", "gatys", "--loss-network", NETWORK, "--precision", precision)
        lengths = ("--size", str(side_px), "--iterations", str(iterations), "--threads", str(self._threads))
        began = time.perf_counter()
        style = ("--style-image", str(self._style))
        self._farm("render", str(self._content), *style, *recipe, *lengths, "--output", str(output))
        return time.perf_counter() - began

    def _farm(self, *arguments: str) -> None:
        command = [sys.executable, "-m", "farm", *arguments]
        done = subprocess.run(command, env=self._environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"farm {' '.join(arguments)}\n{done.stdout}\n{done.stderr}")


def _as_png(file: Path) -> Path:
    rgb = torch.load(file, weights_only=True)[0]
    path = file.with_suffix(".png")
    Image.fromarray((rgb.permute(1, 2, 0) * 255).round().byte().numpy()).save(path)
    return path
