"""Our own recipe: one set of weights for every loss network, painting and size."""

from __future__ import annotations

from workers.nst.features import LossNetwork
from workers.nst.losses import ContentTerm, GramMeanStd, Objective, StyleTerm
from workers.nst.multiscale import Schedule, Size
from workers.nst.optimizers import AdamSettings
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


RECIPE = Recipe(
    name="default",
    summary="our own: Gram matrices, means, deviations, relative to the painting's; Adam, root-of-two ladder",
    compose=compose,
    family="torchvision",
    first_padding="replicate",
    style_layers=dict.fromkeys(STYLE_LAYERS, 0.2),
    content_weight=0.05,
    style_weight=1.0,
    tv_weight=0.5,
    tv_form="nine-point",
    pixel_range=1.0,
    optimizer=AdamSettings(learning_rate=0.02, betas=(0.9, 0.99), clamp=1.0, warm_start=True),
    schedule=Schedule(smallest_px=128, iterations=150, first_iterations=300),
    average_decay=0.95,
)
