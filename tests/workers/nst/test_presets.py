"""Each preset minimizes the formula of the system it is named for, written out here, on a tiny network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from tests.workers.nst.plain import plain_vgg
from workers.nst.features import LossNetwork, seeded
from workers.nst.inits import Init
from workers.nst.multiscale import Scale
from workers.nst.presets import PRESETS, preset
from workers.nst.presets.inetwork import chain_weights
from workers.nst.recipes import STYLE_LAYERS, Recipe, exponential_weights
from workers.nst.whole import WholePicture, style_moments

HEIGHT, WIDTH = 35, 41

Features = dict[str, Tensor]

CLASSIC = ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1")
ALL_OF_VGG16 = (
    "relu1_1", "relu1_2", "relu2_1", "relu2_2", "relu3_1", "relu3_2", "relu3_3",
    "relu4_1", "relu4_2", "relu4_3", "relu5_1", "relu5_2", "relu5_3",
)  # fmt: skip


def rgb(seed: int, height: int = HEIGHT, width: int = WIDTH) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(1, 3, height, width, generator=generator, dtype=torch.float64)


CONTENT, PICTURE = rgb(0), rgb(1)
STYLES = ((0.75, rgb(2, 38, 33)), (0.25, rgb(3, 33, 50)))


def gram(features: Tensor) -> Tensor:
    flat = features.flatten(2)[0]
    return flat @ flat.T


def caffe(image: Tensor) -> Tensor:
    """Return BGR in 0..255 less the means of ImageNet, as the systems on Oxford's weights feed it."""
    red, green, blue = (image * 255).unbind(1)
    return torch.stack([blue - 103.939, green - 116.779, red - 123.68], 1)


def torchvision(image: Tensor) -> Tensor:
    red, green, blue = image.unbind(1)
    return torch.stack([(red - 0.485) / 0.229, (green - 0.456) / 0.224, (blue - 0.406) / 0.225], 1)


FED = {"default": torchvision, "crowson": torchvision}
"""What the network is fed, its first convolution padded with the border; that of the others is Caffe's."""

BLOCKS = {"vgg16": (2, 2, 3, 3, 3), "vgg19": (2, 2, 4, 4, 4)}


def plain_features(recipe: Recipe, image: Tensor) -> Features:
    """Return the features of an image at all layers; nothing but the weights is of our network."""
    parameters = [
        (layer.weight, layer.bias)
        for layer in original(recipe).layers
        if layer.weight is not None and layer.bias is not None
    ]
    fed = FED.get(recipe.name, caffe)(image)
    return plain_vgg(parameters, BLOCKS[recipe.network], fed, replicate=recipe.name in FED)


def mean_square(first: Tensor, second: Tensor) -> Tensor:
    return (first - second).square().mean()


def gatys(f: Features, c: Features, styles: list[Features], x: Tensor) -> Tensor:
    loss = mean_square(f["relu4_2"], c["relu4_2"])
    for name in CLASSIC:
        channels, positions = f[name].shape[1], f[name][0, 0].numel()
        target = sum(
            w * gram(s[name]) / s[name][0, 0].numel() for (w, _), s in zip(STYLES, styles, strict=True)
        )
        loss = loss + 1e3 / channels**2 * mean_square(gram(f[name]) / positions, torch.as_tensor(target))
    return loss


def neural_style(f: Features, c: Features, styles: list[Features], x: Tensor) -> Tensor:
    loss = 5 * mean_square(f["relu4_2"], c["relu4_2"])
    for name in CLASSIC:
        target = sum(w * gram(s[name]) / s[name].numel() for (w, _), s in zip(STYLES, styles, strict=True))
        loss = loss + 100 * mean_square(gram(f[name]) / f[name].numel(), torch.as_tensor(target))
    z = x * 255
    return loss + 1e-3 * (
        (z[..., 1:] - z[..., :-1]).abs().sum() + (z[..., 1:, :] - z[..., :-1, :]).abs().sum()
    )


def anish(f: Features, c: Features, styles: list[Features], x: Tensor) -> Tensor:
    loss = 5 * 2 * ((f["relu4_2"] - c["relu4_2"]).square().sum() / 2) / c["relu4_2"].numel()
    for name in CLASSIC:
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
    layers = ALL_OF_VGG16
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


class NewtonSchulz(torch.autograd.Function):
    """The root of a matrix; its derivative iterates a Lyapunov equation, as Lin and Maji (2017) do."""

    @staticmethod
    def forward(ctx: Any, matrix: Tensor) -> Tensor:
        norm = matrix.square().sum().sqrt()
        eye = torch.eye(len(matrix), dtype=matrix.dtype)
        y, z = matrix / norm, eye
        for _ in range(12):
            t = (3 * eye - z @ y) / 2
            y, z = y @ t, t @ z
        root = y * norm.sqrt()
        ctx.save_for_backward(root)
        return root

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        (root,) = ctx.saved_tensors
        norm = root.square().sum().sqrt()
        eye = torch.eye(len(root), dtype=root.dtype)
        a, q = root / norm, gradient / norm
        for _ in range(12):
            q = (q @ (3 * eye - a @ a) - a.T @ (a.T @ q - q @ a)) / 2
            a = a @ (3 * eye - a @ a) / 2
        return q / 2


def newton_schulz(matrix: Tensor) -> Tensor:
    root: Tensor = NewtonSchulz.apply(matrix)
    return root


def crowson(f: Features, c: Features, styles: list[Features], x: Tensor) -> Tensor:
    def raw(features: Tensor) -> tuple[Tensor, Tensor]:
        return features.mean((0, 2, 3)), gram(features) / features[0, 0].numel()

    loss = 0.015 * mean_square(f["relu4_2"], c["relu4_2"])
    for name, weight in zip(CLASSIC, (256, 64, 16, 4, 1), strict=True):
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
    return loss + 2 * nine_point(x)


def default(f: Features, c: Features, styles: list[Features], x: Tensor) -> Tensor:
    """Each of its terms is divided by the energy of its target."""

    def statistics(features: Features, name: str) -> tuple[Tensor, Tensor]:
        return gram(features[name]) / features[name][0, 0].numel(), features[name].mean((0, 2, 3))

    def against(given: Tensor, wanted: Tensor) -> Tensor:
        return (given - wanted).square().sum() / wanted.square().sum()

    loss = 50 * against(f["relu4_2"], c["relu4_2"])
    for name, weight in zip(CLASSIC, (0.4, 0.25, 0.2, 0.1, 0.05), strict=True):
        blended = [(w, statistics(s, name)) for (w, _), s in zip(STYLES, styles, strict=True)]
        wanted = torch.stack([w * g for w, (g, _) in blended]).sum(0)
        wanted_mean = torch.stack([w * m for w, (_, m) in blended]).sum(0)
        wanted_deviation = (wanted.diagonal() - wanted_mean.square()).sqrt()
        given, mean = statistics(f, name)
        deviation = f[name].flatten(2)[0].std(1, correction=0)
        distance = against(given, wanted) + against(mean, wanted_mean) + against(deviation, wanted_deviation)
        loss = loss + 1000 * weight * distance
    return loss + 1000 * nine_point(x)


def nine_point(x: Tensor) -> Tensor:
    p = functional.pad(x, (1, 1, 1, 1), mode="replicate")
    here = p[..., 1:-1, 1:-1]
    differences = (
        (p[..., 1:-1, 2:] - here, 3),
        (p[..., 2:, 1:-1] - here, 3),
        (p[..., 1:, 1:] - p[..., :-1, :-1], 12),
        (p[..., 1:, :-1] - p[..., :-1, 1:], 12),
    )
    return torch.stack([difference.square().mean() / share for difference, share in differences]).sum() * 2


FORMULAS = {
    "gatys": gatys,
    "neural-style": neural_style,
    "anish": anish,
    "inetwork": inetwork,
    "crowson": crowson,
    "default": default,
}


def original(recipe: Recipe) -> LossNetwork:
    return seeded(recipe.network, 2, seed=9, family=recipe.family).to(dtype=torch.float64)


def tiny(recipe: Recipe) -> LossNetwork:
    return recipe.prepare(original(recipe))


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
    x = PICTURE.clone().requires_grad_()
    styles = [plain_features(recipe, image) for _, image in STYLES]
    expected = FORMULAS[name](plain_features(recipe, x), plain_features(recipe, CONTENT), styles, x)
    (gradient,) = torch.autograd.grad(expected, x)
    found = evaluate(recipe)
    assert found.loss == pytest.approx(float(expected.detach()), rel=1e-6)
    error = found.gradient * recipe.pixel_range - gradient
    assert float(error.norm() / gradient.norm()) <= 1e-6


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
