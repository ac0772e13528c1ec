"""Pictures in and out: any file that people have becomes 8-bit RGB, upright, with its alpha beside it.

A file that cannot be rendered raises BadInputError in a person's words, and nothing else: the files are
other people's, and Pillow raises almost anything for a damaged one.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo

from jobs.errors import BadInputError, OutputCheckError
from jobs.paths import FORMAT_OF

Image.MAX_IMAGE_PIXELS = None  # `max_megapixels` is checked instead, for each picture as its job says

Pixels = NDArray[np.uint8]

_JPEG_EXIF_BYTES = 65533
"""A segment of a JPEG file holds no more."""

_READABLE = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "DIB", "GIF", "AVIF", "JPEG2000", "PPM", "TGA")
"""No format that runs another program (EPS) or fetches anything."""

_ANIMATIONS = {"GIF": "frames", "PNG": "frames", "WEBP": "frames", "AVIF": "frames", "TIFF": "pages"}

_MAGIC = {
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG": "PNG",
    b"GIF8": "GIF",
    b"RIFF": "WebP",
    b"BM": "BMP",
    b"II*\x00": "TIFF",
    b"MM\x00*": "TIFF",
}

_ORIENTATION_TAG = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What makes a picture upright, by its EXIF orientation."""

_SIDEWAYS = frozenset(_UPRIGHT[orientation] for orientation in (5, 6, 7, 8))

TEXT_KEY = "stylefarm"
"""Key of the text in a PNG file that says how it was made."""

_DESCRIPTION_TAG = 0x010E

_HOLDS_ALPHA = frozenset({"png", "webp", "tiff"})
_LARGEST_SIDE_PX = {"jpg": 65_500, "webp": 16_383}


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """A decoded picture.

    Attributes:
        pixels: uint8 (H, W, 3), RGB, upright. Under transparent parts it is what the file has there.
        alpha: uint8 (H, W), 255 is opaque; None where nothing is transparent.
        note: What was left out ("first of 12 frames"), or an empty string.
        source_size_px: (width, height) as it would be shown, before any scaling.
        format: Pillow's name of the file's format.
    """

    pixels: Pixels
    alpha: Pixels | None
    note: str
    source_size_px: tuple[int, int]
    format: str

    @property
    def memory_bytes(self) -> int:
        """What the arrays hold."""
        return self.pixels.nbytes + (self.alpha.nbytes if self.alpha is not None else 0)


def decode(
    data: bytes, *, max_megapixels: float, max_size_px: int | None = None, least_px: int | None = None
) -> Picture:
    """Decode a picture; its size is checked before memory is taken for its pixels.

    Of an animation the first frame is taken, which `note` says. 16-bit gray is scaled by 1/257. (Of 16-bit
    color Pillow gives the upper byte.) CMYK is converted without its profile.

    Args:
        data: The file.
        max_megapixels: Larger pictures are refused.
        max_size_px: The longer side is scaled down to this (Lanczos), never up.
        least_px: What the shorter side is needed at: where it is twice that or more, the picture is halved
            in the cheapest way until it is not, of JPEG before it is decoded.

    Raises:
        BadInputError: If it is no picture, is damaged, or has too many pixels.
    """
    if not data:
        raise BadInputError("the file is empty")
    try:
        with _open(data) as image:
            _check_size(image, max_megapixels)
            whole_size_px = image.size
            if least_px is not None:
                image.draft(None, (least_px, least_px))
            drafted = image.size != whole_size_px
            image.load()
            upright = _upright(image)
            source_size_px = upright.size
            if drafted:
                source_size_px = whole_size_px[::-1] if _turn(image) in _SIDEWAYS else whole_size_px
            color, alpha = _split(_scaled(_reduced(_eight_bit(upright), least_px), max_size_px))
            return Picture(color, alpha, _frames_note(image), source_size_px, image.format or "")
    except (BadInputError, MemoryError):
        raise
    except Exception as error:
        raise BadInputError(_what_is_wrong(error)) from error


def picture_size(data: bytes, *, max_megapixels: float, max_size_px: int | None = None) -> tuple[int, int]:
    """Return the width and height that `decode` would give a picture; only the file's header is read.

    Args:
        data: The file.
        max_megapixels: See `decode`.
        max_size_px: See `decode`.

    Raises:
        BadInputError: If it is no picture, or has too many pixels.
    """
    with _open(data) as image:
        _check_size(image, max_megapixels)
        width_px, height_px = image.size
        if _turn(image) in _SIDEWAYS:
            width_px, height_px = height_px, width_px
    return _fitting((width_px, height_px), max_size_px)


def check_writable(extension: str, longest_px: int) -> str:
    """Return the format that an extension stands for.

    Args:
        extension: Of a file, with its dot, in any case.
        longest_px: Longest side of a picture.

    Raises:
        ValueError: If the extension is not one that is written, or the format cannot hold a picture so large.
    """
    kind = FORMAT_OF.get(extension.lower())
    if kind is None:
        raise ValueError(f"cannot write {extension!r} (there are: {', '.join(sorted(FORMAT_OF))})")
    if longest_px > _LARGEST_SIDE_PX.get(kind, longest_px):
        raise ValueError(f"{kind} cannot hold a side of {longest_px} px; use png or tiff")
    return kind


def encode(
    picture: Pixels, alpha: Pixels | None, extension: str, quality: int = 95, parameters: str = ""
) -> tuple[bytes, str]:
    """Encode a picture.

    Args:
        picture: uint8 (H, W, 3), RGB.
        alpha: uint8 (H, W), or None.
        extension: Of the file, with its dot, in any case; it decides the format.
        quality: Of JPEG (written without chroma subsampling) and WebP, 1 to 100.
        parameters: How it was made, ASCII: in PNG a text `stylefarm`, in JPEG, WebP and TIFF the image
            description of the EXIF data. Nothing is written if it is empty, or the format holds no text.

    Returns:
        The file, and a note of what its format cannot hold: alpha, then the picture is laid on white, or
        parameters so long, then none are written.

    Raises:
        ValueError: If the extension is not one that is written, or the format cannot hold a picture so large.
    """
    kind = check_writable(extension, max(picture.shape[:2]))
    note = ""
    if alpha is None:
        image = Image.fromarray(picture)
    elif kind in _HOLDS_ALPHA:
        image = Image.fromarray(np.dstack([picture, alpha]))
    else:
        image, note = on_white(picture, alpha), f"transparent parts became white: {kind} cannot hold them"
    file = io.BytesIO()
    text = _text(kind, parameters) if parameters else {}
    if kind == "jpg" and parameters and not text:
        note = "; ".join(filter(None, (note, "jpg cannot hold parameters as long as these")))
    if kind == "jpg":
        image.save(file, "JPEG", quality=quality, subsampling=0, **text)
    elif kind == "webp":
        image.save(file, "WEBP", quality=quality, exact=True, **text)
    elif kind == "tiff":
        image.save(file, "TIFF", compression="tiff_lzw", **text)
    else:
        image.save(file, kind.upper(), **text)
    return file.getvalue(), note


def verify(data: bytes, width_px: int, height_px: int) -> None:
    """Check that an encoded result is a whole picture of this size.

    Raises:
        OutputCheckError: If it is not.
    """
    try:
        with _open(data) as image:
            image.load()
            size = image.size
    except Exception as error:
        raise OutputCheckError(f"the result cannot be read back: {error}") from error
    if size != (width_px, height_px):
        raise OutputCheckError(f"the result has {size[0]} x {size[1]} px, not {width_px} x {height_px} px")


def _text(kind: str, parameters: str) -> dict[str, Any]:
    """Return what `Image.save` takes to write a text into a format, nothing if that cannot hold it."""
    if kind == "png":
        chunks = PngInfo()
        chunks.add_text(TEXT_KEY, parameters)
        return {"pnginfo": chunks}
    if kind in {"jpg", "webp", "tiff"}:
        exif = Image.Exif()
        exif[_DESCRIPTION_TAG] = parameters
        fits = kind != "jpg" or len(exif.tobytes()) <= _JPEG_EXIF_BYTES
        return {"exif": exif} if fits else {}
    return {}


def _open(data: bytes) -> Image.Image:
    """Open what `data` begins with; Pillow reads the header alone."""
    try:
        return Image.open(io.BytesIO(data), formats=_READABLE)
    except UnidentifiedImageError:
        began_as = next((name for magic, name in _MAGIC.items() if data.startswith(magic)), "")
        if began_as:
            raise BadInputError(f"the file is cut off or damaged (it begins as {began_as})") from None
        raise BadInputError("not a picture") from None


def _check_size(image: Image.Image, max_megapixels: float) -> None:
    megapixels = image.width * image.height / 1e6
    if megapixels > max_megapixels:
        raise BadInputError(
            f"{megapixels:.4g} megapixels are more than max_megapixels {max_megapixels:g}",
            "raise max_megapixels if that is meant",
        )
    if megapixels == 0:
        raise BadInputError("the picture has no pixels")


def _what_is_wrong(error: Exception) -> str:
    text = str(error)
    if "truncated" in text.lower() or isinstance(error, EOFError):
        return "the file is cut off"
    return f"the file is damaged ({text or type(error).__name__})"


def _upright(image: Image.Image) -> Image.Image:
    """Return the picture as its EXIF orientation says."""
    turn = _turn(image)
    return image if turn is None else image.transpose(turn)


def _turn(image: Image.Image) -> Image.Transpose | None:
    """Return what makes the picture upright; an EXIF orientation that cannot be read says nothing."""
    try:
        orientation = image.getexif().get(_ORIENTATION_TAG, 1)
    except Exception:  # noqa: BLE001 - Pillow raises almost anything for damaged EXIF, and the pixels are fine
        orientation = 1
    return _UPRIGHT.get(orientation)


def _eight_bit(image: Image.Image) -> Image.Image:
    """Return the picture as RGB, or as RGBA where it can have transparent parts."""
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.int64).clip(0, 65_535)
        return Image.fromarray(((values + 128) // 257).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise BadInputError("floating-point pictures are not supported", "save it with 8 or 16 bits")
    return image.convert("RGBA" if image.has_transparency_data else "RGB")


def _scaled(image: Image.Image, max_size_px: int | None) -> Image.Image:
    size = _fitting(image.size, max_size_px)
    return image if size == image.size else image.resize(size, Image.Resampling.LANCZOS)


def _reduced(image: Image.Image, least_px: int | None) -> Image.Image:
    """Return the picture at a half, a fourth... of its size, its shorter side still at least `least_px`."""
    factor = 1
    while least_px is not None and min(image.size) // (2 * factor) >= least_px:
        factor *= 2
    return image if factor == 1 else image.reduce(factor)


def _fitting(size: tuple[int, int], max_size_px: int | None) -> tuple[int, int]:
    longest_px = max(size)
    if max_size_px is None or longest_px <= max_size_px:
        return size
    width_px, height_px = (max(1, round(side * max_size_px / longest_px)) for side in size)
    return width_px, height_px


def _split(image: Image.Image) -> tuple[Pixels, Pixels | None]:
    """Return RGB, and alpha where it is not all opaque."""
    values: Pixels = np.array(image)
    if image.mode == "RGB":
        return values, None
    alpha = values[:, :, 3]
    transparent = bool((alpha < 255).any())
    return np.ascontiguousarray(values[:, :, :3]), np.ascontiguousarray(alpha) if transparent else None


def _frames_note(image: Image.Image) -> str:
    """Say that there are more frames, and how many; asked last, because counting moves through the file."""
    unit = _ANIMATIONS.get(image.format or "")
    if unit is None or not getattr(image, "is_animated", False):
        return ""
    try:
        return f"first of {getattr(image, 'n_frames', 1)} {unit}"
    except (EOFError, OSError, SyntaxError, ValueError):
        return f"first of several {unit}"  # a later one is damaged


def on_white(picture: Pixels, alpha: Pixels) -> Image.Image:
    """Return a picture with transparent parts as it looks on white."""
    white = Image.new("RGB", (picture.shape[1], picture.shape[0]), "white")
    white.paste(Image.fromarray(picture), mask=Image.fromarray(alpha))
    return white
