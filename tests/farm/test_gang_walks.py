"""Random walks over gangs: members die, fail, finish and stop in any order, people change their minds."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from farm.controller import Controller
from farm.dispatch import Limits
from jobs.errors import Failure, UsageError
from jobs.tasks import Event, TaskEnded, TaskMessage
from tests.farm.controlled import farm, manifest, over, run
from tests.farm.scripted_pool import DIE, WAIT, ScriptedPool, ended, finished, rank, started

LIMITS = Limits(lease_s=0.3, stall_s=0.3)


@pytest.fixture(autouse=True)
def _toy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FARM_KINDS", "tests.toy")
    monkeypatch.setattr("jobs.scheduler._BACKOFF_S", {})


def throw(dice: random.Random, message: TaskMessage) -> Iterator[Event | str]:
    """Do what the dice say: die, fail, wait to be stopped, or finish item after item."""
    for item in message.items:
        roll = dice.random()
        if roll < 0.08:
            yield DIE
        if roll < 0.2:
            yield TaskEnded(message.task, message.attempt, "failed", dice.choice([*Failure]), "dice")
            return
        if roll < 0.3 and message.gang:
            yield WAIT
        if rank(message) == 0:
            yield started(message, item)
            yield finished(message, item)
    yield ended(message)


def any_step(dice: random.Random) -> dict[str, Any]:
    least = dice.randint(1, 2)
    together = {"min": least, "max": dice.randint(least, 4)}
    return {"items": dice.randint(1, 4), "chunk": dice.randint(1, 2), "workers": together}


async def meddle(dice: random.Random, controller: Controller, jobs: list[str]) -> None:
    """Pause, resume and cancel for a while; in the end let everything go on."""
    commands = controller.commands
    for _ in range(6):
        with contextlib.suppress(UsageError):
            dice.choice([commands.pause, commands.resume, commands.cancel])(dice.choice(jobs))
        await asyncio.sleep(0.01)
    for job in jobs:
        with contextlib.suppress(UsageError):
            commands.resume(job)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32 - 1))
def test_whatever_members_do_every_item_ends_once_and_no_two_attempts_overlap(tmp_path_factory, seed):
    folder: Path = tmp_path_factory.mktemp("walk")
    dice = random.Random(seed)  # noqa: S311 - dice, no secret

    async def scene() -> None:
        pool = ScriptedPool(dice.randint(2, 4), lambda _, message: throw(dice, message))
        async with farm(folder, pool, limits=LIMITS) as controller:
            jobs = [
                await controller.commands.submit(manifest(folder, any_step(dice)))
                for _ in range(dice.randint(1, 4))
            ]
            await meddle(dice, controller, jobs)
            for job in jobs:
                state = await over(controller, job)
                assert state["items"]["pending"] == 0
                assert state["tasks"]["leased"] == state["tasks"]["queued"] == 0
            assert not any(worker.tasks for worker in controller.dispatcher.workers.values())
            assert controller.dispatcher.orphans == []

    run(scene())
