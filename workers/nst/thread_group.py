"""A group whose members are threads of one process: for tests, and for trying a program without a farm."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from torch import Tensor

from workers.nst.group import Group

Result = TypeVar("Result")


def run_together(size: int, program: Callable[[Group], Result], *, arrival_seed: int = 0) -> list[Result]:
    """Run a program in `size` threads that form a group; return what each member returned, by rank.

    Members arrive at every exchange in an order that is drawn anew, and a sum is taken in that order: a
    program whose result hangs on the order, or on the number of members, does not get the same one twice.

    Args:
        size: Number of members, at least 1.
        program: What every member runs.
        arrival_seed: Of the orders of arrival.

    Raises:
        ValueError: If `size` is below 1, or members do not call the same methods equally often.
        Exception: What the first member that failed raised; the others are ended.
    """
    if size < 1:
        raise ValueError(f"a group has at least one member, not {size}")
    meeting = _Meeting(size, random.Random(arrival_seed))  # noqa: S311 - orders, no secrets

    def run(rank: int) -> Result:
        try:
            result = program(ThreadGroup(rank, size, meeting))
        except BaseException as error:
            meeting.end(error)
            raise
        meeting.leave(rank)
        return result

    with ThreadPoolExecutor(size, thread_name_prefix="member") as pool:
        members = [pool.submit(run, rank) for rank in range(size)]
    if meeting.failure is not None:
        raise meeting.failure
    return [member.result() for member in members]


class ThreadGroup:
    """One member of a group of threads."""

    def __init__(self, rank: int, size: int, meeting: _Meeting) -> None:
        self.rank = rank
        self.size = size
        self._meeting = meeting

    def exchange(self, outgoing: dict[int, Tensor]) -> dict[int, Tensor]:
        """Send one tensor to each neighbor by rank; return what the neighbors sent here.

        Raises:
            ValueError: If someone sends here who is sent nothing, or the other way round.
        """
        sent = self._meeting.gather(self.rank, "exchange", outgoing)
        received = {rank: tensors[self.rank].clone() for rank, tensors in sent if self.rank in tensors}
        if received.keys() != outgoing.keys():
            raise ValueError(
                f"member {self.rank} sent to {sorted(outgoing)} and was sent to by {sorted(received)}: "
                "neighbors send to each other, if only an empty tensor"
            )
        return received

    def reduce(self, tensor: Tensor) -> Tensor:
        """Return the sum of the members' tensors, in their order of arrival, the same bits on all.

        Raises:
            ValueError: If shapes or dtypes differ.
        """
        (_, first), *others = self._meeting.gather(self.rank, "reduce", tensor)
        total: Tensor = first.clone()
        for rank, other in others:
            if other.shape != total.shape or other.dtype != total.dtype:
                raise ValueError(
                    f"member {rank} adds {other.dtype} {tuple(other.shape)} "
                    f"to {total.dtype} {tuple(total.shape)}"
                )
            total += other
        return total

    def broadcast(self, tensor: Tensor, source: int = 0) -> Tensor:
        """Return the tensor of the member with rank `source`.

        Raises:
            ValueError: If there is no such member.
        """
        if not 0 <= source < self.size:
            raise ValueError(f"a group of {self.size} has no member {source}")
        sent: dict[int, Tensor] = dict(self._meeting.gather(self.rank, "broadcast", tensor))
        return sent[source].clone()


class _Meeting:
    """Where the members of a group hand over what they have, one round after another."""

    def __init__(self, size: int, orders: random.Random) -> None:
        self.failure: BaseException | None = None
        self._orders = orders
        self._changed = threading.Condition()
        self._arrived: list[tuple[int, str, Any]] = []
        self._left = 0
        self._gone: list[int] = []
        self._order = list(range(size))
        orders.shuffle(self._order)

    def gather(self, rank: int, operation: str, value: Any) -> list[tuple[int, Any]]:
        """Return the rank and value of every member in order of arrival, once all are there."""
        size = len(self._order)
        with self._changed:
            self._wait(lambda: len(self._arrived) < size and self._order[len(self._arrived)] == rank)
            self._arrived.append((rank, operation, value))
            self._changed.notify_all()
            self._wait(lambda: len(self._arrived) == size)
            arrived = self._arrived
            operations = {called: member for member, called, _ in arrived}
            if len(operations) > 1:
                raise ValueError(f"the members of a group call different methods: {operations}")
            self._left += 1
            if self._left == size:
                self._arrived, self._left = [], 0
                self._orders.shuffle(self._order)
                self._changed.notify_all()
            return [(member, given) for member, _, given in arrived]

    def leave(self, rank: int) -> None:
        """Say that a member is done and will meet no one any more."""
        with self._changed:
            self._gone.append(rank)
            self._changed.notify_all()

    def end(self, error: BaseException) -> None:
        """Let no one wait any longer: a member failed."""
        with self._changed:
            self.failure = self.failure or error
            self._changed.notify_all()

    def _wait(self, ready: Callable[[], bool]) -> None:
        self._changed.wait_for(lambda: self.failure is not None or ready() or self._gone)
        if self.failure is not None:
            raise RuntimeError("another member of the group failed") from self.failure
        if not ready():
            raise ValueError(f"members {sorted(self._gone)} ended while others wait for them")
