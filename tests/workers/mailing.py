"""Groups that talk by letters, between threads of one process; and programs for groups of any kind."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar
from unittest import mock

import torch
from torch import Tensor

from workers import mail
from workers.mail import Bytes, Letter, MailGroup, MailRoom
from workers.nst.group import Group

Result = TypeVar("Result")
ATTEMPT = (1, 1)
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.uint8, torch.bool)


def never() -> None:
    """Interrupt nothing."""


class Shuffled:
    """Carries the letters of one member to the others, and holds some back: they arrive in another order."""

    def __init__(self, rooms: list[MailRoom], rng: random.Random) -> None:
        self._rooms = rooms
        self._rng = rng
        self._held: list[tuple[int, Letter, Bytes]] = []

    def post(self, letters: Mapping[int, Letter], content: Bytes) -> None:
        """Hold letters back for a while; the content is not to be used after this."""
        self._held += [(rank, letter, content.copy()) for rank, letter in letters.items()]
        while len(self._held) > 3:
            self._deliver_one()

    def bring(self) -> None:
        """Deliver what was held back: somebody waits."""
        while self._held:
            self._deliver_one()

    def _deliver_one(self) -> None:
        rank, letter, content = self._held.pop(self._rng.randrange(len(self._held)))
        self._rooms[rank].deliver(letter, content)


def run_by_mail(size: int, program: Callable[[Group], Result], *, seed: int = 0) -> list[Result]:
    """Run a program in threads whose letters come in any order; return what each member returned, by rank.

    What the first member raises that fails is raised; the others are ended.
    """
    rooms = [MailRoom() for _ in range(size)]
    errors: list[Exception] = []

    def run(rank: int) -> Result:
        carrier = Shuffled(rooms, random.Random(seed + rank))  # noqa: S311 - orders, no secrets

        def interrupted() -> None:
            carrier.bring()
            if errors:
                raise errors[0]

        rooms[rank].open(ATTEMPT)
        group = MailGroup(
            ATTEMPT,
            rank,
            size,
            room=rooms[rank],
            post=carrier.post,
            device=torch.device("cpu"),
            interrupted=interrupted,
        )
        try:
            result = program(group)
        except Exception as error:
            errors.append(error)
            raise
        finally:
            carrier.bring()
        return result

    with mock.patch.object(mail, "_LOOK_EVERY_S", 0.001), ThreadPoolExecutor(size) as pool:
        members = [pool.submit(run, rank) for rank in range(size)]
    if errors:
        raise errors[0]
    assert [room.waiting() for room in rooms] == [0] * size
    return [member.result() for member in members]


def random_program(group: Group, seed: int, calls: int = 12) -> list[Any]:
    """Call whatever a group can do, with tensors of any kind; return what came of it, as plain values.

    What it draws is the same on all members, but for the contents, which each draws for itself.
    """
    plan, own = random.Random(seed), random.Random(f"{seed} {group.rank}")  # noqa: S311
    results: list[Any] = []
    for _ in range(calls):
        kind, dtype = plan.choice(["exchange", "reduce", "broadcast"]), plan.choice(DTYPES)
        shape = [plan.choice([0, 1, 2, 5]) for _ in range(plan.randint(0, 3))]
        if kind == "exchange":
            pairs = [(a, b) for a in range(group.size) for b in range(a) if plan.random() < 0.6]
            neighbors = [a + b - group.rank for a, b in pairs if group.rank in {a, b}]
            received = group.exchange({rank: _drawn(own, dtype, [*shape, rank]) for rank in neighbors})
            results.append([(rank, _plain(received[rank])) for rank in sorted(received)])
        elif kind == "reduce":
            dtype = torch.int64 if dtype is torch.bool else dtype
            results.append(_plain(group.reduce(_drawn(own, dtype, shape))))
        else:
            source = plan.randrange(group.size)
            mine = _drawn(own, dtype, shape) if group.rank == source else torch.empty(0)
            results.append(_plain(group.broadcast(mine, source)))
    return results


def _drawn(rng: random.Random, dtype: torch.dtype, shape: list[int]) -> Tensor:
    """Return whole numbers that every dtype holds, and sums of them too: no order of adding matters."""
    generator = torch.Generator().manual_seed(rng.randrange(2**31))
    tensor = torch.randint(0, 2 if dtype is torch.bool else 9, shape, generator=generator).to(dtype)
    return tensor.mT if tensor.dim() >= 2 else tensor


def _plain(tensor: Tensor) -> tuple[str, list[int], Any]:
    return str(tensor.dtype), list(tensor.shape), tensor.tolist()
