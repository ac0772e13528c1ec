"""How members of a gang talk: letters as calls between Ray actors, against a gloo group of torch.distributed.

Both run in the same actors, one operation after the other, on the same tensors; gloo gets what suits it best:
receivers that know the shapes, its own ring for sums of integers, and for float64 a gather that is summed in
the order of ranks, as the farm needs it. Prints a table: medians over the calls of all members.
"""

from __future__ import annotations

import argparse
import os
import secrets
import socket
import statistics
import tempfile
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import ray
import torch
import torch.distributed as dist
from torch import Tensor

from farm.ray_group import RayGroups
from jobs.tasks import GangPlace, TaskMessage
from workers.memory import tune_allocator
from workers.nst.group import Group

MIB = 1 << 20


class GlooGroup:
    """A group over gloo (`workers.nst.group.Group`)."""

    def __init__(self, rank: int, size: int) -> None:
        self.rank = rank
        self.size = size

    def exchange(self, outgoing: dict[int, Tensor]) -> dict[int, Tensor]:
        """Send one tensor to each neighbor; what comes back has the same shape."""
        incoming = {rank: torch.empty_like(tensor) for rank, tensor in outgoing.items()}
        waiting = [dist.isend(tensor, rank) for rank, tensor in outgoing.items()]
        waiting += [dist.irecv(tensor, rank) for rank, tensor in incoming.items()]
        for work in waiting:
            if work is not None:
                work.wait()
        return incoming

    def reduce(self, tensor: Tensor) -> Tensor:
        """Return the sum, the same bits on all."""
        total = tensor.clone()
        if tensor.dtype == torch.int64:
            dist.all_reduce(total)
            return total
        parts = [torch.empty_like(tensor) for _ in range(self.size)]
        dist.all_gather(parts, tensor)
        total = parts[0]
        for part in parts[1:]:
            total = total + part
        return total

    def broadcast(self, tensor: Tensor, source: int = 0) -> Tensor:
        """Return the tensor of one member."""
        received = tensor.clone()
        dist.broadcast(received, source)
        return received


class Member:
    """One member, with both transports."""

    def __init__(self, rank: int, size: int) -> None:
        tune_allocator()
        torch.set_num_threads(1)
        self.rank, self.size = rank, size
        self.groups = RayGroups("cpu")

    @ray.method(concurrency_group="mail")
    def deliver(self, letter: Any, content: Any) -> None:
        """Take in a letter."""
        self.groups.deliver(letter, content)

    @ray.method(concurrency_group="render")
    def join(self, members: dict[str, Any], port: int) -> None:
        """Open both groups."""
        place = GangPlace(self.rank, tuple(members))
        message = TaskMessage("j", "s", 1, 1, "k", 60.0, "", {}, (), gang=place)
        self.groups.expect(message, members)
        self.letters = self.groups.open(message, place, lambda: None)
        store = f"tcp://127.0.0.1:{port}"
        dist.init_process_group(
            "gloo", init_method=store, rank=self.rank, world_size=self.size, timeout=timedelta(seconds=60)
        )
        self.gloo = GlooGroup(self.rank, self.size)

    @ray.method(concurrency_group="render")
    def measure(self, transport: str, operation: str, calls: int) -> tuple[list[float], bytes]:
        """Return the seconds of each call, and the bytes of the last result."""
        group: Group = self.letters if transport == "letters" else self.gloo
        call = OPERATIONS[operation](group)
        seconds, result = [], call()
        for _ in range(calls):
            group.reduce(torch.zeros(1, dtype=torch.int64))  # all begin together
            begin = time.perf_counter()
            result = call()
            seconds.append(time.perf_counter() - begin)
        return seconds, result.numpy().tobytes()


def _exchange(size_bytes: int) -> Callable[[Group], Callable[[], Tensor]]:
    def bind(group: Group) -> Callable[[], Tensor]:
        tensor = torch.arange(size_bytes // 4, dtype=torch.float32)
        neighbors = [rank for rank in (group.rank - 1, group.rank + 1) if 0 <= rank < group.size]
        return lambda: group.exchange(dict.fromkeys(neighbors, tensor))[neighbors[0]]

    return bind


def _reduce(size_bytes: int, dtype: torch.dtype) -> Callable[[Group], Callable[[], Tensor]]:
    def bind(group: Group) -> Callable[[], Tensor]:
        tensor = (torch.arange(size_bytes // 8) * (group.rank + 1)).to(dtype)
        return lambda: group.reduce(tensor)

    return bind


def _broadcast(size_bytes: int) -> Callable[[Group], Callable[[], Tensor]]:
    return lambda group: lambda: group.broadcast(torch.zeros(size_bytes // 8, dtype=torch.float64))


OPERATIONS = {
    "exchange 2 MiB with neighbors": _exchange(2 * MIB),
    "exchange 8 MiB with neighbors": _exchange(8 * MIB),
    "reduce 2.5 MB int64": _reduce(2_500_000, torch.int64),
    "reduce 5 KB float64": _reduce(5_000, torch.float64),
    "broadcast 5 MB float64": _broadcast(5_000_000),
}


def measure(size: int, calls: int, rounds: int) -> list[str]:
    """Return the lines of the table for a gang of so many members."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    actors: Any = ray.remote(num_cpus=0, concurrency_groups={"mail": 1, "render": 1})(Member)  # type: ignore[call-overload]
    members = {f"w{rank}": actors.remote(rank, size) for rank in range(size)}
    ray.get([member.join.remote(members, port) for member in members.values()])
    lines = []
    for operation in OPERATIONS:
        seconds: dict[str, list[float]] = {"letters": [], "gloo": []}
        results = {}
        for _ in range(rounds):
            for transport, taken in seconds.items():
                answers = ray.get(
                    [member.measure.remote(transport, operation, calls) for member in members.values()]
                )
                results[transport] = [result for _, result in answers]
                taken += [second for times, _ in answers for second in times]
        if results["letters"] != results["gloo"]:
            raise SystemExit(f"{operation}: the transports do not agree")
        ms = {transport: statistics.median(taken) * 1e3 for transport, taken in seconds.items()}
        lines.append(f"| {operation} | {size} | {ms['letters']:.2f} | {ms['gloo']:.2f} |")
    for member in members.values():
        ray.kill(member)
    return lines


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--members", type=int, nargs="+", default=[2, 3])
    parser.add_argument("--calls", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="sf-", dir="/tmp") as folder:
        os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
        ray.init(
            address="local",
            num_cpus=2,
            include_dashboard=False,
            object_store_memory=256 * MIB,
            log_to_driver=False,
            _temp_dir=folder,
        )
        lines = [line for size in options.members for line in measure(size, options.calls, options.rounds)]
        ray.shutdown()
    print("| operation | members | letters, ms | gloo, ms |\n|---|---|---|---|")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
