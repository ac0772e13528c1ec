"""Our own recipe: one set of weights for every loss network, painting and size."""

from __future__ import annotations

from workers.nst.features import LossNetwork
from workers.nst.lbfgs import LbfgsSettings
from workers.nst.losses import ContentTerm, GramMeanStd, Objective, StyleTerm
from workers.nst.multiscale import Schedule, Size
from workers.nst.recipes import STYLE_LAYERS, Recipe


def compose(recipe: Recipe, network: LossNetwork, size: Size) -> Objective:  # noqa: ARG001 - relative terms
    """Return terms that are each divided by the energy of their target.

    A painting of strong contrast, a network with large activations or a large picture then weigh the same.
    """
    return Objective(
        style=tuple(
            StyleTerm(layer, recipe.style_weight * weight, GramMeanStd(relative=True))
            for layer, weight in recipe.active_style_layers.items()
        ),
        content=tuple(
            ContentTerm(layer, recipe.content_weight * weight, "relative")
            for layer, weight in recipe.active_content_layers.items()
        ),
        tv=recipe.tv_terms,
        pixel_range=recipe.pixel_range,
        blend=recipe.blend,
    )


# With as few evaluations, Adam leaves flat parts of a picture full of dots: it moves every pixel by the same
# step, however small its gradient. The deeper a layer, the less it weighs: deep ones put shapes of the
# painting over those of the content.
RECIPE = Recipe(
    name="default",
    summary="our own: Gram matrices, means, deviations, relative to the style's; L-BFGS, root-of-two ladder",
    compose=compose,
    family="torchvision",
    first_padding="replicate",
    style_layers=dict(zip(STYLE_LAYERS, (0.4, 0.25, 0.2, 0.1, 0.05), strict=True)),
    content_weight=50.0,
    style_weight=1000.0,
    tv_weight=1000.0,
    tv_form="nine-point",
    pixel_range=1.0,
    centered=True,
    optimizer=LbfgsSettings(learning_rate=1.0, history=20, longest_move=0.1),
    schedule=Schedule(smallest_px=128, iterations=100, first_iterations=200),
    relative=True,
    carry="difference",
)
