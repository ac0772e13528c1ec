"""The report of a job: every item with its outcome, written beside the results."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from farm.views import View, read_ledger
from jobs.states import JobState
from jobs.storage import Store
from jobs.storage.base import FARM_PREFIX


def write_report(ledger: Path, store: Store, job_id: str, state: JobState, finished_at: float) -> None:
    """Write the report of a job that is about to get the state `state`.

    Under the job's own name, and as the latest of this output. It reads the ledger through a connection of
    its own and is written item by item, so that a job of a million items holds up nobody.
    """
    view = read_ledger(ledger)
    if view is None:
        raise FileNotFoundError(ledger)
    try:
        with tempfile.TemporaryDirectory(prefix="farm-report-") as folder:
            path = Path(folder) / "report.json"
            _write(path, view, job_id, _head(view, job_id, state, finished_at))
            store.write(f"{FARM_PREFIX}/jobs/{job_id}/report.json", path)
            store.write(f"{FARM_PREFIX}/report.json", path)
    finally:
        view.close()


def _write(path: Path, view: View, job_id: str, head: dict[str, Any]) -> None:
    with path.open("w", encoding="utf-8", errors="backslashreplace") as file:
        file.write(json.dumps(head, indent=1, ensure_ascii=False)[:-2])
        file.write(',\n "items": [')
        separator = "\n"
        for item in view.every_item(job_id):
            file.write(f"{separator}  {json.dumps(item, ensure_ascii=False)}")
            separator = ",\n"
        file.write("\n ]\n}\n")


def _head(view: View, job_id: str, state: JobState, finished_at: float) -> dict[str, Any]:
    job = view.job(job_id)
    seconds = finished_at - job["started_at"] if job["started_at"] else 0.0
    done = sum(step["items"]["done"] for step in job["steps"] if step["kind"] != "train")
    measured = view.device_seconds(job_id)
    return {
        "job": job_id,
        "name": job["name"],
        "state": state.value,
        "reason": job["reason"],
        "user": job["user"],
        "output": job["output"],
        "created_at": job["created_at"],
        "finished_at": finished_at,
        "seconds": round(seconds, 3),
        "images_per_s": round(done / seconds, 4) if done and seconds else None,
        "megapixels": job["megapixels"],
        "device_s": measured["device_s"],
        "waited_s": measured["waited_s"],
        "totals": job["items"],
        "ignored": job["ignored"],
        "notes": job["notes"],
        "steps": job["steps"],
    }
