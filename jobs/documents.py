"""YAML and JSON from people, read safely: bounded, without duplicate keys, mistakes with their line."""

from __future__ import annotations

import json
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

try:
    from yaml import CSafeLoader as SafeLoader
except ImportError:  # PyYAML was built without libyaml: ten times slower, else the same
    from yaml import SafeLoader  # type: ignore[assignment]

from jobs.errors import ManifestError

LIMIT_BYTES = 4 * 1024 * 1024
"""Largest document; a manifest that names 20,000 files one by one still fits."""

LIMIT_NODES = 200_000
"""Most values after all YAML aliases are followed, so that few lines cannot stand for billions."""

LIMIT_DEPTH = 30

_MERGE = "tag:yaml.org,2002:merge"


def read_document(source: Path | str) -> dict[str, Any]:
    """Return the mapping that a YAML or JSON document holds.

    Args:
        source: A file, or the text itself.

    Raises:
        ManifestError: If there is no such file, or it is not one mapping with text keys, each given once.
    """
    text = _read_file(source) if isinstance(source, Path) else source
    if len(text.encode(errors="surrogatepass")) > LIMIT_BYTES:
        raise ManifestError(
            f"the manifest is larger than {LIMIT_BYTES} bytes", "name folders or globs instead"
        )
    document = _parse(text)
    if document is None:
        raise ManifestError("the manifest is empty", "it begins with `version: 1`")
    if not isinstance(document, dict):
        raise ManifestError("the manifest is not a mapping of keys to values", "it begins with `version: 1`")
    return document


def read_value(text: str) -> Any:
    """Return the one value that a text says in JSON or YAML: a number, text, a list, a mapping.

    Raises:
        ManifestError: If it is none.
    """
    try:
        return json.loads(text, object_pairs_hook=_unique)
    except (ValueError, RecursionError):
        return _parse(text)


def _read_file(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(LIMIT_BYTES + 1).decode("utf-8-sig")
    except OSError as error:
        raise ManifestError(
            f"cannot read {path}: {error.strerror or error}", "name a manifest file"
        ) from error
    except UnicodeDecodeError as error:
        raise ManifestError(f"{path} is not text in UTF-8", "a manifest is YAML or JSON") from error


def _parse(text: str) -> Any:
    if text.lstrip()[:1] == "{":
        try:
            return json.loads(text, object_pairs_hook=_unique)
        except json.JSONDecodeError as error:
            wrong_json = f"line {error.lineno}: {error.msg}"
        except RecursionError:
            raise _too_deep() from None
    else:
        wrong_json = ""
    try:
        _check_size(text)
        return yaml.load(text, Loader=_Loader)  # noqa: S506 - it is a SafeLoader
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        wrong_yaml = f"{line}{error.problem or error.context}"
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date such as 2024-13-99
        wrong_yaml = str(error).splitlines()[0]
    raise ManifestError(
        f"the manifest cannot be read: {wrong_json or wrong_yaml}", "it is YAML or JSON"
    ) from None


def _too_deep() -> ManifestError:
    return ManifestError("the manifest is nested too deeply", f"at most {LIMIT_DEPTH} levels")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object as a dictionary, refusing a key that is there twice."""
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ManifestError(f"the key {key!r} is there twice", "keep one of them")
        found[key] = value
    return found


def _check_size(text: str) -> None:
    """Refuse what would be too deep or too large once its aliases are followed, before any of it is built."""
    sizes: dict[str, int] = {}
    counts, anchors = [0], [""]
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.CollectionStartEvent):
            counts.append(1)
            anchors.append(event.anchor or "")
        elif isinstance(event, yaml.NodeEvent):
            size = sizes.get(event.anchor or "", 1) if isinstance(event, yaml.AliasEvent) else 1
            counts[-1] += size
        elif isinstance(event, yaml.CollectionEndEvent):
            size = counts.pop()
            counts[-1] += size
            if anchor := anchors.pop():
                sizes[anchor] = size
        if isinstance(event, yaml.AliasEvent) and event.anchor in anchors:
            raise ManifestError(f"&{event.anchor} refers to itself", "write the value out")
        if len(counts) > LIMIT_DEPTH:
            raise _too_deep()
        if counts[-1] > LIMIT_NODES:
            raise ManifestError(
                f"the manifest has more than {LIMIT_NODES} values", "name folders or globs instead"
            )


class _Loader(SafeLoader):
    """A safe loader that refuses keys which are there twice or are not text."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:  # noqa: FBT001, FBT002
        seen: dict[str, int] = {}
        for key_node, _ in node.value:
            if key_node.tag == _MERGE:
                continue
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode) or not isinstance(
                key := self.construct_object(key_node), str
            ):
                raise ManifestError(f"line {line}: a key is not text", "put it in quotes")
            if key in seen:
                raise ManifestError(f"line {line}: the key {key!r} is there twice", f"see line {seen[key]}")
            seen[key] = line
        made: dict[Hashable, Any] = super().construct_mapping(node, deep)
        return made
