"""Makes trouble in worker processes; named in FARM_KINDS, beside the toy kind of work.

The file that WORKER_TROUBLE names says what happens when the device is prepared, which is when a worker has
joined: `raise`, or `exit`.
"""

from __future__ import annotations

import os
from pathlib import Path

from workers import worker

_prepare_device = worker._prepare_device


def prepare_device(options: worker.WorkerOptions) -> None:
    """Prepare the device, or make the trouble that is ordered."""
    orders = Path(os.environ["WORKER_TROUBLE"])
    trouble = orders.read_text() if orders.is_file() else ""
    if trouble == "exit":
        os._exit(9)
    if trouble == "raise":
        raise RuntimeError("the device is gone")
    _prepare_device(options)


worker._prepare_device = prepare_device
