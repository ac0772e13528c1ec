"""Put style models into the package, so that every installed farm has them: `make bundle STYLES='A B'`.

    python examples/bundle_styles.py great_wave.safetensors ink.safetensors
    python examples/bundle_styles.py --half great_wave.safetensors
    python examples/bundle_styles.py --remove ink

Each is bundled under the name that its file says, in place of one that had the name before. It must say its
license and its source. Entries, thumbnails and the lower part of README.md in `jobs/bundled` are written from
what the files say, and from nothing of this machine or of the time: run it again, and nothing changes. Files
that no style needs any more are removed.
"""

from __future__ import annotations

import argparse
import copy
import json
import shutil
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from jobs.bundled import FOLDER
from jobs.errors import FarmError, UsageError
from jobs.library import Library, StyleEntry
from jobs.storage.local import LocalStore
from workers.importing import OWN_FORMAT, import_style, keep_style, sample_picture
from workers.nst.inference import prepare_for_inference, render_batch
from workers.nst.style_models import encode_style_model, read_style_model
from workers.nst.transformer import TransformerNet

HEADING = "## What there is"
"""In README.md; all below it is written by this tool."""

HALF_LIMIT = 2
"""By how much, of 255, a value of the sample picture may change when weights are rounded to float16."""

LONGEST_CELL = 1000
"""Characters; longer values are left to `farm styles show`."""

_SAID_ELSEWHERE = {"name", "version", "thumbnail_sha256", "license", "source", "io", "network", "width"}


def library_in(folder: Path) -> Library:
    """Return the library of a folder of bundled styles, for writing."""
    return Library(LocalStore(folder), folder / "unused")


def bundle(files: Iterable[Path], folder: Path, *, half: bool = False) -> list[StyleEntry]:
    """Put style models into a folder of bundled styles, and return their entries.

    Args:
        files: Style models of ours.
        folder: As `jobs.bundled.FOLDER`.
        half: Whether to round the weights to float16.

    Raises:
        UsageError: If a file is no style model, or does not say what it must.
    """
    library = library_in(folder)
    entries = [_bundled(file, library, half=half) for file in files]
    tidy(folder)
    return entries


def remove(names: Iterable[str], folder: Path) -> None:
    """Take styles out of a folder of bundled styles.

    Raises:
        UsageError: If there is none of a name.
    """
    library = library_in(folder)
    for name in names:
        library.remove_style(name)
    tidy(folder)


def tidy(folder: Path) -> None:
    """Write what README.md says of the styles, and remove files that none of them needs."""
    entries = library_in(folder).styles()
    needed = {sha256 for entry in entries for sha256 in assets_of(entry)}
    for file in (folder / "assets").glob("*/*"):
        if file.name not in needed:
            file.unlink()
    for group in (folder / "assets").glob("*"):
        if not any(group.iterdir()):
            group.rmdir()
    shutil.rmtree(folder / ".farm", ignore_errors=True)  # where a store stages what it writes
    readme = folder / "README.md"
    above = readme.read_text().partition(HEADING)[0] if readme.exists() else ""
    readme.write_text(above + described(entries))


def assets_of(entry: StyleEntry) -> tuple[str, str]:
    """Return the hashes of the files of a style: style model and thumbnail."""
    return entry.sha256, entry.metadata["thumbnail_sha256"]


def described(entries: Iterable[StyleEntry]) -> str:
    """Return the lower part of README.md: what there is to know of each style."""
    parts = [HEADING]
    for entry in entries:
        facts = {
            "license": entry.license,
            "source": entry.source,
            "network": f"{entry.metadata['network']}, base width {entry.width}",
            "size": f"{entry.size_bytes:,} bytes",
            "sha256": f"`{entry.sha256}`",
        }
        rest = {
            key.replace("_", " "): value
            for key, value in entry.metadata.items()
            if key not in _SAID_ELSEWHERE
        }
        cells = {key: _cell(value) for key, value in {**facts, **_spread(rest)}.items()}
        rows = [f"| {key} | {cell} |" for key, cell in cells.items() if cell]
        parts.append("\n".join([f"### {entry.name}\n", "| | |", "|---|---|", *rows]))
    return "\n\n".join(parts) + "\n"


def halved(file: Path) -> bytes:
    """Return a style model with its weights rounded to float16.

    Raises:
        UsageError: If that would be seen.
    """
    net, metadata = read_style_model(file)
    rounded = copy.deepcopy(net)
    state = {name: value.half().float() for name, value in net.state_dict().items()}
    if not all(bool(value.isfinite().all()) for value in state.values()):
        raise UsageError(f"{file} has weights that are too large for float16", "bundle it without --half")
    rounded.load_state_dict(state)
    before, after = _rendered(net), _rendered(rounded)
    off = int((before - after).abs().max())
    if off > HALF_LIMIT:
        raise UsageError(
            f"{file}: in float16 its pixels change by up to {off} of 255, and {HALF_LIMIT} are allowed",
            "bundle it without --half",
        )
    return encode_style_model(rounded, metadata)


def _rendered(net: TransformerNet) -> torch.Tensor:
    sample = torch.from_numpy(sample_picture()[None])
    return render_batch(prepare_for_inference(net), sample).int()


def _bundled(file: Path, library: Library, *, half: bool) -> StyleEntry:
    try:
        _, metadata = read_style_model(file)
        with tempfile.TemporaryDirectory() as folder:
            whole = Path(folder) / file.name
            whole.write_bytes(halved(file) if half else file.read_bytes())
            made = import_style(whole, format=OWN_FORMAT, name=metadata.name)
    except ValueError as error:
        raise UsageError(str(error)) from error
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror or error}") from error
    for key in ("license", "source"):
        if not made.metadata[key]:
            raise UsageError(f"{file} does not say its {key}", "what is shipped must say it")
    entry = keep_style(made, library, created_at=0.0)
    if any(there.name == entry.name for there in library.styles()):
        library.remove_style(entry.name)
    library.add_style(entry)
    return entry


def _spread(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return facts with those that are a mapping part by part: a training has many."""
    spread: dict[str, Any] = {}
    for key, value in facts.items():
        parts = value if isinstance(value, Mapping) else {}
        spread |= {f"{key}: {part.replace('_', ' ')}": each for part, each in parts.items()} or {key: value}
    return spread


def _cell(value: Any) -> str:
    """Return a value for a table, or nothing where there is none or it is long."""
    text = _plain(value)
    return text.replace("|", "\\|").replace("\n", " ") if len(text) <= LONGEST_CELL else ""


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {_plain(each)}" for key, each in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_plain, value))
    if isinstance(value, float):
        return f"{value:.6g}"
    return value if isinstance(value, str) else "" if value is None else json.dumps(value)


def main() -> int:
    """Do what the command line says and return the exit code."""
    parser = argparse.ArgumentParser(description="Put style models into the package.")
    parser.add_argument("files", metavar="FILE", nargs="*", type=Path, help="a style model of ours")
    parser.add_argument("--half", action="store_true", help="round weights to float16, unless that is seen")
    parser.add_argument(
        "--remove", metavar="NAME", action="append", default=[], help="take a style out again"
    )
    options = parser.parse_args()
    if not options.files and not options.remove:
        parser.error("name a FILE, or --remove NAME")
    try:
        remove(options.remove, FOLDER)
        entries = bundle(options.files, FOLDER, half=options.half)
    except FarmError as error:
        sys.exit(f"error: {error}")
    for entry in entries:
        print(f"{entry.name} is bundled: {entry.size_bytes:,} bytes, {entry.license}")
    total_bytes = sum(file.stat().st_size for file in (FOLDER / "assets").glob("*/*"))
    print(f"all of {FOLDER} takes {total_bytes:,} bytes; README.md there is written anew: read it")
    return 0


if __name__ == "__main__":
    sys.exit(main())
