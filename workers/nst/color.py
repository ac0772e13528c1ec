"""Keep the colors of the content: after a render, or before it by giving its colors to the style."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

ColorMethod = Literal["ycbcr", "yuv", "hsv", "histogram", "mean-covariance"]

REC601 = (0.299, 0.587, 0.114)
"""Weights of R, G, B in luma."""

_SMALLEST_VARIANCE = 1e-6


@dataclass(frozen=True, slots=True)
class ColorRule:
    """Keep the colors of the content.

    Attributes:
        method: How.
        when: `before`: the styles get the content's colors; `after`: the picture gets them.
    """

    method: ColorMethod
    when: Literal["before", "after"] = "after"

    def __post_init__(self) -> None:
        if self.method not in get_args(ColorMethod):
            known = ", ".join(get_args(ColorMethod))
            raise ValueError(f"color preservation {self.method!r} is not known (there are: {known})")
        if self.when == "before" and self.method not in {"histogram", "mean-covariance"}:
            raise ValueError(
                f"{self.method} takes the colors of each pixel: before a render there is only histogram and "
                "mean-covariance"
            )


def transfer_color(method: ColorMethod, picture: Tensor, colors: Tensor) -> Tensor:
    """Return the picture with the colors of another one, RGB in 0..1, `[1, 3, H, W]`.

    - `ycbcr`, `yuv`: luma of the picture, chroma of the other. In either space that is the other picture
      with its luma (Rec. 601) moved, so they give the same.
    - `hsv`: value of the picture, hue and saturation of the other.
    - `histogram`: each channel takes the other's distribution of values.
    - `mean-covariance`: the linear map that gives the picture the other's mean and covariance of R, G and B
      (Gatys et al. 2016, Preserving Color in Neural Artistic Style Transfer).

    Args:
        method: One of these.
        picture: What gives the shapes: the stylized picture, or a style image beforehand.
        colors: What gives the colors. Of the same size for `ycbcr`, `yuv` and `hsv`.

    Raises:
        ValueError: If the method is not known or the sizes do not go together.
    """
    if method not in get_args(ColorMethod):
        known = ", ".join(get_args(ColorMethod))
        raise ValueError(f"color preservation {method!r} is not known (there are: {known})")
    if method == "histogram":
        return _match_histograms(picture, colors)
    if method == "mean-covariance":
        return _match_covariance(picture, colors).clamp(0, 1)
    if picture.shape != colors.shape:
        raise ValueError(
            f"{method} takes the colors of each pixel: {tuple(picture.shape[-2:])} and "
            f"{tuple(colors.shape[-2:])} px do not go together"
        )
    if method == "hsv":
        return _with_value(colors, picture.amax(1, keepdim=True)).clamp(0, 1)
    return (colors + _luma(picture) - _luma(colors)).clamp(0, 1)


def _luma(rgb: Tensor) -> Tensor:
    return (rgb * rgb.new_tensor(REC601).view(1, 3, 1, 1)).sum(1, keepdim=True)


def _with_value(rgb: Tensor, value: Tensor) -> Tensor:
    """Return RGB of the same hue and saturation and another value: a factor on each pixel; black is gray."""
    old = rgb.amax(1, keepdim=True)
    return torch.where(old > 0, rgb * (value / old.clamp(min=torch.finfo(rgb.dtype).tiny)), value)


def _match_histograms(picture: Tensor, colors: Tensor) -> Tensor:
    flat, wanted = picture.flatten(2), colors.flatten(2).sort(2).values
    order = flat.argsort(dim=2, stable=True)
    places = torch.linspace(0, wanted.shape[2] - 1, flat.shape[2], dtype=torch.float64, device=flat.device)
    below = places.floor().long().clamp(max=wanted.shape[2] - 1)
    above = (below + 1).clamp(max=wanted.shape[2] - 1)
    between = (places - below).to(wanted.dtype)
    ranked = torch.lerp(wanted[..., below], wanted[..., above], between)
    return torch.empty_like(flat).scatter_(2, order, ranked).view_as(picture)


def _match_covariance(picture: Tensor, colors: Tensor) -> Tensor:
    mean, covariance = _color_statistics(picture)
    wanted_mean, wanted_covariance = _color_statistics(colors)
    linear = _power(wanted_covariance, 0.5) @ _power(covariance, -0.5)
    mapped = linear @ (picture.flatten(2)[0].double() - mean) + wanted_mean
    return mapped.to(picture.dtype).view_as(picture)


def _color_statistics(rgb: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean `[3, 1]` and covariance `[3, 3]` of the colors, float64."""
    flat = rgb.flatten(2)[0].double()
    mean = flat.mean(1, keepdim=True)
    centered = flat - mean
    return mean, centered @ centered.T / flat.shape[1]


def _power(covariance: Tensor, exponent: float) -> Tensor:
    values, vectors = torch.linalg.eigh(covariance)
    return torch.mm(vectors * values.clamp(min=_SMALLEST_VARIANCE).pow(exponent), vectors.T)
