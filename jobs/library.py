"""The farm's assets, kept by the hash of their content, and the names of its styles."""

from __future__ import annotations

import difflib
import hashlib
import json
import logging
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from jobs.errors import StorageError, UsageError
from jobs.storage import Store
from jobs.storage.files import explained, sha256_of
from jobs.storage.local import LocalStore

NAME_LIMIT = 100
"""Longest name of a style, in characters."""

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")
_SHA256 = re.compile(r"[0-9a-f]{64}")

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class StyleEntry:
    """One named style.

    Attributes:
        name: Lower case; what `--style` takes.
        sha256: Hash of its style model, which is an asset.
        format: What it was imported from (`pytorch-examples`).
        width: Base width of its network, in channels.
        size_bytes: Size of the style model.
        created_at: When it was added, in seconds since the epoch.
        source: Where it came from: a file name or an address.
        license: What its author allows, or an empty string if that is not known.
        bundled: Whether it came with the farm.
        metadata: Anything else that is worth knowing; JSON.
    """

    name: str
    sha256: str
    format: str
    width: int
    size_bytes: int
    created_at: float
    source: str = ""
    license: str = ""
    bundled: bool = False
    metadata: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> bytes:
        """Return the entry as UTF-8 JSON."""
        return json.dumps(asdict(self), sort_keys=True).encode()

    @classmethod
    def from_json(cls, data: bytes) -> StyleEntry:
        """Read an entry, leaving out keys that a later version added.

        Raises:
            ValueError: If it is no JSON object, lacks a needed key, or names no asset.
        """
        document = json.loads(data)
        known = {f.name for f in fields(cls)}
        try:
            entry = cls(**{name: value for name, value in document.items() if name in known})
        except (TypeError, AttributeError) as error:
            raise ValueError(f"not an entry of a style: {error}") from error
        if not _SHA256.fullmatch(str(entry.sha256)):
            raise ValueError(f"sha256 {entry.sha256!r} is no hash")
        return entry


class Library:
    """Assets and styles in the farm's store.

    Args:
        store: Where they are kept.
        cache_dir: Folder for local copies of what lies in a remote store.
        bundled: A store of the same layout that came with the farm and is only read.
    """

    def __init__(self, store: Store, cache_dir: Path, bundled: Store | None = None) -> None:
        self._store = store
        self._bundled = bundled
        self._cache = LocalStore(cache_dir)
        self._verified: dict[Path, str] = {}

    # Assets.

    def put(self, data: bytes | Path) -> str:
        """Keep `data` (bytes, or the file at a path) and return its sha256; a damaged copy is replaced.

        Raises:
            UsageError: If the file cannot be read.
        """
        if isinstance(data, Path):
            with explained(data):
                sha256, size_bytes = sha256_of(data), data.stat().st_size
        else:
            sha256, size_bytes = hashlib.sha256(data).hexdigest(), len(data)
        key = _asset_key(sha256)
        standing = self._store.stat(key)
        if standing is None or standing.size_bytes != size_bytes or not self._is_intact(key, sha256):
            self._store.write(key, data)
        return sha256

    def has(self, sha256: str) -> bool:
        """Return whether there is an asset with this hash."""
        key = _asset_key(sha256)
        return any(store.stat(key) is not None for store in self._stores())

    def path(self, sha256: str) -> Path:
        """Return a local file with the content of this hash: the asset itself, or a verified copy.

        Raises:
            UsageError: If there is none.
            StorageError: If it is damaged.
        """
        key = _asset_key(sha256)
        for store in self._stores():
            if isinstance(store, LocalStore) and store.stat(key) is not None:
                return self._check(store, key, sha256)
        if self._cache.stat(key) is not None and self._is_whole(self._cache.path(key), sha256):
            return self._cache.path(key)
        self._cache.write(key, self._fetch(key, sha256))
        return self._check(self._cache, key, sha256)

    def _fetch(self, key: str, sha256: str) -> bytes:
        for store in self._stores():
            try:
                data = store.read(key)
            except FileNotFoundError:
                continue
            if hashlib.sha256(data).hexdigest() != sha256:
                raise _damaged(f"{store.url}/{key}")
            return data
        raise UsageError(f"the farm has no asset {sha256}", "add the file again that it was made from")

    def _check(self, store: LocalStore, key: str, sha256: str) -> Path:
        path = store.path(key)
        if not self._is_whole(path, sha256):
            raise _damaged(str(path))
        return path

    def _is_whole(self, path: Path, sha256: str) -> bool:
        """Return whether the file has this hash; it is read once, until it changes."""
        with explained(path):
            details = path.stat()
            stamp = f"{details.st_mtime_ns} {details.st_size}"
            if self._verified.get(path) != stamp:
                if sha256_of(path) != sha256:
                    return False
                self._verified[path] = stamp
        return True

    def _is_intact(self, key: str, sha256: str) -> bool:
        """Return whether an asset of the right size is right; remote stores check their objects."""
        return not isinstance(self._store, LocalStore) or self._is_whole(self._store.path(key), sha256)

    # Styles.

    def add_style(self, entry: StyleEntry) -> bool:
        """Give a style its name; return False if the same style has this name already.

        Raises:
            UsageError: If the name is not allowed, or belongs to another style.
        """
        _check_name(entry.name)
        key = _style_key(entry.name)
        standing = self._bundled_entry(entry.name)
        if standing is None:
            if self._store.create(key, entry.to_json()):
                return True
            standing = self._read(self._store, key)
        if standing is None:  # damaged, and so nobody's
            self._store.write(key, entry.to_json())
            return True
        if _same_style(standing, entry):
            return False
        hint = "take another name" if standing.bundled else "remove that style first, or take another name"
        raise UsageError(f"there is another style named {entry.name!r}", hint)

    def style(self, name: str) -> StyleEntry:
        """Return the style with this name, in any case.

        Raises:
            UsageError: If there is none, with the names that there are.
        """
        wanted = name.lower()
        if _NAME.fullmatch(wanted):
            entry = self._read(self._store, _style_key(wanted)) or self._bundled_entry(wanted)
            if entry is not None:
                return entry
            if self._store.stat(_style_key(wanted)) is not None:
                raise UsageError(
                    f"the entry of style {wanted!r} in {self._store.url} is damaged", "add the style again"
                )
        names = [entry.name for entry in self.styles()]
        near = difflib.get_close_matches(wanted, names, n=3)
        if near:
            hint = f"did you mean {' or '.join(near)}?"
        else:
            hint = f"there are: {', '.join(names)}" if names else "add one with `farm styles add`"
        raise UsageError(f"there is no style {name!r}", hint)

    def styles(self) -> list[StyleEntry]:
        """Return all styles by name; an entry that is damaged is logged and left out."""
        entries: dict[str, StyleEntry] = {}
        for store in self._stores():
            for listed in store.list("styles", recursive=False):
                if listed.key.endswith(".json"):
                    entry = self._read(store, listed.key)
                    if entry is not None:
                        entries.setdefault(entry.name, entry)
        return [entries[name] for name in sorted(entries)]

    def remove_style(self, name: str) -> None:
        """Take a style's name away; its style model stays for jobs that were planned with it.

        Raises:
            UsageError: If there is no such style, or it came with the farm.
        """
        key = _style_key(name.lower()) if _NAME.fullmatch(name.lower()) else ""
        if key and self._store.stat(key) is not None:  # a damaged entry too
            self._store.delete(key)
            return
        if self.style(name).bundled:
            raise UsageError(f"style {name!r} came with the farm and stays", "styles that you added can go")

    def _bundled_entry(self, name: str) -> StyleEntry | None:
        return self._read(self._bundled, _style_key(name)) if self._bundled else None

    def _read(self, store: Store, key: str) -> StyleEntry | None:
        """Return an entry, or None if it is not there or damaged."""
        try:
            entry = StyleEntry.from_json(store.read(key))
        except FileNotFoundError:
            return None
        except ValueError as error:
            log.warning("%s/%s is damaged and left out: %s", store.url, key, error)
            return None
        if _style_key(entry.name) != key:
            log.warning("%s/%s is left out: it is of style %r", store.url, key, entry.name)
            return None
        return replace(entry, bundled=store is self._bundled)

    def _stores(self) -> Iterator[Store]:
        yield self._store
        if self._bundled is not None:
            yield self._bundled


def _same_style(one: StyleEntry, other: StyleEntry) -> bool:
    return (one.sha256, one.format, one.width) == (other.sha256, other.format, other.width)


def _check_name(name: str) -> None:
    if _NAME.fullmatch(name) and len(name) <= NAME_LIMIT:
        return
    near = re.sub(r"[^a-z0-9._-]+", "-", name.lower()).strip("-._")[:NAME_LIMIT]
    raise UsageError(
        f"{name!r} cannot be the name of a style",
        f"use lower-case letters, digits, '.', '_' and '-' (at most {NAME_LIMIT}): {near or 'candy'!r}",
    )


def _style_key(name: str) -> str:
    return f"styles/{name}.json"


def _asset_key(sha256: str) -> str:
    if not _SHA256.fullmatch(sha256):
        raise UsageError(f"{sha256!r} is no sha256 of an asset", "it has 64 digits of 0-9 and a-f")
    return f"assets/{sha256[:2]}/{sha256}"


def _damaged(where: str) -> StorageError:
    return StorageError(f"{where} is damaged: its content has another hash", "add the file again")
