"""Loss networks as data: the convolutions of VGG-16 and VGG-19, and the features that losses are made of.

Layers have the names of the papers: `conv3_1`, `relu3_1`, `pool3`. A network is a tuple of layers that any
engine can walk; `LossNetwork.taps` is the plain walk over a whole picture.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from workers.nst.winograd import Border, Winograd, pays

Kind = Literal["conv", "relu", "pool"]
Pooling = Literal["max", "avg", "l2"]
FirstPadding = Literal["zeros", "replicate"]

BLOCKS = {"vgg16": (2, 2, 3, 3, 3), "vgg19": (2, 2, 4, 4, 4)}
"""Convolutions in each block of the known architectures; a pooling layer ends a block."""

_WIDENING = (1, 2, 4, 8, 8)
"""Channels of the five blocks, as multiples of those of the first."""


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """What a family of weights wants to be fed: `(channels(rgb) * scale - mean) / std`.

    Attributes:
        name: Of the family.
        order: Indices of R, G, B in the order of the network's channels.
        scale: Factor that brings 0..1 to the range of the means.
        mean: In the network's order and range.
        std: In the network's order and range.
    """

    name: str
    order: tuple[int, int, int]
    scale: float
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __call__(self, rgb: Tensor) -> Tensor:
        """Return the network's input for RGB in 0..1 (`[N, 3, H, W]`, any floating dtype), differentiably."""
        mean = rgb.new_tensor(self.mean).view(3, 1, 1)
        std = rgb.new_tensor(self.std).view(3, 1, 1)
        channels = rgb if self.order == (0, 1, 2) else rgb[:, self.order]
        return (channels * self.scale - mean) / std

    def pull_back(self, gradient: Tensor) -> Tensor:
        """Return the gradient by RGB, at least float32, from that by the network's input, `[N, 3, H, W]`."""
        exact = gradient.to(torch.promote_types(gradient.dtype, torch.float32))
        by_channel = exact / exact.new_tensor(self.std).view(3, 1, 1) * self.scale
        return by_channel[:, [self.order.index(color) for color in range(3)]]

    @property
    def neutral(self) -> tuple[float, float, float]:
        """The color, RGB in 0..1, at which the network's input is zero."""
        red, green, blue = (self.mean[self.order.index(channel)] / self.scale for channel in range(3))
        return red, green, blue

    def centered(self) -> Preprocessing:
        """Return the same for colors from which `neutral` was subtracted."""
        return replace(self, mean=(0.0, 0.0, 0.0))


PREPROCESSING = {
    "torchvision": Preprocessing(
        "torchvision", (0, 1, 2), 1.0, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)
    ),
    "caffe": Preprocessing("caffe", (2, 1, 0), 255.0, mean=(103.939, 116.779, 123.68), std=(1.0, 1.0, 1.0)),
}
"""By family of weights: torchvision's own, and the Oxford/Caffe ones (BGR in 0..255)."""


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """One step of a loss network: a 3x3 convolution of stride 1, a ReLU, or a 2x2 pooling of stride 2.

    Attributes:
        name: `conv3_1`, `relu3_1`, `pool3`.
        weight: `[out, in, 3, 3]` of a convolution, else None.
        bias: `[out]` of a convolution, else None.
        winograd: The same convolution by fewer multiplications, where that is faster.
    """

    name: str
    kind: Kind
    weight: Tensor | None = None
    bias: Tensor | None = None
    winograd: Winograd | None = field(init=False, repr=False, default=None)

    def __post_init__(self) -> None:
        if self.weight is not None and pays(self.weight):
            object.__setattr__(self, "winograd", Winograd(self.weight))

    @property
    def nbytes(self) -> int:
        """Of its weights, in each form that they are kept in."""
        tensors = [tensor for tensor in (self.weight, self.bias) if tensor is not None]
        transformed = self.winograd.nbytes if self.winograd else 0
        return sum(tensor.nbytes for tensor in tensors) + transformed

    def to(self, device: str | torch.device | None = None, dtype: torch.dtype | None = None) -> Layer:
        """Return the layer on a device and in a dtype, weights channels-last."""
        if self.weight is None or self.bias is None:
            return self
        weight = self.weight.to(device, dtype).contiguous(memory_format=torch.channels_last)
        return replace(self, weight=weight, bias=self.bias.to(device, dtype))


@dataclass(frozen=True, slots=True, eq=False)
class LossNetwork:
    """A frozen network whose features say what a picture shows and how it is painted.

    Attributes:
        name: Of the architecture: `vgg16`, `vgg19`.
        layers: In order; all tensors have one dtype and device.
        preprocessing: What brings RGB in 0..1 to the network's input.
        pooling: `max`, `avg`, or `l2` (root of the sum of the four squares).
        first_padding: At the border of the picture, for the first convolution; the others pad with zeros.
        pool_scale: Factor on what a pooling layer gives, to keep magnitudes where pooling is not `max`.
    """

    name: str
    layers: tuple[Layer, ...]
    preprocessing: Preprocessing
    pooling: Pooling = "max"
    first_padding: FirstPadding = "zeros"
    pool_scale: float = 1.0

    def preprocess(self, rgb: Tensor) -> Tensor:
        """Return the network's input for RGB in 0..1, `[N, 3, H, W]`, in the network's dtype."""
        return self.preprocessing(rgb).to(self.dtype)

    def taps(self, inputs: Tensor, names: Iterable[str]) -> dict[str, Tensor]:
        """Return the features at the named layers, `[N, C, H // stride, W // stride]` each.

        Nothing that is returned is changed afterwards: convolutions before a ReLU may be named as well.

        Args:
            inputs: What `preprocess` returns, `[N, 3, H, W]`.
            names: Of layers of this network.

        Raises:
            ValueError: If a layer is not known, or the picture is too small for the deepest.
        """
        wanted = set(names)
        deepest = self.deepest(wanted)
        self.check_size(inputs.shape[-2], inputs.shape[-1], wanted)
        found: dict[str, Tensor] = {}
        features = inputs.contiguous(memory_format=torch.channels_last)
        before = ""
        for layer in self.layers:
            if layer.kind == "relu" and before not in wanted:
                features = functional.relu_(features)  # no one else holds it: a third less memory
            else:
                features = self._apply(layer, features)
            if layer.name in wanted:
                found[layer.name] = features
            if layer.name == deepest:
                break
            before = layer.name
        return found

    def convolve(self, layer: Layer, features: Tensor, border: Border = (1, 1, 1, 1)) -> Tensor:
        """Return a convolution, padded where a border is.

        Args:
            layer: A convolution of this network.
            features: `[N, in, h, w]`.
            border: Columns on the left and on the right, rows above and below: 0 or 1 of each.

        Raises:
            ValueError: If the layer has no weights.
        """
        if layer.weight is None or layer.bias is None:
            raise ValueError(f"{layer.name} has no weights")
        left, right, above, below = border
        replicate = self.first_padding == "replicate" and layer is self.layers[0]
        if layer.winograd is not None and not replicate:
            return layer.winograd(features, layer.bias, border)
        if not replicate and left == right and above == below:  # without a copy
            return functional.conv2d(features, layer.weight, layer.bias, padding=(above, left))
        padded = functional.pad(features, border, mode="replicate" if replicate else "constant")
        return functional.conv2d(padded, layer.weight, layer.bias)

    def pool(self, features: Tensor) -> Tensor:
        """Return the features pooled 2x2 with stride 2; a last odd row or column is dropped."""
        if self.pooling == "max":
            pooled = (
                _MaxPool.apply(features) if features.requires_grad else functional.max_pool2d(features, 2)
            )
        elif self.pooling == "avg":
            pooled = functional.avg_pool2d(features, 2)
        else:
            pooled = functional.lp_pool2d(features, 2.0, 2)
        return pooled if self.pool_scale == 1 else pooled * self.pool_scale

    def to(self, device: str | torch.device | None = None, dtype: torch.dtype | None = None) -> LossNetwork:
        """Return the network on a device and in a dtype, weights channels-last."""
        return replace(self, layers=tuple(layer.to(device, dtype) for layer in self.layers))

    def up_to(self, names: Iterable[str]) -> LossNetwork:
        """Return the network without the layers that none of these needs.

        Raises:
            ValueError: If a layer is not known.
        """
        last = [layer.name for layer in self.layers].index(self.deepest(names))
        return replace(self, layers=self.layers[: last + 1])

    def deepest(self, names: Iterable[str]) -> str:
        """Return the last of these layers.

        Raises:
            ValueError: If there is none, or one is not known.
        """
        positions = {layer.name: position for position, layer in enumerate(self.layers)}
        wanted = list(names)
        if not wanted:
            raise ValueError("no layer is named")
        for name in wanted:
            if name not in positions:
                raise ValueError(f"{self.name} has no layer {name!r}; it has {', '.join(positions)}")
        return max(wanted, key=positions.__getitem__)

    def check_size(self, height_px: int, width_px: int, names: Iterable[str]) -> None:
        """Check that a picture has at least one position at each of these layers.

        Raises:
            ValueError: If it has not, there is no layer, or one is not known.
        """
        deepest = self.deepest(names)
        if min(height_px, width_px) < self.stride(deepest):
            raise ValueError(
                f"a picture of {width_px}x{height_px} px is too small for {deepest}: "
                f"both sides need {self.stride(deepest)} px"
            )

    def stride(self, name: str) -> int:
        """Return how many pixels apart the positions of a layer are: 1, 2, 4, 8, 16, 32."""
        return 1 << sum(layer.kind == "pool" for layer in self.up_to([name]).layers)

    def channels(self, name: str) -> int:
        """Return how many channels a layer has."""
        weights = [layer.weight for layer in self.up_to([name]).layers if layer.weight is not None]
        return weights[-1].shape[0]

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights, and so of the features."""
        return self._first_weight.dtype

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self._first_weight.device

    @property
    def _first_weight(self) -> Tensor:
        return next(layer.weight for layer in self.layers if layer.weight is not None)

    def _apply(self, layer: Layer, features: Tensor) -> Tensor:
        if layer.kind == "relu":
            return functional.relu(features)
        if layer.kind == "pool":
            return self.pool(features)
        return self.convolve(layer, features)


class _MaxPool(torch.autograd.Function):
    """Pooling 2x2 by maxima that keeps, for the way back, their places and not the features themselves.

    torch keeps both. The features of a layer that nothing else looks at are then free as soon as they are
    pooled: with those of all blocks, a third of what the graph of a VGG holds.
    """

    @staticmethod
    def forward(ctx: Any, features: Tensor) -> Tensor:
        """Return the pooled features."""
        pooled, places = functional.max_pool2d(features, 2, return_indices=True)
        ctx.save_for_backward(places)
        ctx.shape = features.shape
        return pooled

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        """Return the gradient by the features: of their values torch needs only shape and layout."""
        (places,) = ctx.saved_tensors
        like = torch.empty(
            ctx.shape, dtype=gradient.dtype, device=gradient.device, memory_format=torch.channels_last
        )
        back = torch.ops.aten.max_pool2d_with_indices_backward
        result: Tensor = back(gradient, like, [2, 2], [2, 2], [0, 0], [1, 1], False, places)
        return result


def build_network(name: str, parameters: Sequence[tuple[Tensor, Tensor]], family: str) -> LossNetwork:
    """Return a loss network from the weight and bias of each convolution, in order.

    Args:
        name: `vgg16` or `vgg19`.
        parameters: `([out, in, 3, 3], [out])` for each convolution, or for the first of them.
        family: A name of `PREPROCESSING`.

    Raises:
        ValueError: If a name is not known, or the shapes do not make a network.
    """
    if family not in PREPROCESSING:
        raise ValueError(f"preprocessing {family!r} is not known (there are: {', '.join(PREPROCESSING)})")
    layers: list[Layer] = []
    remaining = iter(parameters)
    channels = 3
    for layer_name, kind in architecture(name):
        if kind != "conv":
            layers.append(Layer(layer_name, kind))
            continue
        weight, bias = next(remaining, (None, None))
        if weight is None or bias is None:
            break
        if weight.shape[1:] != (channels, 3, 3) or bias.shape != weight.shape[:1]:
            raise ValueError(
                f"{layer_name} has weights {tuple(weight.shape)} and biases {tuple(bias.shape)}, "
                f"not [n, {channels}, 3, 3] and [n]"
            )
        channels = weight.shape[0]
        layers.append(Layer(layer_name, kind, weight.detach(), bias.detach()))
    if not layers or next(remaining, None) is not None:
        raise ValueError(f"{len(parameters)} convolutions do not make a {name}")
    return LossNetwork(name, tuple(layers), PREPROCESSING[family]).to()


def architecture(name: str) -> Iterator[tuple[str, Kind]]:
    """Yield the name and kind of each layer, in order.

    Raises:
        ValueError: If the architecture is not known.
    """
    if name not in BLOCKS:
        raise ValueError(f"loss network {name!r} is not known (there are: {', '.join(BLOCKS)})")
    for block, convolutions in enumerate(BLOCKS[name], start=1):
        for index in range(1, convolutions + 1):
            yield f"conv{block}_{index}", "conv"
            yield f"relu{block}_{index}", "relu"
        yield f"pool{block}", "pool"


def seeded(name: str, width: int, seed: int, family: str = "torchvision") -> LossNetwork:
    """Return a narrow random network of a known architecture, the same for the same seed: for tests.

    Args:
        name: `vgg16` or `vgg19`.
        width: Channels of the first block (64 in the real ones); deeper ones have 2, 4, 8, 8 times as many.
        seed: Of the weights: normal, of the deviation that keeps magnitudes through ReLUs; small biases.
        family: A name of `PREPROCESSING`.

    Raises:
        ValueError: If a name is not known.
    """
    generator = torch.Generator().manual_seed(seed)
    parameters = []
    inputs = 3
    for layer_name, kind in architecture(name):
        if kind == "conv":
            outputs = width * _WIDENING[int(layer_name[4]) - 1]
            deviation = (2 / (9 * inputs)) ** 0.5
            weight = torch.randn(outputs, inputs, 3, 3, generator=generator) * deviation
            parameters.append((weight, torch.randn(outputs, generator=generator) * 0.1))
            inputs = outputs
    return build_network(name, parameters, family)
