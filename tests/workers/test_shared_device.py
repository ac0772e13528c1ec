"""Several workers on one GPU: none takes the memory of another."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

HALF = """
import torch
from workers.memory import device_bytes, free_bytes
from workers.worker import WorkerOptions, _prepare_device

_prepare_device(WorkerOptions("w1", "cuda", share=0.5))
whole = device_bytes("cuda")
print(device_bytes("cuda", 0.5) == whole // 2, free_bytes("cuda") <= whole // 2)
kept = torch.empty(whole // 4, dtype=torch.uint8, device="cuda")
print(free_bytes("cuda") <= whole // 4)
try:
    torch.empty(whole // 2, dtype=torch.uint8, device="cuda")
except torch.OutOfMemoryError:
    print("no more")
"""


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA device")
def test_a_worker_takes_no_more_of_its_gpu_than_its_share() -> None:
    """In a process of its own: the limit is one of the whole process."""
    done = subprocess.run(
        [sys.executable, "-c", HALF],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split("\n")[:3] == ["True True", "True", "no more"]
