"""What a render leaves behind beside its picture: trace, plot, parameters. All under the job's own folder."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import asdict, fields
from importlib.metadata import version
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import torch
from torch import Tensor

from jobs.optimize import OptimizePayload
from workers.images import Pixels, encode
from workers.nst.color import ColorRule
from workers.nst.lbfgs import LbfgsSettings
from workers.nst.loss_networks import NetworkMetadata
from workers.nst.multiscale import Scale, fit, resize
from workers.nst.recipes import Recipe

PREVIEW_PX = 1024
_PREVIEW_QUALITY = 85

Step = dict[str, Any]
"""One iteration of a trace: scale (from 0), size_px, iteration, evaluations, budget, loss, terms, seconds."""


def state_name(output_key: str) -> str:
    """Return the name of the last state of a picture, from which an extension goes on."""
    return f"final/{output_key}.state"


def trace_name(output_key: str) -> str:
    """Return the name of a picture's trace."""
    return f"traces/{output_key}.jsonl"


def plot_name(output_key: str) -> str:
    """Return the name of the plot of a picture's trace."""
    return f"traces/{output_key}.png"


def preview_name(output_key: str) -> str:
    """Return the name of a picture's preview."""
    return f"previews/{output_key}.jpg"


def parameters_name(output_key: str) -> str:
    """Return the name of the file that says how a picture was made."""
    return f"parameters/{output_key}.json"


def iterate_name(output_key: str, scale: int, iteration: int) -> str:
    """Return the name of an unfinished picture that is kept; scales are counted from 1 in it."""
    path = PurePosixPath(output_key)
    return f"iterations/{path.with_suffix('')}-{scale + 1}-{iteration}{path.suffix}"


def eight_bit(rgb: Tensor) -> Pixels:
    """Return a picture `[1, 3, H, W]` in 0..1 as uint8 (H, W, 3)."""
    rounded = (rgb[0] * 255).round().clamp(0, 255).to("cpu", torch.uint8)
    pixels: Pixels = np.ascontiguousarray(rounded.permute(1, 2, 0).numpy())
    return pixels


def from_eight_bit(pixels: Tensor) -> Tensor:
    """Return a picture uint8 `[H, W, 3]` as float32 `[1, 3, H, W]` in 0..1."""
    return pixels.permute(2, 0, 1).unsqueeze(0).to(torch.float32) / 255


def alpha_at(alpha: Pixels | None, height_px: int, width_px: int) -> Pixels | None:
    """Return the alpha of a picture at another size."""
    if alpha is None or alpha.shape == (height_px, width_px):
        return alpha
    plane = torch.from_numpy(alpha).to(torch.float32)[None, None]
    resized = resize(plane, (height_px, width_px))[0, 0].round().clamp(0, 255)
    return resized.to(torch.uint8).numpy()


def preview(rgb: Tensor) -> bytes:
    """Return a small JPEG of a picture `[1, 3, H, W]` in 0..1."""
    size = fit((rgb.shape[-2], rgb.shape[-1]), PREVIEW_PX, enlarge=False)
    data, _ = encode(eight_bit(resize(rgb, size)), None, ".jpg", _PREVIEW_QUALITY)
    return data


def trace_lines(trace: Sequence[Step]) -> bytes:
    """Return a trace as JSON lines."""
    return "".join(f"{json.dumps(step)}\n" for step in trace).encode()


def trace_plot(trace: Sequence[Step], title: str) -> bytes:
    """Return a PNG of the losses over all iterations, on a log axis, with a line where a scale begins.

    Args:
        trace: At least one iteration.
        title: Above it.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 6))
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0.08, 0.09, 0.9, 0.84), yscale="log", title=title)
    axes.set(xlabel="iteration", ylabel="loss")
    places = range(1, len(trace) + 1)
    names = list(dict.fromkeys(name for step in trace for name in step["terms"]))
    axes.plot(places, [_positive(step["loss"]) for step in trace], color="black", linewidth=2, label="loss")
    for name in names:
        axes.plot(places, [_positive(step["terms"].get(name)) for step in trace], linewidth=1, label=name)
    for place, step in enumerate(trace, 1):
        if place == 1 or trace[place - 2]["scale"] != step["scale"]:
            axes.axvline(place, color="gray", linewidth=0.8, linestyle=":")
            axes.annotate(
                f" {step['size_px']} px", (place, 0.01), xycoords=("data", "axes fraction"), color="gray"
            )
    axes.legend(fontsize="small", ncols=2)
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()


def recipe_facts(recipe: Recipe, scales: Sequence[Scale], color: ColorRule | None) -> dict[str, Any]:
    """Return every value of a recipe, as JSON has them."""
    said = {each.name: getattr(recipe, each.name) for each in fields(recipe)}
    for name in ("name", "summary", "compose", "schedule", "network", "family"):
        del said[name]
    kind = "lbfgs" if isinstance(recipe.optimizer, LbfgsSettings) else "adam"
    return {
        **said,
        "pool_scales": dict(recipe.pool_scales),
        "content_layers": dict(recipe.content_layers),
        "style_layers": dict(recipe.style_layers),
        "optimizer": {"kind": kind, **asdict(recipe.optimizer)},
        "init": asdict(recipe.init),
        "style_size": asdict(recipe.style_size),
        "scales": [asdict(scale) for scale in scales],
        "colors": None if color is None else asdict(color),
    }


def pixel_facts(
    payload: OptimizePayload, recipe: dict[str, Any], metadata: NetworkMetadata, tile_px: int | None
) -> dict[str, Any]:
    """Return all that decides the pixels of a result: where and by how many it was made is not in here.

    Args:
        payload: Of the task.
        recipe: As `recipe_facts` returns it.
        metadata: Of the loss network.
        tile_px: Longest side of tiles; None in one piece.
    """
    return {
        "stylefarm": version("stylefarm"),
        "preset": payload.preset,
        **recipe,
        "seed": payload.seed,
        "precision": payload.precision,
        "tile_px": tile_px,
        "styles": [style.model_dump() for style in payload.styles],
        "init_image": payload.init_image.model_dump() if payload.init_image else None,
        "loss_network": {**payload.network.model_dump(), **asdict(metadata)},
    }


def as_text(facts: dict[str, Any]) -> str:
    """Return facts as one line of ASCII, to be written into a picture."""
    return json.dumps(facts, separators=(",", ":"))


def as_document(facts: dict[str, Any]) -> bytes:
    """Return facts as a JSON file."""
    return f"{json.dumps(facts, indent=2)}\n".encode()


def _positive(value: float | None) -> float:
    """Return a value if a log axis can show it."""
    return value if value is not None and value > 0 else float("nan")
