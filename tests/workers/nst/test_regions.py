"""A tile's plan holds exactly the pixels that its own features hang on: no fewer and no more."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests.workers.nst.tiled_cases import random_cores
from workers.nst.features import LossNetwork, Pooling, seeded
from workers.nst.regions import Region, TilePlan, check_partition, plan_tile, reads

HALOS_PX = {
    # layer: (what a tile reads beyond its core, what it had to read for the gradient of its core alone)
    ("vgg19", "conv1_1"): (1, 2),
    ("vgg19", "conv2_1"): (4, 8),
    ("vgg19", "conv2_2"): (6, 12),
    ("vgg19", "conv3_1"): (10, 22),
    ("vgg19", "conv4_1"): (30, 62),
    ("vgg19", "conv4_2"): (38, 78),
    ("vgg19", "conv4_3"): (46, 94),
    ("vgg19", "conv5_1"): (70, 150),
    ("vgg16", "conv1_1"): (1, 2),
    ("vgg16", "conv2_1"): (4, 8),
    ("vgg16", "conv2_2"): (6, 12),
    ("vgg16", "conv3_1"): (10, 22),
    ("vgg16", "conv3_3"): (18, 38),
    ("vgg16", "conv4_1"): (26, 58),
    ("vgg16", "conv4_2"): (34, 74),
    ("vgg16", "conv4_3"): (42, 90),
    ("vgg16", "conv5_1"): (58, 122),
}
"""Found by others with single pixels in a stock network, for tiles that lie on multiples of 16 px."""


def positive(network: LossNetwork, pooling: Pooling) -> LossNetwork:
    """Return the network with weights above zero, so that no two ways through it cancel."""
    layers = tuple(
        layer
        if layer.weight is None or layer.bias is None
        else replace(layer, weight=layer.weight.abs() + 0.01, bias=layer.bias.abs())
        for layer in network.layers
    )
    return replace(network, layers=layers, pooling=pooling).to(dtype=torch.float64)


def owned_features(network: LossNetwork, plan: TilePlan, picture: Tensor) -> Tensor:
    """Return what a tile owns, all in one vector, cut out of the features of the whole picture."""
    whole = Region(0, 0, *picture.shape[-2:])
    features = network.taps(picture, plan.owned)
    return torch.cat(
        [features[name][(..., *own.slices(whole))].flatten() for name, own in plan.owned.items()]
    )


@pytest.mark.parametrize("pooling", ["max", "avg", "l2"])
@pytest.mark.parametrize("seed", range(3))
def test_a_plan_holds_the_pixels_that_matter_and_no_others(pooling, seed):
    """Single pixels outside change nothing; in each outermost row and column there is one that does."""
    rng = random.Random(seed)  # noqa: S311 - cases, no secrets
    network = positive(seeded(rng.choice(["vgg16", "vgg19"]), 1, seed), pooling)
    whole = Region(0, 0, rng.randint(40, 90), rng.randint(40, 90))
    taps = rng.choice([["conv1_1"], ["relu2_2", "conv3_1"], ["relu1_1", "relu3_2"], ["conv4_2"], ["pool4"]])
    picture = torch.rand(1, 3, *whole[2:], dtype=torch.float64)
    for core in random_cores(rng, whole, 20, 60):
        plan = plan_tile(network.layers, taps, whole, core)
        before = owned_features(network, plan, picture)

        outside = picture + 1000
        outside[(..., *plan.pixels.slices(whole))] = picture[(..., *plan.pixels.slices(whole))]
        assert torch.equal(owned_features(network, plan, outside), before)

        read = reads_of_outermost(network, plan, whole)
        for row, column in read:
            changed = picture.clone()
            changed[..., row, column] += 1000
            assert not torch.equal(owned_features(network, plan, changed), before), (core, row, column)


def reads_of_outermost(network: LossNetwork, plan: TilePlan, whole: Region) -> list[tuple[int, int]]:
    """Return one pixel of each side of what a plan reads, where that goes beyond the core."""
    pixels, core = plan.pixels, plan.core
    row, column = (core.top + core.bottom) // 2, (core.left + core.right) // 2
    sides = {
        (pixels.top, column): pixels.top < core.top,
        (pixels.bottom - 1, column): pixels.bottom > core.bottom,
        (row, pixels.left): pixels.left < core.left,
        (row, pixels.right - 1): pixels.right > core.right,
    }
    return [pixel for pixel, beyond in sides.items() if beyond]


def test_the_gradient_of_what_a_tile_owns_lies_on_its_plan():
    network = positive(seeded("vgg19", 1, 0), "avg")
    whole = Region(0, 0, 210, 230)
    for core in (Region(0, 0, 90, 100), Region(90, 100, 131, 171), Region(131, 99, 210, 230)):
        plan = plan_tile(network.layers, ["conv5_1", "conv1_2"], whole, core)
        picture = torch.rand(1, 3, *whole[2:], dtype=torch.float64, requires_grad=True)
        owned_features(network, plan, picture).sum().backward()
        assert picture.grad is not None
        rows, columns = picture.grad[0].abs().sum(0).nonzero().T
        reached = Region(int(rows.min()), int(columns.min()), int(rows.max()) + 1, int(columns.max()) + 1)
        assert reached == plan.pixels


@pytest.mark.parametrize(("architecture", "layer"), HALOS_PX)
def test_halos_follow_from_the_layers(architecture, layer):
    """Nobody wrote these numbers into the engine: a plan and its way back give them."""
    network = seeded(architecture, 1, 0)
    whole, core = Region(0, 0, 4096, 4096), Region(1024, 1024, 2048, 2048)
    plan = plan_tile(network.layers, [layer], whole, core)
    halo, wide = HALOS_PX[architecture, layer]
    assert plan.pixels == core.grow(halo)

    stride = network.stride(layer)
    beyond = (halo // stride + 1) * stride  # every position that may see the core, one by one from outside
    seen = [
        at
        for at in range(core.top - beyond - stride, core.bottom + beyond + stride, stride)
        if pixels_of(network, layer, at, stride).clip(core).area
    ]
    upper = pixels_of(network, layer, seen[0], stride)
    lower = pixels_of(network, layer, seen[-1], stride)
    assert core.top - upper.top == wide
    assert lower.bottom - core.bottom == wide


@pytest.mark.parametrize(("tile_px", "factor"), [(256, 1.86), (512, 1.39), (1024, 1.19), (2048, 1.09)])
def test_the_work_beyond_the_core_is_no_more_than_halos_need(tile_px, factor):
    """Products of all convolutions to conv5_1, over those of the tile's share of the whole picture."""
    network = seeded("vgg19", 1, 0).up_to(["conv5_1"])
    whole, core = Region(0, 0, 8192, 8192), Region(4096, 4096, 4096 + tile_px, 4096 + tile_px)
    plan = plan_tile(network.layers, ["conv5_1"], whole, core)
    computed, share = 0, 0
    stride, inputs = 1, 3
    for layer, output in zip(network.layers, plan.outputs, strict=True):
        stride *= 2 if layer.kind == "pool" else 1
        if layer.weight is not None:
            products = 9 * inputs * (64 * layer.weight.shape[0])
            computed += products * output.area
            share += products * (tile_px // stride) ** 2
            inputs = 64 * layer.weight.shape[0]
    assert share == 361_152 * tile_px**2  # what others counted for a pixel
    assert computed / share == pytest.approx(factor, abs=0.01)


def pixels_of(network: LossNetwork, layer: str, row: int, stride: int) -> Region:
    """Return the pixels that the positions of one row of a layer read, in the columns of the core."""
    position = Region(row // stride, 1024 // stride, row // stride + 1, 2048 // stride)
    for step in reversed(network.up_to([layer]).layers):
        position = reads(step, position)
    return position


@given(data=st.data())
def test_every_position_has_one_owner(data):
    """At every size and every cut, also where a tile owns no position of a deep layer."""
    height, width = data.draw(st.integers(16, 100)), data.draw(st.integers(16, 100))
    rows = sorted({0, height, *data.draw(st.sets(st.integers(1, height - 1), max_size=4))})
    columns = sorted({0, width, *data.draw(st.sets(st.integers(1, width - 1), max_size=4))})
    network = seeded("vgg16", 1, 0)
    taps = ["conv1_1", "pool1", "relu3_1", "pool3", "conv5_1"]
    counts = {
        name: torch.zeros(height // network.stride(name), width // network.stride(name)) for name in taps
    }
    for top, bottom in pairwise(rows):
        for left, right in pairwise(columns):
            core = Region(top, left, bottom, right)
            plan = plan_tile(network.layers, taps, Region(0, 0, height, width), core)
            for name, own in plan.owned.items():
                if own.area:
                    counts[name][own.top : own.bottom, own.left : own.right] += 1
    assert all((count == 1).all() for count in counts.values())


def test_a_tile_that_owns_nothing_deep_computes_nothing_deep():
    network = seeded("vgg19", 1, 0)
    plan = plan_tile(network.layers, ["relu1_1", "conv5_1"], Region(0, 0, 64, 64), Region(17, 17, 31, 31))
    assert plan.owned["conv5_1"].area == 0
    assert len(plan.outputs) == 2  # conv1_1 and relu1_1
    assert plan.pixels == Region(16, 16, 32, 32)


def test_terms_on_pixels_reach_as_far_as_they_say():
    plan = plan_tile((), [], Region(0, 0, 50, 50), Region(0, 20, 30, 50), reach_px=1)
    assert plan.pixels == Region(0, 19, 31, 50)


@pytest.mark.parametrize(
    ("cores", "message"),
    [
        ([Region(0, 0, 10, 10), Region(0, 9, 10, 20)], "tiles 0 and 1 overlap"),
        ([Region(0, 0, 10, 10), Region(0, 10, 10, 19)], "leave 10 px of 200 px"),
        ([Region(0, 0, 10, 21)], "tile 0, .* is not inside"),
        ([Region(0, 0, 10, 20), Region(5, 5, 5, 9)], "tile 1, .* is not inside"),
    ],
)
def test_what_is_no_partition_is_refused(cores, message):
    with pytest.raises(ValueError, match=message):
        check_partition(cores, Region(0, 0, 10, 20))
