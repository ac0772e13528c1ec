"""The recipes of `farm render --preset`: `farm presets`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from farm import local
from farm.cli import view
from farm.cli.status import AsJson
from farm.cli.styles import library
from jobs.errors import UsageError

if TYPE_CHECKING:
    from jobs.library import NetworkEntry
    from workers.nst.recipes import Recipe

Document = dict[str, Any]


def presets(
    name: Annotated[
        str | None,
        typer.Argument(metavar="[NAME]", help="Show all that this one sets.", show_default=False),
    ] = None,
    *,
    as_json: AsJson = False,
) -> None:
    """Show the recipes that an optimization can begin with, or all that one of them sets."""
    from workers.nst.presets import PRESETS

    if name is not None and name not in PRESETS:
        raise UsageError(f"there is no preset {name!r}", f"there are: {', '.join(PRESETS)}")
    networks = None if local.is_remote() else {entry.name: entry for entry in library().networks()}
    shown = [_document(recipe, networks) for recipe in PRESETS.values() if name in {None, recipe.name}]
    if as_json:
        view.show_json({"presets": shown})
    elif name is None:
        view.table(("PRESET", "OPTIMIZER", "SCALES", "LOSS NETWORK", "WHAT IT IS"), map(_row, shown))
    else:
        _show(shown[0])


def _document(recipe: Recipe, networks: Mapping[str, NetworkEntry] | None) -> Document:
    """Return all that is to be said of a preset.

    Args:
        recipe: Its recipe.
        networks: The loss networks of the farm by name, or None where they are kept elsewhere.
    """
    from jobs.optimize import PRESETS
    from workers.optimize_presets import preset_facts, preset_settings

    wanted = PRESETS[recipe.name].network
    network: Document = {"name": wanted, "architecture": recipe.network, "family": recipe.family}
    if networks is not None:
        found = networks.get(wanted)
        network["found"] = None if found is None else {"family": found.family, "sha256": found.sha256}
    return {
        "name": recipe.name,
        "summary": recipe.summary,
        "loss_network": network,
        "settings": preset_settings(recipe),
        **preset_facts(recipe),
    }


def _row(preset: Mapping[str, Any]) -> tuple[object, ...]:
    smallest_px = preset["schedule"]["smallest_px"]
    return (
        preset["name"],
        preset["settings"]["optimizer"]["kind"],
        "one" if smallest_px is None else f"from {smallest_px} px",
        _network(preset["loss_network"]),
        preset["summary"],
    )


def _network(network: Mapping[str, Any]) -> str:
    """Return which loss network a preset looks for, and what is wrong with what there is."""
    found = network.get("found", {"family": network["family"]})
    if found is None:
        return f"{network['name']} (not there)"
    if found["family"] != network["family"]:
        return f"{network['name']} (there, but of {found['family']})"
    return str(network["name"])


def _show(preset: Mapping[str, Any]) -> None:
    network = preset["loss_network"]
    view.facts(
        [
            ("preset", preset["name"]),
            ("what it is", preset["summary"]),
            ("loss network", f"{_network(network)}, a {network['architecture']} of {network['family']}"),
            ("style loss", _words(preset["losses"]["style"])),
            ("content loss", f"squared differences: {preset['losses']['content']}"),
            ("scales", _schedule(preset)),
            ("pixels", f"0 to {preset['pixel_range']:g}{_details(preset)}"),
        ]
    )
    view.show("")
    view.show("keys of a manifest, and of --set, with the values of this preset:")
    view.facts(_flat("", preset["settings"]))


def _schedule(preset: Mapping[str, Any]) -> str:
    schedule, counted = preset["schedule"], preset["iterations_are"]
    if schedule["smallest_px"] is None:
        return f"one, of {schedule['first_iterations']} {counted}"
    return (
        f"from {schedule['smallest_px']} px, each the root of two times the one before: "
        f"{schedule['first_iterations']} {counted} at the first, {schedule['iterations']} at each other"
    )


def _details(preset: Mapping[str, Any]) -> str:
    details = [
        "differences to the mean color of the network" if preset["centered"] else "",
        f"{preset['first_padding']} around the picture" if preset["first_padding"] != "zeros" else "",
        f"the {preset['carry']} is enlarged from scale to scale" if preset["schedule"]["smallest_px"] else "",
    ]
    return "".join(f"; {detail}" for detail in details if detail)


def _words(loss: Mapping[str, Any] | None) -> str:
    if loss is None:
        return "none"
    choices = [
        name.replace("_", " ") if value is True else f"{name.replace('_', ' ')} {value:g}"
        for name, value in loss.items()
        if name != "kind" and value is not False
    ]
    return ", ".join([loss["kind"], *choices])


def _flat(prefix: str, settings: Mapping[str, Any]) -> Iterator[tuple[str, object]]:
    """Yield each key, with dots between its parts, and its value as `--set` takes it."""
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(f"{prefix}{name}.", value)
        elif isinstance(value, bool):
            yield f"{prefix}{name}", str(value).lower()
        else:
            yield f"{prefix}{name}", f"{value:g}" if isinstance(value, float) else value
