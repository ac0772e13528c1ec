"""What the members of a gang know of each other."""

from __future__ import annotations

import pytest
import torch

from workers import optimize_gang
from workers.nst.group import Alone, Group
from workers.nst.thread_group import run_together
from workers.optimize_gang import agree, hear, packed, survey, tell, thread_count, unpacked


def test_members_on_one_host_share_its_memory_and_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optimize_gang, "free_bytes", lambda _: 12 << 30)
    monkeypatch.setattr(optimize_gang, "device_bytes", lambda _: 24 << 30)
    for members in run_together(3, lambda group: survey(group, "cpu")):
        assert (members.here, members.memory_bytes, members.least_memory_bytes) == (3, 4 << 30, 4 << 30)
    assert survey(Alone(), "cpu").least_memory_bytes == 12 << 30
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)))
    assert [thread_count(None, 8, here) for here in (1, 2, 3, 99)] == [8, 4, 2, 1]
    assert (thread_count(None, 3, 1), thread_count(5, 1, 8)) == (3, 5)


def test_the_first_member_decides() -> None:
    flags = run_together(3, lambda group: agree(group, [group.rank == 0, group.rank == 1]))
    assert flags == [[True, False]] * 3


def test_what_the_first_member_tells_the_others_hear() -> None:
    words = {"content": torch.arange(6, dtype=torch.uint8).view(1, 2, 3), "tile_px": 16, "nothing": None}

    def member(group: Group) -> str:
        if group.rank == 0:
            tell(group, words)
            tell(group, None)
            return str(words)
        heard = hear(group)
        assert hear(group) is None
        return str(heard)

    assert set(run_together(3, member)) == {str(words)}
    assert str(unpacked(packed(words))) == str(words)
