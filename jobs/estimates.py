"""What work will cost, guessed from a listing alone until workers have measured it."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from dataclasses import dataclass, field

_READ_BYTES_PER_PIXEL = {
    **dict.fromkeys((".jpg", ".jpeg", ".jpe", ".jfif"), 0.4),
    **dict.fromkeys((".png", ".apng"), 1.7),
    **dict.fromkeys((".webp", ".avif"), 0.2),
    **dict.fromkeys((".jp2", ".gif"), 0.6),
}
_WRITTEN_BYTES_PER_PIXEL = {
    **dict.fromkeys((".jpg", ".jpeg", ".jpe", ".jfif"), 0.6),
    ".png": 2.0,
    ".webp": 0.45,
}
_PLAIN_BYTES_PER_PIXEL = 3.0
"""Of photographs as cameras and the web have them, and of styled pictures at quality 95, both measured."""


@dataclass(frozen=True, slots=True)
class Rate:
    """How fast one model is: device seconds for each picture, and for each megapixel of it.

    The megapixels of an optimization are those of all its evaluations, whatever the sizes of its scales.
    """

    item_s: float = 0.02
    megapixel_s: float = 1.0

    def estimate_s(self, megapixels: float) -> float:
        """Return the device seconds for one picture."""
        return self.item_s + self.megapixel_s * megapixels


@dataclass(frozen=True, slots=True)
class Rates:
    """What is known of the speed of styles and loss networks, by content hash.

    Attributes:
        by_style: As measured.
        default: Of other styles: a few CPU cores.
        default_network: Of other loss networks: VGG-19, forth and back, on a few CPU cores.
    """

    by_style: Mapping[str, Rate] = field(default_factory=dict)
    default: Rate = field(default_factory=Rate)
    default_network: Rate = field(default_factory=lambda: Rate(item_s=1.0, megapixel_s=15.0))

    def of(self, sha256: str) -> Rate:
        """Return the rate of a style."""
        return self.by_style.get(sha256, self.default)

    def of_network(self, sha256: str) -> Rate:
        """Return the rate of a loss network, by megapixels of evaluations."""
        return self.by_style.get(sha256, self.default_network)


def listed_megapixels(name: str, size_bytes: int, max_size_px: int | None = None) -> float:
    """Return about how many megapixels will be rendered of a file.

    Args:
        name: Name of the file; its extension tells how well it is compressed.
        size_bytes: As listed, -1 if unknown.
        max_size_px: Longest side that is rendered, if it is limited.
    """
    per_pixel = _READ_BYTES_PER_PIXEL.get(posixpath.splitext(name)[1].lower(), _PLAIN_BYTES_PER_PIXEL)
    megapixels = max(size_bytes, 0) / per_pixel / 1e6
    return megapixels if max_size_px is None else min(megapixels, max_size_px**2 / 1e6)


def written_bytes(name: str, megapixels: float) -> int:
    """Return about how large a styled picture of this name and size will be."""
    extension = posixpath.splitext(name)[1].lower()
    return round(_WRITTEN_BYTES_PER_PIXEL.get(extension, _PLAIN_BYTES_PER_PIXEL) * megapixels * 1e6)
