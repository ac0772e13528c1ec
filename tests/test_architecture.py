"""The shape of the house: what is loaded when, what may import what, and how long a file may grow.

import-linter (`make check`) reads the imports; these tests run them.
"""

from __future__ import annotations

import ast
import importlib
import os
import pickle
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import jobs.errors
from jobs.errors import Failure, FarmError

ROOT = Path(__file__).parent.parent
PRODUCT = sorted(path for package in ("farm", "jobs", "workers") for path in (ROOT / package).rglob("*.py"))
SOURCES = sorted([*PRODUCT, *(ROOT / "tests").rglob("*.py")])

FILE_LINES = 400
FUNCTION_LINES = 60

# Imports every module of a package while the packages that it must do without are not there to be found.
IMPORT_ALONE = """
import importlib, importlib.abc, pkgutil, sys

package, *forbidden = sys.argv[1:]

class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if any(name == top or name.startswith(top + ".") for top in forbidden):
            raise ModuleNotFoundError(f"{name} is not there", name=name)
        return None

sys.meta_path.insert(0, Absent())
root = importlib.import_module(package)
for module in pkgutil.walk_packages(root.__path__, package + "."):
    importlib.import_module(module.name)
print(len([name for name in sys.modules if name.startswith(package)]))
"""


def _python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )


@pytest.mark.parametrize("module", ["farm.__main__", "farm.cli.app"])
def test_the_command_starts_without_anything_heavy(module: str) -> None:
    """Half a second is all that `farm --help` may take; each of these would spend it alone."""
    heavy = ("torch", "torchvision", "ray", "boto3", "botocore", "PIL", "fastapi", "uvicorn", "numpy")
    done = _python("-c", f"import sys, {module}; print(*[m for m in {heavy!r} if m in sys.modules])")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []


@pytest.mark.parametrize(
    ("package", "forbidden"),
    [
        ("jobs", ["torch", "torchvision", "ray", "PIL", "workers", "farm"]),
        ("workers.nst", ["ray", "boto3", "PIL", "pydantic", "jobs", "farm"]),
    ],
)
def test_a_package_works_without_those_above_it(package: str, forbidden: list[str]) -> None:
    """Every module is imported where the packages that it must not need are not installed, so to say."""
    done = _python("-c", IMPORT_ALONE, package, *forbidden)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= len([path for path in PRODUCT if path.is_relative_to(_folder(package))])


def _folder(package: str) -> Path:
    return ROOT.joinpath(*package.split("."))


def _all_errors() -> list[type[FarmError]]:
    """Return the error root and all that the product defines below it (other tests define their own)."""
    for path in (ROOT / "jobs").rglob("*.py"):
        importlib.import_module(
            ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        )
    found: list[type[FarmError]] = [FarmError]
    for error in found:
        found.extend(
            kind
            for kind in error.__subclasses__()
            if kind not in found and kind.__module__.partition(".")[0] in {"jobs", "workers", "farm"}
        )
    return found


def test_every_error_survives_a_trip_between_processes() -> None:
    """Ray pickles what a worker raises: message, hint and class of failure must arrive."""
    assert {jobs.errors.ManifestError, jobs.errors.LeaseLostError} <= set(_all_errors())
    for kind in _all_errors():
        arrived = pickle.loads(pickle.dumps(kind("it is 7", "make it 8")))  # noqa: S301 - our own bytes
        assert type(arrived) is kind
        assert (arrived.message, arrived.hint) == ("it is 7", "make it 8")
        assert str(arrived) == "it is 7 (make it 8)"
        assert arrived.failure in Failure


def test_there_is_one_error_root() -> None:
    """An exception class of ours derives from FarmError, wherever it stands."""
    strays = [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"
        for path in PRODUCT
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef) and path.name != "errors.py"
        if {ast.unparse(base) for base in node.bases}
        & {"Exception", "BaseException", "RuntimeError", "OSError"}
    ]
    assert strays == []


def test_no_file_is_longer_than_a_reader_can_hold() -> None:
    """Four hundred lines, then it is two things."""
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in SOURCES}
    assert {name: lines for name, lines in lengths.items() if lines > FILE_LINES} == {}


def test_every_function_fits_a_screen() -> None:
    """Signature and body; the docstring is not counted, and a command of Typer is mostly its options."""
    too_long = {
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}": lines
        for path in PRODUCT
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        if (lines := _body_lines(node)) > FUNCTION_LINES
    }
    assert too_long == {}


def _body_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    body = node.body[1:] if ast.get_docstring(node) is not None else node.body
    return (node.body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0


def test_no_error_is_swallowed() -> None:
    """A handler that catches everything, or a broad class, does something about it."""
    broad = {"", "Exception", "BaseException"}
    swallowed = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ExceptHandler) and (ast.unparse(node.type) if node.type else "") in broad
        if all(isinstance(line, ast.Pass | ast.Continue) or _is_constant(line) for line in node.body)
    ]
    assert swallowed == []


def _is_constant(line: ast.stmt) -> bool:
    return isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant)


def test_no_file_has_a_name_that_says_nothing() -> None:
    """A module is named for what is in it."""
    empty_names = {"utils", "util", "misc", "common", "helpers", "helper"}
    assert [str(path.relative_to(ROOT)) for path in SOURCES if path.stem in empty_names] == []


def test_no_test_can_reach_another_machine() -> None:
    """The guard of conftest.py, tried with an address that is kept free for documentation, and a name."""
    with socket.socket() as connection, pytest.raises(AssertionError, match="only this machine"):
        connection.connect(("192.0.2.1", 9))
    with pytest.raises(AssertionError, match="only this machine"):
        socket.getaddrinfo("stylefarm.invalid", 80)


@pytest.mark.parametrize(
    ("ci", "mark", "code"),
    [("true", "", 1), ("true", "@pytest.mark.gpu", 0), ("", "", 0)],
    ids=["a skip under CI fails the run", "but one for want of a GPU", "and elsewhere it does not"],
)
def test_what_is_skipped_is_not_taken_for_checked(tmp_path: Path, ci: str, mark: str, code: int) -> None:
    """Under CI a test that did not run promises nothing, so the run is not green."""
    shutil.copy(ROOT / "tests" / "conftest.py", tmp_path)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers =\n    gpu: needs one\n")
    (tmp_path / "test_it.py").write_text(
        f"import pytest\n\n{mark}\n@pytest.mark.skipif(True, reason='no moon')\ndef test_moon():\n    pass\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", str(tmp_path)],
        env={**os.environ, "CI": ci},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == code, done.stdout
    assert ("no moon" in done.stdout) == bool(code)
