"""The one step that options describe: of which kind it is, its keys, and which option a key was made of."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from jobs import paths
from jobs.errors import ManifestError, UsageError

Given = Mapping[str, Any]
"""What was said on the command line, by field of `RenderOptions`."""

_ANY_KIND = {
    "inputs": "inputs",
    "recursive": "recursive",
    "pattern": "pattern",
    "format": "format",
    "quality": "quality",
    "max_megapixels": "max_megapixels",
    "precision": "precision",
    "device": "device",
    "threads": "threads",
    "workers": "workers",
}
_STYLIZE = {"style": "styles", "max_size": "max_size_px", "chunk_items": "chunk.items"}
_OPTIMIZE = {
    "style_image": "style_images",
    "style_weights": "style_images.weight",
    "preset": "preset",
    "loss_network": "loss_network",
    "optimizer": "optimizer.kind",
    "size": "size_px",
    "iterations": "iterations",
    "smallest": "smallest_px",
    "scales": "scales",
    "tile": "tile_px",
    "save_every": "save_every",
    "content_weight": "content_weight",
    "style_weight": "style_weight",
    "tv_weight": "tv_weight",
    "style_scale": "style_scale.factor",
    "init": "init",
    "colors": "colors.method",
    "seed": "seed",
}
_TRAIN = {
    "inputs": "data",
    "recursive": "recursive",
    "precision": "precision",
    "device": "device",
    "threads": "threads",
    "workers": "workers",
    "name": "style",
    "style_image": "style_images",
    "preset": "preset",
    "loss_network": "loss_network",
    "network": "network",
    "steps": "steps",
    "batch": "batch",
    "crop": "crop_px",
    "style_size": "style_size_px",
    "content_weight": "content_weight",
    "style_weight": "style_weight",
    "tv_weight": "tv_weight",
    "learning_rate": "optimizer.learning_rate",
    "seed": "seed",
    "begin_with": "begin_with",
    "test_image": "test_images",
    "validation": "validation.pictures",
    "checkpoint_steps": "checkpoint.steps",
    "license": "license",
    "source": "source",
    "onnx": "onnx",
    "replace": "replace",
}
"""Keys of a step that trains; `name`, the name of the style, is that of the job as well."""

_KEYS = {"stylize": _ANY_KIND | _STYLIZE, "optimize": _ANY_KIND | _OPTIMIZE, "train": _TRAIN}

_FIELDS = {key: field for keys in (_ANY_KIND, _STYLIZE, _OPTIMIZE, _TRAIN) for field, key in keys.items()}
_PLACES = {"inputs": "INPUT", "data": "DATA"}
"""Arguments, by the key that is made of each."""

STEP_FIELDS = frozenset({*_ANY_KIND, *_STYLIZE, *_OPTIMIZE, *_TRAIN, "settings"} - {"name"})
"""Fields of `RenderOptions` that are about the step, not about the whole job."""

_INSTEAD = {
    "max_size": "--size is the longest side of the result",
    "chunk_items": "every picture of an optimization is a task of its own",
    "size": "--max-size makes larger pictures smaller",
}
_OPTIONS_OF_KIND = {"stylize": "--style", "optimize": "--style-image"}


def flag(field: str) -> str:
    """Return the option of a field of `RenderOptions`."""
    return "--set" if field == "settings" else f"--{field.replace('_', '-')}"


def step_of(given: Given) -> dict[str, Any]:
    """Return the step that the options describe, as a manifest has it.

    Raises:
        UsageError: If options contradict each other, do not fit the kind of step, or cannot be read.
    """
    kind = _kind(given)
    keys = _KEYS[kind]
    values = dict(given)
    if kind == "stylize":
        _refuse_gang(given)
    else:
        values["style_image"] = _paintings(given)
        values.pop("style_weights", None)
    for field, read in _READERS.items():
        if field in given:
            values[field] = read(given[field])
    step: dict[str, Any] = {"name": "train" if kind == "train" else "render", "kind": kind}
    for field, key in keys.items():
        if field in values:  # what is not said is left to the manifest's default
            _put(step, key, values[field], flag(field))
    for setting in given.get("settings", ()):
        key, value = _setting(setting)
        _put(step, key, value, f"--set {key}")
    return step


def option_of(place: str, given: Given) -> str | None:
    """Return the option that a place in a step belongs to, such as `--size` for `size_px`, or None."""
    place = re.sub(r"\[\d+\]", "", place)
    for setting in given.get("settings", ()):
        key = setting.partition("=")[0].strip()
        if f"{place}.".startswith(f"{key}.") or f"{key}.".startswith(f"{place}."):
            return f"--set {key}"
    while place:
        if place in _FIELDS:
            return _PLACES.get(place) or flag(_FIELDS[place])
        place = place.rpartition(".")[0]
    return None


def style_names(given: Given) -> list[str]:
    """Return what results are called after: the styles, or the first painting."""
    if "kind" in given:
        return [given["name"]]
    if "style" in given:
        return list(given["style"])
    return [Path(image.rstrip("/")).stem for image in given["style_image"][:1]]


# --- which kind -----------------------------------------------------------------------------------


def _kind(given: Given) -> str:
    if "kind" in given:
        if "style_image" not in given:
            raise UsageError("no painting is named", "add --style-image FILE")
        if "name" not in given:
            raise UsageError("the style has no name", "add --name NAME, by which `--style` will know it")
        return str(given["kind"])
    if "style" in given and "style_image" in given:
        raise UsageError(
            "--style renders with trained styles, --style-image optimizes for paintings: a job does one",
            "submit two jobs, or write a manifest of two steps",
        )
    if "style" not in given and "style_image" not in given:
        lost = _flags(field for field in given if field in _OPTIMIZE)
        if lost:
            raise UsageError(f"{lost} without a painting", "add --style-image FILE")
        raise UsageError(
            "no style is named",
            "add --style NAME (`farm styles list` shows those there are) or --style-image FILE, a painting",
        )
    kind, other = ("stylize", "optimize") if "style" in given else ("optimize", "stylize")
    foreign = [field for field in given if field in _KEYS[other] and field not in _ANY_KIND]
    if foreign:
        raise UsageError(
            f"{_flags(foreign)} goes with {_OPTIONS_OF_KIND[other]}, not with {_OPTIONS_OF_KIND[kind]}",
            _INSTEAD.get(foreign[0], "leave it out"),
        )
    return kind


def _flags(fields: Iterable[str]) -> str:
    return ", ".join(map(flag, fields))


def _refuse_gang(given: Given) -> None:
    if "workers" in given and _workers(given["workers"])["max"] > 1:
        raise UsageError(
            f"--workers {given['workers']} asks for several workers on one picture, and stylize takes one",
            "`farm up --workers N` makes a farm of N workers, which share the pictures of every job",
        )


# --- reading values -------------------------------------------------------------------------------


def _workers(text: str) -> dict[str, int]:
    found = re.fullmatch(r"(\d+)(?:-(\d+))?", text.strip(), re.ASCII)
    if found is None:
        raise UsageError(f"--workers: {text!r} is not a number", "write --workers 2, or 2-4 for at least two")
    return {"min": int(found[1]), "max": int(found[2] or found[1])}


def _paintings(given: Given) -> list[dict[str, Any]]:
    images = [paths.anchor(image, Path.cwd()) if image else image for image in given["style_image"]]
    if "style_weights" not in given:
        return [{"image": image} for image in images]
    text = given["style_weights"]
    try:
        weights = [float(weight) for weight in text.split(",")]
    except ValueError:
        raise UsageError(f"--style-weights: {text!r} is not a list of numbers", "write 75,25") from None
    if len(weights) != len(images):
        raise UsageError(
            f"--style-weights: {len(weights)} weights for {len(images)} paintings",
            "give one for each --style-image, in the same order",
        )
    return [{"image": image, "weight": weight} for image, weight in zip(images, weights, strict=True)]


def _scales(text: str) -> list[dict[str, int]]:
    scales = []
    for part in text.split(","):
        found = re.fullmatch(r"\s*(\d+):(\d+)\s*", part, re.ASCII)
        if found is None:
            raise UsageError(
                f"--scales: {part!r} is not PX:ITERATIONS", "write 256:200,512:100, from coarse to fine"
            )
        scales.append({"size_px": int(found[1]), "iterations": int(found[2])})
    return scales


def _init(text: str) -> dict[str, str]:
    """Return how a picture begins: a kind that has a name, or a file."""
    from typing import get_args

    from jobs.optimize import InitSettings
    from jobs.schema import near

    kinds = [kind for kind in get_args(InitSettings.model_fields["kind"].annotation) if kind != "picture"]
    if text in kinds:
        return {"kind": text}
    if paths.is_s3(text) or paths.is_picture(text) or Path(text).is_file():
        return {"kind": "picture", "image": paths.anchor(text, Path.cwd())}
    raise UsageError(
        f"--init: {text!r} is neither a kind nor a file{near(text, kinds)}", f"kinds: {', '.join(kinds)}"
    )


_READERS = {"workers": _workers, "scales": _scales, "init": _init}


def _setting(text: str) -> tuple[str, Any]:
    from jobs.documents import read_value

    key, sign, value = text.partition("=")
    key = key.strip()
    if not sign or not all(key.split(".")):
        raise UsageError(f"--set: {text!r} is not KEY=VALUE", "such as --set stop.improvement=0.001")
    try:
        return key, read_value(value)
    except ManifestError as error:
        raise UsageError(f"--set {key}: {value!r} is no value", "it is one of YAML or JSON") from error


def _put(step: dict[str, Any], key: str, value: Any, option: str) -> None:
    """Set a key of a step; dots lead into its parts."""
    *parts, last = key.split(".")
    place = step
    for part in parts:
        place = place.setdefault(part, {})
        if not isinstance(place, dict):
            raise _twice(option, key)
    if last in place:
        raise _twice(option, key)
    place[last] = value


def _twice(option: str, key: str) -> UsageError:
    return UsageError(f"{option}: {key} is said already", "say it once")
