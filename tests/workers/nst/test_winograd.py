"""Convolutions by fewer multiplications are the plain ones, and their way back is the plain one's."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from tests.workers.nst.tiled_cases import random_case, relative
from workers.nst import winograd
from workers.nst.features import LossNetwork, seeded
from workers.nst.winograd import Winograd

EXACT = 1e-12
LAYERS = ["relu1_2", "conv2_1", "relu3_1", "relu4_2"]


@pytest.fixture
def everywhere(monkeypatch) -> None:
    """However few channels there are."""
    monkeypatch.setattr(winograd, "LEAST_CHANNELS", 1)


def drawn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def plain(features: Tensor, weight: Tensor, bias: Tensor, border: tuple[int, int, int, int]) -> Tensor:
    return functional.conv2d(functional.pad(features, border), weight, bias)


@pytest.mark.parametrize("border", list(product((0, 1), repeat=4)))
@pytest.mark.parametrize(("count", "height", "width"), [(1, 3, 4), (2, 7, 6), (1, 33, 70), (3, 4, 51)])
def test_a_convolution_and_its_gradient_are_the_plain_ones(count, height, width, border):
    """For odd and even sides, with zeros on any of them, for batches, in one band and in several."""
    weight, bias = drawn(5, 3, 3, 3, seed=1), drawn(5, seed=2)
    features = drawn(count, 3, height, width).requires_grad_()
    expected, given = plain(features, weight, bias, border), Winograd(weight)(features, bias, border)
    gradient = drawn(*expected.shape, seed=3)
    wanted, found = (torch.autograd.grad(each, features, gradient)[0] for each in (expected, given))
    assert relative(given.detach(), expected.detach()) <= EXACT
    assert relative(found, wanted) <= EXACT
    assert given.is_contiguous(memory_format=torch.channels_last)


def test_the_smallest_picture_has_one_position():
    weight, bias, features = drawn(2, 2, 3, 3), drawn(2, seed=1), drawn(1, 2, 1, 1, seed=2)
    everywhere = (1, 1, 1, 1)
    given = Winograd(weight)(features, bias, everywhere)
    assert relative(given, plain(features, weight, bias, everywhere)) <= EXACT


@pytest.mark.parametrize(("dtype", "times"), [(torch.float32, 1.0), (torch.bfloat16, 3.0)])
def test_rounding_is_no_worse_than_that_of_a_direct_convolution(dtype, times):
    """In bfloat16 three times as much: what is transformed is rounded as well."""
    weight, bias = drawn(256, 256, 3, 3, seed=1, dtype=dtype) / 48, torch.zeros(256, dtype=dtype)
    features = drawn(1, 256, 24, 24, dtype=dtype).relu().contiguous(memory_format=torch.channels_last)
    border = (1, 1, 1, 1)
    exact = plain(features.double(), weight.double(), bias.double(), border)
    by_products = Winograd(weight)(features, bias, border).double()
    assert relative(by_products, exact) <= times * relative(
        plain(features, weight, bias, border).double(), exact
    )


def features_and_gradient(network: LossNetwork, rgb: Tensor) -> tuple[list[Tensor], Tensor]:
    leaf = rgb.clone().requires_grad_()
    taps = network.taps(network.preprocess(leaf), LAYERS)
    torch.autograd.backward([taps[name].square().sum() for name in LAYERS])
    assert leaf.grad is not None
    return [taps[name].detach() for name in LAYERS], leaf.grad


def test_a_loss_network_of_many_channels_computes_so_on_a_cpu(everywhere, monkeypatch):
    """Its features and their gradient are those of the same network without."""
    network = seeded("vgg19", 2, 0).to(dtype=torch.float64)
    assert all(layer.winograd is not None for layer in network.layers if layer.kind == "conv")
    rgb = torch.rand(2, 3, 37, 50, generator=torch.Generator().manual_seed(1)).double()
    given, gradient = features_and_gradient(network, rgb)
    monkeypatch.setattr(winograd, "LEAST_CHANNELS", 256)
    direct = replace(network, layers=tuple(replace(layer) for layer in network.layers))
    assert all(layer.winograd is None for layer in direct.layers)
    expected, wanted = features_and_gradient(direct, rgb)
    assert all(relative(have, want) <= EXACT for have, want in zip(given, expected, strict=True))
    assert relative(gradient, wanted) <= EXACT


@pytest.mark.parametrize("seed", range(200, 216))
def test_tiles_are_exact_with_it_too(everywhere, seed):
    """Squares of 2x2 lie elsewhere in a tile than in the whole picture."""
    case = random_case(seed)
    whole, share = case.whole(), case.share()
    evaluation = case.tiled(share)(share.split(case.picture))
    assert evaluation.loss == pytest.approx(whole.loss, rel=EXACT, abs=0)
    assert relative(share.gather(evaluation.gradients), whole.gradient) <= EXACT


def test_other_weights_are_transformed_anew(everywhere):
    """A layer whose weights are replaced does not go on with the old ones."""
    layer = seeded("vgg16", 2, 0).layers[0]
    assert layer.weight is not None
    assert layer.winograd is not None
    other = replace(layer, weight=layer.weight * 2)
    assert other.winograd is not None
    assert torch.equal(other.winograd.products, layer.winograd.products * 2)
    assert layer.nbytes == layer.weight.nbytes * 25 // 9 + 8
