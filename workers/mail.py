"""A group whose members send each other letters, however these travel: `farm.ray_group` carries them."""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from jobs.errors import FarmError

AttemptId: TypeAlias = tuple[int, int]
"""Number of a task, number of its attempt: each has mail of its own."""

Bytes: TypeAlias = NDArray[np.uint8]

_PART_BYTES = 16 << 20
"""Longer tensors go in several letters, so that what is on its way stays small."""

_LOOK_EVERY_S = 0.05
_EARLY_ATTEMPTS = 8
"""Attempts whose mail may be here before they are; that of older ones is given up."""

_CLOSED_ATTEMPTS = 256


@dataclass(frozen=True, slots=True)
class Letter:
    """What is written on a tensor, or a part of one, on its way to another member.

    Attributes:
        attempt: Whose members these are.
        sender: Rank of who sent it.
        number: How many letters that member had sent to this one before.
        call: Which call of the group it belongs to, as sender and number: equal on all members in step.
        parts: In how many letters the tensor comes.
        computed: Whether the tensor was on the device that computes, not in the memory beside it.
    """

    attempt: AttemptId
    sender: int
    number: int
    call: tuple[int, str]
    dtype: torch.dtype
    shape: tuple[int, ...]
    parts: int
    computed: bool


Post: TypeAlias = Callable[[Mapping[int, Letter], Bytes], None]
"""Sends the same content to members by rank, each in its own letter; done with the content on return."""


class MailRoom:
    """The letters that have come to a worker and have not been taken, by attempt."""

    def __init__(self) -> None:
        self._boxes: dict[AttemptId, dict[tuple[int, int], tuple[Letter, Bytes]]] = {}
        self._open: set[AttemptId] = set()
        self._closed: deque[AttemptId] = deque(maxlen=_CLOSED_ATTEMPTS)
        self._changed = threading.Condition()

    def open(self, attempt: AttemptId) -> None:
        """Keep the mail of an attempt, beside what has come before it.

        Raises:
            FarmError: If what came was given up: too many other attempts had early mail.
        """
        with self._changed:
            if attempt in self._closed:
                raise FarmError(f"mail of attempt {attempt[1]} of task {attempt[0]} is not kept any more")
            self._open.add(attempt)

    def close(self, attempt: AttemptId) -> None:
        """Forget the mail of an attempt, whether it is here or comes late."""
        with self._changed:
            self._open.discard(attempt)
            self._boxes.pop(attempt, None)
            if attempt not in self._closed:
                self._closed.append(attempt)

    def deliver(self, letter: Letter, content: Bytes) -> None:
        """Take in a letter; the content is copied, its memory belongs to whoever carried it."""
        own = content.copy()
        with self._changed:
            if letter.attempt in self._closed:
                return
            self._boxes.setdefault(letter.attempt, {})[letter.sender, letter.number] = (letter, own)
            early = [attempt for attempt in self._boxes if attempt not in self._open]
            for attempt in early[:-_EARLY_ATTEMPTS]:
                self.close(attempt)
            self._changed.notify_all()

    def take(
        self, attempt: AttemptId, sender: int, number: int, interrupted: Callable[[], None]
    ) -> tuple[Letter, Bytes]:
        """Wait for a letter and return it.

        Args:
            attempt: Whose mail it is.
            sender: Rank of who sends it.
            number: How many letters were taken from that member before.
            interrupted: Called every now and then while it has not come; may raise.
        """
        while True:
            with self._changed:
                # The box may not be there yet, or not any more.
                if self._changed.wait_for(
                    lambda: (sender, number) in self._boxes.get(attempt, {}), _LOOK_EVERY_S
                ):
                    return self._boxes[attempt].pop((sender, number))
            interrupted()

    def waiting(self) -> int:
        """Return how many letters are here."""
        with self._changed:
            return sum(map(len, self._boxes.values()))


class MailGroup:
    """One member of a group that talks by letters (`workers.nst.group.Group`).

    Sums are taken in the order of ranks, by every member for itself: the same bits on all, each time.

    Args:
        attempt: What the members run together.
        rank: Of this member.
        size: Number of members.
        room: Where letters to this member come in.
        post: Sends its letters.
        device: Where it computes; letters carry what is in memory.
        interrupted: Called while it waits for others, at least about every 50 ms; raises to end that.
    """

    def __init__(  # noqa: PLR0913 - who it is, and what it talks with
        self,
        attempt: AttemptId,
        rank: int,
        size: int,
        *,
        room: MailRoom,
        post: Post,
        device: torch.device,
        interrupted: Callable[[], None],
    ) -> None:
        self.rank = rank
        self.size = size
        self._attempt = attempt
        self._room = room
        self._post = post
        self._device = device
        self._interrupted = interrupted
        self._calls = 0
        self._sent = [0] * size
        self._taken = [0] * size

    def exchange(self, outgoing: dict[int, Tensor]) -> dict[int, Tensor]:
        """Send one tensor to each neighbor by rank; return what the neighbors sent here.

        Raises:
            ValueError: If a neighbor is not one of the other members, or the members are out of step, as when
                someone sends here who is sent nothing.
        """
        if not set(outgoing) <= set(self._others()):
            raise ValueError(f"member {self.rank} of {self.size} has no neighbors {sorted(outgoing)}")
        call = self._begin("exchange")
        for rank in filter(outgoing.__contains__, self._others()):
            self._send(call, [rank], outgoing[rank])
        return {rank: self._receive(call, rank) for rank in sorted(outgoing)}

    def reduce(self, tensor: Tensor) -> Tensor:
        """Return the sum of the members' tensors in the order of their ranks, the same bits on all.

        Raises:
            ValueError: If shapes or dtypes differ, or the members are out of step.
        """
        call = self._begin("reduce")
        self._send(call, self._others(), tensor)
        total: Tensor | None = None
        for rank in range(self.size):
            part = tensor.detach() if rank == self.rank else self._receive(call, rank)
            if part.dtype != tensor.dtype or part.shape != tensor.shape:
                raise ValueError(
                    f"member {rank} adds {part.dtype} {tuple(part.shape)} "
                    f"to {tensor.dtype} {tuple(tensor.shape)}"
                )
            total = part.clone() if total is None else total.add_(part.to(total.device))
        assert total is not None  # noqa: S101 - a group has members
        return total.to(tensor.device)

    def broadcast(self, tensor: Tensor, source: int = 0) -> Tensor:
        """Return the tensor of the member with rank `source`.

        Raises:
            ValueError: If there is no such member, or the members are out of step.
        """
        if not 0 <= source < self.size:
            raise ValueError(f"a group of {self.size} has no member {source}")
        call = self._begin("broadcast")
        if source != self.rank:
            return self._receive(call, source)
        self._send(call, self._others(), tensor)
        return tensor.detach().clone()

    def _others(self) -> list[int]:
        """Return the other members, the next one first: not everybody sends to the same one at once."""
        return [(self.rank + step) % self.size for step in range(1, self.size)]

    def _begin(self, operation: str) -> tuple[int, str]:
        self._interrupted()
        self._calls += 1
        return self._calls, operation

    def _send(self, call: tuple[int, str], ranks: Sequence[int], tensor: Tensor) -> None:
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        content: Bytes = flat.view(torch.uint8).numpy()
        parts = max(1, math.ceil(content.nbytes / _PART_BYTES))
        computed = tensor.device.type != "cpu"
        for part in range(parts):
            letters = {}
            for rank in ranks:
                number, self._sent[rank] = self._sent[rank], self._sent[rank] + 1
                letters[rank] = Letter(
                    self._attempt, self.rank, number, call, tensor.dtype, tuple(tensor.shape), parts, computed
                )
            self._post(letters, content[part * _PART_BYTES : (part + 1) * _PART_BYTES])

    def _receive(self, call: tuple[int, str], sender: int) -> Tensor:
        letter, content = self._take(call, sender)
        if letter.parts > 1:
            content = np.concatenate(
                [content, *(self._take(call, sender)[1] for _ in range(letter.parts - 1))]
            )
        if not content.size:  # bytes that are not there cannot be viewed as anything else
            tensor = torch.empty(letter.shape, dtype=letter.dtype)
        else:
            tensor = torch.from_numpy(content).view(letter.dtype).reshape(letter.shape)
        return tensor.to(self._device) if letter.computed else tensor

    def _take(self, call: tuple[int, str], sender: int) -> tuple[Letter, Bytes]:
        number, self._taken[sender] = self._taken[sender], self._taken[sender] + 1
        letter, content = self._room.take(self._attempt, sender, number, self._interrupted)
        if letter.call != call:
            raise ValueError(
                f"member {self.rank} is at call {call[0]} of its group, {call[1]}, and member {sender} "
                f"sends for call {letter.call[0]}, {letter.call[1]}: all call the same methods in the same "
                "order, and neighbors send to each other, if only an empty tensor"
            )
        return letter, content
