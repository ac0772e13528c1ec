"""What the machines of a farm offer a job: how many workers there can be, and what each of them has."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from farm.pool import Pool
from farm.running import WorkerRun
from jobs.schema import Mistake, refusal
from jobs.steps import Step
from jobs.tasks import WorkerReport

_FIRST_WORKER_S = 30.0
_LOOK_EVERY_S = 0.05


@dataclass(frozen=True, slots=True)
class Machine:
    """What a job may count on.

    Attributes:
        there: How many workers there are now.
        workers: How many there are, or may be.
        device: Of the workers: `cpu`, `cuda`; empty while there is none.
        memory_bytes: Of each worker's device at least, while as many share it as were asked about; 0 if that
            is not known.
    """

    there: int
    workers: int
    device: str
    memory_bytes: int


async def machine_of(workers: Mapping[str, WorkerRun], pool: Pool, wanted: int = 1) -> Machine:
    """Return what a job may count on that wants so many workers at once.

    A farm that has just been started may have no worker yet: the first one is waited for, for a while.
    """
    try:
        async with asyncio.timeout(_FIRST_WORKER_S):
            while not workers:  # noqa: ASYNC110 - it joins in this loop, and nobody else waits for it
                await asyncio.sleep(_LOOK_EVERY_S)
    except TimeoutError:
        return Machine(0, most_workers(workers, pool), "", 0)
    reports = [worker.report for worker in workers.values()]
    memory_bytes = least_memory_bytes(reports, wanted)
    return Machine(len(workers), most_workers(workers, pool), reports[0].device, memory_bytes)


def local_machine(together: int) -> Machine:
    """Return what a farm of this machine would offer that is started for so many workers at once."""
    import torch  # not where a farm only asks its workers

    from workers.memory import device_bytes

    if torch.cuda.is_available():
        return Machine(0, torch.cuda.device_count(), "cuda", device_bytes("cuda"))
    return Machine(0, together, "cpu", device_bytes("cpu") // together)


def most_workers(workers: Mapping[str, WorkerRun], pool: Pool) -> int:
    """Return how many workers there are, or may be."""
    return max(len(workers), pool.capacity())


def least_memory_bytes(reports: Sequence[WorkerReport], wanted: int = 1) -> int:
    """Return the memory of the worker that has least, 0 if that is not known.

    Workers on CPUs of one node share its memory evenly; those that have yet to come, to make up the number
    that is wanted, are spread over the nodes there are.
    """
    nodes = Counter(report.node for report in reports)
    spread = math.ceil(max(wanted, len(reports)) / max(1, len(nodes)))
    sharing = {node: max(here, spread) for node, here in nodes.items()}
    shares = (r.device_bytes // (sharing[r.node] if r.device == "cpu" else 1) for r in reports)
    return min(shares, default=0)


def refuse_large_gangs(steps: Iterable[Step], most: int) -> None:
    """Refuse steps that want more workers at once than there can be.

    Raises:
        ManifestError: Naming each of them.
    """
    mistakes = [
        Mistake(
            ("steps", number, "workers", "min"),
            f"{step.workers.min} workers at once are asked for, and this farm can have {most} "
            f"(ask for {most}, or start a farm with more: `farm up --workers`, or further machines)",
        )
        for number, step in enumerate(steps)
        if step.workers.min > most
    ]
    if mistakes:
        raise refusal(mistakes)
