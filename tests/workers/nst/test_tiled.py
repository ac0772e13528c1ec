"""Tiles give the loss and gradient of the whole picture, with bits that hang on nothing but the tiles."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import pytest
import torch
from torch import Tensor

from tests.workers.nst.tiled_cases import TV_FORMS, Case, random_case, relative
from workers.nst.exact_sums import ExactSums
from workers.nst.features import seeded
from workers.nst.group import Alone, Group
from workers.nst.losses import (
    ContentTerm,
    Gram,
    GramMeanStd,
    Moments,
    Objective,
    StyleTerm,
    Wasserstein2,
)
from workers.nst.optimizers import AdamSettings
from workers.nst.regions import Region, TilePlan, plan_tile
from workers.nst.thread_group import run_together
from workers.nst.tiled import TiledEvaluation
from workers.nst.tiled_network import TiledNetwork
from workers.nst.tiling import Share, Tiling
from workers.nst.variation import TvTerm
from workers.nst.whole import style_moments

EXACT = 1e-12
EXACT_WITH_ROOTS = 1e-9
"""Newton and Schulz's matrix root multiplies rounding errors."""


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Nothing here is large enough to be shared by threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def evaluate(case: Case) -> tuple[TiledEvaluation, Tensor]:
    """Return the evaluation in tiles on one worker, and its gradient as one picture."""
    share = case.share()
    evaluation = case.tiled(share)(share.split(case.picture))
    return evaluation, share.gather(evaluation.gradients)


def assert_same_as_whole(case: Case, tolerance: float) -> None:
    whole = case.whole()
    evaluation, gradient = evaluate(case)
    assert evaluation.loss == pytest.approx(whole.loss, rel=tolerance, abs=0)
    assert evaluation.terms.keys() == whole.terms.keys()
    assert relative(gradient, whole.gradient) <= tolerance


@pytest.mark.parametrize("seed", range(64))
def test_loss_and_gradient_are_those_of_the_whole_picture(seed):
    """For networks, layers, losses, styles, sizes and tiles as they come."""
    assert_same_as_whole(random_case(seed), EXACT)


@pytest.mark.parametrize("seed", range(100, 116))
def test_wasserstein_loss_and_gradient_are_those_of_the_whole_picture(seed):
    loss = Wasserstein2(relative=seed % 2 == 0)
    assert_same_as_whole(random_case(seed, loss), EXACT_WITH_ROOTS)


ALONE = {
    "gram": Objective(style=(StyleTerm("relu4_1", 1.0, Gram()),)),
    "gram of a convolution": Objective(style=(StyleTerm("conv3_1", 1.0, Gram(shift=1.0)),)),
    "gram, mean, std": Objective(style=(StyleTerm("relu3_1", 1.0, GramMeanStd()),)),
    "wasserstein": Objective(style=(StyleTerm("relu2_1", 1.0, Wasserstein2()),)),
    "two losses at one layer": Objective(
        style=(StyleTerm("relu2_1", 1.0, Gram()), StyleTerm("relu2_1", 3.0, GramMeanStd()))
    ),
    "content": Objective(content=(ContentTerm("relu4_2", 1.0), ContentTerm("relu4_2", 2.0, "sum"))),
    "content by energy": Objective(content=(ContentTerm("conv3_3", 1.0, "relative"),)),
    **{f"tv {form}": Objective(tv=(TvTerm(form, 0.5),)) for form in TV_FORMS},
    "tv twice": Objective(tv=(TvTerm("absolute", 0.5), TvTerm("absolute", 2.0))),
}


@pytest.mark.parametrize("blend", ["targets", "losses"])
@pytest.mark.parametrize("name", ALONE)
def test_each_term_is_exact_by_itself(name, blend):
    """So that none is lost beside a larger one; with two styles and both rules to blend them."""
    drawn = random_case(3)
    network = seeded("vgg19", 2, 3).to(dtype=torch.float64)
    pictures = [torch.rand(1, 3, side, 40).double() for side in (33, 47)]
    styles = [
        (weight, style_moments(network, picture, ALONE[name].layers))
        for weight, picture in zip((1.0, 2.5), pictures, strict=True)
    ]
    case = replace(drawn, network=network, objective=replace(ALONE[name], blend=blend), styles=styles)
    assert_same_as_whole(case, EXACT_WITH_ROOTS if name == "wasserstein" else EXACT)


SIDES = {"top": (1, 0, 0, 0), "left": (0, 1, 0, 0), "bottom": (0, 0, -1, 0), "right": (0, 0, 0, -1)}


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("layer", ["conv1_1", "relu2_2", "conv3_1", "relu4_2"])
def test_one_pixel_less_on_any_side_is_seen(layer, side, monkeypatch):
    """With average pooling and positive weights, where nothing is cut off by chance: no plan is too large."""
    network = seeded("vgg19", 1, 1)
    layers = tuple(
        step if step.weight is None else replace(step, weight=step.weight.abs()) for step in network.layers
    )
    network = replace(network, layers=layers, pooling="avg").to(dtype=torch.float64)
    picture, painting = torch.rand(2, 1, 3, 160, 160, generator=torch.Generator().manual_seed(2)).double()
    objective = Objective(style=(StyleTerm(layer, 1.0, Gram()),), pixel_range=1.0)
    cores = tuple(
        Region(top, left, bottom, right)
        for top, bottom in ((0, 64), (64, 112), (112, 160))
        for left, right in ((0, 64), (64, 112), (112, 160))
    )
    styles = [(1.0, style_moments(network, painting, [layer]))]
    case = Case(network, objective, picture, picture, styles, cores)
    share = case.share()
    tiled = case.tiled(share)
    exact = share.gather(tiled(share.split(picture)).gradients)
    assert relative(exact, case.whole().gradient) <= EXACT

    monkeypatch.setattr("workers.nst.tiled_network.plan_tile", shrinking(SIDES[side]))
    tiled = case.tiled(share)
    gradient = share.gather(tiled(share.split(picture)).gradients)
    assert relative(gradient, exact) > 1e6 * EXACT


def shrinking(by: tuple[int, int, int, int]) -> Callable[..., TilePlan]:
    """Return what plans a tile, with a pixel less on one side for the tile in the middle."""

    def plan(layers, taps, whole, core, reach_px=0):
        exact = plan_tile(layers, taps, whole, core, reach_px)
        if core != Region(64, 64, 112, 112):
            return exact
        return replace(exact, pixels=Region(*map(sum, zip(exact.pixels, by, strict=True))))

    return plan


def moved(
    case: Case, group: Group, holders: tuple[int, ...] | None = None, resident_px: int | None = None
) -> bytes:
    """Return the bytes of the picture after some steps of Adam, and of all losses on the way."""
    share = case.share(group, holders)
    tiled = case.tiled(share, resident_px)
    tiles = share.split(case.picture)
    adam = AdamSettings(learning_rate=0.05 * case.objective.pixel_range).start(share.total)
    losses = [adam.step(tiles, tiled).loss for _ in range(3)]
    return share.gather(tiles).numpy().tobytes() + struct.pack("3d", *losses)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("seed", range(3))
def test_who_holds_which_tile_changes_no_bit(seed, dtype):
    """For any number of workers, more of them than tiles too, and any order in which they come."""
    case = random_case(200 + seed, dtype=torch.float32)
    case = replace(case, network=case.network.to(dtype=dtype))
    wanted = moved(case, Alone())
    rng = random.Random(seed)  # noqa: S311 - cases, no secrets
    for size in (1, 2, 3, len(case.cores) + 1):
        holders = tuple(rng.randrange(size) for _ in case.cores)
        resident_px = rng.choice([None, 0, case.picture[0, 0].numel()])
        program = partial(moved, case, holders=holders, resident_px=resident_px)
        results = run_together(size, program, arrival_seed=seed)
        assert set(results) == {wanted}, (size, holders, resident_px)


class FloatSums(ExactSums):
    """What one would write first: each member adds up its tiles, and the group adds up the members."""

    def add(self, vectors, numbers):
        sums = {
            name: sum((named[name] for named in vectors.values()), torch.zeros(length).double())
            for name, length in self._vectors.items()
        }
        added = {
            name: torch.tensor(sum(named[name] for named in numbers.values()), dtype=torch.float64)
            for name in self._numbers
        }
        reduce = self._group.reduce
        return (
            {name: reduce(value) for name, value in sums.items()},
            {name: float(reduce(value)) for name, value in added.items()},
        )


def test_sums_in_floating_point_do_change_bits(monkeypatch):
    """So the test above would see them; in float64, where the last bits of sums are not rounded away."""
    case = random_case(201)
    assert len(case.cores) > 4
    monkeypatch.setattr("workers.nst.tiled.ExactSums", FloatSums)
    results = {
        moved(case, Alone()),
        *run_together(3, partial(moved, case), arrival_seed=1),
        *run_together(3, partial(moved, case), arrival_seed=2),
    }
    assert len(results) > 1


def test_moments_of_a_style_in_tiles_are_those_of_the_whole():
    case = random_case(7)
    layers = ["relu1_1", "conv3_1", "relu5_1"]
    network = replace(case.network, pooling="max")
    rgb = torch.rand(1, 3, 83, 71).double()
    wanted = style_moments(network, rgb, layers)

    def program(group: Group) -> dict[str, Moments]:
        cores = [(0, 0, 40, 71), (40, 0, 83, 33), (40, 33, 83, 71)]
        share = Share(Tiling.dealt(83, 71, cores, group.size), group)
        return TiledNetwork(network, layers, share).moments(share.split(rgb))

    for moments in run_together(2, program):
        assert moments.keys() == wanted.keys()
        for name, given in moments.items():
            assert relative(given.second, wanted[name].second) <= EXACT
            assert relative(given.first, wanted[name].first) <= EXACT


@dataclass(frozen=True)
class PatchTerm:
    """A term that compares patches, as no sum over positions can."""

    layer: str = "relu3_1"
    weight: float = 1.0


def test_what_is_not_exact_in_tiles_is_refused_by_name():
    case = random_case(1)
    broken = replace(case, objective=replace(case.objective, style=(PatchTerm(),)))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"PatchTerm.*relu3_1.* is not exact in tiles"):
        broken.tiled(broken.share())


def test_a_picture_too_small_for_a_layer_is_refused():
    case = random_case(1)
    share = Share(Tiling.dealt(15, 40, [(0, 0, 15, 20), (0, 20, 15, 40)], 1), Alone())
    with pytest.raises(ValueError, match="40x15 px is too small for conv5_1: both sides need 16 px"):
        TiledNetwork(case.network, ["conv1_1", "conv5_1"], share)


def test_a_picture_that_is_not_finite_is_refused_on_every_member():
    case = replace(random_case(5), objective=ALONE["gram"])
    case = replace(case, styles=[(1.0, style_moments(case.network, case.content, ["relu4_1"]))])
    case.picture[0, 1, 3, 3] = torch.nan

    def program(group: Group) -> str:
        share = case.share(group)
        tiled = case.tiled(share)
        with pytest.raises(ValueError, match="relu4_1 over the tiles is not finite") as caught:
            tiled(share.split(case.picture))
        return str(caught.value)

    assert len(set(run_together(2, program))) == 1


def test_tiles_of_another_picture_are_refused():
    share = random_case(1).share()
    with pytest.raises(ValueError, match="a picture of 8x9 px is not the one that was cut"):
        share.split(torch.zeros(1, 3, 9, 8))
