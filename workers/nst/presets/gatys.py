"""Gatys' own notebook, leongatys/PytorchNeuralStyleTransfer."""

from __future__ import annotations

from workers.nst.features import LossNetwork
from workers.nst.lbfgs import LbfgsSettings
from workers.nst.losses import ContentTerm, Gram, Objective, StyleTerm
from workers.nst.multiscale import Schedule, Size, StyleSize
from workers.nst.recipes import Recipe


def compose(recipe: Recipe, network: LossNetwork, size: Size) -> Objective:  # noqa: ARG001 - sizes cancel out
    """Return `content + sum of 1000 / C^2 * mean((G - G')^2)`, G divided by the number of positions."""
    return Objective(
        style=tuple(
            StyleTerm(layer, recipe.style_weight * weight / network.channels(layer) ** 2, Gram())
            for layer, weight in recipe.active_style_layers.items()
        ),
        content=tuple(
            ContentTerm(layer, recipe.content_weight * weight)
            for layer, weight in recipe.active_content_layers.items()
        ),
        tv=recipe.tv_terms,
        pixel_range=recipe.pixel_range,
        blend=recipe.blend,
    )


RECIPE = Recipe(
    name="gatys",
    summary="Gatys' notebook (leongatys/PytorchNeuralStyleTransfer): Gram matrices, L-BFGS, one scale",
    compose=compose,
    family="caffe",
    content_weight=1.0,
    style_weight=1e3,
    centered=True,
    optimizer=LbfgsSettings(learning_rate=1.0, history=100),
    schedule=Schedule(smallest_px=None, iterations=500, first_iterations=500),
    style_size=StyleSize("shortest", enlarge=True),
)
