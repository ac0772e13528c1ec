"""Losses are what their formulas say, add up over parts of a picture, and have the gradients they should."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from workers.nst.features import LossNetwork, seeded
from workers.nst.losses import (
    ContentTerm,
    Gram,
    GramMeanStd,
    Moments,
    Objective,
    StyleLoss,
    StyleTerm,
    Sums,
    Wasserstein2,
    blend,
    layer_sums,
)
from workers.nst.matrix_roots import root_trace, square_root
from workers.nst.variation import TvForm, TvTerm, Window, total_variation
from workers.nst.whole import WholePicture, style_moments

FORMS: tuple[TvForm, ...] = ("absolute", "squared", "interior", "power", "nine-point")

STYLE_LOSSES: tuple[StyleLoss, ...] = (
    Gram(),
    Gram(shift=1.0),
    Gram(relative=True),
    GramMeanStd(),
    GramMeanStd(mean_weight=0.3, std_weight=2.0, relative=True),
    Wasserstein2(iterations=25),
    Wasserstein2(iterations=25, relative=True),
)


def features(seed: int, channels: int = 4, height: int = 9, width: int = 11) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(1, channels, height, width, generator=generator, dtype=torch.float64) * 2


def moments(seed: int) -> Moments:
    return layer_sums(features(seed)).moments()


def test_sums_are_those_of_the_outer_products_whatever_the_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    value = features(0)
    flat = value.flatten(2)[0]
    for chunk in (1, 7, 1 << 16):
        monkeypatch.setattr("workers.nst.losses.CHUNK_POSITIONS", chunk)
        sums = layer_sums(value)
        torch.testing.assert_close(sums.second, flat @ flat.T)
        torch.testing.assert_close(sums.first, flat.sum(1))
        assert sums.positions == 99


def test_sums_of_half_precision_are_added_in_more() -> None:
    ones = torch.ones(1, 1, 100, 100, dtype=torch.bfloat16)
    assert float(layer_sums(ones).second) == 10_000


def test_a_blend_mixes_moments_linearly() -> None:
    first, second = moments(1), moments(2)
    mixed = blend([first, second], [0.25, 0.75])
    torch.testing.assert_close(mixed.second, 0.25 * first.second + 0.75 * second.second)
    torch.testing.assert_close(mixed.first, 0.25 * first.first + 0.75 * second.first)


@pytest.mark.parametrize("loss", STYLE_LOSSES, ids=str)
def test_distance_to_oneself_is_nothing_and_to_others_is_something(loss: StyleLoss) -> None:
    distance = loss.against(moments(3))
    assert abs(float(distance(moments(3)))) < 1e-9
    assert float(distance(moments(4))) > 1e-6


@pytest.mark.parametrize("loss", STYLE_LOSSES, ids=str)
def test_gradients_of_distances_are_those_of_finite_differences(loss: StyleLoss) -> None:
    distance = loss.against(moments(5))
    given = moments(6)

    def value(second: Tensor, first: Tensor) -> Tensor:
        return distance(Moments((second + second.T) / 2, first))

    leaves = (given.second.clone().requires_grad_(), given.first.clone().requires_grad_())
    assert torch.autograd.gradcheck(value, leaves, eps=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    "loss", [Gram(relative=True), GramMeanStd(relative=True), Wasserstein2(relative=True)]
)
def test_relative_distances_do_not_depend_on_the_scale_of_features(loss: StyleLoss) -> None:
    def distance(scale: float) -> float:
        target = layer_sums(features(7) * scale).moments()
        return float(loss.against(target)(layer_sums(features(8) * scale).moments()))

    assert distance(300.0) == pytest.approx(distance(1.0), rel=1e-6)


def test_gram_mean_std_takes_deviations_of_dead_channels_without_infinite_slopes() -> None:
    dead = features(9)
    dead[:, 1] = 0
    given = layer_sums(dead).moments()
    second, first = given.second.requires_grad_(), given.first.requires_grad_()
    GramMeanStd().against(moments(10))(Moments(second, first)).backward()
    assert second.grad is not None
    assert bool(second.grad.isfinite().all())


def test_wasserstein_distance_is_that_of_the_exact_roots() -> None:
    def root(matrix: Tensor) -> Tensor:
        values, vectors = torch.linalg.eigh(matrix)
        return torch.mm(vectors * values.clamp(min=0).sqrt(), vectors.T)

    target, given = moments(11), moments(12)
    a, b = target.covariance(1e-4), given.covariance(1e-4)
    between = root(root(a) @ b @ root(a))
    expected = (target.first - given.first).square().mean() + (a + b - 2 * between).diagonal().mean()
    found = Wasserstein2(iterations=25).against(target)(given)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=0)


def test_roots_by_iteration_are_roots_and_the_trace_has_its_derivative() -> None:
    matrix = moments(13).covariance(0.05)
    root = square_root(matrix, 25)
    torch.testing.assert_close(root @ root, matrix)
    leaf = matrix.clone().requires_grad_()
    root_trace(leaf, 25).backward()
    assert leaf.grad is not None
    torch.testing.assert_close(leaf.grad, torch.linalg.inv(root) / 2)


@pytest.mark.parametrize("iterations", [3, 12])
def test_eigenvalues_that_are_iterated_give_the_root_of_a_matrix_that_is(
    iterations: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also before the iteration has converged: presets are held to the steps of their systems."""
    factor = torch.randn(24, 30, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    matrix = factor @ factor.T / 30
    found = []
    for fast in (True, False):
        monkeypatch.setattr("workers.nst.matrix_roots._has_fast_eigenvalues", lambda _, fast=fast: fast)
        leaf = matrix.clone().requires_grad_()
        trace = root_trace(leaf, iterations)
        (derivative,) = torch.autograd.grad(trace, leaf)
        found.append((square_root(matrix, iterations), trace.detach(), derivative))
    monkeypatch.undo()
    for by_eigenvalues, by_products in zip(*found, strict=True):
        torch.testing.assert_close(by_eigenvalues, by_products, rtol=1e-10, atol=1e-12)
    assert root_trace(torch.full_like(matrix, torch.nan), iterations).isnan()  # the loop says what to do
    if iterations == 3:
        assert float((found[0][0] @ found[0][0] - matrix).abs().max()) > 1e-3  # it has not converged


# --- total variation ----------------------------------------------------------------------------------------


def plain_variation(form: TvForm, x: Tensor) -> Tensor:
    """Return the formulas as their systems write them."""
    dx, dy = x[..., :, 1:] - x[..., :, :-1], x[..., 1:, :] - x[..., :-1, :]
    if form == "absolute":
        return dx.abs().sum() + dy.abs().sum()
    if form == "squared":
        return (dx**2).mean() + (dy**2).mean()
    squares = dx[..., :-1, :] ** 2 + dy[..., :, :-1] ** 2
    if form == "interior":
        return squares.sum() / 2
    if form == "power":
        return (squares**1.25).sum()
    p = torch.nn.functional.pad(x, (1, 1, 1, 1), mode="replicate")
    middle = p[..., 1:-1, 1:-1]
    straight = ((p[..., 1:-1, 2:] - middle) ** 2).mean() / 3 + ((p[..., 2:, 1:-1] - middle) ** 2).mean() / 3
    falling = ((p[..., 1:, 1:] - p[..., :-1, :-1]) ** 2).mean() / 12
    rising = ((p[..., 1:, :-1] - p[..., :-1, 1:]) ** 2).mean() / 12
    return 2 * (straight + falling + rising)


@pytest.mark.parametrize("form", FORMS)
def test_total_variation_is_what_its_system_computes(form: TvForm) -> None:
    x = features(14, channels=3)
    torch.testing.assert_close(total_variation(form, x, Window.whole(9, 11)), plain_variation(form, x))


@pytest.mark.parametrize("form", FORMS)
def test_total_variation_of_windows_adds_up_to_that_of_the_picture(form: TvForm) -> None:
    rng = random.Random(form)  # noqa: S311 - no secrets
    for _ in range(10):
        height, width = rng.randint(2, 12), rng.randint(2, 12)
        x = features(rng.randint(0, 99), 3, height, width)
        rows = sorted({0, height, *(rng.randint(1, height) for _ in range(2))})
        columns = sorted({0, width, *(rng.randint(1, width) for _ in range(2))})
        parts = torch.zeros((), dtype=torch.float64)
        for (top, bottom), (left, right) in itertools.product(
            itertools.pairwise(rows), itertools.pairwise(columns)
        ):
            own = Window(top, left, bottom, right, height, width)
            parts += total_variation(form, x[..., top : bottom + 1, left : right + 1], own)
        torch.testing.assert_close(parts, total_variation(form, x, Window.whole(height, width)))


@pytest.mark.parametrize("form", FORMS)
def test_gradients_of_total_variation_are_those_of_finite_differences(form: TvForm) -> None:
    x = features(15, channels=3, height=3, width=4).requires_grad_()
    whole = Window.whole(3, 4)
    assert torch.autograd.gradcheck(lambda v: total_variation(form, v, whole), (x,), eps=1e-7, atol=1e-5)


def test_total_variation_of_an_unknown_form_is_refused() -> None:
    with pytest.raises(ValueError, match="'l3' is not known"):
        total_variation("l3", features(0), Window.whole(9, 11))  # type: ignore[arg-type]


# --- a whole picture ----------------------------------------------------------------------------------------


class AsFunction(torch.autograd.Function):
    """An objective as something that gradcheck can look at."""

    @staticmethod
    def forward(ctx: Any, picture: Tensor, objective: WholePicture) -> Tensor:
        found = objective(picture)
        ctx.save_for_backward(found.gradient)
        return picture.new_tensor(found.loss)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * upstream, None


def narrow() -> LossNetwork:
    network = seeded("vgg16", 2, seed=8).up_to(["relu3_1"]).to(dtype=torch.float64)
    return replace(network, pooling="avg", first_padding="replicate")


@pytest.mark.parametrize("rule", ["targets", "losses"])
@pytest.mark.parametrize("loss", [Gram(), GramMeanStd(), Wasserstein2(iterations=25)], ids=str)
def test_the_gradient_of_a_whole_objective_is_that_of_finite_differences(rule: Any, loss: StyleLoss) -> None:
    network = narrow()
    objective = Objective(
        style=(
            StyleTerm("relu1_1", 2.0, loss),
            StyleTerm("conv2_1", 0.5, loss),
            StyleTerm("relu3_1", 1.0, loss),
        ),
        content=(ContentTerm("relu3_1", 0.7), ContentTerm("relu2_2", 0.2, "relative")),
        tv=(TvTerm("nine-point", 0.3), TvTerm("squared", 0.1)),
        pixel_range=2.0,
        blend=rule,
    )
    layers = [term.layer for term in objective.style]
    styles = [
        (w, style_moments(network, features(s, 3, 10, 8) / 2, layers)) for w, s in ((3.0, 20), (1.0, 21))
    ]
    whole = WholePicture(network, objective, features(22, 3, 4, 5) / 2, styles)
    picture = features(23, 3, 4, 5).requires_grad_()
    assert torch.autograd.gradcheck(lambda p: AsFunction.apply(p, whole), (picture,), eps=1e-6, atol=1e-6)


def test_a_whole_objective_names_its_terms_and_they_add_up() -> None:
    network = narrow()
    objective = Objective(
        style=(StyleTerm("relu1_1", 1.0, Gram()), StyleTerm("relu1_1", 1.0, GramMeanStd())),
        content=(ContentTerm("relu2_1", 1.0, "sum"),),
        tv=(TvTerm("absolute", 1.0),),
    )
    styles = [(1.0, style_moments(network, features(24, 3), ["relu1_1"]))]
    found = WholePicture(network, objective, features(25, 3), styles)(features(26, 3) * 100)
    assert list(found.terms) == ["style relu1_1", "content relu2_1", "tv absolute"]
    assert found.loss == pytest.approx(sum(found.terms.values()))
    assert all(value > 0 for value in found.terms.values())


def test_content_terms_reduce_as_they_say() -> None:
    assert ContentTerm("relu4_2", 3.0, "mean").factor(60, 5.0) == pytest.approx(0.05)
    assert ContentTerm("relu4_2", 3.0, "sum").factor(60, 5.0) == 3.0
    assert ContentTerm("relu4_2", 3.0, "relative").factor(60, 5.0) == pytest.approx(0.6)


@pytest.mark.parametrize("weights", [[], [0.0, 0.0]])
def test_styles_without_weight_are_refused(weights: list[float]) -> None:
    objective = Objective(style=(StyleTerm("relu1_1", 1.0, Gram()),))
    with pytest.raises(ValueError, match="add up to 0"):
        objective.distances([(weight, {"relu1_1": moments(0)}) for weight in weights])


def test_the_rules_of_blending_differ_for_gram_matrices() -> None:
    first, second, given = moments(1), moments(2), moments(3)
    styles = [(1.0, {"relu1_1": first}), (3.0, {"relu1_1": second})]
    found = {}
    for rule in ("targets", "losses"):
        objective = Objective(style=(StyleTerm("relu1_1", 1.0, Gram()),), blend=rule)
        ((_, distance),) = objective.distances(styles)
        found[rule] = float(distance(given))
    losses = [float(Gram().against(m)(given)) for m in (first, second)]
    assert found["losses"] == pytest.approx(0.25 * losses[0] + 0.75 * losses[1])
    assert found["targets"] == pytest.approx(
        float(Gram().against(blend([first, second], [0.25, 0.75]))(given))
    )


def test_moments_are_sums_over_positions() -> None:
    sums = Sums(torch.ones(2, 2) * 6, torch.ones(2) * 3, positions=3)
    assert float(sums.moments().second[0, 0]) == 2
    assert float(sums.moments().first[0]) == 1
