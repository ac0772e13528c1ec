"""How this process keeps memory."""

from __future__ import annotations

import ctypes
import logging

log = logging.getLogger(__name__)

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
_KEPT_BYTES = (1 << 31) - 1
_LARGEST_KEPT_BLOCK_BYTES = 256 << 20
"""Larger blocks go back to the kernel at once: kept ones would fragment and double the peak."""


def tune_allocator() -> None:
    """Let glibc keep the memory of freed tensors for the next picture, instead of giving it back each time.

    A network allocates and frees the same large blocks for every picture; giving them back to the kernel and
    faulting them in again costs a third of the time on a CPU (`docs/adr/0006-allocator.md`). One arena, since
    only the main one can hold such blocks. Where there is no glibc, nothing is changed.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        log.info("no mallopt here: the allocator stays as it is")
        return
    for option, value in (
        (_M_ARENA_MAX, 1),
        (_M_MMAP_THRESHOLD, _LARGEST_KEPT_BLOCK_BYTES),
        (_M_TRIM_THRESHOLD, _KEPT_BYTES),
    ):
        if not mallopt(option, value):
            log.info("mallopt(%d) was refused", option)
