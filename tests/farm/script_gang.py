"""Kinds of work for gangs over a real Ray; named in FARM_KINDS. Each member leaves what it got in a file."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from jobs.tasks import TaskMessage
from tests.workers.mailing import random_program
from workers.kinds import Context, Kind, register
from workers.nst.features import seeded
from workers.nst.group import Group
from workers.nst.multiscale import Scale
from workers.nst.optimization import Optimization, Pictures
from workers.nst.presets import preset
from workers.nst.tiled_stage import TiledStage

WORDS = 100_000
"""Of eight bytes: too many for a message that travels without Ray's object store."""


def programs(group: Group, seed: int) -> str:
    """Run a random program, and exchanges of large tensors; return what came of it."""
    results: list[Any] = random_program(group, seed)
    others = [rank for rank in range(group.size) if rank != group.rank]
    for number in range(3):
        mine = torch.arange(WORDS) * (group.rank + 1) + number
        received = group.exchange({rank: mine + rank for rank in others})
        total, word = group.reduce(mine.double() / 4), group.broadcast(mine.bfloat16(), number % group.size)
        results += [_digest(received[rank]) for rank in sorted(received)] + [_digest(total), _digest(word)]
    return repr(results)


def render(group: Group, seed: int) -> str:
    """Optimize a small picture in four tiles; return a hash of its pixels."""
    rng = torch.Generator().manual_seed(seed)
    content, painting = (torch.rand(1, 3, 64, 64, generator=rng) for _ in range(2))
    style, content_layers = {"relu1_1": 0.5, "relu2_1": 0.5}, {"relu2_2": 1.0}
    recipe = replace(preset("default"), style_layers=style, content_layers=content_layers)
    made = Optimization(
        recipe,
        seeded("vgg19", 2, 0, family=recipe.family),
        Pictures(content, ((1.0, painting),)),
        [Scale(32, 2), Scale(64, 3)],
        open_stage=partial(TiledStage, group=group, cut=_quarters),
        seed=seed,
    )
    assert made.run()
    return _digest(made.picture())


def _quarters(height: int, width: int) -> list[tuple[int, int, int, int]]:
    rows, columns = (0, height // 2, height), (0, width // 2, width)
    return [(rows[y], columns[x], rows[y + 1], columns[x + 1]) for y in range(2) for x in range(2)]


def _digest(tensor: torch.Tensor) -> str:
    data = tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes()
    return f"{tensor.dtype} {tuple(tensor.shape)} {hashlib.sha256(data).hexdigest()}"


def _run(program: Callable[[Group, int], str], task: TaskMessage, context: Context) -> dict[str, Any]:
    torch.set_num_threads(1)
    text = program(context.group, task.payload["seed"])
    Path(task.payload["folder"], f"{task.task}-{context.group.rank}").write_text(text)
    return {}


def rounds(task: TaskMessage, context: Context) -> dict[str, Any]:
    """Add up forever; each member leaves the number of the round that it is at, and in which it stopped."""
    own = Path(task.payload["folder"], f"{task.task}-{context.group.rank}")
    number = 0
    while not context.group.broadcast(torch.tensor(context.should_stop())):
        context.group.reduce(torch.tensor(number))
        number += 1
        own.write_text(f"at {number}")
    own.write_text(f"stopped {number}")
    return {}


register(Kind("programs", partial(_run, programs)))
register(Kind("render", partial(_run, render)))
register(Kind("rounds", rounds))
