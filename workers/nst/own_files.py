"""Our own files of weights: safetensors with a document of what must be known to use them.

The same tensors and document always give the same bytes, so that they have one content hash. Tensors are
float16 where that loses nothing, else float32.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Generic, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from workers.nst.weights_files import check_file

FILE_VERSION = 1
"""Of the layout of all our files."""


@dataclass(frozen=True, slots=True)
class Document:
    """What a file says of itself, in plain values.

    Attributes:
        version: Of the layout.
    """

    version: int = field(default=FILE_VERSION, kw_only=True)


D = TypeVar("D", bound=Document)


@dataclass(frozen=True, slots=True)
class OwnFile(Generic[D]):
    """One kind of file of ours.

    Attributes:
        key: Of the document in the file's metadata.
        document: Its class.
        word: What messages call such a file.
    """

    key: str
    document: type[D]
    word: str

    def encode(self, tensors: Mapping[str, Tensor], document: D) -> bytes:
        """Return the content of a file; tensors of any floating dtype.

        An empty dictionary in the document is left out: a file that says nothing there has the bytes that it
        had before there was such a thing to say.
        """
        compact = {name: _compact(value.cpu().contiguous()) for name, value in tensors.items()}
        said = {name: value for name, value in asdict(document).items() if value != {}}
        return save(compact, {self.key: json.dumps(said, sort_keys=True)})

    def read(self, path: Path) -> tuple[dict[str, Tensor], D]:
        """Return the tensors in a file, as they are kept, and its document.

        Raises:
            ValueError: If it is no such file, is damaged, or was made by a later version.
        """
        tensors, said = read_safetensors(path)
        if self.key not in said:
            raise ValueError(f"{path.name} says nothing of its network: it is not a {self.word} of stylefarm")
        try:
            found = json.loads(said[self.key])
            known = {known.name for known in fields(self.document)}
            document = self.document(**{name: value for name, value in found.items() if name in known})
        except (TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"{path.name} has metadata that cannot be read ({error})") from error
        if document.version != FILE_VERSION:
            raise ValueError(f"{path.name} has layout {document.version}; this version reads {FILE_VERSION}")
        return tensors, document

    def recognizes(self, path: Path) -> bool:
        """Return whether a file looks like one of this kind, without reading its tensors."""
        try:
            check_file(path)
            with safe_open(path, "pt") as file:
                return self.key in (file.metadata() or {})
        except (SafetensorError, ValueError):
            return False


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors in a safetensors file, on the CPU, and its metadata.

    Raises:
        ValueError: If it is none, or damaged.
    """
    check_file(path)
    try:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
            return tensors, file.metadata() or {}
    except SafetensorError as error:
        raise ValueError(f"{path.name} is not a safetensors file, or cut off ({error})") from error


def _compact(value: Tensor) -> Tensor:
    half = value.half()
    return half if torch.equal(half.float(), value.float()) else value.float()
