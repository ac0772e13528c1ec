"""A group of threads keeps what a group promises, and makes it hard to promise what it does not."""

from __future__ import annotations

import pytest
import torch

from workers.nst.thread_group import run_together


def test_every_member_gets_what_its_neighbors_sent_to_it():
    def program(group):
        others = [rank for rank in range(group.size) if abs(rank - group.rank) == 1]
        return group.exchange({rank: torch.tensor([group.rank, rank]) for rank in others})

    received = run_together(4, program)
    assert [sorted(tensors) for tensors in received] == [[1], [0, 2], [1, 3], [2]]
    for rank, tensors in enumerate(received):
        for source, tensor in tensors.items():
            assert tensor.tolist() == [source, rank]


def test_sums_and_broadcasts_are_the_same_on_all():
    def program(group):
        total = group.reduce(torch.full((3,), 10**group.rank))
        return total.tolist(), group.broadcast(torch.tensor(group.rank), source=2).item()

    assert run_together(3, program) == [([111] * 3, 2)] * 3


def test_floats_are_added_in_an_order_that_changes():
    """So a program that counts on an order is found out; integers have none."""

    def program(group):
        value = torch.tensor(0.1 * 3**group.rank, dtype=torch.float32)
        return {float(group.reduce(value)) for _ in range(20)}, {
            int(group.reduce(value.int())) for _ in range(20)
        }

    floats, integers = zip(*run_together(7, program), strict=True)
    assert len(floats[0]) > 1
    assert len(integers[0]) == 1
    assert len(set(map(frozenset, floats))) == 1  # though all members have the same bits each time


def test_what_one_member_changes_is_its_own():
    def program(group):
        mine = torch.zeros(2)
        other = 1 - group.rank
        got = [group.broadcast(mine), group.exchange({other: mine})[other], group.reduce(mine)]
        for received in got:
            received.add_(1)
        return mine.tolist()

    assert run_together(2, program) == [[0, 0], [0, 0]]


def test_a_member_that_fails_ends_the_others_with_its_error():
    def program(group):
        if group.rank == 1:
            raise KeyError("lost")
        group.reduce(torch.zeros(1))

    with pytest.raises(KeyError, match="lost"):
        run_together(3, program)


@pytest.mark.parametrize(
    ("calls", "message"),
    [
        (lambda g: g.reduce(torch.zeros(1)) if g.rank else g.broadcast(torch.zeros(1)), "different methods"),
        (lambda g: g.rank or g.reduce(torch.zeros(1)), r"members \[1\] ended while others wait"),
        (lambda g: g.exchange({1: torch.zeros(1)} if g.rank == 0 else {}), "neighbors send to each other"),
        (lambda g: g.reduce(torch.zeros(g.rank + 1)), "adds torch.float32"),
        (lambda g: g.broadcast(torch.zeros(1), source=2), "no member 2"),
    ],
)
def test_members_out_of_step_are_told(calls, message):
    with pytest.raises(ValueError, match=message):
        run_together(2, calls)


def test_a_group_of_none_is_refused():
    with pytest.raises(ValueError, match="at least one member, not 0"):
        run_together(0, lambda group: group.rank)
