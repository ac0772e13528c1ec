"""Each preset minimizes the formula of the system it is named for, written out here, on a tiny network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from workers.nst.features import LossNetwork, seeded
from workers.nst.inits import Init
from workers.nst.multiscale import Scale
from workers.nst.presets import PRESETS, preset
from workers.nst.presets.inetwork import chain_weights
from workers.nst.recipes import STYLE_LAYERS, Recipe, exponential_weights
from workers.nst.whole import WholePicture, style_moments

HEIGHT, WIDTH = 35, 41

Features = dict[str, Tensor]


def rgb(seed: int, height: int = HEIGHT, width: int = WIDTH) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(1, 3, height, width, generator=generator, dtype=torch.float64)


CONTENT, PICTURE = rgb(0), rgb(1)
STYLES = ((0.75, rgb(2, 38, 33)), (0.25, rgb(3, 33, 50)))


def gram(features: Tensor) -> Tensor:
    flat = features.flatten(2)[0]
    return flat @ flat.T


def plain_features(network: LossNetwork, image: Tensor) -> Features:
    return network.taps(network.preprocess(image), [layer.name for layer in network.layers])


def mean_square(first: Tensor, second: Tensor) -> Tensor:
    return (first - second).square().mean()


def gatys(f: Features, c: Features, styles: list[Features], x: Tensor) -> Tensor:
    loss = mean_square(f["relu4_2"], c["relu4_2"])
    for name in STYLE_LAYERS:
        channels, positions = f[name].shape[1], f[name][0, 0].numel()
        target = sum(
            w * gram(s[name]) / s[name][0, 0].numel() for (w, _), s in zip(STYLES, styles, strict=True)
        )
        loss = loss + 1e3 / channels**2 * mean_square(gram(f[name]) / positions, torch.as_tensor(target))
    return loss


def neural_style(f: Features, c: Features, styles: list[Features], x: Tensor) -> Tensor:
    loss = 5 * mean_square(f["relu4_2"], c["relu4_2"])
    for name in STYLE_LAYERS:
        target = sum(w * gram(s[name]) / s[name].numel() for (w, _), s in zip(STYLES, styles, strict=True))
        loss = loss + 100 * mean_square(gram(f[name]) / f[name].numel(), torch.as_tensor(target))
    z = x * 255
    return loss + 1e-3 * (
        (z[..., 1:] - z[..., :-1]).abs().sum() + (z[..., 1:, :] - z[..., :-1, :]).abs().sum()
    )


def anish(f: Features, c: Features, styles: list[Features], x: Tensor) -> Tensor:
    loss = 5 * 2 * ((f["relu4_2"] - c["relu4_2"]).square().sum() / 2) / c["relu4_2"].numel()
    for name in STYLE_LAYERS:
        channels = f[name].shape[1]
        for (weight, _), s in zip(STYLES, styles, strict=True):
            difference = gram(f[name]) / f[name].numel() - gram(s[name]) / s[name].numel()
            loss = loss + 500 * weight * 0.2 * 2 * (difference.square().sum() / 2) / channels**2
    z = x * 255
    return loss + 100 * (
        (z[..., 1:] - z[..., :-1]).square().mean() + (z[..., 1:, :] - z[..., :-1, :]).square().mean()
    )


def inetwork(f: Features, c: Features, styles: list[Features], x: Tensor) -> Tensor:
    """Style images of other sizes than the picture's, which it never sees, count as if they filled it."""
    layers = list(preset("inetwork").style_layers)
    area = HEIGHT * WIDTH
    loss = 0.025 * (f["relu5_2"] - c["relu5_2"]).square().sum()

    def layer_loss(name: str, s: Features) -> Tensor:
        positions = f[name][0, 0].numel()
        wanted = gram(s[name] - 1) / s[name][0, 0].numel() * positions
        return (gram(f[name] - 1) - wanted).square().sum() / (4 * 3**2 * area**2)

    for (weight, _), s in zip(STYLES, styles, strict=True):
        for i in range(len(layers) - 1):
            chained = layer_loss(layers[i], s) - layer_loss(layers[i + 1], s)
            loss = loss + weight / 2 ** (len(layers) - 1 - (i + 1)) * chained
    z = x * 255
    across = (z[..., :-1, :-1] - z[..., :-1, 1:]).square()
    down = (z[..., :-1, :-1] - z[..., 1:, :-1]).square()
    return loss + 8.5e-5 * (across + down).pow(1.25).sum()


def newton_schulz(matrix: Tensor) -> Tensor:
    norm = matrix.square().sum().sqrt()
    y, z, eye = (
        matrix / norm,
        torch.eye(len(matrix), dtype=matrix.dtype),
        torch.eye(len(matrix), dtype=matrix.dtype),
    )
    for _ in range(12):
        t = (3 * eye - z @ y) / 2
        y, z = y @ t, t @ z
    return y * norm.sqrt()


def crowson(f: Features, c: Features, styles: list[Features], x: Tensor) -> Tensor:
    def raw(features: Tensor) -> tuple[Tensor, Tensor]:
        return features.mean((0, 2, 3)), gram(features) / features[0, 0].numel()

    loss = 0.015 * mean_square(f["relu4_2"], c["relu4_2"])
    for name, weight in zip(STYLE_LAYERS, (256, 64, 16, 4, 1), strict=True):
        mean, second = raw(f[name])
        blended = [(w, raw(s[name])) for (w, _), s in zip(STYLES, styles, strict=True)]
        target_mean = torch.stack([w * m for w, (m, _) in blended]).sum(0)
        target_second = torch.stack([w * s for w, (_, s) in blended]).sum(0)
        eye = torch.eye(len(mean), dtype=mean.dtype) * 1e-4
        covariance = second - torch.outer(mean, mean) + eye
        target = target_second - torch.outer(target_mean, target_mean) + eye
        root = newton_schulz(target)
        spread = (target + covariance - 2 * newton_schulz(root @ covariance @ root)).diagonal().mean()
        loss = loss + weight / 341 * (mean_square(mean, target_mean) + spread)
    p = functional.pad(x, (1, 1, 1, 1), mode="replicate")
    here = p[..., 1:-1, 1:-1]
    tv = sum(
        (difference.square().mean() / share)
        for difference, share in (
            (p[..., 1:-1, 2:] - here, 3),
            (p[..., 2:, 1:-1] - here, 3),
            (p[..., 1:, 1:] - p[..., :-1, :-1], 12),
            (p[..., 1:, :-1] - p[..., :-1, 1:], 12),
        )
    )
    return loss + 2 * 2 * tv


FORMULAS = {
    "gatys": gatys,
    "neural-style": neural_style,
    "anish": anish,
    "inetwork": inetwork,
    "crowson": crowson,
}


def original(recipe: Recipe) -> LossNetwork:
    return seeded(recipe.network, 2, seed=9, family=recipe.family).to(dtype=torch.float64)


def tiny(recipe: Recipe) -> LossNetwork:
    return recipe.prepare(original(recipe))


def plain_network(recipe: Recipe) -> LossNetwork:
    """Return the network as it takes colors that nothing was subtracted from."""
    return replace(tiny(recipe), preprocessing=original(recipe).preprocessing)


def evaluate(recipe: Recipe, scale: Scale | None = None) -> Any:
    network = tiny(recipe)
    center = torch.tensor(recipe.center(original(recipe)), dtype=torch.float64).view(1, 3, 1, 1)
    objective = recipe.objective(network, (HEIGHT, WIDTH), scale)
    layers = [term.layer for term in objective.style]
    styles = [(weight, style_moments(network, image - center, layers)) for weight, image in STYLES]
    whole = WholePicture(network, objective, CONTENT - center, styles)
    return whole((PICTURE - center) * recipe.pixel_range)


@pytest.mark.parametrize("name", FORMULAS)
def test_a_preset_minimizes_the_formula_of_its_system(name: str) -> None:
    recipe = preset(name)
    network = plain_network(recipe)
    x = PICTURE.clone().requires_grad_()
    styles = [plain_features(network, image) for _, image in STYLES]
    expected = FORMULAS[name](plain_features(network, x), plain_features(network, CONTENT), styles, x)
    (gradient,) = torch.autograd.grad(expected, x)
    found = evaluate(recipe)
    assert found.loss == pytest.approx(float(expected.detach()), rel=1e-6)
    if name != "crowson":  # it differentiates the root it would reach, not the steps there: see matrix_roots
        torch.testing.assert_close(found.gradient * recipe.pixel_range, gradient, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("pooling", ["avg", "l2"])
def test_crowson_keeps_magnitudes_where_pooling_is_changed(pooling: Any) -> None:
    network = tiny(replace(preset("crowson"), pooling=pooling))
    assert network.pool_scale == {"avg": 2.0, "l2": 0.78}[pooling]
    assert tiny(replace(preset("gatys"), pooling=pooling)).pool_scale == 1


@pytest.mark.parametrize("scale_of_features", [1.0, 300.0])
def test_the_default_weighs_the_same_for_networks_of_any_magnitude(scale_of_features: float) -> None:
    """Caffe's activations are hundreds of times those of a network normalized to unit mean."""
    recipe = preset("default")
    network = tiny(recipe)
    first = network.layers[0]
    assert first.weight is not None
    assert first.bias is not None
    biases_zero = tuple(
        layer if layer.bias is None else replace(layer, bias=torch.zeros_like(layer.bias))
        for layer in network.layers
    )
    scaled = replace(biases_zero[0], weight=first.weight * scale_of_features)
    losses = []
    for layers in (biases_zero, (scaled, *biases_zero[1:])):
        changed = replace(network, layers=layers)
        objective = recipe.objective(changed, (HEIGHT, WIDTH))
        names = [term.layer for term in objective.style]
        styles = [(w, style_moments(changed, image, names)) for w, image in STYLES]
        losses.append(WholePicture(changed, objective, CONTENT, styles)(PICTURE).terms)
    assert losses[1] == pytest.approx(losses[0], rel=1e-6)


@pytest.mark.parametrize("name", PRESETS)
def test_weights_of_a_scale_multiply_those_of_the_recipe(name: str) -> None:
    recipe = preset(name)
    plain, scaled = evaluate(recipe), evaluate(recipe, Scale(64, 1, content=2.0, style=3.0, tv=5.0))
    factors = {"content": 2.0, "style": 3.0, "tv": 5.0}
    for term, value in plain.terms.items():
        assert scaled.terms[term] == pytest.approx(value * factors[term.split()[0]])


@pytest.mark.parametrize("name", PRESETS)
def test_terms_without_weight_are_left_out(name: str) -> None:
    recipe = preset(name)
    kinds = {term.split()[0] for term in evaluate(replace(recipe, content_weight=0.0, tv_weight=0.0)).terms}
    assert kinds == {"style"}
    without_style = evaluate(replace(recipe, style_weight=0.0)).terms
    assert not any(term.startswith("style") for term in without_style)


def test_chained_weights_are_those_of_weighted_differences() -> None:
    losses = [3.0, 5.0, 7.0, 11.0]
    expected = sum((losses[i] - losses[i + 1]) / 2 ** (2 - i) for i in range(3))
    assert sum(w * loss for w, loss in zip(chain_weights(4), losses, strict=True)) == pytest.approx(expected)
    with pytest.raises(ValueError, match="at least two"):
        chain_weights(1)


def test_an_exponent_makes_weights_grow_and_add_up_to_one() -> None:
    weights = list(exponential_weights(STYLE_LAYERS, 2.0).values())
    assert sum(weights) == pytest.approx(1)
    assert weights[4] == pytest.approx(16 * weights[0])


def test_every_preset_is_known_by_its_name_and_says_where_it_is_from() -> None:
    assert set(PRESETS) == {"default", "crowson", "gatys", "neural-style", "anish", "inetwork"}
    for name, recipe in PRESETS.items():
        assert preset(name) is recipe
        assert recipe.name == name
        assert len(recipe.summary) > 20


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: replace(preset("crowson"), centered=True), "cannot be clamped"),
        (lambda: preset("monet"), "preset 'monet' is not known"),
        (lambda: replace(preset("gatys"), style_weight=-1.0), "style weight of -1.0"),
        (lambda: replace(preset("gatys"), tv_weight=float("nan")), "tv weight of nan"),
        (lambda: replace(preset("gatys"), style_layers={"relu1_1": float("inf")}), "for relu1_1"),
        (lambda: replace(preset("gatys"), average_decay=1.0), "average of decay 1.0"),
        (lambda: tiny(replace(preset("gatys"), content_layers={"relu9_9": 1.0})), "no layer 'relu9_9'"),
        (lambda: Init("clouds"), "init 'clouds' is not known"),  # type: ignore[arg-type]
        (lambda: Init("content", noise_blend=2.0), "noise blend of 2.0"),
        (lambda: exponential_weights(STYLE_LAYERS, 0.0), "exponent of 0.0"),
    ],
)
def test_recipes_that_cannot_be_are_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
