"""The transformer network for training: what `TransformerNet.forward` computes, in less time, with gradients.

The same rewriting as for rendering (`workers.nst.inference`): channels-last, no bias in front of an instance
norm, up-sampling and the last convolution folded; the folding is differentiable, so that the parameters stay
those of `TransformerNet`. Instance norm has a backward of its own.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from workers.nst.inference import fold_shuffle, fold_upsampling
from workers.nst.transformer import NORM_EPS, PaddedConv, TransformerNet


def styled(net: TransformerNet, photographs: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the pictures, NCHW around 0..255, as a differentiable function of the network's parameters.

    Args:
        net: Its parameters are float32, whatever the dtype.
        photographs: NCHW, RGB in 0..255, each side at least 5 px.
        dtype: Of features and convolutions: float32 or bfloat16.
    """
    y = photographs.to(dtype, memory_format=torch.channels_last)
    for conv, norm in ((net.conv1, net.in1), (net.conv2, net.in2), (net.conv3, net.in3)):
        y = _normed(_convolved(y, conv), norm).relu_()
    for block in net.residual_blocks():
        inner = _normed(_convolved(y, block.conv1), block.in1).relu_()
        y = y + _normed(_convolved(inner, block.conv2), block.in2)
    for conv, norm in ((net.deconv1, net.in4), (net.deconv2, net.in5)):
        y = _normed(_upsampled(y, conv), norm).relu_()
    return _last(y, net.deconv3)


def trained_parameters(net: TransformerNet) -> dict[str, nn.Parameter]:
    """Return the parameters by name that decide a picture: no bias in front of an instance norm does."""
    return {
        name: parameter
        for name, parameter in net.named_parameters()
        if not name.endswith("conv2d.bias") or name == "deconv3.conv2d.bias"
    }


def _convolved(x: Tensor, conv: PaddedConv) -> Tensor:
    padded = functional.pad(x, (conv.padding_px,) * 4, mode="reflect")
    return functional.conv2d(padded, _laid_out(conv.conv2d.weight, x.dtype), stride=conv.conv2d.stride)


def _upsampled(x: Tensor, conv: PaddedConv) -> Tensor:
    padded = functional.pad(x, (1, 1, 1, 1), mode="replicate")
    weight = _laid_out(fold_upsampling(conv.conv2d.weight), x.dtype)
    return functional.conv_transpose2d(padded, weight, stride=2, padding=3)


def _last(x: Tensor, conv: PaddedConv) -> Tensor:
    padded = functional.pad(x, (conv.padding_px,) * 4, mode="reflect")
    bias = conv.conv2d.get_parameter("bias").repeat_interleave(4).to(x.dtype)
    weight = _laid_out(fold_shuffle(conv.conv2d.weight), x.dtype)
    return functional.pixel_shuffle(functional.conv2d(padded, weight, bias, stride=2), 2)


def _laid_out(weight: Tensor, dtype: torch.dtype) -> Tensor:
    return weight.to(dtype).contiguous(memory_format=torch.channels_last)


def _normed(x: Tensor, norm: nn.InstanceNorm2d) -> Tensor:
    y: Tensor = _InstanceNorm.apply(x, norm.weight, norm.bias)
    return y


class _InstanceNorm(torch.autograd.Function):
    """Affine instance norm of channels-last features, statistics in float32 at least."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        """Return the normed features."""
        mean, reciprocal, y = _cpu_norm(x, scale, shift) if x.device.type == "cpu" else _norm(x, scale, shift)
        ctx.save_for_backward(x, mean, reciprocal, scale)
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the gradients by features, scale and shift.

        With z the normed features before the affine map, `dx = scale / sigma * (dy - mean(dy) - z mean(dy
        z))`.
        """
        x, mean, reciprocal, scale = ctx.saved_tensors
        dy = _by_position(gradient.contiguous(memory_format=torch.channels_last))
        inputs = _by_position(x)
        pixels = inputs.shape[1]
        sum_dy = dy.sum(dim=1, dtype=mean.dtype)
        sum_dy_z = ((dy * inputs).sum(dim=1, dtype=mean.dtype) - mean * sum_dy) * reciprocal
        # dx = a dy + b x + c, with one number of each per picture and channel.
        a = scale * reciprocal
        b = -a * reciprocal * sum_dy_z / pixels
        c = -a * sum_dy / pixels - b * mean
        dx = torch.addcmul(c[:, None].to(x.dtype), inputs, b[:, None].to(x.dtype))
        dx = torch.addcmul(dx, dy, a[:, None].to(x.dtype))
        back = dx.view(x.shape[0], x.shape[2], x.shape[3], x.shape[1]).permute(0, 3, 1, 2)
        return back, sum_dy_z.sum(0), sum_dy.sum(0)


def _cpu_norm(x: Tensor, scale: Tensor, shift: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return mean and reciprocal deviation `[N, C]`, and the normed features.

    torch's group norm sums the few pixels of a training's crops well enough.
    """
    count, channels, height, width = x.shape
    y, mean, reciprocal = torch.native_group_norm(
        x, scale, shift, count, channels, height * width, channels, NORM_EPS
    )
    return mean.view(count, channels), reciprocal.view(count, channels), y


def _norm(x: Tensor, scale: Tensor, shift: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the same as `_cpu_norm`, on any device."""
    exact = x.to(torch.promote_types(x.dtype, torch.float32))
    variance, mean = torch.var_mean(exact, dim=(2, 3), correction=0)
    reciprocal = (variance + NORM_EPS).rsqrt()
    factor = reciprocal * scale
    y = exact * factor[..., None, None] + (shift - mean * factor)[..., None, None]
    return mean, reciprocal, y.to(x.dtype)


def _by_position(x: Tensor) -> Tensor:
    """Return channels-last features NCHW as `[N, H * W, C]`, without a copy."""
    return x.permute(0, 2, 3, 1).flatten(1, 2)
