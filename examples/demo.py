"""Render a folder of photographs with the real command and a real farm, and say where everything is.

    python examples/demo.py [FOLDER]

The photographs are some that scikit-image ships and that are free to use, the styles are those that come with
the farm; nothing is downloaded. The farm of the demo lives in FOLDER (demo-output) as well, so that yours is
left alone, and is ended at the end.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parent.parent

# Each is CC0 or in the public domain, as the function of skimage.data that loads it says.
PHOTOGRAPHS = {
    "astronaut.png": "Eileen Collins, by NASA",
    "camera.png": "A man with a camera, by Lav Varshney",
    "chelsea.png": "Chelsea the cat, by Stefan van der Walt",
    "coffee.png": "A cup of coffee, by Rachel Michetti",
    "hubble_deep_field.jpg": "Hubble eXtreme Deep Field, by NASA",
    "rocket.jpg": "Falcon 9 with DSCOVR, by SpaceX",
}

SHEET_PX = 1280
ROW_PICTURES = 4
"""How many pictures there are in a row, or one photograph with its results, where these are more."""

GAP_PX = 6


def main() -> int:
    """Run the demo and return the exit code of the job."""
    began_s = time.monotonic()
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "demo-output").resolve()
    photos, styled = folder / "photos", folder / "styled"
    put_photographs(photos)
    print(f"{len(PHOTOGRAPHS)} photographs are in {photos}", flush=True)
    environment = own_environment(folder / "farm")
    try:
        farm(environment, "styles", "list")
        styles = bundled_styles(environment)
        asked = [word for style in styles for word in ("--style", style)]
        code = farm(environment, "render", photos, *asked, "--output", styled, "--name", "demo")
        if code == 0:
            code = farm(environment, "sheet", "demo", "--output", folder / "contact-sheet.jpg")
    finally:
        farm(environment, "down")
    if code == 0:
        # The results of one style lie in the output itself, those of several in a folder for each.
        results = [styled / style for style in styles] if len(styles) > 1 else [styled]
        before_and_after(photos, results).save(folder / "before-and-after.jpg", quality=88)
        say_where(folder)
        print(f"It took {time.monotonic() - began_s:.0f} s. Run it again: what is finished is skipped.")
    return code


def put_photographs(folder: Path) -> None:
    """Copy the photographs out of the installed scikit-image, which is not imported for it."""
    skimage = find_spec("skimage")
    if skimage is None or skimage.origin is None:
        sys.exit(
            "error: scikit-image, which ships the photographs, is missing\nhint: pip install -e '.[demo]'"
        )
    folder.mkdir(parents=True, exist_ok=True)
    for name in PHOTOGRAPHS:
        copy = folder / name
        if not copy.exists():
            shutil.copyfile(Path(skimage.origin).parent / "data" / name, copy)


def own_environment(folder: Path) -> dict[str, str]:
    """Return an environment in which every command talks to a farm that keeps its things in `folder`."""
    elsewhere = {"FARM_ADDRESS", "FARM_TOKEN"}
    environment = {name: value for name, value in os.environ.items() if name not in elsewhere}
    places = {f"XDG_{kind}_HOME": str(folder / kind.lower()) for kind in ("DATA", "STATE", "CONFIG", "CACHE")}
    return environment | places | {"PYTHONPATH": str(ROOT)}


def farm(environment: dict[str, str], *arguments: object) -> int:
    """Show a command, run it, and return its exit code."""
    words = [str(argument) for argument in arguments]
    print(f"\n$ farm {' '.join(words)}", flush=True)
    return subprocess.run([sys.executable, "-m", "farm", *words], env=environment, check=False).returncode


def bundled_styles(environment: dict[str, str]) -> list[str]:
    """Return the names of the styles that come with the farm."""
    listed = subprocess.run(
        [sys.executable, "-m", "farm", "styles", "list", "--json"],
        env=environment,
        stdout=subprocess.PIPE,
        check=True,
    )
    return [style["name"] for style in json.loads(listed.stdout)["styles"] if style["bundled"]]


def before_and_after(photos: Path, results: list[Path]) -> Image.Image:
    """Return each photograph beside its results, of one folder each, as many in a row as fit, RGB."""
    folders = [photos, *results]
    length = max(1, ROW_PICTURES // len(folders)) * len(folders)
    pictures = [_opened(folder / name) for name in PHOTOGRAPHS for folder in folders]
    rows = [_row(pictures[start : start + length]) for start in range(0, len(pictures), length)]
    sheet = Image.new("RGB", (SHEET_PX, sum(row.height for row in rows) + GAP_PX * (len(rows) - 1)), "white")
    top = 0
    for row in rows:
        sheet.paste(row, (0, top))
        top += row.height + GAP_PX
    return sheet


def _opened(path: Path) -> Image.Image:
    with Image.open(path) as picture:
        return picture.convert("RGB")


def _row(pictures: list[Image.Image]) -> Image.Image:
    """Return pictures side by side, all of the height with which they fill the sheet."""
    shapes = [picture.width / picture.height for picture in pictures]
    height_px = round((SHEET_PX - GAP_PX * (len(pictures) - 1)) / sum(shapes))
    row = Image.new("RGB", (SHEET_PX, height_px), "white")
    left = 0
    for picture, shape in zip(pictures, shapes, strict=True):
        width_px = round(shape * height_px)
        row.paste(picture.resize((width_px, height_px), Image.Resampling.LANCZOS), (left, 0))
        left += width_px + GAP_PX
    return row


def say_where(folder: Path) -> None:
    """Print where the results, the contact sheet and the report are."""
    places = {
        "results": folder / "styled",
        "contact sheet": folder / "contact-sheet.jpg",
        "before and after": folder / "before-and-after.jpg",
        "report": folder / "styled" / ".farm" / "report.json",
    }
    print()
    for what, place in places.items():
        print(f"{what + ':':18}{place}")


if __name__ == "__main__":
    sys.exit(main())
