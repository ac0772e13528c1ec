"""A farm that runs, started with the real command, with styles that need no file of others."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.end_to_end.real_farm import RealFarm, running_farm
from tests.workers.nst.plain import seeded_state
from workers.nst.style_models import StyleMetadata, save_style_model
from workers.nst.transformer import TransformerNet


@dataclass(frozen=True, slots=True)
class SeededStyle:
    """A style of made-up weights: `tests.workers.nst.plain.seeded_state(width, seed)`."""

    name: str
    width: int
    seed: int


AddStyle = Callable[[RealFarm, SeededStyle], SeededStyle]


@pytest.fixture(scope="session")
def add_style() -> AddStyle:
    """Return a function that adds a style to a farm with the real command."""

    def add(farm: RealFarm, style: SeededStyle) -> SeededStyle:
        net = TransformerNet(style.width)
        net.load_state_dict(seeded_state(style.width, style.seed))
        file = farm.home / f"{style.name}.safetensors"
        save_style_model(file, net, StyleMetadata(style.name, style.width))
        farm.run("styles", "add", file, "--name", style.name, "--format", "stylefarm")
        return style

    return add


@pytest.fixture(scope="module")
def farm() -> Iterator[RealFarm]:
    """A farm of two workers with one thread each, shared by the tests of a module."""
    with running_farm() as farm:
        yield farm


@pytest.fixture(scope="module")
def style(farm: RealFarm, add_style: AddStyle) -> SeededStyle:
    """The style of the shared farm."""
    return add_style(farm, SeededStyle("waves", width=2, seed=0))


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Path]:
    """A file that keeps toy tasks from going on while it is there."""
    path = tmp_path / "gate"
    path.touch()
    yield path
    path.unlink(missing_ok=True)
