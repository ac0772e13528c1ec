"""A folder of pictures as people have them: photos, odd kinds of files, and files that cannot be rendered."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps

from tests.workers.nst.plain import plain_transformer, seeded_picture, seeded_state

MAX_MEGAPIXELS = 0.05

Pixels = np.ndarray[tuple[int, ...], np.dtype[np.uint8]]


def picture(width_px: int, height_px: int, seed: int = 0) -> Image.Image:
    """Return a made-up photo with no symmetry: turned or mirrored it is another one."""
    return Image.fromarray(seeded_picture(height_px, width_px, seed).numpy())


def photos(folder: Path, count: int, width_px: int = 48, height_px: int = 32) -> Path:
    """Make a folder of JPEG photos that all differ; every third one stands upright."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(1, count + 1):
        size = (height_px, width_px) if number % 3 == 0 else (width_px, height_px)
        picture(*size, seed=number).save(folder / f"photo{number}.jpg", quality=90)
    return folder


def _sixteen_bit(path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 65536, (30, 40), dtype=np.uint16)
    Image.fromarray(values).save(path)


def _animated(path: Path) -> None:
    first, *others = (picture(40, 30, seed).convert("P") for seed in range(3))
    first.save(path, save_all=True, append_images=others)


def _palette_with_transparency(path: Path) -> None:
    paletted = picture(40, 30).quantize(16)
    paletted.save(path, transparency=paletted.getpixel((5, 5)))


def _turned(path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright: turn it clockwise to see it so
    picture(48, 32).save(path, exif=exif, quality=95)


ODD: dict[str, Callable[[Path], None]] = {
    "16-bit.png": _sixteen_bit,
    "cmyk.jpg": lambda path: picture(40, 30).convert("CMYK").save(path),
    "animated.gif": _animated,
    "palette.png": _palette_with_transparency,
    "gray.jpg": lambda path: picture(40, 30).convert("L").save(path),
    "turned.jpg": _turned,
    "1x1.png": lambda path: picture(1, 1).save(path),
}
"""Pictures that are rendered, each unusual in one way."""

BROKEN: dict[str, str] = {
    "truncated-header.jpg": "cut off",
    "truncated-early.jpg": "cut off",
    "truncated-late.jpg": "cut off",
    "empty.jpg": "empty",
    "text.jpg": "not a picture",
    "beyond.jpg": "more than max_megapixels",
}
"""Files that cannot be rendered, and what must be said of each."""


def awkward_folder(folder: Path, photo_count: int) -> Path:
    """Make a folder with photos, one of each odd kind, and one of each broken kind."""
    photos(folder, photo_count)
    for name, make in ODD.items():
        make(folder / name)
    whole = io.BytesIO()
    picture(64, 48).save(whole, "JPEG", quality=95)
    data = whole.getvalue()
    (folder / "truncated-header.jpg").write_bytes(data[:40])
    (folder / "truncated-early.jpg").write_bytes(data[: len(data) // 3])
    (folder / "truncated-late.jpg").write_bytes(data[:-200])
    (folder / "empty.jpg").touch()
    (folder / "text.jpg").write_text("a letter, not a photo\n")
    picture(260, 200).save(folder / "beyond.jpg")
    return folder


def as_seen(path: Path) -> tuple[Pixels, Pixels | None]:
    """Return what a viewer shows of a picture: RGB upright, and its alpha where something is transparent."""
    with Image.open(path) as image:
        upright = ImageOps.exif_transpose(image)
        if upright.mode == "I;16":
            gray = np.round(np.asarray(upright) / 257).astype(np.uint8)
            return np.stack([gray] * 3, -1), None
        if upright.has_transparency_data:
            values = np.array(upright.convert("RGBA"))
            return values[:, :, :3], values[:, :, 3] if (values[:, :, 3] < 255).any() else None
        return np.array(upright.convert("RGB")), None


def rendered_plainly(pixels: Pixels, width: int, seed: int) -> Pixels:
    """Return what plain PyTorch makes of a picture in the style of `seeded_state(width, seed)`."""
    height_px, width_px = pixels.shape[:2]
    with torch.inference_mode():
        x = torch.from_numpy(pixels).permute(2, 0, 1)[None].float()
        y = plain_transformer(seeded_state(width, seed), x)[0, :, :height_px, :width_px]
    plain: Pixels = y.permute(1, 2, 0).round().clamp(0, 255).byte().numpy()
    return plain


def after_jpeg(pixels: Pixels) -> Pixels:
    """Return what JPEG leaves of a picture at the quality and sampling that the farm writes by default."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=95, subsampling=0)
    return np.array(Image.open(file))


def difference(one: Pixels, other: Pixels) -> tuple[int, float]:
    """Return the largest and the mean difference of two pictures of one size, in levels of 255."""
    assert one.shape == other.shape
    apart = np.abs(one.astype(np.int16) - other.astype(np.int16))
    return int(apart.max()), float(apart.mean())
