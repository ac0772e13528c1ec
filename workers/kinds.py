"""The registry of kinds of work, and all that a kind knows of the farm.

A kind of work is one module with `run(task, context)` and, where reading ahead pays, `prepare(item)`.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from jobs.checkpoints import Saved
from jobs.errors import FarmError
from jobs.steps import PLUGINS_VARIABLE, PlannedItem
from jobs.tasks import Item, TaskMessage

if TYPE_CHECKING:
    from workers.models import ModelCache
    from workers.nst.group import Group


@dataclass(frozen=True, slots=True)
class Produced:
    """A finished result before it is committed.

    Attributes:
        data: The encoded file.
        note: What a user should know about it ("first of 12 frames"), or an empty string.
        facts: For the record and the report: width_px, height_px, seconds; and pixel_evaluations, where the
            time that a kind takes goes by those of this attempt and not by the pixels of the result.
    """

    data: bytes
    note: str = ""
    facts: dict[str, Any] = field(default_factory=dict)


class Context(Protocol):
    """All that a kind of work knows of the farm."""

    device: str
    """`cpu`, `cuda:0`."""

    threads: int
    """Compute threads of this worker."""

    models: ModelCache

    group: Group
    """The workers that run this attempt together. All call the same methods of it, in the same order, until
    they end; only the first of them (`rank` 0) has items, keeps files and checkpoints, and is heard."""

    def asset(self, sha256: str) -> Path:
        """Return a local file with the content of this hash, fetched from the farm's store if need be."""
        ...

    def keep_asset(self, data: bytes) -> str:
        """Keep a file in the farm's store, for later steps and the library, and return its sha256.

        Raises:
            LeaseLostError: If the lease ended.
        """
        ...

    def read(self, url: str) -> bytes:
        """Return the content of a path or `s3://` URL that is no item: the data of a training.

        Raises:
            BadInputError: If it is not there, or too large.
        """
        ...

    def should_stop(self) -> bool:
        """Return whether to stop now (canceled, paused, past the lease). Ask between pictures.

        What is done by then may still be kept, unless there was no time for that: then keeping it raises, and
        so does waiting in `group`. Of a gang, the first member is asked, and tells the others where to stop.
        """
        ...

    def progress(self, fraction: float, message: str = "") -> None:
        """Say how far the task is, 0 to 1."""
        ...

    def emit(self, type: str, data: dict[str, Any]) -> None:  # noqa: A002 - the word of the contract
        """Let a loss, a preview or a message be seen."""
        ...

    def read_ahead(self) -> Iterator[tuple[Item, Any]]:
        """Yield the task's items with what `prepare` made of them, decoded ahead in threads.

        Items that are skipped, or whose `prepare` raised, are finished here and never seen by the kind.
        It ends early when the task should stop.
        """
        ...

    def finish_item(self, item: Item, result: Callable[[], Produced] | FarmError) -> None:
        """Give an item its outcome; a callable is run (encode), checked and committed in a thread behind."""
        ...

    def finished(self, item: Item) -> bytes | None:
        """Return the result that stands under the output key of an item, or None if it is to be made.

        For kinds that return what later steps may name: `read_ahead` leaves such an item out, whether an
        earlier job made it, or an attempt of this one that died before it could return anything.

        Raises:
            StorageError: If it is damaged.
        """
        ...

    def save_checkpoint(self, data: bytes, parts: Iterable[bytes] = ()) -> None:
        """Keep resumable state atomically; raises LeaseLostError once another attempt goes on.

        Args:
            data: What of it is small.
            parts: The rest of a large one. The next is asked for when the one before is written, so that not
                all of them need room at once; after an error they are not asked for to the end.
        """
        ...

    def load_checkpoint(self) -> bytes | None:
        """Return the data of the last state that an attempt of this task kept, or None."""
        ...

    def checkpoint_parts(self) -> Iterator[bytes]:
        """Read the parts of the state that was loaded, one at a time."""
        ...

    def keep_file(self, name: str, data: bytes) -> None:
        """Keep a file beside the results, under `.farm/jobs/<job>/`, in place of one of this name.

        For what people look at: traces, plots, previews, parameters.

        Raises:
            LeaseLostError: If the lease ended.
        """
        ...

    def keep_state(self, name: str, data: bytes, parts: Iterable[bytes] = ()) -> None:
        """Keep a state beside the results that later jobs go on from; see `save_checkpoint`."""
        ...

    def kept_state(self, job: str, name: str) -> Saved | None:
        """Return a state that a job with the same output kept, or None if none is whole."""
        ...


def device_for(wanted: str, context: Context) -> str:
    """Return the device that a task is done on, of the worker that it was given to.

    Args:
        wanted: By the job: `auto`, `cpu`, `cuda`.
        context: Of the attempt.

    Raises:
        FarmError: If the worker has no such device.
    """
    if wanted == "cuda" and not context.device.startswith("cuda"):
        raise FarmError(f"the job wants a GPU and this worker has {context.device}", "leave device at auto")
    return "cpu" if wanted == "cpu" else context.device


@dataclass(frozen=True, slots=True)
class Prepared:
    """What `prepare` hands to `run`: anything, and what is to be known of its size.

    Attributes:
        value: For `run` alone.
        memory_bytes: What it holds, so that reading ahead stays within bounds.
    """

    value: Any
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class Checks:
    """What a check at submit may use.

    Attributes:
        asset: Returns a local file with the content of a hash.
        read: Returns the content of a path or `s3://` URL.
        workers: How many workers there are, or may be.
        device: Of the workers: `cpu`, `cuda`.
        memory_bytes: Of each worker's device; 0 if that is not known.
        note: Takes what the user should know, though it stops nothing.
        single: Whether the step has no other task: what is wrong with its picture is wrong with the job.
        alone: Whether the job has no other step that works by itself: what is wrong with what this one is to
            make is wrong with the job. Else it may fail by itself, with a note at submit.
    """

    asset: Callable[[str], Path]
    read: Callable[[str], bytes]
    workers: int
    device: str
    memory_bytes: int
    note: Callable[[str], None]
    single: bool = True
    alone: bool = True


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of work.

    Attributes:
        run: Does all items of a task; returns what later steps may name.
        prepare: Reads one item ahead, given the content of its input; runs in a thread.
        settings: Returns what of the payload decides pixels, for the render key, or None for kinds whose
            items have no render key (they are always made).
        check: Looks at submit, given the payload and the items of the first task, whether it can be done.
        forecast: Tells for a dry run, given the same, what the task would do, as JSON: facts by name. Of them
            `scales` is a list of rows, `seconds` how long it takes, about, and `basis` how that is known.
    """

    name: str
    run: Callable[[TaskMessage, Context], dict[str, Any]]
    prepare: Callable[[TaskMessage, Item, bytes], Prepared] | None = None
    settings: Callable[[dict[str, Any]], dict[str, Any]] | None = None
    check: Callable[[dict[str, Any], Sequence[PlannedItem], Checks], None] | None = None
    forecast: Callable[[dict[str, Any], Sequence[PlannedItem], Checks], dict[str, Any]] | None = None


KINDS: dict[str, Kind] = {}

_OWN_MODULES = ("workers.stylize", "workers.optimize", "workers.train")


def register(kind: Kind) -> None:
    """Make a kind of work known to the workers of this process."""
    KINDS[kind.name] = kind


def load_kind(name: str) -> Kind:
    """Return the kind of work of this name, importing our own and those of `FARM_KINDS` on first use.

    Raises:
        FarmError: If no module registers it.
    """
    for module in [*_OWN_MODULES, *filter(None, os.environ.get(PLUGINS_VARIABLE, "").split(","))]:
        importlib.import_module(module)
    try:
        return KINDS[name]
    except KeyError:
        raise FarmError(
            f"no kind of work {name!r} (there are: {', '.join(sorted(KINDS))})",
            f"name the module that registers it in {PLUGINS_VARIABLE}",
        ) from None
