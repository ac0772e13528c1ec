"""How jobs move on and how a controller ends, with workers in memory."""

from __future__ import annotations

import asyncio

import pytest

from farm.controller import Controller, ControllerOptions
from tests import toy  # noqa: F401 - registers the kind
from tests.farm.controlled import farm, manifest, over
from tests.farm.scripted_pool import ScriptedPool


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_steps_follow_one_another_in_whatever_order_the_manifest_names_them(tmp_path, order):
    chain = [
        {"name": "a", "items": 2},
        {"name": "b", "items": 2, "needs": ["a"]},
        {"name": "c", "items": 2, "needs": ["b"]},
    ]

    async def run() -> None:
        pool = ScriptedPool()
        async with farm(tmp_path, pool) as controller:
            job = await controller.commands.submit(manifest(tmp_path, *(chain[n] for n in order)))
            assert (await over(controller, job))["state"] == "completed"
            assert [message.step for _, message in pool.sent] == ["a", "a", "b", "b", "c", "c"]

    asyncio.run(run())


def test_the_loop_ends_in_peace_when_the_controller_is_closed(tmp_path):
    """It waits for its next tick at that moment, and must not do it on a closed ledger."""

    async def run() -> None:
        options = ControllerOptions(
            "f", str(tmp_path / "ledger.sqlite"), str(tmp_path / "store"), str(tmp_path / "cache")
        )
        controller = Controller(options, ScriptedPool())
        loop = asyncio.ensure_future(controller.run())
        await asyncio.sleep(0)
        await controller.close()
        await asyncio.wait_for(loop, 10)

    asyncio.run(run())
