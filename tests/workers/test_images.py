"""Whatever people have as pictures is decoded upright as 8-bit RGB, or refused in words; and written back."""

from __future__ import annotations

import io
import resource
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

from jobs.errors import BadInputError
from tests.workers.nst.plain import seeded_picture
from workers.images import Picture, decode, picture_size

SCENE = seeded_picture(24, 36).numpy()


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def read(data: bytes, **options: Any) -> Picture:
    return decode(data, **{"max_megapixels": 400, **options})


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png_header(width_px: int, height_px: int) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width_px, height_px, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM", "TGA", "WEBP", "JPEG2000"])
def test_a_lossless_file_comes_back_to_the_bit(kind: str) -> None:
    options: dict[str, Any] = {"lossless": True} if kind == "WEBP" else {}
    picture = read(saved(Image.fromarray(SCENE), kind, **options))
    assert (picture.pixels == SCENE).all()
    assert (picture.alpha, picture.note, picture.source_size_px, picture.format) == (None, "", (36, 24), kind)
    assert picture.memory_bytes == SCENE.nbytes


@pytest.mark.parametrize("kind", ["JPEG", "AVIF"])
def test_a_lossy_file_comes_back_nearly(kind: str) -> None:
    smooth = Image.fromarray(SCENE).resize((4, 4)).resize((36, 24))
    picture = read(saved(smooth, kind, quality=98))
    assert abs(picture.pixels.astype(int) - np.asarray(smooth)).mean() < 4


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_every_exif_orientation_comes_out_upright(orientation: int, kind: str) -> None:
    """A corner of each kind tells all eight apart; what the camera stored is the inverse of the turn."""
    upright = np.zeros((48, 64, 3), np.uint8)
    upright[:16, :16], upright[:16, -16:], upright[-16:, :16] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    turns: dict[int, Callable[[Any], Any]] = {
        1: lambda a: a,
        2: np.fliplr,
        3: lambda a: np.rot90(a, 2),
        4: np.flipud,
        5: lambda a: np.transpose(a, (1, 0, 2)),
        6: np.rot90,
        7: lambda a: np.transpose(np.rot90(a, 2), (1, 0, 2)),
        8: lambda a: np.rot90(a, -1),
    }
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(turns[orientation](upright)))
    lossless: dict[str, Any] = {"JPEG": {"quality": 95, "subsampling": 0}, "WEBP": {"lossless": True}}
    picture = read(saved(stored, kind, exif=exif, **lossless.get(kind, {})))
    assert picture.source_size_px == (64, 48)
    assert abs(picture.pixels.astype(int) - upright).mean() < 3


@pytest.mark.parametrize("orientation", [0, 9, 65_535])
def test_an_orientation_that_does_not_exist_turns_nothing(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert (read(saved(Image.fromarray(SCENE), "PNG", exif=exif)).pixels == SCENE).all()


@pytest.mark.filterwarnings("ignore")
def test_exif_that_cannot_be_read_costs_nobody_the_picture() -> None:
    data = saved(
        Image.fromarray(SCENE), "JPEG", quality=95, exif=b"Exif\x00\x00II*\x00\xff\xff\xff\x7fgarbage"
    )
    assert read(data).pixels.shape == (24, 36, 3)


def test_16_bit_gray_is_scaled_to_8_bits_with_rounding() -> None:
    values = np.array([[0, 128, 129, 257, 1000, 32_768, 65_406, 65_535]], np.uint16)
    picture = read(saved(Image.fromarray(values), "PNG"))
    assert picture.pixels[0, :, 0].tolist() == [0, 0, 1, 1, 4, 128, 254, 255]
    assert (picture.pixels == picture.pixels[:, :, :1]).all()


def test_16_bit_color_keeps_its_range() -> None:
    rows = b"".join(b"\x00" + struct.pack(">6H", 0, 32_896, 65_535, 65_535, 257, 0) for _ in range(2))
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 2, 16, 2, 0, 0, 0))
    data = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    assert read(data).pixels[1].tolist() == [[0, 128, 255], [255, 1, 0]]


@pytest.mark.parametrize("mode", ["1", "L", "LA"])
def test_gray_and_black_and_white_become_rgb(mode: str) -> None:
    image = Image.fromarray(SCENE).convert(mode)
    picture = read(saved(image, "PNG"))
    assert (picture.pixels == np.asarray(image.convert("RGB"))).all()
    assert picture.alpha is None


def test_a_cmyk_jpeg_becomes_rgb() -> None:
    colors = np.zeros((16, 32, 3), np.uint8)
    colors[:, :16], colors[:, 16:] = (200, 40, 30), (30, 60, 190)
    picture = read(saved(Image.fromarray(colors).convert("CMYK"), "JPEG", quality=98))
    assert abs(picture.pixels.astype(int) - colors).mean() < 4


def test_transparency_is_kept_beside_the_colors() -> None:
    alpha = np.linspace(0, 255, 24 * 36).astype(np.uint8).reshape(24, 36)
    picture = read(saved(Image.fromarray(np.dstack([SCENE, alpha])), "PNG"))
    assert picture.alpha is not None
    assert (picture.alpha == alpha).all()
    assert (picture.pixels == SCENE).all(), "colors under transparent parts are the file's own"
    assert picture.memory_bytes == SCENE.nbytes + alpha.nbytes


def test_alpha_that_hides_nothing_is_dropped() -> None:
    opaque = np.dstack([SCENE, np.full((24, 36), 255, np.uint8)])
    assert read(saved(Image.fromarray(opaque), "PNG")).alpha is None


@pytest.mark.parametrize("transparency", [3, bytes([255, 255, 128, 0])], ids=["index", "table"])
def test_a_palette_with_transparency_becomes_rgb_and_alpha(transparency: int | bytes) -> None:
    indexes = (np.arange(48, dtype=np.uint8) % 4).reshape(6, 8)
    image = Image.fromarray(indexes).convert("P")
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255, 9, 8, 7])
    picture = read(saved(image, "PNG", transparency=transparency))
    assert picture.alpha is not None
    third = 255 if isinstance(transparency, int) else 128
    assert picture.alpha[0, :4].tolist() == [255, 255, third, 0]
    assert picture.pixels[0, :4].tolist() == [[255, 0, 0], [0, 255, 0], [0, 0, 255], [9, 8, 7]]


def test_an_rgb_png_with_a_transparent_color_has_alpha() -> None:
    image = Image.new("RGB", (4, 4), (1, 2, 3))
    image.putpixel((0, 0), (250, 0, 250))
    picture = read(saved(image, "PNG", transparency=(250, 0, 250)))
    assert picture.alpha is not None
    assert (picture.alpha == 0).sum() == 1


@pytest.mark.parametrize(
    ("kind", "unit"), [("GIF", "frames"), ("PNG", "frames"), ("WEBP", "frames"), ("TIFF", "pages")]
)
def test_of_several_frames_the_first_is_taken_and_that_is_said(kind: str, unit: str) -> None:
    frames = [Image.new("RGB", (20, 10), color) for color in ("red", "lime", "blue")]
    options = {"lossless": True} if kind == "WEBP" else {}
    picture = read(saved(frames[0], kind, save_all=True, append_images=frames[1:], **options))
    assert picture.note == f"first of 3 {unit}"
    assert (picture.pixels == (255, 0, 0)).all()


def test_a_jpeg_with_a_preview_inside_is_a_plain_picture() -> None:
    """Phones and cameras put more pictures behind the first one; nobody thinks of them as frames."""
    frames = [Image.new("RGB", size, "red") for size in ((64, 48), (16, 12))]
    picture = read(saved(frames[0], "MPO", save_all=True, append_images=frames[1:]))
    assert (picture.format, picture.note, picture.source_size_px) == ("MPO", "", (64, 48))


def test_a_single_frame_needs_no_note() -> None:
    assert read(saved(Image.new("RGB", (20, 10), "red"), "GIF")).note == ""


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (50, 1)])
def test_a_picture_of_one_pixel_is_a_picture(size: tuple[int, int]) -> None:
    assert read(saved(Image.new("RGB", size, "red"), "PNG")).pixels.shape == (size[1], size[0], 3)


# --- refused ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "the file is empty"),
        (b"Dear diary, this is a text.\n" * 40, "not a picture"),
        (bytes(5000), "not a picture"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a picture"),
        (b"\xff\xd8\xff\xe0", "the file is cut off or damaged (it begins as JPEG)"),
        (b"\x89PNG\r\n\x1a\n", "the file is cut off or damaged (it begins as PNG)"),
    ],
)
def test_what_is_no_picture_is_said_in_words(data: bytes, reason: str) -> None:
    with pytest.raises(BadInputError) as refused:
        read(data)
    assert refused.value.message == reason


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP"])
@pytest.mark.parametrize("kept", [0.2, 0.5, 0.9])
def test_a_file_that_is_cut_off_fails(kind: str, kept: float) -> None:
    data = saved(Image.fromarray(seeded_picture(120, 160).numpy()), kind)
    with pytest.raises(BadInputError, match=r"cut off|damaged"):
        read(data[: int(len(data) * kept)])


def test_a_cut_off_jpeg_is_called_that() -> None:
    data = saved(Image.fromarray(seeded_picture(120, 160).numpy()), "JPEG")
    with pytest.raises(BadInputError) as refused:
        read(data[: len(data) // 2])
    assert refused.value.message == "the file is cut off"


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP", "TGA", "AVIF"])
@pytest.mark.filterwarnings("ignore")
def test_damage_anywhere_is_bad_input_or_a_picture_and_never_another_error(kind: str) -> None:
    data = saved(Image.fromarray(SCENE), kind)
    random = np.random.default_rng(7)
    for _ in range(60):
        damaged = bytearray(data)
        for place in random.integers(0, len(data), 4):
            damaged[place] = random.integers(0, 256)
        try:
            picture = read(bytes(damaged), max_megapixels=1)
        except BadInputError:
            continue
        assert picture.pixels.dtype == np.uint8


@pytest.mark.parametrize("claimed", [(100_000, 40_000), (65_000, 65_000), (20_001, 20_000)])
def test_too_many_megapixels_are_refused_before_memory_is_taken(claimed: tuple[int, int]) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(BadInputError, match=r"megapixels are more than max_megapixels 400"):
        read(png_header(*claimed))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000, "KiB"


def test_the_limit_is_the_jobs_own() -> None:
    """Neither Pillow's limit nor that of another job counts; a picture of exactly the limit passes."""
    data = saved(Image.new("L", (1000, 1000)), "PNG")
    with pytest.raises(BadInputError) as refused:
        read(data, max_megapixels=0.5)
    assert refused.value.message == "1 megapixels are more than max_megapixels 0.5"
    assert read(data, max_megapixels=1).pixels.shape == (1000, 1000, 3)


def test_a_floating_point_picture_is_refused() -> None:
    with pytest.raises(BadInputError, match="floating-point"):
        read(saved(Image.fromarray(np.ones((4, 4), np.float32)), "TIFF"))


# --- scaled -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "cap", "expected"),
    [
        ((100, 50), 20, (20, 10)),
        ((50, 100), 20, (10, 20)),
        ((1000, 2), 10, (10, 1)),
        ((30, 30), 64, (30, 30)),
    ],
)
def test_the_longer_side_is_capped_and_never_raised(
    size: tuple[int, int], cap: int, expected: tuple[int, int]
) -> None:
    picture = read(saved(Image.new("RGB", size), "PNG"), max_size_px=cap)
    assert picture.pixels.shape == (expected[1], expected[0], 3)
    assert picture.source_size_px == size


def test_scaling_down_averages_instead_of_skipping() -> None:
    """A checkerboard of single pixels becomes gray; a method that skips pixels would show stripes."""
    board = (np.indices((256, 256)).sum(0) % 2 * 255).astype(np.uint8)
    picture = read(saved(Image.fromarray(board), "PNG"), max_size_px=64)
    assert abs(picture.pixels.astype(int) - 127).max() <= 2


def test_the_size_of_a_picture_is_known_from_its_header() -> None:
    """Upright, and as `decode` would scale it down; though the rest of the file is missing."""
    file = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (301, 200)).save(file, "JPEG", exif=exif)
    data = file.getvalue()
    assert picture_size(data[:-500], max_megapixels=1) == (200, 301)
    scaled = decode(data, max_megapixels=1, max_size_px=100).pixels
    assert picture_size(data, max_megapixels=1, max_size_px=100) == (scaled.shape[1], scaled.shape[0])
    with pytest.raises(BadInputError, match="max_megapixels"):
        picture_size(data, max_megapixels=0.01)
    with pytest.raises(BadInputError, match="not a picture"):
        picture_size(b"text", max_megapixels=1)


@pytest.mark.parametrize("format_", ["JPEG", "PNG"])
def test_a_picture_is_decoded_no_larger_than_about_what_it_is_needed_at(format_: str) -> None:
    """A turned one too; the size that it has is still known."""
    file = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (640, 480), "red").save(file, format_, exif=exif)
    for least_px, shape in ((None, (640, 480)), (480, (640, 480)), (240, (320, 240)), (200, (320, 240))):
        picture = decode(file.getvalue(), max_megapixels=1, least_px=least_px)
        assert picture.pixels.shape[:2] == shape
        assert picture.source_size_px == (480, 640)
    assert decode(file.getvalue(), max_megapixels=1, least_px=7).pixels.shape[:2] == (10, 8)
