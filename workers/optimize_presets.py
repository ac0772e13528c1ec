"""What a preset sets, in the words of a manifest."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from workers.nst.features import seeded
from workers.nst.inits import Init
from workers.nst.lbfgs import LbfgsSettings
from workers.nst.losses import Gram, GramMeanStd, Objective, Wasserstein2
from workers.nst.multiscale import StyleSize
from workers.nst.optimizers import AdamSettings
from workers.nst.recipes import Recipe

_STYLE_LOSSES = {Gram: "gram", GramMeanStd: "gram-mean-std", Wasserstein2: "wasserstein-2"}

_PROBE_PX = (64, 64)
"""A size for which every recipe makes its objective; losses are of the same kind at all sizes."""


def preset_settings(recipe: Recipe) -> dict[str, Any]:
    """Return what a recipe sets and a manifest can set as well: its keys, with the recipe's values."""
    return {
        "content_weight": recipe.content_weight,
        "content_layers": dict(recipe.content_layers),
        "style_weight": recipe.style_weight,
        "style_layers": dict(recipe.style_layers),
        "style_blend": recipe.blend,
        "style_scale": _style_scale(recipe.style_size),
        "tv_weight": recipe.tv_weight,
        "tv_form": recipe.tv_form,
        "pooling": recipe.pooling,
        "optimizer": _optimizer(recipe.optimizer),
        "average_decay": recipe.average_decay,
        "init": _init(recipe.init),
    }


def preset_facts(recipe: Recipe) -> dict[str, Any]:
    """Return what makes up a recipe beside its settings: losses, schedule, and the quirks of its system."""
    return {
        "losses": _losses(recipe),
        "schedule": asdict(recipe.schedule),
        "iterations_are": "evaluations" if recipe.counts_evaluations else "steps",
        "pixel_range": recipe.pixel_range,
        "centered": recipe.centered,
        "first_padding": recipe.first_padding,
        "pool_scales": dict(recipe.pool_scales),
        "carry": recipe.carry,
    }


def _losses(recipe: Recipe) -> dict[str, Any]:
    objective = _objective(recipe)
    style: list[Any] = [term.loss for term in objective.style]
    content = [term.reduction for term in objective.content]
    return {
        "style": {"kind": _STYLE_LOSSES[type(style[0])], **asdict(style[0])} if style else None,
        "content": content[0] if content else None,
    }


def _objective(recipe: Recipe) -> Objective:
    network = recipe.prepare(seeded(recipe.network, 1, seed=0, family=recipe.family))
    return recipe.objective(network, _PROBE_PX)


def _style_scale(size: StyleSize) -> dict[str, Any]:
    said = {"match": size.match, "factor": size.factor, "size_px": size.longest_px, "enlarge": size.enlarge}
    return {name: value for name, value in said.items() if value is not None}


def _optimizer(settings: AdamSettings | LbfgsSettings) -> dict[str, Any]:
    if isinstance(settings, LbfgsSettings):
        return {
            "kind": "lbfgs",
            "learning_rate": settings.learning_rate,
            "history": settings.history,
            "line_search": settings.line_search or "none",
            **({"longest_move": settings.longest_move} if settings.longest_move else {}),
        }
    beta1, beta2 = settings.betas
    return {
        "kind": "adam",
        "learning_rate": settings.learning_rate,
        "beta1": beta1,
        "beta2": beta2,
        "clamp": settings.clamp is not None,
    }


def _init(init: Init) -> dict[str, Any]:
    noise = {"sigma": init.sigma} if init.kind == "noise" or init.noise_blend else {}
    return {"kind": init.kind, **noise, "noise_blend": init.noise_blend}
