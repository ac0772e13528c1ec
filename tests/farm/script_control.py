"""A control command for tests, which does to a real Ray head what its first argument says.

`actor` launches a trivial detached actor, `fail REASON` fails, `hang FILE` makes the file and never ends,
`record FILE` appends to the file what it is told to do. The verb (`launch` or `stop`) comes last.
"""

import json
import signal
import sys
from pathlib import Path
from typing import Any


def launch_actor(address: str) -> None:
    import ray

    class Controller:
        def gpus(self) -> float:
            return float(ray.cluster_resources().get("GPU", 0.0))

    ray.init(address=address, namespace="stylefarm", log_to_driver=False)
    kind: Any = ray.remote(Controller)
    actor = kind.options(name="controller", lifetime="detached", num_cpus=0, max_restarts=-1).remote()
    ray.get(actor.gpus.remote())


def main(mode: str, *arguments: str) -> int:
    verb = arguments[-1]
    farm = json.load(sys.stdin)
    if mode == "actor":
        launch_actor(farm["ray_address"])
    elif mode == "fail":
        sys.stderr.write(f"the ledger is locked\n{arguments[0]}\n\n")
        return 1
    elif mode == "hang":
        Path(arguments[0]).touch()
        signal.pause()
    elif mode == "record":
        with Path(arguments[0]).open("a") as file:
            file.write(f"{verb} {farm['ray_address']}\n")
        print("an irrelevant line")
        print(json.dumps({"api_url": "http://head.example.org:8080"}))
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
