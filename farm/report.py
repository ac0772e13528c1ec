"""The report of a job: every item with its outcome, written beside the results."""

from __future__ import annotations

import json
from typing import Any

from farm.views import View
from jobs.states import JobState
from jobs.storage import Store
from jobs.storage.base import FARM_PREFIX

_PAGE = 5000


def build_report(view: View, job_id: str, state: JobState, finished_at: float) -> dict[str, Any]:
    """Return the report of a job that is about to get the state `state`."""
    job = view.job(job_id)
    seconds = finished_at - job["started_at"] if job["started_at"] else 0.0
    done = job["items"]["done"]
    items: list[dict[str, Any]] = []
    while page := view.items(job_id, limit=_PAGE, offset=len(items))["items"]:
        items.extend(page)
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
        "megapixels": view.megapixels(job_id),
        "device_s": measured["device_s"],
        "waited_s": measured["waited_s"],
        "totals": job["items"],
        "ignored": job["ignored"],
        "notes": job["notes"],
        "steps": job["steps"],
        "items": items,
    }


def write_report(store: Store, report: dict[str, Any]) -> None:
    """Write the report under the job's own name, and as the latest of this output."""
    data = json.dumps(report, indent=1, ensure_ascii=False).encode()
    store.write(f"{FARM_PREFIX}/jobs/{report['job']}/report.json", data)
    store.write(f"{FARM_PREFIX}/report.json", data)
