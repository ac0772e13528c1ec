"""Named entries in the farm's store, a JSON file each: what a library knows its styles and networks by."""

from __future__ import annotations

import json
import logging
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields, replace
from typing import ClassVar, Generic, Self, TypeVar

from jobs.errors import UsageError
from jobs.storage import Store

NAME_LIMIT = 100
"""Longest name of an entry, in characters."""

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")
_SHA256 = re.compile(r"[0-9a-f]{64}")

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Entry(ABC):
    """What every kind of entry has.

    Attributes:
        name: Lower case; what people and manifests call it.
        sha256: Hash of its content, which is an asset.
        bundled: Whether it came with the farm.
    """

    WORD: ClassVar[str] = "entry"
    """What messages call one of this kind."""

    FOLDER: ClassVar[str] = "entries"
    """Where those of this kind lie in a store."""

    EXAMPLE: ClassVar[str] = "name"
    """A name, for those who wrote one that cannot be."""

    TAKEN: ClassVar[str] = "take another name"
    """What to do where the name belongs to another one that could go."""

    COMMANDS: ClassVar[str] = "farm entries"
    """The commands for those of this kind."""

    name: str
    sha256: str
    bundled: bool = field(default=False, kw_only=True)

    def is_same(self, other: Self) -> bool:
        """Return whether two entries of one name mean the same thing, whenever they were added."""
        return self.sha256 == other.sha256

    @classmethod
    @abstractmethod
    def advice(cls, name: str, names: list[str]) -> str:
        """Return what to do where there is none of this name, but there are those."""

    def to_json(self) -> bytes:
        """Return the entry as UTF-8 JSON."""
        return json.dumps(asdict(self), sort_keys=True).encode()

    @classmethod
    def from_json(cls, data: bytes) -> Self:
        """Read an entry, leaving out keys that a later version added.

        Raises:
            ValueError: If it is no JSON object, lacks a needed key, or names no asset.
        """
        document = json.loads(data)
        known = {f.name for f in fields(cls)}
        try:
            entry = cls(**{name: value for name, value in document.items() if name in known})
        except (TypeError, AttributeError) as error:
            raise ValueError(f"not an entry of a {cls.WORD}: {error}") from error
        if not _SHA256.fullmatch(str(entry.sha256)):
            raise ValueError(f"sha256 {entry.sha256!r} is no hash")
        return entry


def check_entry_name(name: str, kind: type[Entry]) -> None:
    """Refuse what could not be the name of an entry.

    Raises:
        UsageError: With a name like it that could.
    """
    if _NAME.fullmatch(name) and len(name) <= NAME_LIMIT:
        return
    near = re.sub(r"[^a-z0-9._-]+", "-", name.lower()).strip("-._")[:NAME_LIMIT]
    raise UsageError(
        f"{name!r} cannot be the name of a {kind.WORD}",
        f"use lower-case letters, digits, '.', '_' and '-' (at most {NAME_LIMIT}): {near or kind.EXAMPLE!r}",
    )


E = TypeVar("E", bound=Entry)


class Names(Generic[E]):
    """All entries of one kind.

    A name that came with the farm is taken. Another one can have it only from before, when the farm came
    without; then neither is taken for the other.

    Args:
        kind: The class of the entries.
        store: Where they are kept.
        bundled: A store of the same layout that came with the farm and is only read.
    """

    def __init__(self, kind: type[E], store: Store, bundled: Store | None = None) -> None:
        self._kind = kind
        self._store = store
        self._bundled = bundled

    def add(self, entry: E, *, replacing: bool = False) -> bool:
        """Keep an entry under its name; return False if the same is there already.

        Args:
            entry: To be kept.
            replacing: Whether it takes the place of another one of this name.

        Raises:
            UsageError: If the name is not allowed, or belongs to another one that must stay.
        """
        check_entry_name(entry.name, self._kind)
        key = self._key(entry.name)
        standing = self._bundled_entry(entry.name)
        if standing is None:
            if self._store.create(key, entry.to_json()):
                return True
            standing = self._read(self._store, key)
        if standing is not None and standing.is_same(entry):
            return False
        if standing is None or (replacing and not standing.bundled):  # a damaged one is nobody's
            self._store.write(key, entry.to_json())
            return True
        word = self._kind.WORD
        if standing.bundled:
            raise UsageError(f"another {word} named {entry.name!r} came with the farm", Entry.TAKEN)
        raise UsageError(f"there is another {word} named {entry.name!r}", self._kind.TAKEN)

    def get(self, name: str) -> E:
        """Return the entry with this name, in any case.

        Raises:
            UsageError: If there is none, with what to do; or if there are two, one that was added and one
                that came with the farm.
        """
        wanted, word = name.lower(), self._kind.WORD
        if _NAME.fullmatch(wanted):
            added, bundled = self._read(self._store, self._key(wanted)), self._bundled_entry(wanted)
            if added is not None and bundled is not None and not bundled.is_same(added):
                raise UsageError(
                    f"there are two {word}s named {wanted!r}: one was added, another came with the farm",
                    f"add the file of yours under another name, then `{self._kind.COMMANDS} remove {wanted}`",
                )
            entry = bundled or added
            if entry is not None:
                return entry
            if self._store.stat(self._key(wanted)) is not None:
                raise UsageError(
                    f"the entry of {word} {wanted!r} in {self._store.url} is damaged", f"add the {word} again"
                )
        raise UsageError(
            f"there is no {word} {name!r}",
            self._kind.advice(wanted, list(dict.fromkeys(e.name for e in self.all()))),
        )

    def find(self, name: str) -> E | None:
        """Return the entry with exactly this name, or None if there is none, or it is damaged."""
        if not _NAME.fullmatch(name):
            return None
        return self._bundled_entry(name) or self._read(self._store, self._key(name))

    def all(self) -> list[E]:
        """Return all entries by name; one that is damaged is logged and left out.

        What was added and came with the farm as well is returned once; two different ones of a name both are.
        """
        bundled = {entry.name: entry for entry in self._listed(self._bundled)} if self._bundled else {}
        added = [
            entry
            for entry in self._listed(self._store)
            if entry.name not in bundled or not bundled[entry.name].is_same(entry)
        ]
        return sorted([*added, *bundled.values()], key=lambda entry: (entry.name, entry.bundled))

    def remove(self, name: str) -> None:
        """Take a name away from what was added; the asset stays for jobs that were planned with it.

        Raises:
            UsageError: If there is no such entry, or it came with the farm.
        """
        key = self._key(name.lower()) if _NAME.fullmatch(name.lower()) else ""
        if key and self._store.stat(key) is not None:  # a damaged entry too
            self._store.delete(key)
            return
        if self.get(name).bundled:
            word = self._kind.WORD
            raise UsageError(
                f"the {word} {name!r} came with the farm and stays", f"{word}s that you added can go"
            )

    def _bundled_entry(self, name: str) -> E | None:
        return self._read(self._bundled, self._key(name)) if self._bundled else None

    def _read(self, store: Store, key: str) -> E | None:
        """Return an entry, or None if it is not there or damaged."""
        try:
            entry = self._kind.from_json(store.read(key))
        except FileNotFoundError:
            return None
        except ValueError as error:
            log.warning("%s/%s is damaged and left out: %s", store.url, key, error)
            return None
        if self._key(entry.name) != key:
            log.warning("%s/%s is left out: it is of %s %r", store.url, key, self._kind.WORD, entry.name)
            return None
        return replace(entry, bundled=store is self._bundled)

    def _listed(self, store: Store) -> Iterator[E]:
        for listed in store.list(self._kind.FOLDER, recursive=False):
            entry = self._read(store, listed.key) if listed.key.endswith(".json") else None
            if entry is not None:
                yield entry

    def _key(self, name: str) -> str:
        return f"{self._kind.FOLDER}/{name}.json"
