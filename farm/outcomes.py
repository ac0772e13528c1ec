"""What becomes of items and tasks when something ended: recorded, tried again, split, or given up."""

from __future__ import annotations

import json
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

from farm.ledger import Ledger
from farm.running import JobRun, Lease, Member, TaskRun
from jobs.errors import Failure
from jobs.scheduler import SPLIT_AFTER_DEATHS, retry_delay_s
from jobs.states import ItemState, TaskState, move
from jobs.tasks import Item, ItemFinished, TaskEnded

_RENEWED = frozenset({Failure.STORAGE, Failure.WORKER_LOST, Failure.TIMEOUT})
"""What a long task may meet again and again, for no fault of its own, if it gets on between."""


class Outcomes:
    """Writes outcomes to the ledger and decides by the budgets of `jobs.scheduler` what is tried again.

    Args:
        clock: Monotonic seconds.
        jitter: Uniform random numbers in 0..1 for back-off.
    """

    def __init__(
        self, ledger: Ledger, clock: Callable[[], float], jitter: Callable[[], float] = random.random
    ) -> None:
        self._ledger = ledger
        self._clock = clock
        self._jitter = jitter

    def item_finished(self, job: JobRun, lease: Lease, event: ItemFinished) -> None:
        """Record the outcome of an item, or when to try it again."""
        item = lease.open.get(event.item)
        if item is None:
            return
        lease.in_flight.discard(event.item)
        if event.failure is not None and self._again(lease, item, event.failure, lease.worker):
            return
        del lease.open[event.item]
        lease.advanced = True
        if event.state is ItemState.DONE:
            lease.pixels_computed += int(event.detail.get("pixel_evaluations", _pixels(event)))
        self._end_item(job, lease, item, event)

    def _again(self, lease: Lease, item: Item, failure: Failure, worker: str) -> bool:
        """Count a failure of an item on a worker; return whether it may be tried again, and note when."""
        self._renew_budgets(lease)
        failures = self._failures_of(item)
        failures[failure] += 1
        self._ledger.update("items", {"failures": dict(failures)}, id=item.id)
        delay_s = retry_delay_s(failure, failures[failure], self._jitter())
        if delay_s is None:
            return False
        lease.retry_at = max(lease.retry_at, self._clock() + delay_s)
        lease.task.avoid.add(worker)
        return True

    def _renew_budgets(self, lease: Lease) -> None:
        """Forget what a task has met if its attempt got further than those before, once for each attempt.

        Only where it says how far it is, and for its last item: of others, something else got further.
        """
        task = lease.task
        if lease.renewed or not _got_further(lease):
            return
        lease.renewed = True
        for failure in _RENEWED:
            task.failures.pop(failure, None)
        for item in lease.open.values():
            failures = self._failures_of(item)
            if failures.keys() & _RENEWED:
                rest = {name: times for name, times in failures.items() if name not in _RENEWED}
                self._ledger.update("items", {"failures": rest}, id=item.id)

    def _failures_of(self, item: Item) -> Counter[Failure]:
        row = self._ledger.read("SELECT failures FROM items WHERE id=?", item.id)[0]
        return Counter({Failure(name): times for name, times in json.loads(row["failures"]).items()})

    def _end_item(self, job: JobRun, lease: Lease, item: Item, event: ItemFinished) -> None:
        row = self._ledger.read("SELECT state, style FROM items WHERE id=?", item.id)[0]
        self._ledger.update(
            "items",
            {
                "state": move(ItemState(row["state"]), event.state),
                "failure": event.failure,
                "reason": event.reason,
                "output": event.output,
                "attempt": lease.attempt,
                "worker": lease.worker,
                "detail": event.detail,
                "finished_at": time.time(),
            },
            id=item.id,
        )
        sums = {event.state.value: 1, "bytes_ended": max(item.size_bytes, 0)}
        if event.state is ItemState.DONE:
            sums["pixels"] = _pixels(event)
        self._ledger.count(job.id, lease.task.step, **sums)
        if event.state is ItemState.FAILED:
            job.failed += 1
            text = f"{item.input or item.output_key}: {event.reason}"
            self._ledger.event(job.id, "item failed", text, {"style": row["style"]})

    def _fail_item(self, job: JobRun, lease: Lease, item: Item, failure: Failure, reason: str) -> None:
        failed = ItemFinished(lease.task.id, lease.attempt, item.id, ItemState.FAILED, failure, reason)
        self._end_item(job, lease, item, failed)

    def attempt_ended(self, job: JobRun, lease: Lease) -> TaskEnded:
        """Record the end of an attempt when its last member has ended; return how it ended.

        Its task is done, queued again, or given up.
        """
        member, ended = lease.verdict()
        self._close_attempt(lease, ended)
        self._renew_budgets(lease)
        if ended.outcome == "lost":
            self._lost(job, lease, member, ended)
        else:
            self._ended(job, lease, member, ended)
        return ended

    def _ended(self, job: JobRun, lease: Lease, member: Member, ended: TaskEnded) -> None:
        task = lease.task
        if lease.pixels_computed and ended.device_s > 0:
            megapixels = lease.pixels_computed / 1e6
            self._ledger.rate(task.affinity, megapixels=megapixels, device_s=ended.device_s)
        lacks = self._lacks_result(task) and not ended.result
        if lacks and not lease.open and ended.outcome == "finished":
            ended = replace(ended, outcome="failed", reason=f"{task.kind} returned nothing")
        if ended.outcome == "failed" and (lease.open or lacks):
            task.avoid.add(member.worker)
            task.failed_on.add(member.worker)
            if not self._once_more(job, lease, ended):
                return
        if lease.open or lacks:
            self.requeue(job, lease)
        else:
            self._end_task(job, task, TaskState.DONE, None, "")
            if ended.result:
                self._ledger.update("steps", {"result": ended.result}, job=job.id, name=task.step)

    def _once_more(self, job: JobRun, lease: Lease, ended: TaskEnded) -> bool:
        """Count the failure of an attempt as a whole; return whether its task goes on, and note when."""
        failure, failures = ended.failure or Failure.ERROR, lease.task.failures
        failures[failure] += 1
        delay_s = retry_delay_s(failure, failures[failure], self._jitter())
        if delay_s is None:
            self._give_up(job, lease, failure, ended.reason)
            return False
        lease.retry_at = max(lease.retry_at, self._clock() + delay_s)
        return True

    def _lacks_result(self, task: TaskRun) -> bool:
        """Return whether a task has made what it is to return, and nobody has heard that yet."""
        if not task.returns:
            return False
        made = "SELECT id FROM items WHERE task=? AND state IN ('done', 'skipped') LIMIT 1"
        known = "SELECT name FROM steps WHERE job=? AND name=? AND result<>'{}'"
        return bool(self._ledger.read(made, task.id)) and not self._ledger.read(known, task.job, task.step)

    def _lost(self, job: JobRun, lease: Lease, member: Member, ended: TaskEnded) -> None:
        """Go on after a worker was lost.

        `preempted` blames nobody, and an attempt that had not begun is blameless; otherwise the items in
        flight are blamed.
        """
        task, failure, reason = lease.task, ended.failure or Failure.WORKER_LOST, ended.reason
        blamed = (lease.in_flight & lease.open.keys() or set(list(lease.open)[:1])) if member.begun else set()
        if failure is Failure.PREEMPTED or _got_further(lease):
            blamed = set()
        for number in blamed:
            item = lease.open[number]
            if not self._again(lease, item, failure, member.worker):
                del lease.open[number]
                self._fail_item(job, lease, item, failure, reason)
        if blamed:
            task.deaths += 1
        if not lease.open and self._lacks_result(task):
            if failure is Failure.PREEMPTED or self._once_more(job, lease, replace(ended, failure=failure)):
                self.requeue(job, lease)
        elif not lease.open:
            self._end_task(job, task, TaskState.DONE, None, "")
        elif task.deaths >= SPLIT_AFTER_DEATHS and len(lease.open) > 1:
            self._split(job, lease)
        else:
            self.requeue(job, lease)

    def _split(self, job: JobRun, lease: Lease) -> None:
        """Cut what is left of a chunk into single items, so that the guilty one dies alone."""
        task = lease.task
        row = self._ledger.read("SELECT * FROM tasks WHERE id=?", task.id)[0]
        for item in lease.open.values():
            number = self._ledger.insert(
                "tasks",
                {
                    **{k: row[k] for k in ("job", "step", "kind", "payload", "affinity", "exclusive")},
                    "min_workers": task.workers[0],
                    "max_workers": task.workers[1],
                    "state": TaskState.QUEUED,
                    "estimate_s": task.estimate_s / len(lease.open),
                    "deaths": task.deaths,
                },
            )
            self._ledger.update("items", {"task": number}, id=item.id)
            single = TaskRun(
                number,
                task.job,
                task.step,
                task.kind,
                task.affinity,
                task.estimate_s / len(lease.open),
                task.workers,
                exclusive=task.exclusive,
                deaths=task.deaths,
                since=self._clock(),
                avoid=set(task.avoid),
            )
            job.put(single)
            job.open_tasks[task.step] += 1
        text = f"task {task.id} lost {task.deaths} workers: its {len(lease.open)} items go on one by one"
        self._ledger.event(job.id, "split", text)
        lease.open.clear()
        self._end_task(job, task, TaskState.DONE, None, f"split after {task.deaths} lost workers")

    def requeue(self, job: JobRun, lease: Lease) -> None:
        """Put a task back into the queue for its unfinished items."""
        task = lease.task
        task.not_before = lease.retry_at
        task.since = self._clock()
        self._ledger.update(
            "tasks",
            {
                "state": move(TaskState.LEASED, TaskState.QUEUED),
                "deaths": task.deaths,
                "failures": dict(task.failures),
            },
            id=task.id,
        )
        job.put(task, first=lease.retry_at == 0)

    def _give_up(self, job: JobRun, lease: Lease, failure: Failure, reason: str) -> None:
        for item in list(lease.open.values()):
            self._fail_item(job, lease, item, failure, reason)
        lease.open.clear()
        self._end_task(job, lease.task, TaskState.FAILED, failure, reason)

    def _end_task(
        self, job: JobRun, task: TaskRun, state: TaskState, failure: Failure | None, reason: str
    ) -> None:
        self._ledger.update(
            "tasks",
            {
                "state": move(TaskState.LEASED, state),
                "failure": failure,
                "reason": reason,
                "deaths": task.deaths,
                "failures": dict(task.failures),
            },
            id=task.id,
        )
        job.open_tasks[task.step] -= 1

    def _close_attempt(self, lease: Lease, ended: TaskEnded) -> None:
        self._ledger.update(
            "attempts",
            {
                "ended_at": time.time(),
                "outcome": ended.outcome,
                "failure": ended.failure,
                "reason": ended.reason,
                "device_s": ended.device_s,
                "waited_s": ended.waited_s,
            },
            task=lease.task.id,
            number=lease.attempt,
        )


def _got_further(lease: Lease) -> bool:
    """Return whether an attempt got further with the only item that is left, by what it said."""
    return lease.advanced and len(lease.open) == 1 and lease.task.fraction > 0


def _pixels(event: ItemFinished) -> int:
    width_px, height_px = (int(event.detail.get(name, 0)) for name in ("width_px", "height_px"))
    return width_px * height_px
