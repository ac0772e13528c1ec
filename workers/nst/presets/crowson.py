"""style-transfer-pytorch by Katherine Crowson."""

from __future__ import annotations

from workers.nst.features import LossNetwork, Pooling
from workers.nst.losses import ContentTerm, Objective, StyleTerm, Wasserstein2
from workers.nst.multiscale import Schedule, Size
from workers.nst.optimizers import AdamSettings
from workers.nst.recipes import STYLE_LAYERS, Recipe

POOL_SCALES: dict[Pooling, float] = {"avg": 2.0, "l2": 0.78}
"""Its factors that keep the magnitude of features where pooling is changed."""

_WEIGHTS = (256, 64, 16, 4, 1)


def compose(recipe: Recipe, network: LossNetwork, size: Size) -> Objective:  # noqa: ARG001 - means alone
    """Return mean squared content, Wasserstein-2 distances of style, and total variation."""
    return Objective(
        style=tuple(
            StyleTerm(layer, recipe.style_weight * weight, Wasserstein2(floor=1e-4, iterations=12))
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
    name="crowson",
    summary="style-transfer-pytorch: Wasserstein-2 style loss, Adam, moving average, root-of-two ladder",
    compose=compose,
    family="torchvision",
    pool_scales=POOL_SCALES,
    first_padding="replicate",
    style_layers={name: w / sum(_WEIGHTS) for name, w in zip(STYLE_LAYERS, _WEIGHTS, strict=True)},
    content_weight=0.015,
    style_weight=1.0,
    tv_weight=2.0,
    tv_form="nine-point",
    pixel_range=1.0,
    optimizer=AdamSettings(learning_rate=0.02, betas=(0.9, 0.99), clamp=1.0, warm_start=True),
    schedule=Schedule(smallest_px=128, iterations=500, first_iterations=1000),
    average_decay=0.99,
)
