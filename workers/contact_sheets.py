"""Contact sheets: pictures in a grid, each with its label."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from jobs.errors import BadInputError
from workers.images import decode, on_white

Tile = tuple[bytes | Path | None, str, str | None]
"""A place on a contact sheet: a picture (content or path, None where it failed), its label, why it failed."""

_MARGIN_PX = 12
_LABEL_PX = 34
_FONT_PX = 12
_PAPER, _INK, _FAILED_TILE, _FAILED_INK = "white", "#222222", "#d0d0d0", "#8a1c1c"


def contact_sheet(
    tiles: Sequence[Tile], columns: int | None = None, *, thumbnail_px: int = 192
) -> Image.Image:
    """Return thumbnails in a grid with their labels, RGB, failures as gray tiles with their reasons.

    Args:
        tiles: At least one. A picture that cannot be read becomes a gray tile that says why.
        columns: In each row at most; by default 6, or as many as make a large sheet about square.
        thumbnail_px: Longest side of a thumbnail.

    Raises:
        ValueError: If there is no tile, or a size is not positive.
    """
    if not tiles or (columns is not None and columns < 1) or thumbnail_px < 1:
        raise ValueError(f"no sheet of {len(tiles)} tiles, {columns} columns, {thumbnail_px} px")
    columns = min(columns or max(6, math.isqrt(len(tiles))), len(tiles))
    rows = -(-len(tiles) // columns)
    step_x, step_y = thumbnail_px + _MARGIN_PX, thumbnail_px + _LABEL_PX + _MARGIN_PX
    sheet = Image.new("RGB", (columns * step_x + _MARGIN_PX, rows * step_y + _MARGIN_PX), _PAPER)
    for number, tile in enumerate(tiles):
        row, column = divmod(number, columns)
        place = (_MARGIN_PX + column * step_x, _MARGIN_PX + row * step_y)
        _draw_tile(sheet, tile, place, thumbnail_px)
    return sheet


def _draw_tile(sheet: Image.Image, tile: Tile, place: tuple[int, int], side_px: int) -> None:
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(_FONT_PX)
    left, top = place
    picture, name, failed = tile
    thumbnail, reason = _thumbnail(picture, failed or "no result", side_px)
    if thumbnail is None:
        draw.rectangle((left, top, left + side_px - 1, top + side_px - 1), fill=_FAILED_TILE)
        text = _wrapped(f"failed: {reason}", font, side_px - 16, side_px // (_FONT_PX + 4) - 1)
        draw.multiline_text((left + 8, top + 8), text, fill=_FAILED_INK, font=font)
    else:
        offset = ((side_px - thumbnail.width) // 2, (side_px - thumbnail.height) // 2)
        sheet.paste(thumbnail, (left + offset[0], top + offset[1]))
    label = _wrapped(name, font, side_px, 2)
    draw.multiline_text((left, top + side_px + 3), label, fill=_INK, font=font, spacing=2)


def _thumbnail(source: bytes | Path | None, reason: str, side_px: int) -> tuple[Image.Image | None, str]:
    """Return the thumbnail, or None and why there is none."""
    if source is None:
        return None, reason
    try:
        data = source if isinstance(source, bytes) else source.read_bytes()
        picture = decode(data, max_megapixels=math.inf, max_size_px=side_px)
    except BadInputError as error:
        return None, error.message
    except OSError as error:
        return None, error.strerror or str(error)
    if picture.alpha is not None:
        return on_white(picture.pixels, picture.alpha), ""
    return Image.fromarray(picture.pixels), ""


def _wrapped(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width_px: int, lines: int) -> str:
    """Return the text in at most so many lines of at most this width, cut where it is longer."""
    done: list[str] = []
    rest = " ".join(text.encode(errors="replace").decode().split())  # names of files may be any bytes
    while rest and len(done) < lines:
        lengths_px = [math.ceil(font.getlength(rest[: n + 1])) for n in range(min(len(rest), width_px))]
        fits = max(1, bisect_right(lengths_px, width_px))
        space = rest.rfind(" ", 0, fits + 1)
        cut = space if fits < len(rest) and space > 0 else fits
        done.append(rest[:cut])
        rest = rest[cut:].lstrip()
    if rest and done:
        done[-1] = done[-1][:-1] + "…"
    return "\n".join(done)
