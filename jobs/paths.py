"""Names: which files are pictures, in which order they come, and what their results are called.

Nothing here opens a file; a few functions ask the local file system whether two paths are one.
"""

from __future__ import annotations

import difflib
import itertools
import os
import posixpath
import re
import string
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from jobs.errors import UsageError

S3_SCHEME = "s3://"

FORMATS: dict[str, tuple[str, ...]] = {
    "jpg": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "png": (".png",),
    "webp": (".webp",),
    "tiff": (".tiff", ".tif"),
    "bmp": (".bmp",),
}
"""What can be written: the extensions of each format, the usual one first."""

FORMAT_OF = {extension: name for name, extensions in FORMATS.items() for extension in extensions}

INPUT_EXTENSIONS = frozenset(FORMAT_OF) | frozenset(
    {".apng", ".avif", ".dib", ".gif", ".jp2", ".pbm", ".pgm", ".pnm", ".ppm", ".tga"}
)
"""What is taken for a picture in a folder, in lower case. Whether it is one, a worker finds out."""

PLACEHOLDERS = ("folder", "name", "ext", "style", "index")

_NUMBER = re.compile(r"[0-9]+")
_INDEX_FORMAT = re.compile(r"0?[1-9]?d?")


def natural_key(key: str) -> tuple[str, str]:
    """Return what to sort by so that `img2` comes before `img10` and a folder's files stay together."""
    padded = _NUMBER.sub(lambda number: number[0].lstrip("0").zfill(20), key.casefold())
    return padded.replace("/", "\0"), key


def is_picture(key: str) -> bool:
    """Return whether the extension is one of those that we read."""
    return posixpath.splitext(key)[1].lower() in INPUT_EXTENSIONS


def is_hidden(key: str) -> bool:
    """Return whether a segment of the key begins with a dot, as everything under `.farm` does."""
    return key.startswith(".") or "/." in key


def is_url(place: str) -> bool:
    """Return whether it begins like a URL of any kind, which no path that people write does."""
    scheme, separator, _ = place.partition("://")
    return bool(separator) and scheme.isalnum()


def is_s3(url: str) -> bool:
    """Return whether the URL names something in an S3 store; everything else is a local path."""
    return url.startswith(S3_SCHEME)


# --- what results are called ----------------------------------------------------------------------


def output_extension(input_name: str, format: str = "keep") -> str:  # noqa: A002 - the manifest's word
    """Return the extension of the result, with its dot.

    Args:
        input_name: Name of the input; its extension stays as it is written where it fits the format.
        format: `keep`, or a key of `FORMATS`. Kept formats that cannot be written become `.png`.
    """
    extension = posixpath.splitext(input_name)[1]
    written = FORMAT_OF.get(extension.lower())
    if format == "keep":
        return extension if written else ".png"
    return extension if written == format else FORMATS[format][0]


def default_pattern(*, several_styles: bool) -> str:
    """Return the output naming pattern of a job that gives none."""
    return "{style}/{folder}/{name}.{ext}" if several_styles else "{folder}/{name}.{ext}"


def check_pattern(pattern: str) -> None:
    """Refuse an output naming pattern that could not give each input a name of its own.

    Raises:
        ValueError: Saying what is wrong with it.
    """
    try:
        fields = [field for field in string.Formatter().parse(pattern) if field[1] is not None]
    except ValueError as error:
        raise ValueError(f"{pattern!r} cannot be read: {error}") from None
    for _, name, spec, conversion in fields:
        _check_placeholder(name or "", spec or "", conversion or "")
    names = {name for _, name, _, _ in fields}
    if not names & {"name", "index"}:
        raise ValueError(f"{pattern!r} gives every input the same name: use {{name}} or {{index}}")
    if not pattern.endswith(".{ext}"):
        raise ValueError(f"{pattern!r} does not end with .{{ext}} (choose the type of file with `format`)")
    segments = pattern.split("/")
    if "\\" in pattern or segments[0] == "" or any(part.startswith(".") for part in segments):
        raise ValueError(f"{pattern!r} may leave the output or be hidden: use plain names between /")


def _check_placeholder(name: str, spec: str, conversion: str) -> None:
    if name not in PLACEHOLDERS:
        near = difflib.get_close_matches(name, PLACEHOLDERS, 1)
        known = " ".join(f"{{{each}}}" for each in PLACEHOLDERS)
        raise ValueError(f"there is no {{{name}}}{did_you_mean(near)}: there are {known}")
    if conversion or (spec and (name != "index" or not _INDEX_FORMAT.fullmatch(spec))):
        raise ValueError(f"{{{name}}} takes no such format; only {{index}} takes a width, as in {{index:05}}")


def did_you_mean(near: Sequence[str]) -> str:
    """Return the words that point at the nearest known name, or nothing."""
    return f", did you mean {near[0]}?" if near else ""


def output_key(pattern: str, key: str, *, style: str, index: int, format: str = "keep") -> str:  # noqa: A002
    """Return where a result goes, relative to the job's output.

    Args:
        pattern: One that `check_pattern` lets pass.
        key: The input, relative to the folder that was asked for: its folders are `{folder}`.
        style: Name of the style.
        index: Number of the input in its step, from 1.
        format: `keep`, or a key of `FORMATS`.
    """
    folder, name = posixpath.split(key)
    filled = pattern.format(
        folder=folder,
        name=posixpath.splitext(name)[0],
        ext=output_extension(name, format)[1:],
        style=style,
        index=index,
    )
    return "/".join(filter(None, filled.split("/")))


class OutputNames:
    """The output names that a job has given away: every result has its own, and none lies on an input.

    Names are compared as the output's file system does, so that `a.jpg` and `A.jpg` are two results on
    Linux and S3 and a refused job on a disk that ignores case.
    """

    def __init__(self, output: str) -> None:
        self._root = output if is_s3(output) else os.path.realpath(output)
        self._ignores_case = not is_s3(output) and ignores_case(self._root)
        self._taken: dict[str, str] = {}
        self._inputs_inside: dict[str, str] = {}
        self._real_folders: dict[str, str] = {}

    def claim(self, key: str, url: str) -> bool:
        """Give the name `key` to the result of the input at `url`; False if that file has it already.

        Raises:
            UsageError: If another input has the name, or an input of the job lies there.
        """
        folded = self._fold(key)
        first = self._taken.setdefault(folded, url)
        if first != url:
            if _is_one_file(first, url):
                return False
            raise UsageError(
                f"{first} and {url} would both be written to {key}",
                "rename one, or use {folder}, {style} or {index} in `pattern`",
            )
        self._keep_apart(folded)
        return True

    def protect(self, url: str) -> None:
        """Keep the input at `url` from being overwritten by a result.

        Raises:
            UsageError: If a result goes there already.
        """
        real = url if is_s3(url) else self._real(url)
        if real.startswith(self._root.rstrip("/") + "/"):
            folded = self._fold(real[len(self._root.rstrip("/")) + 1 :])
            self._inputs_inside[folded] = url
            self._keep_apart(folded)

    def _keep_apart(self, folded: str) -> None:
        if folded in self._inputs_inside and folded in self._taken:
            raise UsageError(
                f"the result of {self._taken[folded]} would be written over the input "
                f"{self._inputs_inside[folded]}",
                "choose another output",
            )

    def _fold(self, key: str) -> str:
        return key.casefold() if self._ignores_case else key

    def _real(self, path: str) -> str:
        folder, name = os.path.split(path)
        if folder not in self._real_folders:
            self._real_folders[folder] = os.path.realpath(folder)
        return join_url(self._real_folders[folder], name)


def _is_one_file(first: str, second: str) -> bool:
    if is_s3(first) or is_s3(second):
        return False
    one, other = Path(first), Path(second)
    return one.exists() and other.exists() and one.samefile(other)


# --- where inputs and outputs are -----------------------------------------------------------------


def split_url(url: str) -> tuple[str, str]:
    """Return the folder or prefix that holds a file, and the file's name."""
    head, _, tail = url.rpartition("/")
    return (head or ("/" if url.startswith("/") else "")), tail


def join_url(root: str, key: str) -> str:
    """Return the full path or URL of a key below a root."""
    return f"{root.rstrip('/')}/{key}"


def is_glob(url: str) -> bool:
    """Return whether the path has `*`, `?` or `[`. Who opens it prefers a file of exactly that name."""
    return any(sign in url for sign in "*?[")


def split_glob(url: str) -> tuple[str, str]:
    """Return the folder above the first segment with a wildcard, and the pattern below it."""
    segments = url.split("/")
    first = next(number for number, segment in enumerate(segments) if is_glob(segment))
    root = "/".join(segments[:first])
    return (root or ("/" if url.startswith("/") else "")), "/".join(segments[first:])


def glob_is_deep(pattern: str) -> bool:
    """Return whether files below the folder's own can match."""
    return "/" in pattern or "**" in pattern


def matches_glob(key: str, pattern: str) -> bool:
    """Return whether a key matches; `*`, `?` and `[a-z]` stay within a segment, `**` is any folders."""
    wanted = pattern.split("/")

    def reach(states: Iterable[int]) -> set[int]:
        reached = set()
        for state in states:
            reached.add(state)
            while state < len(wanted) and wanted[state] == "**":
                state += 1  # noqa: PLW2901 - `**` may stand for no folder at all
                reached.add(state)
        return reached

    states = reach({0})
    for segment in key.split("/"):
        states = reach(
            state + (wanted[state] != "**")
            for state in states
            if state < len(wanted) and (wanted[state] == "**" or fnmatchcase(segment, wanted[state]))
        )
    return len(wanted) in states


def anchor(place: str, folder: Path) -> str:
    """Return a path made absolute, `~` meaning the user's own folder; URLs stay as they are."""
    if is_url(place):
        return place
    absolute = os.path.normpath(folder.absolute() / os.path.expanduser(place))  # noqa: PTH111 - it never raises
    return f"{absolute}/" if place.endswith("/") and absolute != "/" else absolute


def is_inside(url: str, folder: str) -> bool:
    """Return whether `url` is `folder` or lies below it, through links and whatever the case says.

    Neither needs to exist. Both are absolute paths or both `s3://` URLs of one store.
    """
    if is_s3(url) or is_s3(folder):
        return join_url(url, "").startswith(join_url(folder, ""))
    real, home = Path(os.path.realpath(url)), Path(os.path.realpath(folder))
    if not home.exists():
        return real.is_relative_to(home)
    return any(each.exists() and each.samefile(home) for each in (real, *real.parents))


def ignores_case(folder: str) -> bool:
    """Return whether `a` and `A` are one name on the file system where `folder` is or will be made."""
    path = Path(folder)
    for each in (path, *path.parents):
        swapped = each.with_name(each.name.swapcase()) if each.name else each
        if swapped != each and each.exists():
            return swapped.exists() and swapped.samefile(each)
    return False


def default_output(inputs: Sequence[str], styles: Sequence[str], *, own: str = ".farm") -> str:
    """Return the folder beside the input that takes the results of a job which names none.

    `photos` in the style candy goes to `photos-candy`, in several styles to `photos-styled`. A folder of
    that name which the farm did not make is left alone: then it is `photos-candy-2`, and so on.

    Args:
        inputs: Absolute paths, globs or `s3://` URLs; the first one decides.
        styles: Names of the styles.
        own: Name of the folder in an output that shows that the farm made it.

    Raises:
        UsageError: If there is nothing beside the input, as with `/` and `s3://bucket`.
    """
    first = inputs[0].rstrip("/")
    if is_glob(first) and not Path(first).exists():
        first = split_glob(first)[0]
    elif is_picture(first) and not Path(first).is_dir():
        first = split_url(first)[0] if len(inputs) > 1 else posixpath.splitext(first)[0]
    parent, name = split_url(first)
    if not name or parent == "s3:/":
        raise UsageError(f"there is no place beside {inputs[0]} for the results", "name one with --output")
    wanted = join_url(parent, f"{name}-{styles[0] if len(styles) == 1 else 'styled'}")
    if is_s3(wanted):
        return wanted
    candidates = itertools.chain([wanted], (f"{wanted}-{number}" for number in itertools.count(2)))
    return next(each for each in candidates if _is_free(Path(each), own))


def _is_free(folder: Path, own: str) -> bool:
    if not folder.exists():
        return not folder.is_symlink()
    return folder.is_dir() and ((folder / own).is_dir() or not any(folder.iterdir()))
