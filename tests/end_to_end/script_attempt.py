"""Runs one attempt of a toy task on a worker of its own: `script_attempt.py FOLDER NUMBER LEASE_S`.

Writes what came of its item as JSON. No controller ends it when it stands still.
"""

import json
import sys
import threading
from pathlib import Path

from jobs.tasks import Event, Item, ItemFinished, TaskEnded, TaskMessage
from workers.worker import Worker, WorkerOptions

PAYLOAD = {"count": 1, "seconds": 0.0, "asset": "", "log": "", "die_at": -1, "word": "same"}


def main(folder: Path, number: int, lease_s: float) -> None:
    said: list[Event] = []
    over = threading.Event()

    def hear(events: list[Event]) -> None:
        said.extend(events)
        if any(isinstance(event, TaskEnded) for event in events):
            over.set()

    worker = Worker(WorkerOptions("w", store=str(folder / "store"), cache_dir=str(folder / "cache")), hear)
    threading.Thread(target=worker.run_forever, daemon=True).start()
    worker.submit(
        TaskMessage(
            job="job",
            step="count",
            task=1,
            attempt=number,
            kind="toy",
            lease_s=lease_s,
            output=str(folder / "out"),
            payload=PAYLOAD,
            items=(Item(1, "", -1, "", "item.txt"),),
        )
    )
    over.wait()
    [item] = [event for event in said if isinstance(event, ItemFinished)]
    print(json.dumps({"state": item.state, "reason": item.reason, **item.detail}))
    worker.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))
