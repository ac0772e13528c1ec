"""A long task may fail often for no fault of its own, if it gets further between."""

from __future__ import annotations

from typing import Any

import pytest

from jobs.errors import Failure
from jobs.scheduler import BUDGETS
from jobs.tasks import Progress, TaskMessage
from tests.farm.controlled import farm, manifest, over, run
from tests.farm.scripted_pool import DIE, ScriptedPool, ended, finished, started

LONG = {"items": 1, "chunk": 1}


@pytest.fixture(autouse=True)
def _toy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FARM_KINDS", "tests.toy")
    monkeypatch.setattr("jobs.scheduler._BACKOFF_S", {})


def how(failure: Failure, message: TaskMessage, what: str) -> Any:
    """Yield how an attempt fails: as a whole, by its item, or with its worker."""
    if what == "dies":
        yield DIE
    elif what == "task":
        yield ended(message, "failed", failure)
    else:
        yield finished(message, message.items[0], failure)
        yield ended(message)


def jobs_end(tmp_path: Any, script: Any) -> dict[str, Any]:
    ends: list[dict[str, Any]] = []

    async def scene() -> None:
        async with farm(tmp_path, ScriptedPool(script=script)) as controller:
            ends.append(await over(controller, await controller.commands.submit(manifest(tmp_path, LONG))))

    run(scene())
    return ends[0]


@pytest.mark.parametrize("what", ["task", "item", "dies"])
def test_an_attempt_that_got_further_begins_with_new_budgets(tmp_path: Any, what: str) -> None:
    """Every second attempt gets nowhere, so that what it met counts until the next one does."""

    def script(_: str, message: TaskMessage) -> Any:
        yield started(message, message.items[0])
        if message.attempt > 5 * BUDGETS[Failure.STORAGE]:
            yield finished(message, message.items[0])
            yield ended(message)
            return
        if message.attempt % 2:
            yield Progress(message.task, message.attempt, message.attempt / 100, "further")
        yield from how(Failure.STORAGE, message, what)

    assert jobs_end(tmp_path, script)["state"] == "completed"


@pytest.mark.parametrize("what", ["task", "item"])
@pytest.mark.parametrize("fractions", [(0.0, 0.0), (0.5, 0.5), (0.5, 0.1)])
def test_attempts_that_get_no_further_share_one_budget(
    tmp_path: Any, what: str, fractions: tuple[float, float]
) -> None:
    """The first that got somewhere has a budget of its own, with which the others go on."""
    sent: list[int] = []

    def script(_: str, message: TaskMessage) -> Any:
        sent.append(message.attempt)
        yield started(message, message.items[0])
        yield Progress(message.task, message.attempt, fractions[message.attempt > 1], "no further")
        yield from how(Failure.STORAGE, message, what)

    assert jobs_end(tmp_path, script)["state"] == "completed with errors"
    assert len(sent) == BUDGETS[Failure.STORAGE] + 1


def test_a_mistake_of_its_own_is_not_forgotten_for_getting_further(tmp_path: Any) -> None:
    def script(_: str, message: TaskMessage) -> Any:
        yield started(message, message.items[0])
        yield Progress(message.task, message.attempt, message.attempt / 100, "further")
        yield from how(Failure.ERROR, message, "task")

    assert jobs_end(tmp_path, script)["state"] == "completed with errors"
