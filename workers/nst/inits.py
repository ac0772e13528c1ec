"""What a picture looks like before the first iteration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from workers.nst.multiscale import resize

InitKind = Literal["content", "noise", "style", "gray", "uniform", "normal", "style-statistics", "picture"]


@dataclass(frozen=True, slots=True)
class Init:
    """How a picture begins.

    Attributes:
        kind: `content`; `noise` of deviation `sigma` about the mean color of the loss network; the first
            `style`, stretched; `gray` with a trace of noise; `uniform` noise over all colors; `normal` noise
            about gray, of deviation 0.25, within the range; `style-statistics`: normal noise with the mean
            and deviation of each channel of the styles; a `picture` that is given.
        sigma: Of the noise, where white is 1.
        noise_blend: How much of the noise of `sigma` is blended in, 0 to 1.
    """

    kind: InitKind = "content"
    sigma: float = 1.0
    noise_blend: float = 0.0

    def __post_init__(self) -> None:
        if self.kind not in get_args(InitKind):
            raise ValueError(f"init {self.kind!r} is not known (there are: {', '.join(get_args(InitKind))})")
        if not 0 <= self.noise_blend <= 1:
            raise ValueError(f"a noise blend of {self.noise_blend}: it must be 0 to 1")
        if not self.sigma >= 0:
            raise ValueError(f"noise of deviation {self.sigma}: it must not be negative")


def initial_picture(
    init: Init,
    content: Tensor,
    styles: Sequence[tuple[float, Tensor]],
    mean_rgb: Sequence[float],
    generator: torch.Generator,
    given: Tensor | None = None,
) -> Tensor:
    """Return the first picture, like `content`: RGB about 0..1, `[1, 3, H, W]`.

    Args:
        init: How it begins.
        content: At the size of the first scale.
        styles: Weight and RGB in 0..1 of each style, at any size.
        mean_rgb: Mean color of the loss network, in 0..1: where its input is zero.
        generator: Of the noise, on the CPU: the noise does not depend on the device.
        given: For the kind `picture`, at any size.

    Raises:
        ValueError: If the kind needs a style or a picture and there is none.
    """
    noise = (_normal(content, generator) * init.sigma) + content.new_tensor(mean_rgb).view(1, 3, 1, 1)
    picture = _before_noise(init.kind, content, styles, generator, given, noise)
    return torch.lerp(picture, noise, init.noise_blend)


def _before_noise(  # noqa: PLR0911 - one way out for each kind
    kind: InitKind,
    content: Tensor,
    styles: Sequence[tuple[float, Tensor]],
    generator: torch.Generator,
    given: Tensor | None,
    noise: Tensor,
) -> Tensor:
    size = (content.shape[-2], content.shape[-1])
    if kind == "content":
        return content.clone()
    if kind == "noise":
        return noise
    if kind == "gray":
        return 0.5 + _uniform(content, generator) / 255
    if kind == "uniform":
        return _uniform(content, generator)
    if kind == "normal":
        return (0.5 + 0.25 * _normal(content, generator)).clamp(0, 1)
    if kind == "picture":
        if given is None:
            raise ValueError("init 'picture' needs a picture to begin with")
        return resize(given.to(content), size).clamp(0, 1)
    if not styles:
        raise ValueError(f"init {kind!r} needs a style image")
    if kind == "style":
        return resize(styles[0][1].to(content), size).clamp(0, 1)
    total = sum(weight for weight, _ in styles)
    mean = sum((rgb.mean((-2, -1), keepdim=True) * (w / total) for w, rgb in styles), content.new_zeros(1))
    square = sum(
        (rgb.square().mean((-2, -1), keepdim=True) * (w / total) for w, rgb in styles), content.new_zeros(1)
    )
    deviation = (square - mean.square()).clamp(min=0).sqrt()
    return (_normal(content, generator) * deviation + mean).clamp(0, 1)


def _normal(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(like.shape, generator=generator).to(like)


def _uniform(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.rand(like.shape, generator=generator).to(like)
