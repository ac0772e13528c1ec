"""The farm's assets, kept by the hash of their content, and the names of its styles and loss networks."""

from __future__ import annotations

import difflib
import hashlib
import re
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar, Self

from jobs.entries import Entry, Names
from jobs.errors import StorageError, UsageError
from jobs.storage import Store
from jobs.storage.files import explained, sha256_of
from jobs.storage.local import LocalStore

FETCHED_NETWORKS = ("vgg16", "vgg19")
"""Loss networks that `farm weights fetch` gets: torchvision's own, under the names of their architectures."""

TRAINED = "trained"
"""Format of a style that was trained by a farm, in place of what it was imported from."""

_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class StyleEntry(Entry):
    """One named style: what `--style` takes. Its content is a style model.

    Attributes:
        format: What it was imported from (`pytorch-examples`), or `trained`.
        width: Base width of its network, in channels.
        size_bytes: Size of the style model.
        created_at: When it was added, in seconds since the epoch; 0 where it came with the farm.
        source: Where it came from: a file name or an address.
        license: What its author allows, or an empty string if that is not known.
        metadata: Anything else that is worth knowing; JSON.
    """

    WORD: ClassVar[str] = "style"
    FOLDER: ClassVar[str] = "styles"
    EXAMPLE: ClassVar[str] = "candy"
    TAKEN: ClassVar[str] = "remove that style first, or take another name"
    COMMANDS: ClassVar[str] = "farm styles"

    format: str
    width: int
    size_bytes: int
    created_at: float
    source: str = ""
    license: str = ""
    metadata: dict[str, Any] = field(default_factory=dict)

    def is_same(self, other: Self) -> bool:
        """Return whether two entries of one name mean the same style."""
        return (self.sha256, self.format, self.width) == (other.sha256, other.format, other.width)

    @property
    def made_in(self) -> str:
        """The output of the job that trained the style, a folder or prefix; else nothing."""
        return str(self.metadata.get("output", "")).rstrip("/") if self.format == TRAINED else ""

    @classmethod
    def advice(cls, name: str, names: list[str]) -> str:
        """Return names like this one, else those there are."""
        near = difflib.get_close_matches(name, names, n=3)
        if near:
            return f"did you mean {' or '.join(near)}?"
        return f"there are: {', '.join(names)}" if names else "add one with `farm styles add`"


@dataclass(frozen=True, slots=True)
class NetworkEntry(Entry):
    """One named loss network: what `--loss-network` takes. Its content is a file of ours with the weights.

    Attributes:
        architecture: `vgg16`, `vgg19`.
        family: Of its weights, and so their preprocessing: `torchvision`, `caffe`.
        channel_scaled: Whether every channel was divided by a factor when it was added.
        deepest_layer: The last layer that a loss can use, such as `relu5_4`.
        size_bytes: Size of its file.
        created_at: When it was added, in seconds since the epoch.
        source: Where it came from: a file name, or what is fetched.
        metadata: Anything else that is worth knowing; JSON.
    """

    WORD: ClassVar[str] = "loss network"
    FOLDER: ClassVar[str] = "networks"
    EXAMPLE: ClassVar[str] = "vgg19"
    TAKEN: ClassVar[str] = "say --replace, or take another name"
    COMMANDS: ClassVar[str] = "farm weights"

    architecture: str
    family: str
    channel_scaled: bool
    deepest_layer: str
    size_bytes: int
    created_at: float
    source: str = ""
    metadata: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def advice(cls, name: str, names: list[str]) -> str:
        """Return the commands that get such a network, and the names there are."""
        family = "caffe" if name.endswith("-caffe") else "caffe|torchvision"
        near = difflib.get_close_matches(name, names, n=1)
        if name in FETCHED_NETWORKS:
            add = f"farm weights add {name} FILE --preprocessing torchvision"
            way = f"get it with `farm weights fetch {name}` or `{add}`"
        else:
            meant = f"did you mean {near[0]}? if not, " if near else ""
            way = f"{meant}add it with `farm weights add {name} FILE --preprocessing {family}`"
        return f"{way}; there are: {', '.join(names) or 'none yet'}"


class Library:
    """Assets, styles and loss networks in the farm's store.

    Args:
        store: Where they are kept.
        cache_dir: Folder for local copies of what lies in a remote store.
        bundled: A store of the same layout that came with the farm and is only read: `jobs.bundled`.
        aside: A store that takes the assets that are put, so that `store` is only read.
    """

    def __init__(
        self, store: Store, cache_dir: Path, bundled: Store | None = None, aside: Store | None = None
    ) -> None:
        self._takes = store if aside is None else aside
        self._stores = [each for each in (aside, store, bundled) if each is not None]
        self._cache = LocalStore(cache_dir)
        self._verified: dict[Path, str] = {}
        self._styles = Names(StyleEntry, store, bundled)
        self._networks = Names(NetworkEntry, store, bundled)

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
        standing = self._takes.stat(key)
        if standing is None or standing.size_bytes != size_bytes or not self._is_intact(key, sha256):
            self._takes.write(key, data)
        return sha256

    def has(self, sha256: str) -> bool:
        """Return whether there is an asset with this hash."""
        key = _asset_key(sha256)
        return any(store.stat(key) is not None for store in self._stores)

    def path(self, sha256: str) -> Path:
        """Return a local file with the content of this hash: the asset itself, or a verified copy.

        Raises:
            UsageError: If there is none.
            StorageError: If it is damaged.
        """
        key = _asset_key(sha256)
        for store in self._stores:
            if isinstance(store, LocalStore) and store.stat(key) is not None:
                return self._check(store, key, sha256)
        if self._cache.stat(key) is not None and self._is_whole(self._cache.path(key), sha256):
            return self._cache.path(key)
        self._cache.write(key, self._fetch(key, sha256))
        return self._check(self._cache, key, sha256)

    def _fetch(self, key: str, sha256: str) -> bytes:
        for store in self._stores:
            try:
                data = store.read(key)
            except FileNotFoundError:
                continue
            if hashlib.sha256(data).hexdigest() != sha256:
                raise _damaged(f"{store.url}/{key}")
            return data
        raise UsageError(
            f"neither the farm's store nor stylefarm {version('stylefarm')} of this machine has {sha256}",
            "what comes with the farm needs one version of stylefarm on all machines; add other files again",
        )

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
        return not isinstance(self._takes, LocalStore) or self._is_whole(self._takes.path(key), sha256)

    # Styles.

    def add_style(self, entry: StyleEntry) -> bool:
        """Give a style its name; return False if the same style has this name already.

        Raises:
            UsageError: If the name is not allowed, or belongs to another style.
        """
        return self._styles.add(entry)

    def add_trained(self, entry: StyleEntry, *, replacing: bool = False) -> bool:
        """Give a trained style its name, which an older one that was made in the same output loses.

        Args:
            entry: Of the style.
            replacing: Whether any other style loses it as well.

        Returns:
            False if the same style has this name already.

        Raises:
            UsageError: If the name is not allowed, or belongs to another style that must stay.
        """
        standing = self._styles.find(entry.name)
        older = standing is not None and standing.made_in == entry.made_in != ""
        return self._styles.add(entry, replacing=replacing or older)

    def check_style_name(self, name: str, *, made_in: str, replacing: bool = False) -> None:
        """Refuse a name that `add_trained` could not give.

        Args:
            name: Of the style.
            made_in: The output of the job that will train it.
            replacing: Whether another style may lose it.

        Raises:
            UsageError: If it belongs to another style that must stay.
        """
        standing = self._styles.find(name)
        if standing is None:
            return
        if standing.bundled:
            raise UsageError(f"the style {name!r} came with the farm and stays", Entry.TAKEN)
        if not replacing and standing.made_in != made_in.rstrip("/"):
            raise UsageError(
                f"there is another style named {name!r}",
                "take another name, or replace it: replace, --replace",
            )

    def style(self, name: str) -> StyleEntry:
        """Return the style with this name, in any case.

        Raises:
            UsageError: If there is none, with the names that there are; or if there are two, one that was
                added and one that came with the farm.
        """
        return self._styles.get(name)

    def styles(self) -> list[StyleEntry]:
        """Return all styles by name; an entry that is damaged is logged and left out."""
        return self._styles.all()

    def remove_style(self, name: str) -> None:
        """Take a style's name away; its style model stays for jobs that were planned with it.

        Raises:
            UsageError: If there is no such style, or it came with the farm.
        """
        self._styles.remove(name)

    # Loss networks.

    def add_network(self, entry: NetworkEntry, *, replacing: bool = False) -> bool:
        """Give a loss network its name; return False if the same network has this name already.

        Args:
            entry: Of the network.
            replacing: Whether it takes the name of another network; jobs that were planned with that go on.

        Raises:
            UsageError: If the name is not allowed, or belongs to another network that must stay.
        """
        return self._networks.add(entry, replacing=replacing)

    def network(self, name: str) -> NetworkEntry:
        """Return the loss network with this name, in any case.

        Raises:
            UsageError: If there is none, with the commands that get it and the names that there are.
        """
        return self._networks.get(name)

    def networks(self) -> list[NetworkEntry]:
        """Return all loss networks by name; an entry that is damaged is logged and left out."""
        return self._networks.all()

    def remove_network(self, name: str) -> None:
        """Take a loss network's name away; its file stays for jobs that were planned with it.

        Raises:
            UsageError: If there is no such network, or it came with the farm.
        """
        self._networks.remove(name)


def _asset_key(sha256: str) -> str:
    if not _SHA256.fullmatch(sha256):
        raise UsageError(f"{sha256!r} is no sha256 of an asset", "it has 64 digits of 0-9 and a-f")
    return f"assets/{sha256[:2]}/{sha256}"


def _damaged(where: str) -> StorageError:
    return StorageError(f"{where} is damaged: its content has another hash", "add the file again")
