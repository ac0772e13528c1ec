"""Optimizers over tiles go where they go over the whole picture, with the same bits for every group."""

from __future__ import annotations

import io
import os
import random
import statistics
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.workers.nst.tiled_cases import Case, random_cores
from workers.nst.features import Pooling, seeded
from workers.nst.group import Alone, Group
from workers.nst.lbfgs import LbfgsSettings
from workers.nst.loss_networks import import_loss_network
from workers.nst.losses import ContentTerm, Gram, Objective, StyleTerm
from workers.nst.multiscale import Scale
from workers.nst.optimization import Optimization, Pictures
from workers.nst.optimizers import AdamSettings
from workers.nst.presets import crowson, neural_style
from workers.nst.recipes import Recipe
from workers.nst.regions import Region
from workers.nst.thread_group import run_together
from workers.nst.tiled_stage import TiledStage
from workers.nst.tiled_state import State, collected_state, deal_state, give_state
from workers.nst.tiling import Share
from workers.nst.variation import TvTerm
from workers.nst.whole import WholePicture, style_moments


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Nothing here is large enough to be shared by threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def smooth(seed: int, height: int, width: int) -> Tensor:
    """Return a picture that looks more like a photograph than noise does, `[1, 3, H, W]` float64 in 0..1."""
    coarse = torch.rand(1, 3, 5, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 1)


def cut(height: int, width: int) -> list[Region]:
    """Return unequal tiles, the same ones for the same size."""
    rng = random.Random(1000 * height + width)  # noqa: S311 - tiles, no secrets
    return random_cores(rng, Region(0, 0, height, width), 9, 32)


def gatys(dtype: torch.dtype) -> Case:
    """Return an objective of the classical kind, scaled so that all optimizers find it well-behaved."""
    network = seeded("vgg19", 3, 0).to(dtype=dtype)
    objective = Objective(
        style=tuple(StyleTerm(f"relu{block}_1", 20.0, Gram(relative=True)) for block in range(1, 6)),
        content=(ContentTerm("relu4_2", 10.0, "relative"),),
        tv=(TvTerm("squared", 0.1),),
        pixel_range=1.0,
    )
    content, painting = smooth(1, 50, 46).to(dtype), smooth(2, 50, 60).to(dtype)
    noise = torch.rand(content.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    picture = (content + 0.1 * noise.to(dtype)).clamp(0, 1)
    styles = [(1.0, style_moments(network, painting, objective.layers))]
    return Case(network, objective, picture, content, styles, tuple(cut(50, 46)))


@dataclass
class CountingGroup:
    """A group of one that counts how often it is asked for a sum."""

    sums: list[int]
    rank: int = 0
    size: int = 1

    def exchange(self, outgoing: dict[int, Tensor]) -> dict[int, Tensor]:
        return Alone().exchange(outgoing)

    def reduce(self, tensor: Tensor) -> Tensor:
        self.sums.append(tensor.numel())
        return tensor

    def broadcast(self, tensor: Tensor, source: int = 0) -> Tensor:
        return Alone().broadcast(tensor, source)


def walk_tiled(case: Case, settings: AdamSettings | LbfgsSettings, steps: int, share: Share) -> list[Tensor]:
    """Return the picture after each step in tiles."""
    tiled, tiles = case.tiled(share), share.split(case.picture)
    optimizer = settings.start(share.total)
    pictures = []
    for _ in range(steps):
        optimizer.step(tiles, tiled)
        pictures.append(share.gather(tiles).clone())
    return pictures


def walk_whole(case: Case, settings: AdamSettings | LbfgsSettings, steps: int) -> list[Tensor]:
    """Return the picture after each step in one piece."""
    whole = WholePicture(case.network, case.objective, case.content, case.styles)
    tiles = {0: case.picture.clone()}
    optimizer = settings.start()
    pictures = []
    for _ in range(steps):
        optimizer.step(tiles, lambda tiles: whole(tiles[0]))
        pictures.append(tiles[0].clone())
    return pictures


def walk_torch(case: Case, steps: int, **options: Any) -> list[Tensor]:
    """Return the picture after each step of torch's own L-BFGS in one piece."""
    whole = WholePicture(case.network, case.objective, case.content, case.styles)
    picture = case.picture.clone().requires_grad_()
    optimizer = torch.optim.LBFGS([picture], max_iter=1, tolerance_grad=0, tolerance_change=0, **options)

    def closure() -> float:
        evaluation = whole(picture.detach())
        picture.grad = evaluation.gradient
        return evaluation.loss

    pictures = []
    for _ in range(steps):
        optimizer.step(closure)
        pictures.append(picture.detach().clone())
    return pictures


def distance(given: Tensor, wanted: Tensor) -> float:
    """Return the root mean square of the difference over that of the wanted."""
    return float((given - wanted).square().mean().sqrt() / wanted.square().mean().sqrt())


@pytest.mark.parametrize("history", [5, 100])
def test_lbfgs_in_tiles_is_that_of_torch(history):
    """Iterate for iterate, in float64, over more steps than are kept."""
    case = gatys(torch.float64)
    tiled = walk_tiled(case, LbfgsSettings(history=history), 20, case.share())
    wanted = walk_torch(case, 20, history_size=history)
    assert distance(wanted[-1], case.picture) > 0.01  # it went somewhere
    for given, want in zip(tiled, wanted, strict=True):
        assert float((given - want).abs().max() / want.abs().max()) <= 1e-8


def test_line_search_in_tiles_is_that_of_the_whole():
    case = gatys(torch.float64)
    settings = LbfgsSettings(history=10, line_search="strong-wolfe")
    tiled = walk_tiled(case, settings, 10, case.share())
    for given, want in zip(tiled, walk_whole(case, settings, 10), strict=True):
        assert float((given - want).abs().max() / want.abs().max()) <= 1e-9


def test_adam_in_tiles_is_that_of_the_whole():
    case = gatys(torch.float64)
    settings = AdamSettings(learning_rate=0.02)
    tiled = walk_tiled(case, settings, 20, case.share())[-1]
    wanted = walk_whole(case, settings, 20)[-1]
    assert distance(wanted, case.picture) > 0.01
    assert distance(tiled, wanted) <= 1e-10


def drawn(seed: int, pooling: Pooling, *, signed: bool = True) -> Case:
    """Return the classical objective over a random network; where no weight is negative, no ReLU is shut."""
    case = gatys(torch.float32)
    network = replace(seeded("vgg19", 4, seed), pooling=pooling)
    if not signed:
        layers = tuple(
            step
            if step.weight is None or step.bias is None
            else replace(step, weight=step.weight.abs(), bias=step.bias.abs())
            for step in network.layers
        )
        network = replace(network, layers=layers)
    styles = [(1.0, style_moments(network, smooth(2, 50, 60).float(), case.objective.layers))]
    return replace(case, network=network, styles=styles)


ADAM = AdamSettings(learning_rate=0.005)
"""One level of 200 for each step: many small steps, as a render has them."""


@pytest.mark.parametrize("pooling", ["avg", "l2"])
def test_forty_steps_of_adam_in_float32_tiles_end_where_the_whole_does(pooling):
    """Rounding does not pile up: 4e-8 in any network without kinks, where nothing but rounding counts."""
    case = drawn(0, pooling, signed=False)
    wanted = walk_whole(case, ADAM, 40)[-1]
    assert distance(wanted, case.picture) > 0.05
    assert distance(walk_tiled(case, ADAM, 40, case.share())[-1], wanted) <= 1e-6


@pytest.mark.parametrize("pooling", ["avg", pytest.param("max", marks=pytest.mark.slow)])
def test_forty_steps_of_adam_in_float32_tiles_stay_with_the_whole(pooling):
    """To 1e-5 in most networks with ReLUs, and by the gradient at each step in all of them.

    Where a feature comes within rounding of zero, or two in one pooling, its kink may open in one and not in
    the other; Adam makes what follows grow. That is no matter of tiles: the whole picture parts from itself
    in the same way when it starts 1e-7 away, and in larger networks and photographs always does within 40
    steps. So the end is held for the median of a few networks, the gradient at the steps of the whole for
    each.
    """
    distances, gradients = [], []
    for seed in range(3):
        case = drawn(seed, pooling)
        walk = walk_whole(case, ADAM, 40)
        distances.append(distance(walk_tiled(case, ADAM, 40, case.share())[-1], walk[-1]))
        share = case.share()
        tiled = case.tiled(share)
        for picture in walk[::8]:
            given = share.gather(tiled(share.split(picture)).gradients)
            gradients.append(distance(given, replace(case, picture=picture).whole().gradient))
    assert statistics.median(distances) <= 1e-5
    assert statistics.median(gradients) <= 1e-5


@pytest.mark.slow
def test_over_real_weights_tiles_are_as_near_the_truth_as_the_whole():
    """The gradient in float32, max pooling: 5e-7 from the one in float64, where the whole is 7e-7 from it.

    One ReLU or pooling that rounding switches, as it may on another machine, makes that 2e-3; a halo that is
    too small 3e-2.
    """
    weights = Path(os.environ.get("FARM_TEST_DATA", "")) / "vgg" / "vgg19_features_caffe.fp16.pth"
    if not weights.is_file():
        pytest.skip("FARM_TEST_DATA has no vgg/vgg19_features_caffe.fp16.pth")
    real_vgg19 = import_loss_network(weights, "vgg19", "caffe")
    case = gatys(torch.float32)
    content, painting = smooth(1, 120, 160).float(), smooth(2, 120, 160).float()
    noise = torch.rand(content.shape, generator=torch.Generator().manual_seed(3))
    picture = (content + 0.1 * noise).clamp(0, 1)
    styles = [(1.0, style_moments(real_vgg19, painting, case.objective.layers))]
    cores = (Region(0, 0, 70, 90), Region(70, 0, 120, 90), Region(0, 90, 120, 160))
    case = Case(real_vgg19, case.objective, picture, content, styles, cores)
    share = case.share()
    tiled = share.gather(case.tiled(share)(share.split(picture)).gradients)
    whole = case.whole().gradient
    exact = replace(
        case, network=real_vgg19.to(dtype=torch.float64), picture=picture.double(), content=content.double()
    )
    truth = exact.whole().gradient
    assert distance(whole, truth) <= 5e-3
    assert distance(tiled, truth) <= 5e-3
    assert distance(tiled, whole) <= 5e-3


def test_an_iteration_of_lbfgs_needs_two_sums():
    """One of the features, one of all inner products of the history."""
    case = gatys(torch.float32)
    group = CountingGroup([])
    walk_tiled(case, LbfgsSettings(history=4), 12, case.share(group))
    features, products = group.sums[-2:]
    assert features > products
    settled = group.sums[-8:]
    assert settled == [features, products] * 4


TINY = seeded("vgg19", 2, 0)
SCALES = (Scale(36, 4), Scale(50, 6))
PICTURES = Pictures(
    smooth(1, 50, 42).float(), ((1.0, smooth(2, 40, 44).float()), (0.5, smooth(3, 44, 40).float()))
)
NEURAL_STYLE = replace(neural_style.RECIPE, counts_evaluations=False)
RECIPES = {
    "crowson": crowson.RECIPE,
    "neural-style": replace(NEURAL_STYLE, optimizer=LbfgsSettings(history=3)),
    "neural-style with a line search": replace(
        NEURAL_STYLE, optimizer=LbfgsSettings(history=3, line_search="strong-wolfe")
    ),
}


def optimization(recipe: Recipe, group: Group, resident_px: int | None = None) -> Optimization:
    stage = partial(TiledStage, group=group, cut=cut, resident_px=resident_px)
    return Optimization(recipe, TINY, PICTURES, SCALES, open_stage=stage, seed=5)


def rendered(recipe: Recipe, group: Group) -> bytes:
    """Return the bytes of a render; members keep different numbers of graphs."""
    render = optimization(recipe, group, resident_px=3000 * group.rank)
    assert render.run()
    return render.picture().numpy().tobytes()


@pytest.mark.parametrize("name", RECIPES)
def test_a_render_has_the_same_bytes_for_every_number_of_workers(name):
    wanted = rendered(RECIPES[name], Alone())
    for size in (2, 3):
        assert set(run_together(size, partial(rendered, RECIPES[name]), arrival_seed=size)) == {wanted}


def collected(state: State, group: Group) -> tuple[State, list[bytes]]:
    """Return the state of all members, given that the others give theirs."""
    with collected_state(state, group) as (shared, parts):
        return shared, list(parts)


class Interrupted:
    """Says stop at the n-th time it is asked."""

    def __init__(self, at: int) -> None:
        self._left = at

    def __call__(self) -> bool:
        self._left -= 1
        return self._left < 0


@pytest.mark.parametrize(("stop_at", "sizes"), [(2, (3, 1)), (6, (1, 2)), (8, (2, 3))])
@pytest.mark.parametrize("name", RECIPES)
def test_a_render_goes_on_with_another_number_of_workers_to_the_same_bytes(name, stop_at, sizes):
    """Stopped at the first scale or at the second, its state in one piece between the groups."""
    recipe = RECIPES[name]

    def begin(group: Group) -> tuple[State, list[bytes]] | None:
        render = optimization(recipe, group)
        assert not render.run(should_stop=Interrupted(stop_at))
        if group.rank:
            give_state(render.state_dict(), group)
            return None
        return collected(render.state_dict(), group)

    kept = run_together(sizes[0], begin, arrival_seed=1)[0]
    assert kept

    def go_on(group: Group) -> bytes:
        render = optimization(recipe, group)
        state, parts = kept if group.rank == 0 else (None, [])
        render.load_state_dict(deal_state(state, parts, group, cut), copy=False)
        assert render.run()
        return render.picture().numpy().tobytes()

    assert set(run_together(sizes[1], go_on, arrival_seed=2)) == {rendered(recipe, Alone())}


def test_a_state_of_other_tiles_is_refused_on_all_members():
    render = optimization(RECIPES["crowson"], Alone())
    assert not render.run(should_stop=Interrupted(1))
    state, parts = collected(render.state_dict(), Alone())

    def go_on(group: Group) -> str:
        with pytest.raises(
            ValueError, match="it goes on with the size of tiles that it began with"
        ) as caught:
            deal_state(state, parts, group, lambda height, width: [(0, 0, height, width)])
        return str(caught.value)

    assert len(run_together(2, go_on)) == 2


@pytest.mark.parametrize("name", RECIPES)
def test_a_state_that_is_loaded_stays_the_callers_own(name):
    """Whatever the optimizer changes in place; a render that is given it may take the tensors themselves."""

    def packed(state: State) -> bytes:
        file = io.BytesIO()
        torch.save(state, file)
        return file.getvalue()

    render = optimization(RECIPES[name], Alone())
    assert not render.run(should_stop=Interrupted(8))
    state = torch.load(io.BytesIO(packed(render.state_dict())), weights_only=True)
    before = packed(state)
    other = optimization(RECIPES[name], Alone())
    other.load_state_dict(state)
    assert other.run()
    assert packed(state) == before
    taker = optimization(RECIPES[name], Alone())
    taker.load_state_dict(state, copy=False)
    assert taker.run()
    assert packed(state) != before
    assert torch.equal(taker.picture(), other.picture())
