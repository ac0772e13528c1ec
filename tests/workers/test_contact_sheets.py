"""Contact sheets show pictures in a grid, each with its label, and failures with their reasons."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from workers.contact_sheets import contact_sheet


def saved(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def test_a_contact_sheet_shows_pictures_and_failures(tmp_path: Path) -> None:
    path = tmp_path / "green.png"
    Image.new("RGB", (300, 100), (0, 200, 0)).save(path)
    red = saved(Image.new("RGB", (50, 100), (200, 0, 0)))
    sheet = contact_sheet(
        [(red, "red.png", None), (path, "green.png", None), (None, "cut.jpg", "the file is cut off")],
        2,
        thumbnail_px=100,
    )
    pixels = np.asarray(sheet)
    assert sheet.mode == "RGB"
    first, second, third = pixels[12:112, 12:112], pixels[12:112, 124:224], pixels[158:258, 12:112]
    assert (first[50, 50] == (200, 0, 0)).all()
    assert (second[50, 50] == (0, 200, 0)).all()
    assert (second[5, 50] == 255).all(), "the wide picture keeps its shape"
    assert (third[-2, -2] == 0xD0).all(), "a failure is a gray tile"
    assert (third < 100).any(), "with writing on it"
    assert (pixels[112:146, 12:112] < 100).any(), "and each has its name below"


def test_a_result_that_is_gone_or_broken_becomes_a_tile_that_says_so(tmp_path: Path) -> None:
    sheet = contact_sheet([(tmp_path / "gone.png", "gone.png", None), (b"text", "text.png", None)])
    assert (np.asarray(sheet) == 0xD0).all(axis=2).sum() > 2 * 150 * 150


def test_a_large_contact_sheet_is_about_square_and_long_names_do_not_run_into_each_other() -> None:
    tiny = saved(Image.new("RGB", (4, 4)))
    sheet = contact_sheet([(tiny, "a very long name \udcff" * 20, None)] * 100, thumbnail_px=32)
    assert 0.3 < sheet.width / sheet.height < 3
    gap = np.asarray(sheet)[:, 12 + 32 + 2 : 12 + 44 - 2]
    assert (gap == 255).all()


@pytest.mark.parametrize(("tiles", "columns"), [([], 3), ([(None, "x", None)], 0)])
def test_a_sheet_of_nothing_is_refused(tiles: list[Any], columns: int) -> None:
    with pytest.raises(ValueError, match="no sheet"):
        contact_sheet(tiles, columns)
