"""What a user asked for as inputs, turned into pictures by listing folders and prefixes; none is opened."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from jobs.errors import UsageError
from jobs.paths import (
    INPUT_EXTENSIONS,
    glob_is_deep,
    is_glob,
    is_hidden,
    is_inside,
    is_picture,
    is_s3,
    join_url,
    matches_glob,
    natural_key,
    split_glob,
    split_url,
)
from jobs.storage.base import FARM_PREFIX, Entry, Store
from jobs.storage.opening import open_store
from jobs.storage.rules import safe_key
from jobs.tasks import StoreOptions

Open = Callable[[str, StoreOptions | None], Store]

LOOK_LIMIT = 10_000
"""How many files to look at for a first picture before a folder is believed to have some."""

NAMED_LIMIT = 100


@dataclass(frozen=True, slots=True)
class Picture:
    """One input as a listing shows it.

    Attributes:
        url: Absolute path or `s3://` URL.
        key: Its path below the folder that was asked for; results keep these folders.
        stamp: Changes when the content does.
    """

    url: str
    key: str
    size_bytes: int
    stamp: str


@dataclass(slots=True)
class Ignored:
    """Files that were found and not taken: how many, and the first of them with the reason."""

    count: int = 0
    names: list[str] = field(default_factory=list)
    _seen: set[str] = field(default_factory=set, repr=False)

    def add(self, url: str, reason: str) -> None:
        """Note one file, once however many inputs and steps come across it.

        Bytes in its name that are no text become escapes: what is noted goes into reports and over HTTP.
        """
        if url in self._seen:
            return
        self._seen.add(url)
        self.count += 1
        if len(self.names) < NAMED_LIMIT:
            self.names.append(f"{url} ({reason})".encode(errors="backslashreplace").decode())


@dataclass(frozen=True, slots=True)
class Source:
    """One entry of `inputs`, found to be a file, a folder or a glob.

    Attributes:
        store: Opened at the folder or prefix that keys are relative to.
        pattern: Name of the file, or the glob below the folder; empty for a folder.
        form: `file`, `folder` or `glob`.
        recursive: Whether folders below are listed too.
    """

    spec: str
    store: Store
    pattern: str
    form: str
    recursive: bool

    def covers(self, url: str) -> bool:
        """Return whether a file under `url`, an absolute folder or prefix, could be listed as an input."""
        if self.form == "file":
            return False
        return is_inside(url, self.store.url) and (self.recursive or is_inside(self.store.url, url))

    def wants(self, entry: Entry) -> bool:
        """Return whether a listed file is asked for: none that is hidden, and no marker of an S3 folder."""
        if is_hidden(entry.key) or entry.key.endswith("/"):
            return False
        return self.form != "glob" or matches_glob(entry.key, self.pattern)


class Inputs:
    """Finds inputs and lists them; each store is opened once."""

    def __init__(self, options: StoreOptions | None = None, opener: Open = open_store) -> None:
        self._options = options
        self._open = opener
        self._stores: dict[str, Store] = {}

    def locate(self, spec: str, *, recursive: bool = True) -> Source:
        """Find out what an entry of `inputs` names.

        Raises:
            UsageError: If there is nothing of that name, or it may not be looked at.
        """
        if not is_s3(spec) and not Path(spec).is_absolute():
            raise UsageError(f"{spec} is a relative path", "give an absolute path: workers run elsewhere")
        plain = spec.rstrip("/") or "/"
        if FARM_PREFIX in plain.split("/"):
            raise UsageError(f"{spec} lies in a folder of the farm itself", "name a folder with pictures")
        root, name = split_url(plain)
        if spec == plain and self._is_file(plain, root, name):
            if is_hidden(name):
                raise UsageError(f"{spec} is a hidden file, which is never an input", "rename it")
            return Source(spec, self._store(root), name, "file", recursive=False)
        if is_glob(plain) and not _is_folder(plain):
            root, pattern = split_glob(plain)
            return Source(spec, self._store(root), pattern, "glob", recursive=glob_is_deep(pattern))
        if not is_s3(plain) and not _is_folder(plain):
            raise UsageError(f"there is no file or folder {spec}", "check the path")
        return Source(spec, self._store(plain), "", "folder", recursive=recursive)

    def pictures(self, source: Source, ignored: Ignored) -> list[Picture]:
        """Return the pictures of a source in natural order; what is no picture is added to `ignored`.

        Hidden files are left out in silence. So are the results of earlier jobs in a folder below the one
        that was asked for: they are reported, as one entry for each such output.
        """
        entries = sorted(self._entries(source), key=lambda entry: natural_key(entry.key))
        outputs = _outputs_below(entries)
        for output in sorted(outputs):
            ignored.add(join_url(source.store.url, output), "results of an earlier job")
        found = []
        for entry in filter(source.wants, entries):
            if not outputs.isdisjoint(_folders_above(entry.key)):
                continue
            url = join_url(source.store.url, entry.key)
            if reason := _reason_to_ignore(entry.key):
                ignored.add(url, reason)
            else:
                found.append(Picture(url, entry.key, entry.size_bytes, entry.stamp))
        return found

    def check(self, source: Source) -> None:
        """Make sure, without listing everything, that a source seems to have a picture.

        Raises:
            UsageError: If it has none.
        """
        files = 0
        for number, entry in enumerate(self._entries(source)):
            files += source.wants(entry)
            if number == LOOK_LIMIT or (source.wants(entry) and is_picture(entry.key)):
                return
        if files:
            known = " ".join(sorted(INPUT_EXTENSIONS))
            raise UsageError(f"there is no picture in {source.spec}", f"these are read: {known}")
        if source.form == "glob":
            raise UsageError(f"no file matches {source.spec}", "`**` stands for folders of any depth")
        raise UsageError(f"there is nothing in {source.spec}", "check the path")

    @staticmethod
    def _entries(source: Source) -> Iterator[Entry]:
        """Yield what there is in a source as it is listed, hidden files among it."""
        if source.form == "file":
            entry = source.store.stat(source.pattern)
            return iter([entry] if entry else [])
        return source.store.list(recursive=source.recursive)

    def _is_file(self, url: str, root: str, name: str) -> bool:
        if not is_s3(url):
            return Path(url).is_file()
        return root != "s3:/" and self._store(root).stat(name) is not None

    def _store(self, root: str) -> Store:
        if root not in self._stores:
            self._stores[root] = self._open(root, self._options)
        return self._stores[root]


def _is_folder(url: str) -> bool:
    return not is_s3(url) and Path(url).is_dir()


def _folders_above(key: str) -> Iterator[str]:
    return itertools.accumulate(key.split("/")[:-1], "{}/{}".format)


def _reason_to_ignore(key: str) -> str:
    """Return why a file that was asked for cannot be taken, or an empty string."""
    try:
        safe_key(key)
    except UsageError as error:
        return error.message
    return "" if is_picture(key) else "not a type of picture that is read"


def _outputs_below(entries: Sequence[Entry]) -> set[str]:
    """Return the folders below the listed one that hold results, known by the `.farm` in them."""
    marker = f"/{FARM_PREFIX}/"
    return {entry.key.partition(marker)[0] for entry in entries if marker in entry.key}
