"""Optimizers step as those of torch, over any tiles, and go on from their state as if never stopped."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from workers.nst.lbfgs import LbfgsSettings
from workers.nst.optimizers import AdamSettings, Optimizer, Tiles

SIDE = 5
SIZE = 3 * SIDE * SIDE

MIXING = torch.linalg.qr(
    torch.randn(SIZE, SIZE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
).Q
WIDTHS = torch.logspace(-1, 1, SIZE, dtype=torch.float64)


def curved(x: Tensor) -> Tensor:
    """Return a function of `[SIZE]` with a valley that is bent and 100 times as long as wide."""
    mixed = MIXING @ x
    return torch.add((mixed * WIDTHS).square().sum(), (mixed - 1).pow(4).sum(), alpha=0.1) * 3


@dataclass(frozen=True, eq=False)
class Found:
    """What the doubles below find."""

    loss: float
    gradients: Tiles
    terms: dict[str, float]


def evaluate(tiles: Tiles) -> Found:
    """Evaluate `curved` on pixels that lie in tiles of whole channels."""
    leaves = {number: tile.detach().clone().requires_grad_() for number, tile in tiles.items()}
    value = curved(torch.cat([leaves[number] for number in sorted(leaves)], dim=1).flatten().double())
    value.backward()
    gradients = {number: leaf.grad for number, leaf in leaves.items() if leaf.grad is not None}
    return Found(float(value.detach()), gradients, {"all": float(value.detach())})


def start(dtype: torch.dtype = torch.float64) -> Tiles:
    generator = torch.Generator().manual_seed(1)
    return {0: torch.randn(1, 3, SIDE, SIDE, generator=generator, dtype=torch.float64).to(dtype)}


def torch_iterates(make: Callable[[list[Tensor]], Any], steps: int) -> list[Tensor]:
    """Return where torch's optimizer evaluates."""
    leaf = start()[0].flatten().requires_grad_()
    optimizer = make([leaf])
    seen: list[Tensor] = []

    def closure() -> Tensor:
        optimizer.zero_grad()
        seen.append(leaf.detach().clone())
        value = curved(leaf)
        value.backward()
        return value

    while len(seen) < steps:
        optimizer.step(closure)
    return seen[:steps]


def our_iterates(optimizer: Optimizer, steps: int) -> list[Tensor]:
    tiles = start()
    seen: list[Tensor] = []

    def watched(now: Tiles) -> Found:
        seen.append(now[0].flatten().clone())
        return evaluate(now)

    while len(seen) < steps:
        optimizer.step(tiles, watched)
    return seen[:steps]


@pytest.mark.parametrize("history", [1, 3, 100])
@pytest.mark.parametrize("learning_rate", [1.0, 0.3])
def test_lbfgs_is_that_of_torch_iterate_for_iterate(history: int, learning_rate: float) -> None:
    expected = torch_iterates(
        lambda leaves: torch.optim.LBFGS(
            leaves, lr=learning_rate, history_size=history, tolerance_grad=0, tolerance_change=0
        ),
        20,
    )
    found = our_iterates(LbfgsSettings(learning_rate, history).start(), 20)
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-8)


@pytest.mark.parametrize("history", [3, 100])
def test_lbfgs_with_strong_wolfe_tries_the_points_that_torch_tries(history: int) -> None:
    expected = torch_iterates(
        lambda leaves: torch.optim.LBFGS(
            leaves,
            max_iter=1000,
            max_eval=1000,
            history_size=history,
            tolerance_grad=0,
            tolerance_change=0,
            line_search_fn="strong_wolfe",
        ),
        30,
    )
    found = our_iterates(LbfgsSettings(1.0, history, "strong-wolfe").start(), 30)
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-10)


@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.5, 0.99)])
def test_adam_is_that_of_torch(betas: tuple[float, float]) -> None:
    expected = torch_iterates(lambda leaves: torch.optim.Adam(leaves, lr=0.05, betas=betas), 30)
    found = our_iterates(AdamSettings(0.05, betas).start(), 30)
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-12)


OPTIMIZERS: dict[str, AdamSettings | LbfgsSettings] = {
    "adam": AdamSettings(0.05, decay=0.1),
    "lbfgs": LbfgsSettings(1.0, 4),
    "strong-wolfe": LbfgsSettings(1.0, 4, "strong-wolfe"),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_picture_in_tiles_moves_as_a_whole_one(name: str) -> None:
    whole, parts = start(), start()
    parts = {number: parts[0][:, number : number + 1].clone() for number in range(3)}
    first, second = OPTIMIZERS[name].start(), OPTIMIZERS[name].start()
    for _ in range(12):
        first.step(whole, evaluate)
        second.step(parts, evaluate)
    together = torch.cat([parts[number] for number in range(3)], dim=1)
    torch.testing.assert_close(together, whole[0], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_optimizer_that_was_stopped_goes_on_to_the_same_bytes(name: str, dtype: torch.dtype) -> None:
    straight, stopped = start(dtype), start(dtype)
    optimizer = OPTIMIZERS[name].start()
    for _ in range(15):
        optimizer.step(straight, evaluate)
    for stop_after in (0, 1, 6, 8):
        optimizer = OPTIMIZERS[name].start()
        for _ in range(stop_after):
            optimizer.step(stopped, evaluate)
        file = io.BytesIO()
        torch.save({"tiles": stopped, "optimizer": optimizer.state_dict()}, file)
        file.seek(0)
        state = torch.load(file, weights_only=True)
        optimizer = OPTIMIZERS[name].start()
        optimizer.load_state_dict(state["optimizer"])
        for _ in range(15 - stop_after):
            optimizer.step(state["tiles"], evaluate)
        assert torch.equal(state["tiles"][0], straight[0])
        stopped = start(dtype)


def test_adam_keeps_pixels_in_range_and_slows_down() -> None:
    tiles = {0: torch.zeros(1, 3, SIDE, SIDE, dtype=torch.float64)}
    optimizer = AdamSettings(0.5, clamp=0.75).start()
    for _ in range(10):
        optimizer.step(tiles, evaluate)
        assert 0 <= float(tiles[0].min()) <= float(tiles[0].max()) <= 0.75
    moves = []
    for decay in (0.0, 3.0):
        tiles = start()
        optimizer = AdamSettings(0.05, decay=decay, decay_power=0.5).start()
        optimizer.step(tiles, evaluate)
        before = tiles[0].clone()
        optimizer.step(tiles, evaluate)
        moves.append(tiles[0] - before)
    torch.testing.assert_close(moves[1] * 2, moves[0])


def test_adam_is_carried_to_another_scale_only_if_it_is_to_start_warm() -> None:
    def double(tiles: Tiles, kind: str) -> Tiles:
        kinds.append(kind)
        return {number: tile.repeat_interleave(2, 2) - 0.001 for number, tile in tiles.items()}

    for warm, expected in ((True, ["bicubic", "bilinear"]), (False, [])):
        kinds: list[str] = []
        optimizer = AdamSettings(0.05, warm_start=warm).start()
        optimizer.step(start(), evaluate)
        optimizer.carry(double)
        state = optimizer.state_dict()
        assert kinds == expected
        assert state["shared"]["steps"] == (1 if warm else 0)
        assert all(float(tile["second"].min()) >= 0 for tile in state["tiles"].values())


def test_lbfgs_begins_anew_where_its_history_does_not_point_downhill() -> None:
    """Only rounding can bring that about: here the only pair has lost its sign, the last move was none."""
    optimizer = LbfgsSettings(1.0, 1).start()
    tiles = start()
    for _ in range(3):
        optimizer.step(tiles, evaluate)
    state = optimizer.state_dict()
    ((product,),) = state["shared"]["tables"]["steps_changes"]
    state["shared"]["tables"]["steps_changes"] = [[-product]]
    state["tiles"][0]["move"].zero_()
    turned = LbfgsSettings(1.0, 1).start()
    turned.load_state_dict(state)
    before = tiles[0].clone()
    gradient = turned.step(tiles, evaluate).gradients[0]
    torch.testing.assert_close(tiles[0] - before, -gradient / max(1.0, float(gradient.abs().sum())))
    assert turned.state_dict()["shared"]["tables"]["steps_changes"] == []


def test_no_step_of_lbfgs_moves_pixels_further_than_it_may() -> None:
    """Longer ones are cut to just that length, shorter ones stay as they are; the direction is the same."""
    free, bound = LbfgsSettings(1.0, 5).start(), LbfgsSettings(1.0, 5, longest_move=0.03).start()
    one, other = start(), start()
    cut = 0
    for _ in range(12):
        for number, tile in one.items():
            other[number].copy_(tile)
        bound.load_state_dict(free.state_dict())
        before = one[0].clone()
        free.step(one, evaluate)
        bound.step(other, evaluate)
        full, moved = (one[0] - before).flatten(), (other[0] - before).flatten()
        root_mean_square = float(full.square().mean().sqrt())
        if root_mean_square > 0.03 * (1 + 1e-9):
            cut += 1
            full *= 0.03 / root_mean_square
        torch.testing.assert_close(moved, full, rtol=1e-6, atol=1e-12)
    assert 0 < cut < 12


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LbfgsSettings(longest_move=0.0), "longest move of 0.0"),
        (lambda: AdamSettings(0.0), "learning rate of 0.0"),
        (lambda: AdamSettings(0.1, betas=(1.0, 0.9)), "betas"),
        (lambda: AdamSettings(0.1, decay=-1.0), "decay of -1.0"),
        (lambda: LbfgsSettings(-1.0), "learning rate of -1.0"),
        (lambda: LbfgsSettings(history=101), "history of 101 pairs"),
        (lambda: LbfgsSettings(history=0), "history of 0 pairs"),
    ],
)
def test_settings_that_cannot_be_are_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
