"""Steps, the registry of their kinds, and what a kind's planner is given and gives back.

A kind of step is a pydantic model of what the user writes and a planner that turns it into tasks; the kind
of work of the same name (`workers.kinds`) does them. Nothing else needs to know a new kind.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol, Self

from pydantic import Field, model_validator

from jobs.errors import UsageError
from jobs.estimates import Rates
from jobs.inputs import Ignored, Open
from jobs.paths import OutputNames
from jobs.schema import FolderName, Location, Mistake, Section, Within, near, shown
from jobs.storage.opening import open_store, store_and_key
from jobs.tasks import StoreOptions

PLUGINS_VARIABLE = "FARM_KINDS"
"""Environment variable: comma-separated modules that register further kinds when imported."""

LARGEST_ASSET_BYTES = 1 << 30

_OWN_MODULES = ("jobs.stylize_step", "jobs.optimize_step", "jobs.train_step")


# --- what is written ------------------------------------------------------------------------------


class Workers(Section):
    """How many workers run one task together, in lockstep."""

    min: Annotated[int, Within(1, 1024)] = 1
    max: Annotated[int, Within(1, 1024)] = 1

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min > self.max:
            raise ValueError(f"min {self.min} is more than max {self.max}")
        return self


class Step(Section):
    """What every kind of step has."""

    name: FolderName = Field(description="Unique in the job; other steps name it in `needs`.")
    kind: str = Field(description="The kind of work.")
    needs: list[str] = Field(
        default_factory=list, description="Steps that must be done before this one starts."
    )
    workers: Workers = Field(
        default_factory=Workers, description="Workers that run one task of this step together."
    )

    def anchored(self, folder: Path) -> Self:  # noqa: ARG002 - kinds without paths have nothing to do
        """Return the step with every local path made absolute, starting from `folder`."""
        return self


class Late(Section):
    """A value that an earlier step makes: `{from: train-x}`."""

    step: str = Field(alias="from", min_length=1, description="Name of the step that makes it.")


# --- what is planned ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PlannedItem:
    """One output that a task will make.

    Attributes:
        input: Absolute path or `s3://` URL; empty where a kind needs none.
        size_bytes: As listed, -1 if unknown.
        stamp: Changes when the content of the input does.
        output_key: Where the result goes, relative to the job's output.
        style: Name of the style, for people.
        output_bytes: How much it will add to the output, about.
    """

    input: str
    size_bytes: int
    stamp: str
    output_key: str
    style: str = ""
    output_bytes: int = 0


@dataclass(frozen=True, slots=True)
class PlannedTask:
    """One task: what its kind needs to know, and what the scheduler may know of it.

    Attributes:
        affinity: Content hash of the model that it needs, or an empty string.
        estimate_s: Device seconds it will take, about.
        workers: Least and most workers that run it together.
        exclusive: Whether nothing else waits on its workers while it runs: it takes long. A task of several
            workers always is.
        working_bytes: How much more lies in the output while it runs, about, as checkpoints do.
    """

    payload: dict[str, Any]
    items: tuple[PlannedItem, ...]
    affinity: str = ""
    estimate_s: float = 1.0
    workers: tuple[int, int] = (1, 1)
    exclusive: bool = False
    working_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Style:
    """A style model as it was found: its name, and the hash of its content, which alone decides pixels."""

    name: str
    sha256: str


class NamedAsset(Protocol):
    """What a library answers with when it is asked for a loss network."""

    @property
    def name(self) -> str:
        """Its name as the library writes it."""
        ...

    @property
    def sha256(self) -> str:
        """Hash of its content."""
        ...


class NamedStyle(NamedAsset, Protocol):
    """What a library answers with when it is asked for a style."""

    @property
    def width(self) -> int:
        """Base width of its network, in channels."""
        ...


class AssetLookup(Protocol):
    """Whatever knows styles and loss networks by name, and keeps files by the hash of their content."""

    def style(self, name: str) -> NamedStyle:
        """Return the style of this name, or raise UsageError naming those there are."""
        ...

    def check_style_name(self, name: str, *, made_in: str, replacing: bool) -> None:
        """Raise UsageError if a style that will be made in an output cannot be given this name."""
        ...

    def network(self, name: str) -> NamedAsset:
        """Return the loss network of this name, or raise UsageError naming those there are."""
        ...

    def put(self, data: bytes | Path) -> str:
        """Keep a file and return its sha256."""
        ...


def asset_name(kind: Literal["file", "network"], name: str) -> str:
    """Return what `Planning.assets` calls a file (by path or URL) or a loss network (by name)."""
    return f"{kind} {name}"


@dataclass(frozen=True, slots=True)
class Planning:
    """What a kind's planner is given.

    Attributes:
        output: The job's output, an absolute folder or `s3://` prefix.
        steps: All steps of the job.
        styles: Styles by the name that the manifest gives them, as they were found at submit.
        assets: Content hashes of files and loss networks by what the manifest calls them (`asset_name`), as
            they were kept at submit.
        results: What the steps that are done have made, by step: the values that others name as late.
        names: Output names that the job has given away; shared by its steps.
        ignored: Collects the files that were found and not taken.
    """

    output: str
    steps: tuple[Step, ...]
    styles: Mapping[str, Style]
    names: OutputNames
    assets: Mapping[str, str] = field(default_factory=dict)
    results: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    rates: Rates = field(default_factory=Rates)
    ignored: Ignored = field(default_factory=Ignored)
    store_options: StoreOptions = field(default_factory=StoreOptions)
    opener: Open = open_store


@dataclass(slots=True)
class Checking:
    """What a kind's check at submit is given; it collects mistakes instead of raising the first.

    Attributes:
        styles: Styles that were found, by the name that the manifest gives them.
        assets: Files and loss networks that were found and kept, by this check or for an earlier job; see
            `Planning.assets`.
        notes: What the user should know, though it is no mistake.
        making: Steps by the name of the style that each makes.
        listed: Content hash and length of lists that were kept for a step of this job, by what was listed.
    """

    output: str
    library: AssetLookup
    store_options: StoreOptions = field(default_factory=StoreOptions)
    opener: Open = open_store
    mistakes: list[Mistake] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    styles: dict[str, Style] = field(default_factory=dict)
    assets: dict[str, str] = field(default_factory=dict)
    making: dict[str, str] = field(default_factory=dict)
    listed: dict[tuple[str, ...], tuple[str, int]] = field(default_factory=dict)

    def refuse(self, at: Location, error: UsageError) -> None:
        """Note a mistake."""
        self.mistakes.append(Mistake(at, str(error)))

    def find_style(self, at: Location, name: str) -> NamedStyle | None:
        """Look a style up and return it, or None if there is none, which is noted where it was asked for."""
        try:
            found = self.library.style(name)
        except UsageError as error:
            self.refuse(at, error)
            return None
        self.styles[name] = Style(found.name, found.sha256)
        return found

    def find_network(self, at: Location, name: str, advice: str = "") -> None:
        """Look a loss network up, and note where it was asked for if there is none.

        Args:
            at: Where it was asked for.
            name: As the library has it.
            advice: What else the user may do than get it.
        """
        asset = asset_name("network", name)
        if asset in self.assets:
            return
        try:
            self.assets[asset] = self.library.network(name).sha256
        except UsageError as error:
            self.refuse(at, UsageError(error.message, "; ".join(filter(None, (error.hint, advice)))))

    def keep_file(self, at: Location, url: str) -> None:
        """Keep the content of a file as an asset, so that it travels to the workers and may change later.

        One that was kept already is not read again.
        """
        if asset_name("file", url) in self.assets:
            return
        root, key = store_and_key(url)
        try:
            data = self.opener(root, self.store_options).read(key, limit_bytes=LARGEST_ASSET_BYTES)
        except FileNotFoundError:
            self.refuse(at, UsageError(f"there is no file {url}", "correct the path"))
        except UsageError as error:
            self.refuse(at, error)
        else:
            self.assets[asset_name("file", url)] = self.library.put(data)


# --- the registry ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class StepKind:
    """One kind of step.

    Attributes:
        name: The `kind` of the step, and the name of the kind of work that does its tasks.
        model: What the user writes; its subclass of `Step`.
        plan: Turns a step into tasks, one after the other; raises FarmError if it cannot be done.
        check: Looks quickly, at submit, whether the step can be done; it gets the step's path.
        examined: Whether the kind of work looks at the first task of a step at submit as well
            (`workers.kinds.Kind.check`), for which it is loaded: that may take seconds.
        makes_style: Whether its tasks return a style as their result, which later steps may name and the
            library is told of. Such a task is not done before its result is known.
    """

    name: str
    model: type[Step]
    plan: Callable[[Any, Planning], Iterator[PlannedTask]]
    check: Callable[[Any, Location, Checking], None] | None = None
    examined: bool = False
    makes_style: bool = False


_KINDS: dict[str, StepKind] = {}


def register_step(kind: StepKind) -> None:
    """Make a kind of step known to manifests in this process."""
    _KINDS[kind.name] = kind


def step_kinds() -> dict[str, StepKind]:
    """Return all kinds of steps by name, importing our own and those of `FARM_KINDS` first.

    Raises:
        UsageError: If a module of `FARM_KINDS` cannot be imported.
    """
    further = filter(None, map(str.strip, os.environ.get(PLUGINS_VARIABLE, "").split(",")))
    for module in (*_OWN_MODULES, *further):
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise UsageError(f"cannot import {module}: {error}", f"correct {PLUGINS_VARIABLE}") from error
    return dict(_KINDS)


def makes_style(name: str) -> bool:
    """Return whether tasks of a kind return a style; those of an unknown kind return nothing."""
    kind = step_kinds().get(name)
    return kind is not None and kind.makes_style


def step_kind(name: Any) -> StepKind:
    """Return the kind of step of this name.

    Raises:
        ValueError: If there is none, naming those there are.
    """
    kinds = step_kinds()
    if not isinstance(name, str) or name not in kinds:
        known = ", ".join(sorted(kinds))
        raise ValueError(f"{shown(name)} is no kind of step{near(name, kinds)} (kinds: {known})")
    return kinds[name]
