"""The feedforward network of Johnson et al. 2016 as pytorch/examples trains it, at any base width.

Differs from the paper: instance norm instead of batch norm (Ulyanov et al. 2016), nearest up-sampling and a
convolution instead of transposed convolutions, reflection padding before every convolution, no final tanh.
The names of the parameters are those of the files that people have.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

NORM_EPS = 1e-5
RESIDUAL_BLOCKS = 5


class PaddedConv(nn.Module):
    """A convolution behind nearest up-sampling by `upsample` and reflection padding that keeps the size."""

    def __init__(
        self, inputs: int, outputs: int, kernel_px: int, *, stride: int = 1, upsample: int = 1
    ) -> None:
        super().__init__()
        self.upsample = upsample
        self.padding_px = kernel_px // 2
        self.conv2d = nn.Conv2d(inputs, outputs, kernel_px, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Return the features of `x`, both NCHW."""
        if self.upsample > 1:
            x = functional.interpolate(x, scale_factor=self.upsample, mode="nearest")
        y: Tensor = self.conv2d(functional.pad(x, (self.padding_px,) * 4, mode="reflect"))
        return y


def instance_norm(channels: int) -> nn.InstanceNorm2d:
    """Return an affine instance norm that always uses the statistics of the picture at hand."""
    return nn.InstanceNorm2d(channels, eps=NORM_EPS, affine=True)


class ResidualBlock(nn.Module):
    """Two convolutions beside an identity; there is no ReLU after the sum."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = PaddedConv(channels, channels, 3)
        self.in1 = instance_norm(channels)
        self.conv2 = PaddedConv(channels, channels, 3)
        self.in2 = instance_norm(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return `x` with what the block adds to it, NCHW."""
        y: Tensor = self.in2(self.conv2(functional.relu(self.in1(self.conv1(x)))))
        return y + x


class TransformerNet(nn.Module):
    """Float NCHW RGB in 0..255 in, the same out (not clamped), each side rounded up to a multiple of 4.

    Args:
        width: Channels after the first convolution; 32 in the published files.
    """

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.width = width
        self.conv1 = PaddedConv(3, width, 9)
        self.in1 = instance_norm(width)
        self.conv2 = PaddedConv(width, 2 * width, 3, stride=2)
        self.in2 = instance_norm(2 * width)
        self.conv3 = PaddedConv(2 * width, 4 * width, 3, stride=2)
        self.in3 = instance_norm(4 * width)
        self.res1 = ResidualBlock(4 * width)
        self.res2 = ResidualBlock(4 * width)
        self.res3 = ResidualBlock(4 * width)
        self.res4 = ResidualBlock(4 * width)
        self.res5 = ResidualBlock(4 * width)
        self.deconv1 = PaddedConv(4 * width, 2 * width, 3, upsample=2)
        self.in4 = instance_norm(2 * width)
        self.deconv2 = PaddedConv(2 * width, width, 3, upsample=2)
        self.in5 = instance_norm(width)
        self.deconv3 = PaddedConv(width, 3, 9)

    def residual_blocks(self) -> list[ResidualBlock]:
        """Return the five blocks in order."""
        return [self.res1, self.res2, self.res3, self.res4, self.res5]

    def forward(self, x: Tensor) -> Tensor:
        """Return the picture in the style, float NCHW around 0..255.

        Args:
            x: Float NCHW, RGB in 0..255, each side at least 5 px.
        """
        y = functional.relu(self.in1(self.conv1(x)))
        y = functional.relu(self.in2(self.conv2(y)))
        y = functional.relu(self.in3(self.conv3(y)))
        for block in self.residual_blocks():
            y = block(y)
        y = functional.relu(self.in4(self.deconv1(y)))
        y = functional.relu(self.in5(self.deconv2(y)))
        out: Tensor = self.deconv3(y)
        return out


def parameter_shapes(width: int) -> dict[str, tuple[int, ...]]:
    """Return the name and shape of every parameter at a base width."""
    with torch.device("meta"):
        return {name: tuple(value.shape) for name, value in TransformerNet(width).state_dict().items()}
