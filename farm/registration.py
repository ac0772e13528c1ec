"""Styles that steps have trained, on their way into the library of the farm.

A step that makes a style is done when its style is there. So one that was trained just before the controller
ended is registered by the next one; doing that twice changes nothing.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from typing import Any

from farm.ledger import Ledger
from farm.running import JobRun
from jobs.errors import FarmError, StorageError
from jobs.library import TRAINED, Library, StyleEntry
from jobs.manifest import load_manifest

log = logging.getLogger(__name__)

_PAUSES_S = (1.0, 2.0, 4.0, 8.0)
"""How long to wait before a store that did not take an entry is asked again."""


class Registrar:
    """Puts trained styles into the library, and says so in the ledger; the caller commits."""

    def __init__(self, ledger: Ledger, library: Library) -> None:
        self._ledger = ledger
        self._library = library

    async def register(self, job: JobRun, step: str) -> None:
        """Give the style of a step its name, as far as that can be done.

        A style that cannot have its name is still what later steps of the job take: they name its content.
        """
        try:
            entry, replacing = self._entry(job, step)
            added = await self._add(entry, replacing=replacing)
        except FarmError as error:
            text = f"{step}: its style is not in the library: {error}"
            self._ledger.event(job.id, "message", text)
            self._ledger.note(job.id, text)
        else:
            text = f"style {entry.name} is in the library" + ("" if added else ", where it was already")
            self._ledger.event(job.id, "style", text, {"style": entry.name, "sha256": entry.sha256})

    async def _add(self, entry: StyleEntry, *, replacing: bool) -> bool:
        """Add an entry; while the store does not answer, try again a little later."""
        for pause_s in _PAUSES_S:
            try:
                return await asyncio.to_thread(self._library.add_trained, entry, replacing=replacing)
            except StorageError as error:
                log.warning("style %s is not taken yet: %s", entry.name, error)
            await asyncio.sleep(pause_s)
        return await asyncio.to_thread(self._library.add_trained, entry, replacing=replacing)

    def _entry(self, job: JobRun, step: str) -> tuple[StyleEntry, bool]:
        """Return the entry of a step's style, and whether another style may lose its name.

        Raises:
            FarmError: If the step returned something else.
        """
        rows = self._ledger.read("SELECT result FROM steps WHERE job=? AND name=?", job.id, step)
        result: dict[str, Any] = json.loads(rows[0]["result"])
        items = self._ledger.read("SELECT output FROM items WHERE job=? AND step=? ORDER BY id", job.id, step)
        said = self._ledger.read("SELECT manifest FROM jobs WHERE id=?", job.id)[0]["manifest"]
        steps = load_manifest(json.loads(said)).steps
        replacing = next(bool(getattr(each, "replace", False)) for each in steps if each.name == step)
        origin = {"job": job.id, "step": step, "output": job.output, "file": items[0]["output"]}
        try:
            told = result["entry"]
            entry = StyleEntry(
                name=result["name"],
                sha256=result["sha256"],
                format=TRAINED,
                width=int(told["width"]),
                size_bytes=int(told["size_bytes"]),
                created_at=time.time(),
                source=str(told.get("source", "")),
                license=str(told.get("license", "")),
                metadata={**told.get("metadata", {}), **origin},
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise FarmError(f"what it returned is no style: {type(error).__name__}: {error}") from error
        return entry, replacing
