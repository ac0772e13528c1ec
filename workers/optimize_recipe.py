"""From what a manifest says of a render to what the engine is given: recipe, scales, rules, loss network."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from jobs.errors import FarmError, UsageError
from jobs.optimize import AssetRef, OptimizePayload, OptimizerSettings
from workers.nst.color import ColorRule
from workers.nst.features import LossNetwork, architecture
from workers.nst.inits import Init
from workers.nst.lbfgs import LbfgsSettings
from workers.nst.loss_networks import NetworkMetadata, load_loss_network
from workers.nst.multiscale import Scale, StyleSize
from workers.nst.optimizers import AdamSettings
from workers.nst.presets import preset
from workers.nst.recipes import Recipe
from workers.nst.stopping import Stopping

_ADAM_STEP = 0.02
"""Learning rate of Adam where a preset has another optimizer, as a part of the range of the pixels."""

_OF_ADAM = ("beta1", "beta2", "clamp")
_OF_LBFGS = ("history", "line_search", "longest_move")

_SAME_NAME = ("content_weight", "style_weight", "tv_weight", "tv_form", "content_layers", "style_layers")


def recipe_of(payload: OptimizePayload) -> Recipe:
    """Return the preset's recipe with all that the payload says instead.

    Raises:
        UsageError: Naming the key whose value does not go with the others.
    """
    base = preset(payload.preset)
    changes: dict[str, Any] = {name: getattr(payload, name) for name in _SAME_NAME}
    changes |= {"pooling": payload.pooling, "blend": payload.style_blend}
    changes["average_decay"] = payload.average_decay
    with named("init"):
        changes["init"] = _init(payload, base)
    with named("style_scale"):
        changes["style_size"] = _style_size(payload, base)
    with named("optimizer"):
        recipe = _with_optimizer(base, payload.optimizer)
    with named("preset"):
        return replace(recipe, **{name: value for name, value in changes.items() if value is not None})


def scales_of(payload: OptimizePayload, recipe: Recipe) -> tuple[Scale, ...]:
    """Return the scales from coarse to fine, without the iterations of an extension.

    Raises:
        UsageError: If there are fewer iterations than scales.
    """
    if payload.scales is not None:
        return tuple(
            Scale(each.size_px, each.iterations, each.content_weight, each.style_weight, each.tv_weight)
            for each in payload.scales
        )
    schedule = recipe.schedule
    if payload.smallest_px is not None:
        schedule = replace(schedule, smallest_px=payload.smallest_px)
    with named("iterations"):
        return schedule.scales(payload.size_px, payload.iterations)


def stopping_of(payload: OptimizePayload) -> Stopping:
    """Return when to stop early. An extension does all its iterations: they were asked for.

    Raises:
        UsageError: If a value is not possible.
    """
    rules = payload.stop
    if rules is None or payload.extends is not None:
        return Stopping()
    with named("stop"):
        return Stopping(rules.improvement, rules.window, rules.loss, rules.seconds)


def color_of(payload: OptimizePayload) -> ColorRule | None:
    """Return whether and how the content's colors are kept."""
    return None if payload.colors is None else ColorRule(payload.colors.method, payload.colors.when)


def read_network(path: Path, name: str) -> tuple[LossNetwork, NetworkMetadata]:
    """Return the loss network of a file, float32 on the CPU.

    Raises:
        FarmError: If it cannot be read.
    """
    try:
        return load_loss_network(path)
    except ValueError as error:
        raise FarmError(
            f"the loss network {name} cannot be loaded: {error}", "add it again: `farm weights add`"
        ) from error


def check_network(recipe: Recipe, network: LossNetwork, ref: AssetRef) -> None:
    """Check that a loss network has all layers that a recipe looks at.

    Raises:
        UsageError: Naming the key and the layer that is missing.
    """
    wanted = {"style_layers": recipe.active_style_layers, "content_layers": recipe.active_content_layers}
    check_layers(wanted, network, ref)


def check_layers(wanted: Mapping[str, Iterable[str]], network: LossNetwork, ref: AssetRef) -> None:
    """Check that a loss network has layers.

    Args:
        wanted: Layers by the key of the manifest that names them.
        network: The loss network.
        ref: What it is called.

    Raises:
        UsageError: Naming the key and the layer that is missing.
    """
    present = {layer.name for layer in network.layers}
    known = {name for name, _ in architecture(network.name)}
    for key, layers in wanted.items():
        for layer in layers:
            if layer not in known:
                raise UsageError(
                    f"{key}: {network.name} has no layer {layer!r}", f"it has {', '.join(sorted(known))}"
                )
            if layer not in present:
                raise UsageError(
                    f"{key}: the file of the loss network {ref.name} ends at {network.layers[-1].name}, "
                    f"before {layer}",
                    "name earlier layers, or add a file of the whole network",
                )


class MadeFor(Protocol):
    """A recipe, as far as it says which loss network it was made for."""

    @property
    def network(self) -> str:
        """Its architecture."""
        ...

    @property
    def family(self) -> str:
        """Of its weights."""
        ...

    @property
    def relative(self) -> bool:
        """Whether every loss is relative to its target, so that one set of weights is for any network."""
        ...


def is_own_network(recipe: MadeFor, metadata: NetworkMetadata) -> bool:
    """Return whether a loss network is of the kind that a preset was made for, its channels as they were."""
    own = (metadata.architecture, metadata.family) == (recipe.network, recipe.family)
    return own and not metadata.channel_scaled


def network_note(recipe: MadeFor, metadata: NetworkMetadata) -> str:
    """Return what should be known of a loss network beside its name."""
    scaled = ", channels scaled" if metadata.channel_scaled else ""
    found = f"{metadata.architecture} of {metadata.family}{scaled}"
    if is_own_network(recipe, metadata):
        return found
    note = f"{found}, not the preset's own, {recipe.network} of {recipe.family}"
    if recipe.relative:
        return note
    unscaled = " as it is" if metadata.channel_scaled else ""
    return f"{note}{unscaled}, whose activations its weights are for: style and content may be out of balance"


@contextmanager
def named(key: str) -> Iterator[None]:
    """Say which key of the manifest a ValueError of the engine is about.

    Raises:
        UsageError: In place of a ValueError.
    """
    try:
        yield
    except ValueError as error:
        raise UsageError(f"{key}: {error}") from error


def _init(payload: OptimizePayload, base: Recipe) -> Init | None:
    wanted = payload.init
    if wanted is None:
        return None
    noisy = base.init.kind == "noise" or base.init.noise_blend > 0
    sigma = wanted.sigma if wanted.sigma is not None else base.init.sigma if noisy else Init().sigma
    return Init(wanted.kind, sigma, wanted.noise_blend or 0.0)


def _style_size(payload: OptimizePayload, base: Recipe) -> StyleSize | None:
    wanted = payload.style_scale
    if wanted is None:
        return None
    said: dict[str, Any] = {
        "match": wanted.match,
        "factor": wanted.factor,
        "longest_px": wanted.size_px,
        "enlarge": wanted.enlarge,
    }
    return replace(base.style_size, **{name: value for name, value in said.items() if value is not None})


def _with_optimizer(base: Recipe, wanted: OptimizerSettings | None) -> Recipe:
    """Return the recipe with another optimizer, and its pixels as that one takes them.

    L-BFGS sees differences to the network's mean color, near which float32 resolves its first steps. Pixels
    that Adam is to keep within their range are seen as they are.
    """
    if wanted is None:
        return base
    kind = wanted.kind or ("lbfgs" if isinstance(base.optimizer, LbfgsSettings) else "adam")
    foreign = _OF_LBFGS if kind == "adam" else _OF_ADAM
    for name in foreign:
        if getattr(wanted, name) is not None:
            raise ValueError(f"{name} is not of {kind}")
    if kind == "lbfgs":
        return replace(base, optimizer=_lbfgs(base, wanted), centered=True)
    adam = _adam(base, wanted)
    return replace(base, optimizer=adam, centered=base.centered and adam.clamp is None)


def _lbfgs(base: Recipe, wanted: OptimizerSettings) -> LbfgsSettings:
    own = base.optimizer if isinstance(base.optimizer, LbfgsSettings) else LbfgsSettings()
    line_search = own.line_search
    if wanted.line_search is not None:
        line_search = "strong-wolfe" if wanted.line_search == "strong-wolfe" else None
    return LbfgsSettings(
        wanted.learning_rate or own.learning_rate,
        wanted.history or own.history,
        line_search,
        wanted.longest_move or own.longest_move,
    )


def _adam(base: Recipe, wanted: OptimizerSettings) -> AdamSettings:
    own = base.optimizer
    if not isinstance(own, AdamSettings):
        own = AdamSettings(_ADAM_STEP * base.pixel_range, clamp=base.pixel_range)
    clamp = own.clamp
    if wanted.clamp is not None:
        clamp = base.pixel_range if wanted.clamp else None
    beta1, beta2 = (
        given if given is not None else before
        for given, before in zip((wanted.beta1, wanted.beta2), own.betas, strict=True)
    )
    rate = wanted.learning_rate or own.learning_rate
    return replace(own, learning_rate=rate, betas=(beta1, beta2), clamp=clamp)
