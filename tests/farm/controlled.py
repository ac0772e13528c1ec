"""A controller with a pool in memory, for tests."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

from farm.controller import Controller, ControllerOptions
from jobs.errors import Failure
from jobs.tasks import TaskMessage
from tests.farm.scripted_pool import ScriptedPool, ended, finished, started

PATIENCE_S = 20.0


def manifest(folder: Path, *steps: dict[str, Any], **more: Any) -> dict[str, Any]:
    steps = steps or ({"items": 4, "chunk": 2},)
    named = [{"name": f"s{n}", "kind": "toy", **step} for n, step in enumerate(steps)]
    return {
        "version": 1,
        "name": "toys",
        "user": "ann",
        "output": str(folder / "out"),
        "steps": named,
        **more,
    }


@contextlib.asynccontextmanager
async def farm(folder: Path, pool: ScriptedPool, **options: Any) -> AsyncIterator[Controller]:
    controller = Controller(
        ControllerOptions(
            "f", str(folder / "ledger.sqlite"), str(folder / "store"), str(folder / "cache"), **options
        ),
        pool,
    )
    loop = asyncio.ensure_future(controller.run())
    try:
        yield controller
        check_invariants(controller)
        assert not pool.broken
    finally:
        loop.cancel()
        await controller.close()


def check_invariants(controller: Controller) -> None:
    """Counters equal the ledger's sums, each item belongs to a task, nothing is leased by two."""
    for step in controller.ledger.read("SELECT * FROM steps"):
        where = (step["job"], step["name"])
        states = Counter(
            row["state"]
            for row in controller.ledger.read("SELECT state FROM items WHERE job=? AND step=?", *where)
        )
        assert step["total"] == states.total()
        assert [step[s] for s in ("done", "skipped", "failed", "canceled")] == [
            states[s] for s in ("done", "skipped", "failed", "canceled")
        ]
    leased = [task for job in controller.dispatcher.jobs.values() for task in job.leases]
    assert len(leased) == len(set(leased))
    doubled = controller.ledger.read(
        "SELECT task FROM attempts WHERE ended_at IS NULL GROUP BY task HAVING count(*) > 1"
    )
    assert not doubled


async def until(condition: Callable[[], bool], patience_s: float = PATIENCE_S) -> None:
    async with asyncio.timeout(patience_s):
        while not condition():  # noqa: ASYNC110 - the ledger has no event to wait for
            await asyncio.sleep(0.005)


async def over(controller: Controller, job: str) -> dict[str, Any]:
    await until(lambda: controller.view.job(job)["finished_at"] is not None)
    return controller.view.job(job)


def attempts(controller: Controller) -> list[dict[str, Any]]:
    """Return all attempts, those of a task in order."""
    rows = controller.ledger.read("SELECT * FROM attempts ORDER BY task, number")
    return [{**dict(row), "members": json.loads(row["members"])} for row in rows]


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(work)


def failing(which: str, failure: Failure, times: int = 10**9) -> Callable[[str, TaskMessage], Any]:
    """Return a script in which one item fails in a way, some times."""
    seen: Counter[str] = Counter()

    def script(worker: str, message: TaskMessage) -> Any:
        for item in message.items:
            yield started(message, item)
            if which in item.output_key and seen[which] < times:
                seen[which] += 1
                yield finished(message, item, failure, "because")
            else:
                yield finished(message, item)
        yield ended(message)

    return script
