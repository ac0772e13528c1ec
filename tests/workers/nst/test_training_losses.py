"""Each preset's loss is the formula of the trainer it is named for; our own holds for every loss network."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from tests.workers.nst.plain import plain_vgg, seeded_picture
from workers.nst.features import BLOCKS, LossNetwork, seeded
from workers.nst.training_losses import BatchLoss, TrainingObjective, style_targets
from workers.nst.training_presets import PRESETS, TrainingRecipe, training_preset


def double_network(name: str, family: str) -> LossNetwork:
    return seeded(name, 2, seed=1, family=family).to(dtype=torch.float64)


def parameters(network: LossNetwork) -> list[tuple[Tensor, Tensor]]:
    return [(a.weight, a.bias) for a in network.layers if a.weight is not None and a.bias is not None]


def pictures(count: int, seed: int) -> Tensor:
    """Return pictures around 0..255, float64 `[N, 3, 48, 32]`."""
    made = [seeded_picture(48, 32, seed + n).permute(2, 0, 1).double() for n in range(count)]
    return torch.stack(made) * 1.1 - 10


def painting(height: int = 40, width: int = 56) -> Tensor:
    return seeded_picture(height, width, 9).permute(2, 0, 1)[None].double() / 255


def plain_features(network: LossNetwork, images: Tensor) -> dict[str, Tensor]:
    return plain_vgg(parameters(network), BLOCKS[network.name], network.preprocessing(images / 255))


def plain_gram(features: Tensor, per: float) -> Tensor:
    return torch.einsum("nchw,ndhw->ncd", features, features) / per


def loss_of(recipe: TrainingRecipe, network: LossNetwork, made: Tensor, given: Tensor) -> dict[str, Tensor]:
    targets = style_targets(recipe.objective, network, [(1.0, painting())])
    return BatchLoss(recipe.objective, network, targets)(made, given)


@pytest.mark.parametrize("name", ["pytorch-examples", "lengstrom", "texture-nets"])
def test_a_known_trainer_has_its_formula(name: str) -> None:
    """Content and style as mean squared differences of features and of Gram matrices over C H W."""
    recipe = training_preset(name)
    network = double_network(recipe.network, recipe.family)
    made, given = pictures(3, 0), pictures(3, 50)
    terms = loss_of(recipe, network, made, given)
    found, wanted = plain_features(network, made), plain_features(network, given)
    of_style = plain_features(network, painting() * 255)
    # Terms are added up over the pictures: a mean over the batch times its size.
    content = sum(functional.mse_loss(found[layer], wanted[layer]) for layer in recipe.content_layers)
    assert float(terms["content"]) == pytest.approx(3 * recipe.content_weight * float(content), rel=1e-5)
    for layer in recipe.style_layers:
        size, painted = found[layer][0].numel(), of_style[layer][0].numel()
        target = plain_gram(of_style[layer], painted).expand(3, -1, -1)
        distance = functional.mse_loss(plain_gram(found[layer], size), target)
        wanted_style = 3 * recipe.style_weight * float(distance)
        assert float(terms[f"style {layer}"]) == pytest.approx(wanted_style, rel=1e-4), layer
    if recipe.tv_weight:
        across = (made[..., 1:] - made[..., :-1]).square().mean()
        down = (made[..., 1:, :] - made[..., :-1, :]).square().mean()
        assert float(terms["tv"]) == pytest.approx(3 * recipe.tv_weight * float(across + down), rel=1e-5)
    assert ("tv" in terms) == bool(recipe.tv_weight)


def test_our_own_weights_hold_for_networks_of_any_magnitude_and_paintings_of_any_contrast() -> None:
    recipe = replace(training_preset("default"), tv_weight=0.0)
    usual = double_network("vgg19", "torchvision")
    factor = 300.0
    first = usual.layers[0]
    assert first.weight is not None
    assert first.bias is not None
    loud_layers = [replace(first, weight=first.weight * factor, bias=first.bias * factor)]
    for layer in usual.layers[1:]:
        bias = layer.bias * factor if layer.bias is not None else None
        loud_layers.append(replace(layer, bias=bias))
    loud = replace(usual, layers=tuple(loud_layers))
    made, given = pictures(2, 0), pictures(2, 50)
    expected = loss_of(recipe, usual, made, given)
    for name, value in loss_of(recipe, loud, made, given).items():
        assert float(value) == pytest.approx(float(expected[name]), rel=1e-4), name


def test_a_picture_like_its_photograph_has_no_loss_of_content_and_one_like_the_painting_none_of_style() -> (
    None
):
    recipe, network = training_preset("default"), double_network("vgg19", "torchvision")
    terms = loss_of(recipe, network, pictures(1, 0), pictures(1, 0))
    assert float(terms["content"]) == 0
    painted = painting() * 255
    terms = loss_of(recipe, network, painted, painted.flip(3))
    assert all(float(value) < 1e-9 for name, value in terms.items() if name.startswith("style"))
    assert float(terms["content"]) > 0.01


def test_means_alone_can_be_compared() -> None:
    recipe = replace(training_preset("pytorch-examples"), style_target="mean", style_weight=1.0)
    network = double_network("vgg16", "torchvision")
    made = pictures(2, 0)
    terms = loss_of(recipe, network, made, pictures(2, 50))
    found, of_style = plain_features(network, made), plain_features(network, painting() * 255)
    for layer in recipe.style_layers:
        means, wanted = found[layer].mean((2, 3)), of_style[layer].mean((2, 3)).expand(2, -1)
        expected = 2 * float(functional.mse_loss(means, wanted))
        assert float(terms[f"style {layer}"]) == pytest.approx(expected, rel=1e-4)


def test_a_pyramid_adds_the_losses_of_smaller_pictures() -> None:
    flat = TrainingObjective({"relu1_1": 1.0}, {"relu2_1": 1.0}, 1.0, 1.0, normalization="elements")
    pyramid = replace(flat, pyramid_levels=3, pyramid_decay=0.5)
    network = double_network("vgg19", "torchvision")
    targets = style_targets(flat, network, [(1.0, painting())])
    made, given = pictures(2, 0), pictures(2, 50)
    expected, share = dict.fromkeys(("content", "style relu2_1"), 0.0), 1.0
    small, small_given = made, given
    for _ in range(3):
        for name, value in BatchLoss(flat, network, targets)(small, small_given).items():
            expected[name] += share * float(value)
        small, small_given = (functional.avg_pool2d(x, 2) for x in (small, small_given))
        share *= 0.5
    for name, value in BatchLoss(pyramid, network, targets)(made, given).items():
        assert float(value) == pytest.approx(expected[name], rel=1e-6)


def test_several_paintings_are_blended_by_their_weights() -> None:
    objective = TrainingObjective({}, {"relu1_1": 1.0}, 0.0, 1.0)
    network = double_network("vgg19", "torchvision")
    one, other = painting(), painting(48, 32).flip(2)
    grams = [style_targets(objective, network, [(1.0, image)]).by_layer["relu1_1"] for image in (one, other)]
    both = style_targets(objective, network, [(3.0, one), (1.0, other)]).by_layer["relu1_1"]
    torch.testing.assert_close(both, 0.75 * grams[0] + 0.25 * grams[1])
    with pytest.raises(ValueError, match="add up to 0"):
        style_targets(objective, network, [(0.0, one)])


@pytest.mark.parametrize(
    "wrong",
    [
        {"style_weight": 0.0},
        {"content_weight": -1.0},
        {"tv_weight": float("nan")},
        {"learning_rate": 0.0},
        {"steps": 0},
        {"decay_factor": 0.0},
        {"decay_every": 0},
        {"style_layers": {"relu1_1": -1.0}},
        {"style_layers": {"relu1_1": 0.0}},
    ],
)
def test_what_cannot_be_trained_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        replace(training_preset("default"), **wrong)  # type: ignore[arg-type]


def test_an_unknown_preset_is_refused_with_those_there_are() -> None:
    with pytest.raises(ValueError, match=", ".join(PRESETS)):
        training_preset("fast")


def test_the_way_back_of_style_is_that_of_plain_products() -> None:
    """A Gram matrix has a gradient of its own, that autograd is held against."""
    recipe, network = training_preset("pytorch-examples"), double_network("vgg16", "torchvision")
    made = pictures(2, 0).requires_grad_()
    terms = loss_of(replace(recipe, content_weight=0.0), network, made, pictures(2, 50))
    (ours,) = torch.autograd.grad(torch.stack(list(terms.values())).sum(), made)
    plain_made = pictures(2, 0).requires_grad_()
    found, of_style = plain_features(network, plain_made), plain_features(network, painting() * 255)
    loss = torch.zeros((), dtype=torch.float64)
    for layer in recipe.style_layers:
        size, painted = found[layer][0].numel(), of_style[layer][0].numel()
        target = plain_gram(of_style[layer], painted).expand(2, -1, -1)
        loss = loss + 2 * recipe.style_weight * functional.mse_loss(plain_gram(found[layer], size), target)
    (plain,) = torch.autograd.grad(loss, plain_made)
    assert float((ours - plain).norm() / plain.norm()) < 1e-4
