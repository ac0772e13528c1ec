"""How this process keeps memory."""

from __future__ import annotations

import ctypes
import logging
from functools import cache
from pathlib import Path

import psutil

log = logging.getLogger(__name__)

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
_KEPT_BYTES = (1 << 31) - 1
_LARGEST_KEPT_BLOCK_BYTES = 256 << 20
"""Larger blocks go back to the kernel at once: kept ones would fragment and double the peak."""

_CGROUP = Path("/sys/fs/cgroup")
_LIBC = ctypes.CDLL(None)


@cache
def device_bytes(device: str, share: float = 1.0) -> int:
    """Return all memory of a device: a GPU's own, else that of the machine or of the container it is in.

    Args:
        device: `cpu` or `cuda`.
        share: Part of a GPU that is meant.
    """
    if device != "cpu":
        import torch

        return int(share * torch.cuda.get_device_properties(device).total_memory)
    machine_bytes = int(psutil.virtual_memory().total)
    try:
        limit = (_CGROUP / "memory.max").read_text().strip()
    except OSError:  # no container, or one of the older kind
        return machine_bytes
    return min(machine_bytes, int(limit)) if limit.isdecimal() else machine_bytes


def free_bytes(device: str) -> int:
    """Return the memory that can still be taken on a device.

    Args:
        device: `cpu` or `cuda`, `cuda:0`.
    """
    if device != "cpu":
        import torch

        taken_bytes = torch.cuda.memory_allocated(device)
        kept_bytes = torch.cuda.memory_reserved(device) - taken_bytes
        own_bytes = device_bytes(device, torch.cuda.get_per_process_memory_fraction())
        return int(min(torch.cuda.mem_get_info(device)[0] + kept_bytes, own_bytes - taken_bytes))
    available_bytes = int(psutil.virtual_memory().available)
    try:  # a container's own limit, where there is one
        limit = (_CGROUP / "memory.max").read_text().strip()
        used_bytes = int((_CGROUP / "memory.current").read_text())
        statistics = dict(line.split() for line in (_CGROUP / "memory.stat").read_text().splitlines())
    except OSError:
        return available_bytes
    if limit == "max":
        return available_bytes
    return min(available_bytes, int(limit) - used_bytes + int(statistics.get("inactive_file", 0)))


def return_memory(device: str) -> None:
    """Give back what allocators keep for later: theirs is tuned to keep nearly everything."""
    if device != "cpu":
        import torch

        torch.cuda.empty_cache()
    elif hasattr(_LIBC, "malloc_trim"):  # glibc
        _LIBC.malloc_trim(0)


def tune_allocator() -> None:
    """Let glibc keep the memory of freed tensors for the next picture, instead of giving it back each time.

    A network allocates and frees the same large blocks for every picture; giving them back to the kernel and
    faulting them in again costs a third of the time on a CPU (`docs/adr/0006-allocator.md`). One arena, since
    only the main one can hold such blocks. Where there is no glibc, nothing is changed.
    """
    try:
        mallopt = _LIBC.mallopt
    except AttributeError:
        log.info("no mallopt here: the allocator stays as it is")
        return
    for option, value in (
        (_M_ARENA_MAX, 1),
        (_M_MMAP_THRESHOLD, _LARGEST_KEPT_BLOCK_BYTES),
        (_M_TRIM_THRESHOLD, _KEPT_BYTES),
    ):
        if not mallopt(option, value):
            log.info("mallopt(%d) was refused", option)
