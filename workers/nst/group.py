"""What an algorithm needs of the other workers that run it: a Protocol, and the group of one."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class Group(Protocol):
    """Workers that run one program in lockstep. Every member calls the same methods in the same order."""

    rank: int
    size: int

    def exchange(self, outgoing: dict[int, Tensor]) -> dict[int, Tensor]:
        """Send one tensor to each neighbor by rank; return what the neighbors sent here."""
        ...

    def reduce(self, tensor: Tensor) -> Tensor:
        """Return the sum of the members' tensors (same shape and dtype everywhere), the same bits on all."""
        ...

    def broadcast(self, tensor: Tensor, source: int = 0) -> Tensor:
        """Return the tensor of the member with rank `source`."""
        ...


class Alone:
    """The group of one worker."""

    rank = 0
    size = 1

    def exchange(self, outgoing: dict[int, Tensor]) -> dict[int, Tensor]:
        """Return nothing: there are no neighbors.

        Raises:
            ValueError: If something is to be sent.
        """
        if outgoing:
            raise ValueError(f"a group of one has no members {sorted(outgoing)}")
        return {}

    def reduce(self, tensor: Tensor) -> Tensor:
        """Return the tensor itself."""
        return tensor

    def broadcast(self, tensor: Tensor, source: int = 0) -> Tensor:
        """Return the tensor itself.

        Raises:
            ValueError: If `source` is not this only member.
        """
        if source != 0:
            raise ValueError(f"a group of one has no member {source}")
        return tensor
