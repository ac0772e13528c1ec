"""From the options of a command, or from a file that it names, to the manifest that is handed in."""

from __future__ import annotations

import contextlib
import getpass
import os
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from farm.cli import steps
from farm.cli.render_options import RenderOptions
from jobs import paths
from jobs.errors import ManifestError, UsageError

if TYPE_CHECKING:
    from jobs.manifest import Manifest

_JOB_KEYS = {
    "name": "name",
    "user": "user",
    "tier": "tier",
    "priority": "priority",
    "output": "output",
    "on_existing": "on_existing",
    "max_failed": "max_failed",
}
_S3_KEYS = {
    "s3_endpoint_url": "endpoint_url",
    "s3_region": "region",
    "s3_profile": "profile",
    "s3_path_style": "path_style",
}
_PLACES = {key: field for field, key in _JOB_KEYS.items()} | {
    f"s3.{key}": field for field, key in _S3_KEYS.items()
}
"""Which option a place in a manifest was made from; `steps.option_of` knows those of the step."""

_MANIFEST_SUFFIXES = frozenset({".yaml", ".yml", ".json"})
_LONGEST_NAME = 80
_STEP = "steps[0]"


def read_options(options: RenderOptions) -> Manifest:
    """Return the manifest that the options describe, complete and with absolute paths.

    Paths in options begin in the current folder, those in a manifest file in the folder of the file.

    Raises:
        UsageError: If the options contradict each other or the manifest file that they name.
        ManifestError: If something in the manifest is wrong, in the words of the options it was made of.
    """
    from jobs.manifest import load_manifest

    given = options.given()
    file = manifest_file(options.inputs)
    if file is not None:
        manifest = load_manifest(_from_file(file, given)).anchored(file.absolute().parent)
    else:
        with in_words_of(options):
            manifest = load_manifest(_from_options(given)).anchored(Path.cwd())
    return _completed(manifest)


@contextlib.contextmanager
def in_words_of(options: RenderOptions) -> Iterator[None]:
    """Let errors about a manifest that was made of options name the options instead of its keys."""
    try:
        yield
    except ManifestError as error:
        if manifest_file(options.inputs) is not None:
            raise
        given = options.given()
        lines = [_in_words(line, given) for line in error.message.splitlines()]
        raise ManifestError(
            "\n".join(dict.fromkeys(lines)), f"`farm {options.COMMAND} --help` shows the options"
        ) from error


def _in_words(line: str, given: dict[str, Any]) -> str:
    """Return a line about a manifest that was made of options, naming the option instead of the place."""
    place, colon, rest = line.partition(": ")
    if not colon:
        return line
    if place == _STEP:  # what a kind of work says may begin with one of its keys
        key, colon, more = rest.partition(": ")
        option = steps.option_of(key, given) if colon else None
        return f"{option}: {more}" if option else rest
    if place.startswith(f"{_STEP}."):
        option = steps.option_of(place.removeprefix(f"{_STEP}."), given)
    else:
        field = _PLACES.get(place)
        option = field and steps.flag(field)
    return f"{option}: {rest}" if option else line


def manifest_file(inputs: Sequence[str]) -> Path | None:
    """Return the manifest file that the inputs are, or None if they are pictures.

    Raises:
        UsageError: If they are a manifest and something else.
    """
    files = [given for given in inputs if Path(given).suffix.lower() in _MANIFEST_SUFFIXES]
    if not files or paths.is_s3(files[0]) or Path(files[0]).is_dir():
        return None
    if len(inputs) > 1:
        raise UsageError(f"{files[0]} is a manifest, and a manifest stands alone", "submit it by itself")
    return Path(files[0])


def _from_file(path: Path, given: dict[str, Any]) -> dict[str, Any]:
    """Read a manifest; options that are about the whole job replace what it says."""
    from jobs.documents import read_document

    about_steps = [steps.flag(field) for field in given if field in steps.STEP_FIELDS - {"inputs"}]
    if about_steps:
        raise UsageError(
            f"{', '.join(about_steps)} cannot be combined with a manifest", f"write it into {path}"
        )
    manifest, said = read_document(path), _job_keys(given)
    if "s3" in said and isinstance(manifest.get("s3"), dict):
        said["s3"] = manifest["s3"] | said["s3"]
    return manifest | said


def _from_options(given: dict[str, Any]) -> dict[str, Any]:
    step = steps.step_of(given)
    name = _default_name(given["inputs"][0], steps.style_names(given))
    return {"version": 1, "name": name, **_job_keys(given), "steps": [step]}


def _job_keys(given: dict[str, Any]) -> dict[str, Any]:
    """Return the keys of the job itself, without its steps; its output is absolute."""
    made = {key: given[field] for field, key in _JOB_KEYS.items() if field in given}
    if made.get("output"):
        made["output"] = paths.anchor(made["output"], Path.cwd())
    if made.get("max_failed", "").isdecimal():
        made["max_failed"] = int(made["max_failed"])
    s3 = {key: given[field] for field, key in _S3_KEYS.items() if field in given}
    return made | ({"s3": s3} if s3 else {})


def _default_name(given: str, styles: Sequence[str]) -> str:
    first = paths.split_glob(given)[0] if paths.is_glob(given) else given
    place = PurePosixPath(first if paths.is_s3(first) else os.path.abspath(first))  # noqa: PTH100 - keeps links
    stem = place.stem if paths.is_picture(first) else place.name
    name = f"{stem or 'pictures'}-{styles[0] if len(styles) == 1 else 'styled'}"
    fit = "".join(sign if sign.isprintable() and sign not in "/\\" else "_" for sign in name)
    return fit.encode()[-_LONGEST_NAME:].decode(errors="ignore").strip()


def _completed(manifest: Manifest) -> Manifest:
    """Say who submits and where the results go, where the manifest does not."""
    user = manifest.user or _login_name()
    output = manifest.output or next(filter(None, map(_default_output, manifest.steps)), None)
    return manifest.model_copy(update={"user": user, "output": output})


def _default_output(step: Any) -> str | None:
    """Return the folder beside the inputs of a step, or None for a step that has none."""
    from jobs.optimize_step import OptimizeStep
    from jobs.train_step import TrainStep

    inputs, styles = getattr(step, "inputs", None), getattr(step, "styles", None)
    if isinstance(step, OptimizeStep):
        styles = [step.style_name]
    if isinstance(step, TrainStep):
        styles = [f"{step.style}-style"]
    if not inputs or not isinstance(styles, list):
        return None
    return paths.default_output(inputs, [style for style in styles if isinstance(style, str)])


def _login_name() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid-{os.getuid()}"
