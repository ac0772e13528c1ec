"""The documents say what is true: their blocks parse, their links lead somewhere, their commands exist."""

from __future__ import annotations

import ast
import importlib.util
import json
import re
import shlex
import subprocess
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, get_args

import jsonschema
import pytest
import typer.main
import yaml

from jobs.manifest import S3, Manifest, load_manifest
from jobs.optimize_step import OptimizeStep
from jobs.schema import Section
from jobs.steps import Step
from jobs.stylize_step import StylizeStep
from jobs.train_step import TrainStep

ROOT = Path(__file__).parent.parent
FOLDERS = ("docs", "examples", "jobs")
PAGES = sorted([*ROOT.glob("*.md"), *(page for name in FOLDERS for page in (ROOT / name).rglob("*.md"))])
CLI_PAGE = ROOT / "docs" / "cli.md"
MANIFEST_PAGE = ROOT / "docs" / "howto" / "manifests.md"

_FENCE = re.compile(
    r"^(?P<indent> *)```(?P<language>\S*)[^\n]*\n(?P<text>.*?)^(?P=indent)```", re.MULTILINE | re.DOTALL
)
_LINK = re.compile(r"\[[^\]\n]*\]\((?P<target>[^()\s]+)\)")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page, with the line on which it begins."""

    page: Path
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def _blocks() -> Iterator[Block]:
    for page in PAGES:
        source = page.read_text()
        for match in _FENCE.finditer(source):
            line = source.count("\n", 0, match.start()) + 1
            yield Block(page, line, match["language"], match["text"])


SHELL_BLOCKS = [block for block in _blocks() if block.language in {"sh", "bash", "shell", "console"}]


def _commands(block: Block) -> str:
    """Return what a person would type: of a block with prompts, the lines after them."""
    lines = block.text.splitlines()
    if any(line.lstrip().startswith("$ ") for line in lines):
        lines = [line.lstrip()[2:] for line in lines if line.lstrip().startswith("$ ")]
    return "\n".join(lines) + "\n"


def test_every_block_says_what_it_is() -> None:
    """A block without a language would be passed over by the tests below."""
    known = {"sh", "console", "yaml", "json", "python", "toml", "text", "ini"}
    assert [str(block) for block in _blocks() if block.language not in known] == []


@pytest.mark.parametrize("block", SHELL_BLOCKS, ids=str)
def test_a_shell_block_parses(block: Block) -> None:
    """Bash reads every block without complaint."""
    done = subprocess.run(["bash", "-n"], input=_commands(block), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_every_block_of_data_parses() -> None:
    """A reader who pastes it gets what was meant."""
    read: dict[str, Callable[[str], Any]] = {
        "yaml": lambda text: list(yaml.safe_load_all(text)),
        "json": json.loads,
        "python": ast.parse,
        "toml": tomllib.loads,
    }
    wrong = []
    for block in _blocks():
        try:
            read.get(block.language, str)(block.text)
        except (ValueError, SyntaxError, yaml.YAMLError) as error:
            wrong.append(f"{block}: {error}")
    assert wrong == []


def _anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    text = _FENCE.sub("", page.read_text())
    headings = re.findall(r"^#+ +(.+?)\s*$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_inside_the_repository_leads_somewhere(page: Path) -> None:
    """Files exist, and so do the headings that are named after the `#`."""
    broken = []
    for match in _LINK.finditer(_FENCE.sub("", page.read_text())):
        target = match["target"]
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        inside = file.is_relative_to(ROOT) and file.exists()
        if not inside or (anchor and file.suffix == ".md" and anchor not in _anchors(file)):
            broken.append(target)
    assert broken == []


def _walk(command: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    yield path, command
    for name, child in getattr(command, "commands", {}).items():
        yield from _walk(child, (*path, name))


@cache
def _tree() -> dict[tuple[str, ...], Any]:
    """Return every command of `farm`, groups too, by its words."""
    from farm.cli.app import app

    return dict(_walk(typer.main.get_command(app), ("farm",)))


def _options(command: Any) -> set[str]:
    return {name for parameter in command.params for name in [*parameter.opts, *parameter.secondary_opts]}


def test_every_command_and_option_has_help() -> None:
    """`--help` answers for everything that can be typed."""
    silent = [" ".join(path) for path, command in _tree().items() if not (command.help or "").strip()]
    silent += [
        f"{' '.join(path)} {parameter.opts[0]}"
        for path, command in _tree().items()
        for parameter in command.params
        if not (getattr(parameter, "help", None) or "").strip()
    ]
    assert silent == []


def _sections(page: Path) -> dict[str, str]:
    """Return the text below each heading that is a command in backticks, up to the next of them."""
    parts = re.split(r"^(#{2,4}) +`(farm[^`]*)`\s*$", page.read_text(), flags=re.MULTILINE)
    return dict(zip(parts[2::3], parts[3::3], strict=True))


def _leaves() -> list[tuple[str, ...]]:
    return [path for path, command in _tree().items() if not getattr(command, "commands", {})]


def test_every_command_is_in_the_docs_with_its_options_and_an_example() -> None:
    """docs/cli.md has a heading for each command, and below it each option by name and one line to try."""
    sections = _sections(CLI_PAGE)
    missing = []
    for path in _leaves():
        name = " ".join(path)
        text = next((text for heading, text in sections.items() if _is_about(heading, path)), None)
        if text is None:
            missing.append(f"a heading for `{name}`")
            continue
        if not re.search(rf"^(\$ )?{name}\b", text, re.MULTILINE):
            missing.append(f"an example of `{name}`")
        options = {option for option in _options(_tree()[path]) if option.startswith("--")} - {"--help"}
        missing += [f"{name} {option}" for option in sorted(options) if option not in text]
    assert missing == []


def _is_about(heading: str, path: tuple[str, ...]) -> bool:
    """Say whether a heading such as `farm wait JOB` is about this command."""
    words = tuple(heading.split())
    return words[: len(path)] == path and all(not word.islower() for word in words[len(path) :])


def test_the_docs_have_no_command_that_is_gone() -> None:
    """Every heading that is a command is one."""
    leaves = _leaves()
    assert [name for name in _sections(CLI_PAGE) if not any(_is_about(name, path) for path in leaves)] == []


def _typed_in_pages() -> Iterator[tuple[str, str]]:
    for block in SHELL_BLOCKS:
        yield str(block), _commands(block)
    for name, value in _cluster().items():
        if name.endswith("_commands"):
            yield f"cluster.yaml {name}", "\n".join(value)
    for path, command in _tree().items():
        yield f"help of {' '.join(path)}", (command.epilog or "").removeprefix("Example: ")


def _wrong_words(line: str) -> list[str]:
    """Return what of a line that begins with `farm` is no command or no option of it."""
    words = line.split() if line.count("'") % 2 or line.count('"') % 2 else shlex.split(line, comments=True)
    path: tuple[str, ...] = ("farm",)
    rest = words[1:]
    while rest and (*path, rest[0]) in _tree():
        path, rest = (*path, rest[0]), rest[1:]
    known = _options(_tree()[path]) | {"--help", "-h"}
    wrong = [word for word in rest if word.startswith("-") and word.partition("=")[0] not in known]
    is_group = bool(getattr(_tree()[path], "commands", {}))
    if is_group and [word for word in rest if not word.startswith("-")]:
        wrong.insert(0, rest[0])
    return wrong


def test_every_command_that_is_shown_could_be_typed() -> None:
    """In the pages, in cluster.yaml, in the examples of `--help`: commands exist, and so do their options."""
    wrong, shown = [], 0
    for where, text in _typed_in_pages():
        for part in re.split(r"&&|\|\||;|\||\n", text.replace("\\\n", " ")):
            line = re.sub(r"^\s*(\w+=\S+\s+)*", "", part)
            if line.split()[:1] == ["farm"]:
                shown += 1
                wrong += [f"{where}: {line.strip()}: {word}" for word in _wrong_words(line)]
    assert wrong == []
    assert shown > len(_leaves())


def _manifests() -> list[Manifest]:
    """Return all manifests that are shown in blocks; one that is not valid raises."""
    shown = [block for block in _blocks() if block.language == "yaml" and "steps:" in block.text]
    return [load_manifest(block.text) for block in shown]


MANIFEST_KEYS = {
    "The job": set(Manifest.model_fields),
    "`s3`": set(S3.model_fields),
    "A step": set(Step.model_fields),
    "`stylize`": set(StylizeStep.model_fields) - set(Step.model_fields),
    "`optimize`": set(OptimizeStep.model_fields) - set(Step.model_fields),
    "`train`": set(TrainStep.model_fields) - set(Step.model_fields),
}


def test_the_page_of_manifests_has_every_key_and_no_other() -> None:
    """Each part has a table in which each key has a row, alone or with its like, and nothing more."""
    _, *parts = re.split(r"^##+ +(.+?)\s*$", MANIFEST_PAGE.read_text(), flags=re.MULTILINE)
    shown = {
        heading: {key for key in _first_cells(text) if "." not in key}
        for heading, text in zip(parts[::2], parts[1::2], strict=True)
    }
    assert {heading: shown.get(heading) for heading in MANIFEST_KEYS} == MANIFEST_KEYS


def _first_cells(text: str) -> Iterator[str]:
    """Yield the words in backticks of the first column of tables."""
    for cell in re.findall(r"^\| (`[^|]+`) \|", text, re.MULTILINE):
        yield from re.findall(r"`([\w.]+)`", cell)


def test_the_page_of_manifests_has_the_parts_of_every_key_that_has_some() -> None:
    """Such as `optimizer.kind`."""
    parts = {
        f"{key}.{part}"
        for step in (OptimizeStep, TrainStep)
        for key, field in step.model_fields.items()
        if key not in Step.model_fields
        for model in _sections_of(field.annotation)
        for part in model.model_fields
    }
    assert {key for key in _first_cells(MANIFEST_PAGE.read_text()) if "." in key} == parts


def _sections_of(annotation: Any) -> Iterator[type[Section]]:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        yield annotation
    for inner in get_args(annotation):
        yield from _sections_of(inner)


def test_every_key_of_a_manifest_is_shown_in_a_block_that_is_valid() -> None:
    """A reader finds each key in use, with a value that is allowed."""
    used: set[str] = set()
    for manifest in _manifests():
        used |= manifest.model_fields_set | manifest.s3.model_fields_set
        used |= {key for step in manifest.steps for key in step.model_fields_set}
    assert used == set().union(*MANIFEST_KEYS.values())


def _cluster() -> dict[str, Any]:
    document = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    assert isinstance(document, dict)
    return document


def _ray_schema() -> dict[str, Any]:
    """Return Ray's own schema of a launcher file, without importing Ray."""
    ray = importlib.util.find_spec("ray")
    assert ray is not None
    assert ray.origin is not None
    document = json.loads(Path(ray.origin).with_name("autoscaler").joinpath("ray-schema.json").read_text())
    assert isinstance(document, dict)
    return document


def test_cluster_yaml_follows_the_schema_of_ray() -> None:
    """`ray up cluster.yaml` would take it; and the schema is one that can refuse."""
    jsonschema.validate(_cluster(), _ray_schema())
    with pytest.raises(jsonschema.ValidationError, match="no_such_key"):
        jsonschema.validate(_cluster() | {"no_such_key": 1}, _ray_schema())


def test_cluster_yaml_keeps_the_farm_in_shape() -> None:
    """The head gives no CPU away, workers come and go with the work, every Ray asks for a token."""
    cluster = _cluster()
    head = cluster["available_node_types"][cluster["head_node_type"]]
    workers = [
        node for name, node in cluster["available_node_types"].items() if name != cluster["head_node_type"]
    ]
    assert head["resources"] == {"CPU": 0, "GPU": 0}
    assert [node["min_workers"] for node in workers] == [0]
    starts = [*cluster["head_start_ray_commands"], *cluster["worker_start_ray_commands"]]
    ours = [line for line in starts if "ray start" in line or "farm up" in line]
    assert len(ours) == 3
    assert all("RAY_AUTH_MODE=token " in line for line in ours)
    assert any(remote.endswith("/.ray/auth_token") for remote in cluster["file_mounts"])


@pytest.mark.slow
def test_ray_itself_takes_cluster_yaml() -> None:
    """Ray fills in what is left out and validates the whole, as `ray up` does before it talks to AWS."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared = prepare_config(_cluster())
    validate_config(prepared)
    assert prepared["available_node_types"]["gpu"]["max_workers"] <= prepared["max_workers"]
