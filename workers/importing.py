"""Taking in a style: somebody's file becomes a verified style model of ours, with a thumbnail."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from jobs.errors import UsageError
from jobs.library import Library, StyleEntry
from workers.images import Pixels, encode
from workers.nst.inference import prepare_for_inference, render_batch
from workers.nst.style_models import StyleMetadata, encode_style_model, is_style_model, read_style_model
from workers.nst.transformer import TransformerNet
from workers.nst.weights_files import read_pytorch_examples

OWN_FORMAT = "stylefarm"

_READERS: dict[str, Callable[[Path], TransformerNet]] = {"pytorch-examples": read_pytorch_examples}

FORMATS = (*_READERS, OWN_FORMAT)
"""What a file may be said to be."""

_SAMPLE_WIDTH_PX, _SAMPLE_HEIGHT_PX = 256, 192


@dataclass(frozen=True, slots=True)
class ImportedStyle:
    """A style that is ready for the library.

    Attributes:
        data: The style model, safetensors; the same file always gives the same bytes.
        sha256: Of `data`.
        metadata: What is in the file, as plain values (width, io, origin, license, source, ...).
        thumbnail: PNG of `sample_picture` in this style.
    """

    name: str
    data: bytes
    sha256: str
    format: str
    width: int
    metadata: dict[str, Any]
    thumbnail: bytes


def import_style(
    path: Path | str,
    *,
    format: str,  # noqa: A002 - the word of the command line
    name: str,
    license: str = "",  # noqa: A002
    source: str = "",
) -> ImportedStyle:
    """Read, verify and convert a file, and try it on a small picture.

    A style model of ours is kept byte for byte, so that it has one content hash wherever it is added.

    Args:
        path: The file.
        format: One of `FORMATS`; it is never guessed, because equal files can want unequal pictures.
        name: What the style will be called.
        license: Name of its license, where known.
        source: Where it comes from.

    Raises:
        UsageError: If the file is not a usable style of this format; it says why.
    """
    path = Path(path)
    if format not in FORMATS:
        raise UsageError(f"no format {format!r}", f"there are: {', '.join(FORMATS)}")
    try:
        data, net, metadata = _converted(path, format, name, license, source)
        picture = thumbnail(net)
    except ValueError as error:
        hint = "say --format stylefarm" if format != OWN_FORMAT and is_style_model(path) else ""
        raise UsageError(f"{error}", hint) from error
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror or error}") from error
    return ImportedStyle(
        name=name,
        data=data,
        sha256=hashlib.sha256(data).hexdigest(),
        format=format,
        width=net.width,
        metadata=asdict(metadata),
        thumbnail=picture,
    )


def keep_style(
    made: ImportedStyle,
    library: Library,
    *,
    created_at: float,
    license: str = "",  # noqa: A002
    source: str = "",
) -> StyleEntry:
    """Put the files of a style into a library, and return its entry, which has no name there yet.

    Args:
        made: The style.
        library: Takes the style model and the thumbnail.
        created_at: For the entry, in seconds since the epoch.
        license: Name of its license, where the file does not say it or says another.
        source: Where it comes from, likewise.
    """
    return StyleEntry(
        name=made.name,
        sha256=library.put(made.data),
        format=made.format,
        width=made.width,
        size_bytes=len(made.data),
        created_at=created_at,
        source=source or str(made.metadata["source"]),
        license=license or str(made.metadata["license"]),
        metadata={**made.metadata, "thumbnail_sha256": library.put(made.thumbnail)},
    )


def sample_picture() -> Pixels:
    """Return a small picture with flat parts, edges, gradients and texture, uint8 (192, 256, 3), RGB."""
    y, x = np.mgrid[0:_SAMPLE_HEIGHT_PX, 0:_SAMPLE_WIDTH_PX].astype(np.float64)
    sky = y / _SAMPLE_HEIGHT_PX
    picture = np.stack([90 + 130 * sky, 140 + 70 * sky, 230 - 60 * sky], axis=-1)
    ridge = 118 + 14 * np.sin(x / 23) + 6 * np.sin(x / 7)
    ground = y > ridge
    stripes = 22 * np.sin((y - ridge) ** 2 / 90 + x / 9)
    picture[ground] = np.stack([96 + stripes, 128 + stripes, 62 + stripes / 2], axis=-1)[ground]
    sun = (x - 190) ** 2 + (y - 54) ** 2 < 28**2
    picture[sun] = (250, 214, 120)
    house = (abs(x - 78) < 30) & (abs(y - 118) < 26)
    picture[house] = (176, 84, 70)
    roof = (y > 66) & (y < 93) & (abs(x - 78) < (y - 64) * 1.35)
    picture[roof] = (84, 52, 60)
    return picture.round().clip(0, 255).astype(np.uint8)


def _converted(
    path: Path,
    format: str,  # noqa: A002
    name: str,
    license: str,  # noqa: A002
    source: str,
) -> tuple[bytes, TransformerNet, StyleMetadata]:
    """Return the bytes of our own file, with what is in it."""
    if format == OWN_FORMAT:
        net, metadata = read_style_model(path)
        return path.read_bytes(), net, metadata
    net = _READERS[format](path)
    metadata = StyleMetadata(
        name=name,
        width=net.width,
        origin=format,
        origin_sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        license=license,
        source=source,
    )
    return encode_style_model(net, metadata), net, metadata


def thumbnail(net: TransformerNet) -> bytes:
    """Return a PNG of `sample_picture` in a style."""
    sample = torch.from_numpy(sample_picture()[None])
    rendered = render_batch(prepare_for_inference(net), sample)
    data, _ = encode(rendered[0].numpy(), None, ".png")
    return data
