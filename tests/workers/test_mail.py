"""Letters between the members of a gang: none is lost or mixed up, in whatever order they come."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from jobs.errors import FarmError, LeaseLostError
from tests.workers.mailing import ATTEMPT, never, random_program, run_by_mail
from workers import mail
from workers.mail import Letter, MailGroup, MailRoom
from workers.nst.group import Group
from workers.nst.thread_group import run_together


def letter(number: int = 0, attempt: tuple[int, int] = ATTEMPT, sender: int = 1) -> Letter:
    return Letter(attempt, sender, number, (1, "broadcast"), torch.uint8, (1,), 1, computed=False)


def content(value: int = 7) -> mail.Bytes:
    return np.array([value], dtype=np.uint8)


def pair(room: MailRoom, interrupted: Callable[[], None] = never) -> MailGroup:
    """Return member 0 of two, whose letters go nowhere."""
    return MailGroup(
        ATTEMPT,
        0,
        2,
        room=room,
        post=lambda *_: None,
        device=torch.device("cpu"),
        interrupted=interrupted,
    )


# --- values -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 3, 5])
@pytest.mark.parametrize("seed", range(6))
def test_any_program_gets_what_threads_get_with_letters_in_any_order(size, seed):
    by_threads = run_together(size, lambda group: random_program(group, seed), arrival_seed=seed)
    assert run_by_mail(size, lambda group: random_program(group, seed), seed=seed) == by_threads


def test_long_tensors_come_in_parts_and_whole(monkeypatch):
    monkeypatch.setattr(mail, "_PART_BYTES", 7)
    by_threads = run_together(3, lambda group: random_program(group, 1, calls=40))
    assert run_by_mail(3, lambda group: random_program(group, 1, calls=40)) == by_threads


def test_sums_are_taken_in_the_order_of_ranks_with_the_same_bits_on_all_members_each_time():
    values = [1e16, 1.0, -1e16]  # another order gives 1 instead of 0
    sums = [
        run_by_mail(
            3, lambda group: group.reduce(torch.tensor([values[group.rank]]).double()).item(), seed=seed
        )
        for seed in range(20)
    ]
    assert sums == [[(1e16 + 1.0) - 1e16] * 3] * 20
    assert sums[0][0] != (1e16 - 1e16) + 1.0


def test_what_one_member_changes_is_its_own():
    def program(group: Group) -> list[float]:
        mine = torch.zeros(2)
        other = 1 - group.rank
        for received in (group.broadcast(mine), group.exchange({other: mine})[other], group.reduce(mine)):
            received.add_(1)
        return mine.tolist()

    assert run_by_mail(2, program) == [[0, 0], [0, 0]]


def test_a_tensor_with_a_gradient_is_sent_without_it():
    sums = run_by_mail(2, lambda group: group.reduce(torch.ones(1, requires_grad=True)))
    assert [(float(total), total.requires_grad) for total in sums] == [(2.0, False)] * 2


# --- members out of step ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("calls", "message"),
    [
        (lambda g: g.reduce(torch.zeros(1)) if g.rank else g.broadcast(torch.zeros(1), 1), "same order"),
        (lambda g: (g.rank or g.exchange({1: torch.zeros(1)}), g.reduce(torch.zeros(1))), "same order"),
        (lambda g: g.reduce(torch.zeros(g.rank + 1)), "adds torch.float32"),
        (lambda g: g.reduce(torch.tensor([1, 1.0][g.rank])), r"adds torch\.(int64|float32)"),
        (lambda g: g.broadcast(torch.zeros(1), source=2), "no member 2"),
        (lambda g: g.exchange({g.rank: torch.zeros(1)}), "has no neighbors"),
        (lambda g: g.exchange({2: torch.zeros(1)}), "has no neighbors"),
    ],
)
def test_members_out_of_step_are_told(calls, message):
    with pytest.raises(ValueError, match=message):
        run_by_mail(2, calls)


# --- waiting ----------------------------------------------------------------------------------------


def test_waiting_ends_with_what_interrupts_it():
    asked = iter([None, None, None, LeaseLostError("it was asked to stop")])

    def interrupted() -> None:
        if error := next(asked):
            raise error

    with pytest.raises(LeaseLostError):
        pair(MailRoom(), interrupted).broadcast(torch.zeros(1), source=1)


def test_a_member_that_is_to_end_sends_nothing_more():
    def interrupted() -> None:
        raise LeaseLostError("its lease ran out")

    group = MailGroup(
        ATTEMPT,
        0,
        2,
        room=MailRoom(),
        post=lambda *_: pytest.fail("sent"),
        device=torch.device("cpu"),
        interrupted=interrupted,
    )
    with pytest.raises(LeaseLostError):
        group.broadcast(torch.zeros(1))


# --- whose mail it is -------------------------------------------------------------------------------


def test_mail_that_comes_before_its_attempt_is_kept():
    room = MailRoom()
    room.deliver(letter(), content())
    room.open(ATTEMPT)
    assert pair(room).broadcast(torch.zeros(1), source=1).tolist() == [7]


@pytest.mark.parametrize("other", [(1, 2), (2, 1)])
def test_mail_of_another_attempt_is_never_taken(other):
    room = MailRoom()
    room.open(ATTEMPT)
    room.open(other)
    room.deliver(letter(attempt=other), content(1))
    room.deliver(letter(), content(2))
    assert room.take(ATTEMPT, 1, 0, never)[1].tolist() == [2]


def test_mail_of_an_attempt_that_is_over_is_thrown_away_now_and_later():
    room = MailRoom()
    room.open(ATTEMPT)
    room.deliver(letter(), content())
    room.close(ATTEMPT)
    room.deliver(letter(1), content())
    assert room.waiting() == 0
    with pytest.raises(FarmError, match="attempt 1 of task 1"):
        room.open(ATTEMPT)


def test_a_letter_that_comes_twice_is_one():
    room = MailRoom()
    room.open(ATTEMPT)
    room.deliver(letter(), content())
    room.deliver(letter(), content())
    assert room.waiting() == 1


def test_early_mail_is_bounded_and_an_attempt_whose_mail_was_given_up_says_so():
    room = MailRoom()
    room.open((100, 1))
    room.deliver(letter(attempt=(100, 1)), content())
    for task in range(20):
        room.deliver(letter(attempt=(task, 1)), content())
    assert room.waiting() == 1 + mail._EARLY_ATTEMPTS
    room.open((19, 1))
    with pytest.raises(FarmError, match="attempt 1 of task 0 is not kept"):
        room.open((0, 1))


def test_content_is_copied_since_its_memory_belongs_to_whoever_carried_it():
    room, carried = MailRoom(), content()
    room.open(ATTEMPT)
    carried.flags.writeable = False
    room.deliver(letter(), carried)
    taken = room.take(ATTEMPT, 1, 0, never)[1]
    assert taken.flags.writeable
    assert not np.shares_memory(taken, carried)
