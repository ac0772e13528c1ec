"""INetwork of titu1994/Neural-Style-Transfer, after Novak and Nikulin 2016."""

from __future__ import annotations

from workers.nst.features import LossNetwork
from workers.nst.lbfgs import LbfgsSettings
from workers.nst.losses import ContentTerm, Gram, Objective, StyleTerm
from workers.nst.multiscale import Schedule, Size, StyleSize
from workers.nst.recipes import Recipe

_LAYERS = tuple(
    f"relu{block}_{index}" for block, count in enumerate((2, 2, 3, 3, 3), 1) for index in range(1, count + 1)
)

_CHANNELS = 3
"""It divides by the channels and the size of the picture, whatever the layer."""


def compose(recipe: Recipe, network: LossNetwork, size: Size) -> Objective:
    """Return its chained losses of style, its summed content and total variation.

    Each layer's loss is `sum((G - G')^2) / (4 * 3^2 * (W H)^2)` with G = (F - 1)(F - 1)^T over all positions.
    Then layer i minus layer i + 1 is weighted `1 / 2^(pairs - 1 - i)`. So the weights of single layers differ
    in sign: the deepest one is pushed away from the style.
    """
    layers = recipe.active_style_layers
    area_px = size[0] * size[1]
    style = []
    for (layer, weight), chained in zip(layers.items(), chain_weights(len(layers)), strict=True):
        stride = network.stride(layer)
        positions = (size[0] // stride) * (size[1] // stride)
        # The mean square of a Gram matrix of means, times C^2 positions^2, is the sum over one of sums.
        sums = (network.channels(layer) * positions) ** 2 / (4 * _CHANNELS**2 * area_px**2)
        style.append(StyleTerm(layer, recipe.style_weight * weight * chained * sums, Gram(shift=1.0)))
    return Objective(
        style=tuple(style),
        content=tuple(
            ContentTerm(layer, recipe.content_weight * weight, "sum")
            for layer, weight in recipe.active_content_layers.items()
        ),
        tv=recipe.tv_terms,
        pixel_range=recipe.pixel_range,
        blend=recipe.blend,
    )


def chain_weights(count: int) -> list[float]:
    """Return the weight of each layer in the sum of weighted differences of neighbors.

    Raises:
        ValueError: If there is one layer, which has no neighbor.
    """
    if count == 0:
        return []
    if count == 1:
        raise ValueError("one layer of style: differences of layers need at least two")
    pairs = [1 / 2 ** (count - 2 - i) for i in range(count - 1)]
    return [weight - before for weight, before in zip([*pairs, 0.0], [0.0, *pairs], strict=True)]


# scipy's L-BFGS-B keeps ten pairs and searches the line; ours is not begun anew after 20 evaluations.
RECIPE = Recipe(
    name="inetwork",
    summary="INetwork (titu1994/Neural-Style-Transfer): shifted Gram matrices of all layers, chained; VGG-16",
    compose=compose,
    network="vgg16",
    family="caffe",
    content_layers={"relu5_2": 1.0},
    style_layers=dict.fromkeys(_LAYERS, 1.0),
    content_weight=0.025,
    style_weight=1.0,
    tv_weight=8.5e-5,
    tv_form="power",
    blend="losses",
    centered=True,
    optimizer=LbfgsSettings(learning_rate=1.0, history=10, line_search="strong-wolfe"),
    schedule=Schedule(smallest_px=None, iterations=200, first_iterations=200),
    style_size=StyleSize("stretch"),
)
