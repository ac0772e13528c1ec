"""A kind of work that takes and frees a large block again and again; named in FARM_KINDS.

Its result says how often the kernel had to give a page for it, once the allocator has got used to it.
"""

from __future__ import annotations

import resource
from typing import Any

from jobs.tasks import TaskMessage
from workers.kinds import Context, Kind, Produced, register

KIND = "blocks"
BLOCK_BYTES = 96 << 20  # more than any but the main arena can hold
FIRST, THEN = 12, 5


def run(_task: TaskMessage, context: Context) -> dict[str, Any]:
    """Take the blocks, and make an empty file of each item."""
    import torch

    def faults() -> int:
        torch.ones(BLOCK_BYTES, dtype=torch.uint8)
        return resource.getrusage(resource.RUSAGE_THREAD).ru_minflt

    for item, _ in context.read_ahead():
        context.finish_item(item, lambda: Produced(b""))
    counts = [faults() for _ in range(FIRST + THEN)]
    return {"faults": counts[-1] - counts[FIRST - 1]}


register(Kind(KIND, run))
