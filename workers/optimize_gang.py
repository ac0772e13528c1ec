"""What the members of a gang tell each other about a render, beside what the engine exchanges."""

from __future__ import annotations

import hashlib
import io
import os
import socket
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from workers.memory import device_bytes, free_bytes
from workers.nst.group import Group


@dataclass(frozen=True, slots=True)
class Members:
    """What a member knows of the gang.

    Attributes:
        here: How many members are on this host.
        memory_bytes: What this member's device has for it.
        least_memory_bytes: What the device of the member has that has least.
    """

    here: int
    memory_bytes: int
    least_memory_bytes: int


def survey(group: Group, device: str) -> Members:
    """Return what a member knows of the gang; those on CPUs of one host share its memory.

    Args:
        group: All members call this.
        device: Of this member: `cpu`, `cuda`, `cuda:0`.
    """
    own_bytes = min(device_bytes(device), free_bytes(device))
    digest = hashlib.sha256(f"{socket.gethostname()} {_boot()}".encode()).digest()
    table = torch.zeros(group.size, 2, dtype=torch.int64)
    table[group.rank] = torch.tensor([int.from_bytes(digest[:7], "big"), own_bytes])
    rows = [(host, memory_bytes) for host, memory_bytes in group.reduce(table).tolist()]
    sharing = Counter(host for host, _ in rows)
    shares = [memory // (sharing[host] if device == "cpu" else 1) for host, memory in rows]
    return Members(sharing[rows[group.rank][0]], shares[group.rank], min(shares))


def thread_count(wanted: int | None, given: int, here: int) -> int:
    """Return how many compute threads a member uses on a CPU.

    Args:
        wanted: By the job.
        given: To the worker when it was started.
        here: Members on this host, which share its cores.
    """
    return wanted or max(1, min(given, len(os.sched_getaffinity(0)) // here))


def agree(group: Group, flags: list[bool]) -> list[bool]:
    """Return the flags of member 0 on every member."""
    if group.size == 1:
        return flags
    return [bool(flag) for flag in group.broadcast(torch.tensor(flags, dtype=torch.uint8)).tolist()]


def tell(group: Group, words: Any) -> None:
    """Send plain values and tensors to the other members, which `hear` them."""
    if group.size > 1:
        group.broadcast(torch.frombuffer(bytearray(packed(words)), dtype=torch.uint8))


def hear(group: Group) -> Any:
    """Return what member 0 tells."""
    return unpacked(group.broadcast(torch.empty(0, dtype=torch.uint8)).numpy().tobytes())


def gather(group: Group, words: Any) -> list[Any]:
    """Return what each member says, by rank: plain values and tensors. All members call this."""
    if group.size == 1:
        return [words]
    said, nothing = (
        torch.frombuffer(bytearray(packed(words)), dtype=torch.uint8),
        torch.empty(0, dtype=torch.uint8),
    )
    heard = [
        group.broadcast(said if group.rank == source else nothing, source) for source in range(group.size)
    ]
    return [unpacked(each.numpy().tobytes()) for each in heard]


def packed(value: Any) -> bytes:
    """Return plain values and tensors as bytes."""
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()


def unpacked(data: bytes) -> Any:
    """Return what `packed` was given, tensors on the CPU; nothing in it is run.

    Raises:
        Exception: Of whatever class, if it is damaged or something else.
    """
    return torch.load(io.BytesIO(data), weights_only=True, map_location="cpu")


def _boot() -> str:
    """Return what tells machines of one name apart, such as containers."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except OSError:
        return ""
