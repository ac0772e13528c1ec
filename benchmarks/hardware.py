"""What a benchmark ran on, and how much memory and arithmetic it took."""

from __future__ import annotations

import os
import platform
import resource
import statistics
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor

from workers.precision import computes_in_bf16

SHAPES = ((64, 512), (128, 256), (256, 128), (512, 64))
"""Channels and side of the convolutions that take most of the time of a VGG at 512 px."""


def described(*packages: str) -> str:
    """Return date, processor, device, and versions of Python and of packages, for a table's heading."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next((line.split(":")[1].strip() for line in lines if "model name" in line), platform.machine())
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    versions = ", ".join(f"{name} {version(name)}" for name in packages)
    return (
        f"{datetime.now(UTC):%Y-%m-%d}, {cpu}, {os.cpu_count()} cores, {device}, "
        f"Python {platform.python_version()}, {versions}"
    )


def precisions(device: str) -> list[str]:
    """Return the precisions worth measuring: a CPU that imitates bf16 takes many times as long."""
    return ["fp32", "bf16"] if device != "cpu" or computes_in_bf16() else ["fp32"]


def convolution_peak(dtype: torch.dtype, device: str) -> float:
    """Return the operations a second of the fastest large convolution of a VGG, forward or backward."""
    best = 0.0
    for channels, side_px in SHAPES:
        shape = (1, channels, side_px, side_px)
        features, gradient = (channels_last(torch.randn(shape, device=device).to(dtype)) for _ in range(2))
        weight = channels_last(torch.randn(channels, channels, 3, 3, device=device).to(dtype))
        operations = 2 * 9 * channels**2 * side_px**2
        with torch.no_grad():
            forward = fastest_s(lambda x=features, w=weight: torch.conv2d(x, w, padding=1), device)
            backward = fastest_s(
                lambda x=features, w=weight, g=gradient: torch.nn.grad.conv2d_input(x.shape, w, g, padding=1),
                device,
            )
        best = max(best, operations / min(forward, backward))
    return best


def fastest_s(run: Callable[[], object], device: str, times: int = 5) -> float:
    """Return the shortest of some runs, the first left out."""
    run()
    return min(timed_s(run, device) for _ in range(times))


def timed_s(run: Callable[[], object], device: str) -> float:
    """Return how long a run took, until a device has finished it."""
    _finish(device)
    began = time.perf_counter()
    run()
    _finish(device)
    return time.perf_counter() - began


def peak_bytes(device: str) -> int:
    """Return the most memory that this process had at a time: of the device, or of the host for a CPU."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def channels_last(tensor: Tensor) -> Tensor:
    """Return the tensor in the layout in which convolutions are fastest."""
    return tensor.contiguous(memory_format=torch.channels_last)


def spread(values: Sequence[float]) -> str:
    """Return the median, with the smallest and largest behind it."""
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def _finish(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()
