"""The contact sheet of a job: thumbnails of its results, with their names and what failed, on one page."""

from __future__ import annotations

import math
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from farm.cli import view
from farm.client import Reader, every_item
from jobs import paths
from jobs.errors import BadInputError, UsageError
from jobs.states import ItemState
from jobs.storage import Store, open_store
from jobs.storage.files import explained, make_folder
from jobs.tasks import StoreOptions

if TYPE_CHECKING:
    from workers.contact_sheets import Tile

_MOST_TILES = 600
_THUMBNAIL_PX = 192


def make_sheet(reader: Reader, job: dict[str, Any], output: str | None = None) -> str:
    """Make the contact sheet of what a job has made so far and return where it is.

    Args:
        reader: Where the job's items are read.
        job: The job, as the api shows it.
        output: File or `s3://` URL to write; by default it lies beside the job's report.

    Raises:
        UsageError: If nothing has been made or failed yet, or the file cannot be of the type its name says.
        StorageError: If the results cannot be read or the sheet not be written.
    """
    import numpy as np

    from workers.contact_sheets import contact_sheet
    from workers.images import encode

    place = paths.anchor(output, Path.cwd()) if output else view.beside_report(job, "contact-sheet.jpg")
    items = _chosen(reader, job)
    options = _store_options(reader, job)
    store = open_store(job["output"], options)
    sheet = contact_sheet([_tile(store, item) for item in items], thumbnail_px=_THUMBNAIL_PX)
    try:
        data, _ = encode(np.asarray(sheet), None, PurePosixPath(place).suffix)
    except ValueError as error:
        raise UsageError(f"{place}: {error}", "name a .jpg or .png file") from error
    _write(place, data, options)
    return place


def _write(place: str, data: bytes, options: StoreOptions) -> None:
    if paths.is_s3(place):
        folder, name = paths.split_url(place)
        open_store(folder, options).write(name, data)
        return
    # Not through a store: that would begin a `.farm` in the folder, which is none of results.
    path = Path(place)
    with explained(path):
        make_folder(path.parent)
        path.write_bytes(data)


def _chosen(reader: Reader, job: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the items to show: all that ended, or some evenly chosen of very many."""
    ended = {ItemState.DONE, ItemState.SKIPPED, ItemState.FAILED}
    items = [item for item in every_item(reader, job["id"]) if item["state"] in ended]
    if not items:
        raise UsageError(f"job {job['id']} has no results to show", "wait until there are some")
    step = math.ceil(len(items) / _MOST_TILES)
    if step > 1:
        view.say(f"the sheet shows 1 of {step} of the {len(items)} items")
    return items[::step]


def _store_options(reader: Reader, job: dict[str, Any]) -> StoreOptions:
    """Return how the job reaches its store."""
    if not paths.is_s3(job["output"]):
        return StoreOptions()
    return StoreOptions(**reader.manifest(job["id"]).get("s3", {}))


def _tile(store: Store, item: dict[str, Any]) -> Tile:
    name = PurePosixPath(item["output"] or item["input"]).name
    label = view.clean(f"{item['style']}: {name}" if item["style"] else name)
    if item["state"] == ItemState.FAILED:
        return None, label, view.clean(item["reason"])
    key = item["output"].removeprefix(store.url.rstrip("/") + "/")
    try:
        return _thumbnail(store.read(key)), label, None
    except FileNotFoundError:
        return None, label, "the result is no longer there"


def _thumbnail(data: bytes) -> bytes:
    """Return the picture made small, so that hundreds fit in memory, or as it is if it is broken."""
    from workers.images import decode, encode

    try:
        picture = decode(data, max_megapixels=math.inf, max_size_px=_THUMBNAIL_PX)
    except BadInputError:
        return data
    return encode(picture.pixels, picture.alpha, ".png")[0]
