"""The controller with its api, as one thing that starts and stops. Knows no Ray."""

from __future__ import annotations

import asyncio
import logging
import os
from urllib.parse import urlsplit

import uvicorn

from farm import local
from farm.api import create_app
from farm.controller import Controller, ControllerOptions
from farm.dispatch import Limits
from farm.farm_file import FarmFile
from farm.folders import cache_dir
from farm.pool import Pool
from jobs.errors import FarmError, UsageError
from jobs.tasks import Event

log = logging.getLogger(__name__)

LEASE_VARIABLE = "FARM_LEASE_S"
_LEAST_LEASE_S = 0.5


class Serving:
    """A controller that answers over HTTP at the farm's address."""

    def __init__(self, farm: FarmFile, pool: Pool) -> None:
        self.url = farm.api_url
        options = ControllerOptions(
            farm=farm.farm,
            ledger=farm.ledger,
            store=farm.store,
            cache_dir=str(cache_dir()),
            limits=_limits(),
            max_workers=farm.max_workers,
            idle_exit_s=farm.idle_exit_s or 0.0,
        )
        self.controller = Controller(options, pool, end_farm=lambda: _end(farm), broken=_end_process)
        address = urlsplit(farm.api_url)
        self._server = uvicorn.Server(
            uvicorn.Config(
                create_app(self.controller, farm.token()),
                host=address.hostname or "127.0.0.1",
                port=address.port or 0,
                log_config=None,
                access_log=False,
                lifespan="off",
            )
        )
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Return once the api answers.

        Raises:
            FarmError: If its address is taken.
        """
        serve = asyncio.ensure_future(self._serve())
        loop = asyncio.ensure_future(self.controller.run())
        loop.add_done_callback(_check_loop)
        self._tasks = [serve, loop]
        while not self._server.started:
            if serve.done():
                raise FarmError(f"the api could not listen on {self.url}", "is the port taken?")
            await asyncio.sleep(0.01)

    async def _serve(self) -> None:
        try:
            await self._server.serve()
        except SystemExit:  # uvicorn's way to say that it could not bind
            log.exception("the api ended")

    def take_in(self, worker: str, events: list[Event]) -> None:
        """Take in the events of a worker, in order."""
        try:
            self.controller.dispatcher.worker_says(worker, events)
        except Exception as error:  # noqa: BLE001 - half of a batch in memory is worse than starting again
            _end_process(error)

    async def stop(self) -> None:
        """End the workers, the controller and the api."""
        self._server.should_exit = True
        await self.controller.close()


def _check_loop(loop: asyncio.Task[None]) -> None:
    error = None if loop.cancelled() else loop.exception()
    if isinstance(error, Exception):
        _end_process(error)


def _end_process(error: Exception) -> None:
    """End this process when its memory may be ahead of the ledger: Ray starts another, which reads that.

    Going on would be wrong: what was not written down would be taken for done.
    """
    log.critical("the controller starts again", exc_info=error)
    os._exit(1)


def _limits() -> Limits:
    """Return how long workers and tasks may be silent, as the environment of the farm says.

    Raises:
        UsageError: If it says no number of seconds, or too few: a lease is renewed four times before it ends.
    """
    given = os.environ.get(LEASE_VARIABLE, "")
    if not given:
        return Limits()
    try:
        lease_s = float(given)
    except ValueError:
        lease_s = 0.0
    if not _LEAST_LEASE_S <= lease_s < float("inf"):
        raise UsageError(f"{LEASE_VARIABLE} is {given!r}", f"give seconds, {_LEAST_LEASE_S} or more")
    return Limits(lease_s=lease_s)


def _end(farm: FarmFile) -> None:
    """Let a process that does not belong to the farm end it."""
    log.info("idle for %s s: the farm ends itself", farm.idle_exit_s)
    local.down_from_within(farm.farm)
