"""The transformer network for rendering: the same picture as `TransformerNet`, in less time.

What is rewritten, and why the result stays the same:
- Tensors are channels-last, which the convolutions of CPUs and tensor cores want.
- A bias in front of an instance norm cancels out, so it is left out.
- Nearest up-sampling by 2, padding and a 3x3 convolution read each input pixel through sums of neighboring
  weights: one transposed 4x4 convolution of stride 2, with 16 instead of 36 products per input pixel.
- The last convolution has 3 output channels, too few for vector units: computed for 2x2 pixels at once it is
  a 10x10 convolution of stride 2 to 12 channels and a shuffle.
- Instance norm gets its statistics from blocks of pixels that are then combined in float64. The group norm of
  torch sums a whole channels-last picture in one float32: at 4 megapixels it is wrong in the third digit.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from workers.nst.transformer import NORM_EPS, ResidualBlock, TransformerNet

Precision = Literal["fp32", "bf16"]
DTYPES: dict[str, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16}

SMALLEST_SIDE_PX = 5
"""Below this the reflection padding of the first convolution has nothing to reflect."""

_BLOCK_PX = 1024
"""Large enough for torch's fast way, which begins here; small enough for sums in float32."""

_FIXED_BYTES = 64 << 20


class InferenceNet(nn.Module):
    """A `TransformerNet` folded and laid out for rendering on one device; it cannot be trained."""

    def __init__(self, net: TransformerNet, precision: Precision, device: torch.device) -> None:
        super().__init__()
        self.width = net.width
        self.precision = precision
        self.device = device
        self.dtype = DTYPES[precision]
        self.down = nn.ModuleList(
            _NormedConv(conv.conv2d, norm)
            for conv, norm in ((net.conv1, net.in1), (net.conv2, net.in2), (net.conv3, net.in3))
        )
        self.residual = nn.ModuleList(_Residual(block) for block in net.residual_blocks())
        self.up = nn.ModuleList(
            _NormedUpConv(conv.conv2d, norm)
            for conv, norm in ((net.deconv1, net.in4), (net.deconv2, net.in5))
        )
        self.last = _LastConv(net.deconv3.conv2d, net.deconv3.conv2d.get_parameter("bias"))
        for module in self.modules():
            if isinstance(module, _Folded):
                module.place(self.dtype, device)
        self.requires_grad_(requires_grad=False)

    @property
    def weight_bytes(self) -> int:
        """What the weights hold on the device."""
        return sum(buffer.nbytes for buffer in self.buffers())

    def forward(self, x: Tensor) -> Tensor:
        """Return what `TransformerNet.forward` does, in this precision, channels-last.

        Args:
            x: NCHW, RGB in 0..255, any dtype, each side at least 5 px.
        """
        y = x.to(self.device, self.dtype, memory_format=torch.channels_last)
        for conv in self.down:
            y = conv(y).relu_()
        for block in self.residual:
            y = block(y)
        for conv in self.up:
            y = conv(y).relu_()
        out: Tensor = self.last(y)
        return out


class _Folded(nn.Module):
    """A convolution whose weight is kept in the precision and layout in which it is used."""

    weight: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", weight.detach().clone())

    def place(self, dtype: torch.dtype, device: torch.device) -> None:
        """Move it to a device; everything but `weight` stays float32."""
        self.to(device)
        self.weight = self.weight.to(dtype).contiguous(memory_format=torch.channels_last)


class _NormedConv(_Folded):
    """Reflection padding, convolution, instance norm."""

    scale: Tensor
    shift: Tensor

    def __init__(self, conv: nn.Conv2d, norm: nn.InstanceNorm2d, weight: Tensor | None = None) -> None:
        super().__init__(conv.weight if weight is None else weight)
        self.stride = conv.stride
        self.padding_px = conv.kernel_size[0] // 2
        self.register_buffer("scale", norm.weight.detach().float().clone())
        self.register_buffer("shift", norm.bias.detach().float().clone())

    def convolve(self, x: Tensor) -> Tensor:
        padded = functional.pad(x, (self.padding_px,) * 4, mode="reflect")
        return functional.conv2d(padded, self.weight, stride=self.stride)

    def forward(self, x: Tensor) -> Tensor:
        return normalize(self.convolve(x), self.scale, self.shift)


class _Residual(nn.Module):
    """A residual block; it adds to its input in place."""

    def __init__(self, block: ResidualBlock) -> None:
        super().__init__()
        self.first = _NormedConv(block.conv1.conv2d, block.in1)
        self.second = _NormedConv(block.conv2.conv2d, block.in2)

    def forward(self, x: Tensor) -> Tensor:
        return x.add_(self.second(self.first(x).relu_()))


class _NormedUpConv(_NormedConv):
    """Nearest up-sampling by 2, reflection padding, convolution, instance norm."""

    def __init__(self, conv: nn.Conv2d, norm: nn.InstanceNorm2d) -> None:
        super().__init__(conv, norm, fold_upsampling(conv.weight.detach()))

    def convolve(self, x: Tensor) -> Tensor:
        # Reflected once, an up-sampled border shows its own pixel again: it is the border pixel, repeated.
        padded = functional.pad(x, (1, 1, 1, 1), mode="replicate")
        return functional.conv_transpose2d(padded, self.weight, stride=2, padding=3)


class _LastConv(_Folded):
    """Reflection padding and the convolution to RGB."""

    bias: Tensor

    def __init__(self, conv: nn.Conv2d, bias: Tensor) -> None:
        super().__init__(fold_shuffle(conv.weight.detach()))
        self.padding_px = conv.kernel_size[0] // 2
        self.register_buffer("bias", bias.detach().float().repeat_interleave(4))

    def place(self, dtype: torch.dtype, device: torch.device) -> None:
        super().place(dtype, device)
        self.bias = self.bias.to(dtype)

    def forward(self, x: Tensor) -> Tensor:
        padded = functional.pad(x, (self.padding_px,) * 4, mode="reflect")
        return functional.pixel_shuffle(functional.conv2d(padded, self.weight, self.bias, stride=2), 2)


def fold_upsampling(weight: Tensor) -> Tensor:
    """Return the (in, out, 4, 4) weight of a transposed convolution of stride 2 from a (out, in, 3, 3) one.

    Input pixel i stands at 2i and 2i+1 once up-sampled, and reaches the outputs 2i-1 .. 2i+2. At offset a of
    these, the two copies are seen through the taps 2-a and 3-a.
    """
    # taps[a, t] = 1 where tap t of the 3x3 kernel is seen at offset a.
    taps = torch.tensor(
        [[0, 0, 1], [0, 1, 1], [1, 1, 0], [1, 0, 0]], dtype=weight.dtype, device=weight.device
    )
    return torch.einsum("oitu,at,bu->ioab", weight, taps, taps)


def fold_shuffle(weight: Tensor) -> Tensor:
    """Return the (4 * out, in, k+1, k+1) weight that gives 2x2 outputs at once from a (out, in, k, k) one."""
    outputs, inputs, kernel_px, _ = weight.shape
    wide = weight.new_zeros(outputs, 2, 2, inputs, kernel_px + 1, kernel_px + 1)
    for row in range(2):
        for column in range(2):
            wide[:, row, column, :, row : row + kernel_px, column : column + kernel_px] = weight
    return wide.flatten(0, 2)


def normalize(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Return the affine instance norm with biased variance, statistics in float32.

    Args:
        x: NCHW, any dtype.
        scale: Float32 factor per channel.
        shift: Float32 summand per channel.
    """
    mean, variance = _moments(x)
    normed = [
        functional.batch_norm(x[n : n + 1], mean[n], variance[n], scale, shift, training=False, eps=NORM_EPS)
        for n in range(x.shape[0])
    ]
    return normed[0] if len(normed) == 1 else torch.cat(normed)


def _moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and biased variance of each picture and channel, float32 (N, C)."""
    if x.device.type != "cpu":
        variance, mean = torch.var_mean(x.float(), dim=(2, 3), correction=0)
        return mean, variance
    count, channels, height, width = x.shape
    pixels = x.permute(0, 2, 3, 1).reshape(count, height * width, channels)
    whole = height * width // _BLOCK_PX * _BLOCK_PX
    sizes, means, variances = [], [], []
    if whole:
        blocks = whole // _BLOCK_PX
        block = pixels[:, :whole].reshape(count * blocks, _BLOCK_PX, 1, channels).permute(0, 3, 1, 2)
        # Fast because it is vectorized over channels; of its three results the normed blocks are not wanted.
        _, mean, reciprocal = torch.native_group_norm(
            block, None, None, count * blocks, channels, _BLOCK_PX, channels, NORM_EPS
        )
        means.append(mean.double().view(count, blocks, channels))
        variances.append(reciprocal.double().pow(-2).sub(NORM_EPS).view(count, blocks, channels))
        sizes += [_BLOCK_PX] * blocks
    if whole < height * width:
        variance, mean = torch.var_mean(pixels[:, whole:].double(), dim=1, correction=0, keepdim=True)
        means.append(mean)
        variances.append(variance)
        sizes.append(height * width - whole)
    return _combined(torch.tensor(sizes, dtype=torch.float64), torch.cat(means, 1), torch.cat(variances, 1))


def _combined(sizes: Tensor, means: Tensor, variances: Tensor) -> tuple[Tensor, Tensor]:
    """Return the moments of a union of blocks: the variance within them plus that of their means."""
    share = (sizes / sizes.sum())[:, None]
    mean = (means * share).sum(1)
    variance = ((variances + (means - mean[:, None]).square()) * share).sum(1)
    return mean.float(), variance.clamp_min(0).float()


def prepare_for_inference(
    net: TransformerNet, precision: Precision = "fp32", device: str | torch.device = "cpu"
) -> InferenceNet:
    """Return the network for rendering on a device; `net` itself is left as it is.

    In fp32 pictures agree with `net` within 0.02 of 255, the rounding of float32 convolutions. In bf16
    weights and features are bfloat16, statistics float32.

    Raises:
        ValueError: If the precision is not known.
    """
    if precision not in DTYPES:
        raise ValueError(f"precision {precision!r} is not one of {', '.join(DTYPES)}")
    return InferenceNet(net, precision, torch.device(device)).eval()


def render_batch(net: InferenceNet, pictures: Tensor) -> Tensor:
    """Render pictures of one size.

    Args:
        net: From `prepare_for_inference`.
        pictures: uint8 (N, H, W, 3), RGB, on any device; sides below 5 px are padded by reflection.

    Returns:
        uint8 (N, H, W, 3) on the CPU: cropped to the input's size, clamped and rounded.

    Raises:
        ValueError: If the shape or dtype is another, or the network gave values that are no numbers.
        torch.OutOfMemoryError: If the device, or this process, has too little memory.
    """
    if pictures.dtype != torch.uint8 or pictures.dim() != 4 or pictures.shape[3] != 3 or not pictures.numel():
        raise ValueError(f"not uint8 pictures (N, H, W, 3): {pictures.dtype} {tuple(pictures.shape)}")
    height, width = pictures.shape[1:3]
    with torch.inference_mode(), _full_fp32(net):
        try:
            x = _reflected(pictures.to(net.device)).permute(0, 3, 1, 2)
            y = net(x)[:, :, :height, :width].float()
        except RuntimeError as error:
            if "can't allocate memory" in str(error):  # what the allocator of the CPU says
                raise torch.OutOfMemoryError(str(error)) from error
            raise
        if not bool(torch.isfinite(y).all()):
            raise ValueError(
                "the network gave values that are no numbers: its weights do not fit this picture"
            )
        rendered: Tensor = y.round_().clamp_(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
        return rendered.contiguous().cpu()


@contextlib.contextmanager
def _full_fp32(net: InferenceNet) -> Iterator[None]:
    """Keep CUDA from computing fp32 convolutions in TF32, which has 10 bits of mantissa."""
    if net.device.type == "cuda" and net.precision == "fp32":
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            yield
    else:
        yield


def _reflected(pictures: Tensor) -> Tensor:
    """Return (N, H, W, 3) with both sides at least `SMALLEST_SIDE_PX`, grown to the right and downwards."""
    for dim in (1, 2):
        side = pictures.shape[dim]
        if side < SMALLEST_SIDE_PX:
            period = max(1, 2 * (side - 1))
            index = torch.arange(SMALLEST_SIDE_PX, device=pictures.device) % period
            pictures = pictures.index_select(dim, torch.minimum(index, period - index))
    return pictures


def render_bytes(net: InferenceNet, height_px: int, width_px: int) -> int:
    """Return about how much memory rendering one picture takes beside the weights.

    The peak is at full size, where two feature tensors of the base width and a padded copy are alive at once;
    measured at 4 megapixels and base width 32: 480 bytes per pixel in float32.
    """
    per_value = torch.finfo(net.dtype).bits // 8
    return _FIXED_BYTES + height_px * width_px * (3 * net.width * per_value + 100)
