"""Named recipes: what known systems do, with their quirks, and our own."""

from __future__ import annotations

from workers.nst.presets import anish, crowson, default, gatys, inetwork, neural_style
from workers.nst.recipes import Recipe

PRESETS: dict[str, Recipe] = {
    module.RECIPE.name: module.RECIPE for module in (default, crowson, gatys, neural_style, anish, inetwork)
}
"""By name, our own first."""


def preset(name: str) -> Recipe:
    """Return the recipe of this name.

    Raises:
        ValueError: If there is none.
    """
    if name not in PRESETS:
        raise ValueError(f"preset {name!r} is not known (there are: {', '.join(PRESETS)})")
    return PRESETS[name]
