"""What travels between the controller and the workers: tasks out, events back.

Plain frozen dataclasses: they are pickled by Ray, kept small (references, never pixels), and know no torch.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from jobs.errors import Failure
from jobs.states import ItemState


@dataclass(frozen=True, slots=True)
class StoreOptions:
    """How to reach an S3-compatible store; every value may be left to boto3's own configuration.

    Secrets are not in here: they come from the environment or the profile of whoever opens the store.
    """

    endpoint_url: str | None = None
    region: str | None = None
    profile: str | None = None
    path_style: bool | None = None


@dataclass(frozen=True, slots=True)
class Item:
    """One output that a user counts.

    Attributes:
        id: Number in the ledger.
        input: Path or `s3://` URL of what it is made from; empty where a kind needs none.
        size_bytes: Size of the input as listed, -1 if unknown.
        stamp: Modification time or etag of the input as listed; an unchanged file has an unchanged stamp.
        output_key: Where the result goes, relative to the job's output.
    """

    id: int
    input: str
    size_bytes: int
    stamp: str
    output_key: str


@dataclass(frozen=True, slots=True)
class GangPlace:
    """The place of a worker in the gang that runs an attempt.

    Attributes:
        rank: Number of this member; 0 holds the lease, finishes the items and is heard.
        workers: Names of all members, by rank.
    """

    rank: int
    workers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TaskMessage:
    """One attempt of a task, as a worker gets it.

    Attributes:
        attempt: Grows with each lease of the task, over the whole life of the ledger.
        kind: Name in the registry of kinds of work.
        lease_s: Seconds from receipt until the attempt must stop unless the lease is renewed.
        output: The job's output, a folder or an `s3://` prefix.
        payload: What the kind needs to know; only the kind and its planner look into it.
        items: What is still to be made.
        on_existing: What to do with a file that the farm did not make: `fail`, `replace` or `rename`.
        gang: Where this worker stands, if several run the attempt together; None for one worker alone.
    """

    job: str
    step: str
    task: int
    attempt: int
    kind: str
    lease_s: float
    output: str
    payload: dict[str, Any]
    items: tuple[Item, ...]
    on_existing: str = "fail"
    store_options: StoreOptions = field(default_factory=StoreOptions)
    gang: GangPlace | None = None


@dataclass(frozen=True, slots=True)
class ItemStarted:
    """A worker has begun to read, render or write this item: it is what a dying worker is blamed on."""

    task: int
    attempt: int
    item: int


@dataclass(frozen=True, slots=True)
class ItemFinished:
    """An item has its outcome.

    Attributes:
        state: `done`, `skipped` or `failed`.
        failure: Class of the failure, for `failed`.
        reason: Why it failed or was skipped, or what should be known about it (first frame of an animation).
        output: Full path or URL of the result, for `done` and `skipped`.
        detail: Facts for the report: width_px, height_px, sha256, size_bytes, seconds, generation, attempt.
    """

    task: int
    attempt: int
    item: int
    state: ItemState
    failure: Failure | None = None
    reason: str = ""
    output: str = ""
    detail: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Progress:
    """How far one long task is, 0 to 1."""

    task: int
    attempt: int
    fraction: float
    message: str = ""


@dataclass(frozen=True, slots=True)
class Emitted:
    """Something a kind of work wants to be seen: `type` is `loss`, `preview` or `message`."""

    task: int
    attempt: int
    type: str
    data: dict[str, Any]


@dataclass(frozen=True, slots=True)
class TaskEnded:
    """An attempt is over.

    Attributes:
        outcome: `finished` (every item has its outcome), `stopped` (asked to), or `failed`.
        failure: Class of the failure, for `failed`; items without an outcome go to another attempt.
        device_s: Seconds in which this attempt held the device.
        waited_s: Seconds of these in which the device had nothing to do.
        result: What a later step may name (`style: {from: train-x}`), for example `{"sha256": ...}`.
    """

    task: int
    attempt: int
    outcome: str
    failure: Failure | None = None
    reason: str = ""
    device_s: float = 0.0
    waited_s: float = 0.0
    result: dict[str, Any] = field(default_factory=dict)


Event = ItemStarted | ItemFinished | Progress | Emitted | TaskEnded


@dataclass(frozen=True, slots=True)
class WorkerReport:
    """What a worker says of itself when it is asked.

    Attributes:
        holds: Content hashes of the models in its cache, least recently used first.
        tasks: Tasks it has, the running one first.
        in_flight: Items that it has begun and not finished.
        loads: How many models it has loaded since it started.
        memory_bytes: What its loaded models hold.
        device_bytes: All memory of its device, which workers on one CPU share.
    """

    worker: str
    pid: int
    node: str
    device: str
    holds: tuple[str, ...] = ()
    tasks: tuple[int, ...] = ()
    in_flight: tuple[int, ...] = ()
    memory_bytes: int = 0
    loads: int = 0
    device_bytes: int = 0
