"""The network of pytorch/examples restated from its description, an oracle: slow, plain, no code of ours."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional


def plain_transformer(state: dict[str, Tensor], x: Tensor) -> Tensor:
    """Return what the published network gives for `x` (NCHW, RGB in 0..255), in the dtype of `x`."""
    weights = {name: value.to(x.dtype) for name, value in state.items()}

    def conv(name: str, y: Tensor, stride: int = 1) -> Tensor:
        weight, bias = weights[f"{name}.conv2d.weight"], weights[f"{name}.conv2d.bias"]
        margin = weight.shape[2] // 2
        return functional.conv2d(functional.pad(y, [margin] * 4, "reflect"), weight, bias, stride)

    def norm(name: str, y: Tensor) -> Tensor:
        centered = y - y.mean((2, 3), keepdim=True)
        deviation = (centered.square().mean((2, 3), keepdim=True) + 1e-5).sqrt()
        scale, shift = (weights[f"{name}.{part}"].reshape(1, -1, 1, 1) for part in ("weight", "bias"))
        return centered / deviation * scale + shift

    def double(y: Tensor) -> Tensor:
        return y.repeat_interleave(2, 2).repeat_interleave(2, 3)

    y = norm("in1", conv("conv1", x)).relu()
    y = norm("in2", conv("conv2", y, 2)).relu()
    y = norm("in3", conv("conv3", y, 2)).relu()
    for block in ("res1", "res2", "res3", "res4", "res5"):
        inner = norm(f"{block}.in1", conv(f"{block}.conv1", y)).relu()
        y = norm(f"{block}.in2", conv(f"{block}.conv2", inner)) + y
    y = norm("in4", conv("deconv1", double(y))).relu()
    y = norm("in5", conv("deconv2", double(y))).relu()
    return conv("deconv3", y)


def seeded_state(width: int, seed: int = 0) -> dict[str, Tensor]:
    """Return made-up weights, the same anywhere, whose pictures have contrast mostly within 0..255."""
    random = np.random.default_rng(seed)
    channels = {"1": width, "2": 2 * width, "3": 4 * width, "4": 2 * width, "5": width}
    convs = {
        "conv1": (width, 3, 9), "conv2": (2 * width, width, 3), "conv3": (4 * width, 2 * width, 3),
        **{f"res{n}.conv{m}": (4 * width, 4 * width, 3) for n in range(1, 6) for m in (1, 2)},
        "deconv1": (2 * width, 4 * width, 3), "deconv2": (width, 2 * width, 3), "deconv3": (3, width, 9),
    }  # fmt: skip
    norms = {f"in{n}": size for n, size in channels.items()}
    norms |= {f"res{n}.in{m}": 4 * width for n in range(1, 6) for m in (1, 2)}
    state = {}
    for name, (outputs, inputs, kernel_px) in convs.items():
        last = name == "deconv3"
        spread = (60 if last else 1) / (inputs * kernel_px**2) ** 0.5
        state[f"{name}.conv2d.weight"] = random.normal(0, spread, (outputs, inputs, kernel_px, kernel_px))
        state[f"{name}.conv2d.bias"] = random.normal(120 if last else 0, 5, outputs)
    for name, size in norms.items():
        state[f"{name}.weight"] = random.uniform(0.5, 1.5, size)
        state[f"{name}.bias"] = random.normal(0, 0.3, size)
    return {name: torch.from_numpy(value).float() for name, value in state.items()}


def seeded_picture(height_px: int, width_px: int, seed: int = 0) -> Tensor:
    """Return a made-up uint8 picture (H, W, 3) with a gradient and noise."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[0:height_px, 0:width_px]
    slopes = np.stack([x * 255 / max(width_px, 2), y * 255 / max(height_px, 2), (x + y) % 256], -1)
    noisy = slopes * 0.7 + random.uniform(0, 76, slopes.shape)
    return torch.from_numpy(noisy.astype(np.uint8))


def plain_vgg(
    parameters: list[tuple[Tensor, Tensor]], blocks: tuple[int, ...], fed: Tensor, *, replicate: bool = False
) -> dict[str, Tensor]:
    """Return what each convolution of a VGG gives, before and after its ReLU, as `conv3_1` and `relu3_1`.

    Args:
        parameters: Weight and bias of each convolution, in order.
        blocks: Convolutions of each block; a max pooling is between two.
        fed: What the first convolution is fed, NCHW.
        replicate: Pad for the first convolution with the pixels of the border; all others pad with zeros.
    """
    features, y, remaining = {}, fed, iter(parameters)
    for block, count in enumerate(blocks, start=1):
        if block > 1:
            rows, columns = y.shape[2] // 2, y.shape[3] // 2
            y = (
                y[..., : 2 * rows, : 2 * columns]
                .unflatten(3, (columns, 2))
                .unflatten(2, (rows, 2))
                .amax((3, 5))
            )
        for index in range(1, count + 1):
            weight, bias = next(remaining)
            first = block == index == 1
            padded = functional.pad(y, (1, 1, 1, 1), "replicate" if first and replicate else "constant")
            y = functional.conv2d(padded, weight, bias)
            features[f"conv{block}_{index}"] = y
            y = y.clamp(min=0)
            features[f"relu{block}_{index}"] = y
    return features
