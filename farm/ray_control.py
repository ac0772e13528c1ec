"""The controller on Ray: a detached actor, and the command that starts and ends it.

`python -m farm.ray_control launch|stop` is what `farm.launch` runs: the command line never imports Ray.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from farm.farm_file import FarmFile
from farm.ray_pool import PoolOptions, RayPool
from jobs.tasks import Event

log = logging.getLogger(__name__)

NAMESPACE = "stylefarm"
_LAUNCH_S = 60.0


class ControllerActor:
    """The controller and its api in a detached actor; Ray restarts it with the same arguments."""

    async def __init__(self, farm_file: str) -> None:  # type: ignore[misc]  # Ray awaits it
        from farm.serving import Serving

        farm = FarmFile.from_json(farm_file)
        me = ray.get_runtime_context().current_actor
        options = PoolOptions(
            farm.workers, farm.max_workers, farm.threads, farm.device, farm.store, share=farm.share
        )
        pool = RayPool(options, me)
        self._serving = Serving(farm, pool)
        await self._serving.start()

    async def ready(self) -> dict[str, Any]:
        """Return where the api is, once it answers."""
        return {"api_url": self._serving.url, "pid": os.getpid()}

    async def worker_says(self, worker: str, events: list[Event]) -> None:
        """Take in the events of a worker, in order."""
        self._serving.take_in(worker, events)

    async def stop(self) -> None:
        """End the workers and the api."""
        await self._serving.stop()


def launch(farm: FarmFile) -> dict[str, Any]:
    """Start the controller on this node, or find it, and return where it answers.

    Raises:
        RayError: If it does not start.
    """
    node = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    actor = (
        ray.remote(ControllerActor)
        .options(
            name=farm.farm,
            lifetime="detached",
            get_if_exists=True,
            max_restarts=-1,
            max_task_retries=0,
            num_cpus=0,
            scheduling_strategy=node,
        )
        .remote(farm.to_json())
    )
    return dict(ray.get(actor.ready.remote(), timeout=_LAUNCH_S))  # type: ignore[attr-defined]


def stop(farm: FarmFile) -> None:
    """End the controller and its workers, if they are there."""
    try:
        actor = ray.get_actor(farm.farm)
    except ValueError:
        return
    try:
        ray.get(actor.stop.remote(), timeout=_LAUNCH_S)
    except RayError as error:  # it has just died, or hangs: what it owns ends with it
        log.debug("the controller did not stop by itself", exc_info=error)
    ray.kill(actor, no_restart=True)


def main(verb: str) -> int:
    """Run `launch` or `stop` for the farm described on stdin."""
    farm = FarmFile.from_json(sys.stdin.read())
    if farm.ray_token_file:
        os.environ.setdefault("RAY_AUTH_MODE", "token")
        os.environ.setdefault("RAY_AUTH_TOKEN_PATH", farm.ray_token_file)
    ray.init(
        address=farm.ray_address, namespace=NAMESPACE, log_to_driver=False, logging_level=logging.WARNING
    )
    try:
        if verb == "stop":
            stop(farm)
        else:
            print(json.dumps(launch(farm)))  # noqa: T201 - the answer to `farm.launch`
    except RayError as error:
        log.debug("the whole story", exc_info=error)
        sys.stderr.write(f"{_reason(error)}\n")
        return 1
    return 0


def _reason(error: RayError) -> str:
    """Return the line of a Ray error that says what went wrong in our own code, if there is one."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
