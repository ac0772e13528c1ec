"""What is rendered is written whole, in the format that is asked for, and says how it was made."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from jobs.errors import OutputCheckError
from jobs.paths import FORMAT_OF
from tests.workers.nst.plain import seeded_picture
from workers.images import Picture, decode, encode, verify

SCENE = seeded_picture(24, 36).numpy()


def read(data: bytes, **options: Any) -> Picture:
    return decode(data, **{"max_megapixels": 400, **options})


@pytest.mark.parametrize("extension", sorted(FORMAT_OF))
@pytest.mark.parametrize("transparent", [False, True])
def test_every_extension_is_written_and_passes_the_check(extension: str, transparent: bool) -> None:
    alpha = np.full((24, 36), 128, np.uint8) if transparent else None
    data, note = encode(SCENE, alpha, extension.upper())
    verify(data, 36, 24)
    picture = read(data)
    holds = FORMAT_OF[extension] in {"png", "webp", "tiff"}
    assert (picture.alpha is not None) == (transparent and holds)
    assert bool(note) == (transparent and not holds)
    if not transparent and FORMAT_OF[extension] in {"png", "tiff", "bmp"}:
        assert (picture.pixels == SCENE).all()


def test_transparent_parts_are_laid_on_white_where_they_cannot_be_held() -> None:
    alpha = np.zeros((24, 36), np.uint8)
    alpha[:, 18:] = 255
    data, note = encode(SCENE, alpha, ".bmp")
    picture = read(data)
    assert (picture.pixels[:, :18] == 255).all()
    assert (picture.pixels[:, 18:] == SCENE[:, 18:]).all()
    assert note == "transparent parts became white: bmp cannot hold them"


def test_jpeg_has_full_color_resolution_and_the_asked_quality() -> None:
    files = {quality: encode(SCENE, None, ".jpg", quality)[0] for quality in (30, 95)}
    assert len(files[30]) < len(files[95])
    with Image.open(io.BytesIO(files[95])) as image:
        assert [layer[1:3] for layer in image.layer] == [(1, 1)] * 3  # type: ignore[attr-defined]


@pytest.mark.parametrize("extension", [".gif", "", ".exe", "jpg"])
def test_what_cannot_be_written_is_refused(extension: str) -> None:
    with pytest.raises(ValueError, match="cannot write"):
        encode(SCENE, None, extension)


def test_a_side_that_a_format_cannot_hold_is_refused() -> None:
    with pytest.raises(ValueError, match="webp cannot hold a side of 17000 px"):
        encode(np.zeros((1, 17_000, 3), np.uint8), None, ".webp")


def test_the_check_of_a_result_sees_another_size_and_damage() -> None:
    data, _ = encode(SCENE, None, ".jpg")
    with pytest.raises(OutputCheckError, match="36 x 24 px, not 24 x 36 px"):
        verify(data, 24, 36)
    for broken in (data[: len(data) // 2], b"", b"text"):
        with pytest.raises(OutputCheckError, match="cannot be read back"):
            verify(broken, 36, 24)


@pytest.mark.parametrize("extension", [".png", ".jpg", ".webp", ".tiff"])
def test_a_picture_says_how_it_was_made(extension: str) -> None:
    pixels = np.zeros((4, 6, 3), np.uint8)
    plain, _ = encode(pixels, None, extension)
    told, _ = encode(pixels, None, extension, parameters='{"preset": "gatys"}')
    with Image.open(io.BytesIO(told)) as image:
        text = image.info["stylefarm"] if extension == ".png" else image.getexif()[0x010E]
        assert text == '{"preset": "gatys"}'
        assert image.size == (6, 4)
    assert b"gatys" not in plain
    assert np.array_equal(decode(told, max_megapixels=1).pixels, decode(plain, max_megapixels=1).pixels), (
        "the text changed the picture"
    )


def test_parameters_too_long_for_a_format_cost_no_picture() -> None:
    data, note = encode(SCENE, np.zeros((24, 36), np.uint8), ".jpg", parameters="x" * 65_536)
    verify(data, 36, 24)
    assert note.endswith("jpg cannot hold parameters as long as these")
    assert "white" in note
    with Image.open(io.BytesIO(data)) as image:
        assert not image.getexif()
