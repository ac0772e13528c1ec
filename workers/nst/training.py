"""Training one style: a feedforward network learns to do in one pass what an optimization does in hundreds.

Johnson et al. 2016. A training may stop after any step and goes on from its state to the bit, on the same
kind of device with as many threads. Several members of a group share each batch and hold the same network.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from workers.nst.features import LossNetwork
from workers.nst.group import Alone, Group
from workers.nst.inference import DTYPES, Precision, prepare_for_inference, render_batch
from workers.nst.trainable import styled, trained_parameters
from workers.nst.training_losses import BatchLoss, style_targets
from workers.nst.training_presets import TrainingRecipe
from workers.nst.transformer import TransformerNet

STATE_VERSION = 1

_LAST = "deconv3."
_GRAY = 127.5

Terms = dict[str, float]
"""A loss by name: `loss` is the sum of `content`, `style` and `tv`; `style relu1_1` is part of `style`."""


class TrainingDivergedError(ValueError):
    """The loss is no finite number any more: go back to an earlier state, and on with a smaller rate."""


@dataclass(frozen=True, slots=True)
class OutputStatistics:
    """What tells a network that learns from one that has died.

    Attributes:
        mean: Of all values of some pictures, clamped to 0..255.
        std: Of the same.
        saturated: Share of the values that had to be clamped by more than 16 levels.
    """

    mean: float
    std: float
    saturated: float

    @property
    def trouble(self) -> str:
        """What is wrong, or an empty string."""
        if not (math.isfinite(self.mean) and math.isfinite(self.std)):
            return "its pictures are no numbers"
        if self.std < 2:
            return f"its pictures are one color, about {self.mean:.0f} of 255"
        if self.saturated > 0.5:
            return f"{self.saturated:.0%} of its values are far outside 0..255"
        return ""


class Training:
    """A network on its way to a style.

    Args:
        recipe: What to do. network: The loss network, float32, on the device to compute on. net: Where to
        begin; it is copied. styles: Weight of each painting and its RGB in 0..1, `[1, 3, H, W]`, at the size
        that it is learned at. precision: Of features and convolutions; the parameters themselves and Adam
        stay float32. group: Who trains together: all call the same methods, each with its own part of a
        batch.

    Raises:
        ValueError: If a layer is not in the loss network, or a painting is too small for it.
    """

    def __init__(
        self,
        recipe: TrainingRecipe,
        network: LossNetwork,
        net: TransformerNet,
        styles: Sequence[tuple[float, Tensor]],
        *,
        precision: Precision = "fp32",
        group: Group | None = None,
    ) -> None:
        if precision not in DTYPES:
            raise ValueError(f"precision {precision!r} is not one of {', '.join(DTYPES)}")
        self.recipe = recipe
        self.steps_done = 0
        self.rate_factor = 1.0
        self._group: Group = group or Alone()
        self._dtype = DTYPES[precision]
        self._device = network.device
        objective = recipe.objective
        network.check_size(recipe.crop.side_px >> (objective.pyramid_levels - 1), 1 << 16, objective.layers)
        frozen = network.to(dtype=self._dtype)
        # The targets are what all steps aim at: they are worth float32.
        self._loss = BatchLoss(objective, frozen, style_targets(objective, network, styles))
        self._net = _copied(net).to(self._device)
        self._parameters = trained_parameters(self._net)
        last = {name: value for name, value in self._parameters.items() if name.startswith(_LAST)}
        others = {name: value for name, value in self._parameters.items() if name not in last}
        # In the order of the groups, so that a state names what is Adam's number of a parameter.
        self._parameters = others | last
        self._optimizer = torch.optim.Adam(
            [
                {"params": list(others.values()), "scale": 1.0},
                {"params": list(last.values()), "scale": recipe.output_scale},
            ],
            lr=recipe.learning_rate,
        )

    def step(self, batch: Tensor, total: int | None = None) -> Terms:
        """Learn from photographs; return the loss that the network had before.

        Args:
            batch: uint8 `[N, 3, side, side]`, RGB: this member's part of the batch.
            total: Photographs in the parts of all members; N if it is left out.

        Raises:
            TrainingDivergedError: If the loss is no finite number; the network is then as it was.
        """
        self._optimizer.zero_grad(set_to_none=True)
        terms = self._terms(batch)
        sums = torch.stack([value.detach().float() for value in terms.values()])
        torch.autograd.backward(torch.stack(list(terms.values())).sum())
        gradients, sums = self._shared(sums, total or batch.shape[0])
        found = _named(dict(zip(terms, sums.tolist(), strict=True)))
        if not math.isfinite(found["loss"]) or not bool(torch.isfinite(gradients).all()):
            raise TrainingDivergedError(f"the loss became {found['loss']} at step {self.steps_done + 1}")
        self._apply(gradients)
        self.steps_done += 1
        return found

    def validate(self, batch: Tensor) -> Terms:
        """Return the loss over photographs, uint8 `[N, 3, side, side]`, without learning from them."""
        with torch.no_grad():
            terms = self._terms(batch)
            return _named({name: float(value) / batch.shape[0] for name, value in terms.items()})

    def look(self, batch: Tensor) -> OutputStatistics:
        """Return what the pictures of photographs, uint8 `[N, 3, side, side]`, are like."""
        with torch.no_grad():
            values = styled(self._net, self._photographs(batch), self._dtype).float()
            off = ((values < -16) | (values > 255 + 16)).float().mean()
            shown = values.clamp(0, 255)
            return OutputStatistics(float(shown.mean()), float(shown.std()), float(off))

    def render(self, pixels: Tensor) -> Tensor:
        """Return a photograph, uint8 `[H, W, 3]`, in the style as it is now, of the same shape, on the CPU.

        Raises:
            ValueError: If the network gives values that are no numbers.
        """
        net = prepare_for_inference(self._net, "fp32", self._device)
        return render_batch(net, pixels.unsqueeze(0))[0]

    def trained(self) -> TransformerNet:
        """Return a copy of the network as it is now, float32 on the CPU."""
        return _copied(self._net).eval()

    def state_dict(self) -> dict[str, Any]:
        """Return all that is needed to go on, as tensors and plain values."""
        moments = self._optimizer.state_dict()["state"]
        return {
            "version": STATE_VERSION,
            "width": self._net.width,
            "steps_done": self.steps_done,
            "rate_factor": self.rate_factor,
            "net": {name: value.detach().clone() for name, value in self._net.state_dict().items()},
            "adam": {
                name: {key: value.clone() for key, value in moments[number].items()}
                for number, name in enumerate(self._parameters)
                if number in moments
            },
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` returned.

        Raises:
            ValueError: If it is of another layout or network.
        """
        if state.get("version") != STATE_VERSION:
            raise ValueError(
                f"a state of layout {state.get('version')!r}: this version reads {STATE_VERSION}"
            )
        if state["width"] != self._net.width:
            raise ValueError(f"the state is of base width {state['width']}, not {self._net.width}")
        self._net.load_state_dict(state["net"])
        numbers = {name: number for number, name in enumerate(self._parameters)}
        ours = self._optimizer.state_dict()
        ours["state"] = {
            numbers[name]: {key: value.clone() for key, value in moments.items()}
            for name, moments in state["adam"].items()
        }
        self._optimizer.load_state_dict(ours)
        self.steps_done = int(state["steps_done"])
        self.rate_factor = float(state["rate_factor"])

    def _terms(self, batch: Tensor) -> dict[str, Tensor]:
        """Return each term, added up over this member's photographs."""
        photographs = self._photographs(batch)
        height, width = photographs.shape[-2:]
        pictures = styled(self._net, photographs, self._dtype)[..., :height, :width]
        return self._loss(pictures, photographs)

    def _photographs(self, batch: Tensor) -> Tensor:
        if batch.dtype != torch.uint8 or batch.dim() != 4 or batch.shape[1] != 3:
            raise ValueError(f"not uint8 photographs [N, 3, H, W]: {batch.dtype} {tuple(batch.shape)}")
        return batch.to(self._device).float()

    def _shared(self, sums: Tensor, total: int) -> tuple[Tensor, Tensor]:
        """Return the gradients, end to end, and the terms: means over the photographs of all members."""
        flat = [parameter.grad.flatten() for parameter in self._parameters.values()]  # type: ignore[union-attr]
        together = self._group.reduce(torch.cat([*flat, sums])) / total
        return together[: -len(sums)], together[-len(sums) :]

    def _apply(self, gradients: Tensor) -> None:
        sizes = [parameter.numel() for parameter in self._parameters.values()]
        for parameter, gradient in zip(self._parameters.values(), torch.split(gradients, sizes), strict=True):
            parameter.grad = gradient.view_as(parameter)
        for options in self._optimizer.param_groups:
            options["lr"] = self.recipe.rate_at(self.steps_done) * self.rate_factor * options["scale"]
        self._optimizer.step()


def untrained(recipe: TrainingRecipe, width: int, seed: int) -> TransformerNet:
    """Return a network of a base width with random weights, the same for the same seed."""
    net = _unfilled(width)
    # As torch fills a convolution, but by random numbers that no other thread draws from.
    generator = torch.Generator().manual_seed(seed)
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_uniform_(module.weight, a=math.sqrt(5), generator=generator)
            bound = 1 / math.sqrt(module.weight[0].numel())
            nn.init.uniform_(module.get_parameter("bias"), -bound, bound, generator=generator)
        elif isinstance(module, nn.InstanceNorm2d):
            module.reset_parameters()
    if recipe.output_scale != 1:
        with torch.no_grad():
            net.deconv3.conv2d.weight.mul_(recipe.output_scale)
            net.deconv3.conv2d.get_parameter("bias").fill_(_GRAY)
    return net


def _copied(net: TransformerNet) -> TransformerNet:
    copy = _unfilled(net.width)
    copy.load_state_dict({name: value.detach().float().cpu() for name, value in net.state_dict().items()})
    return copy


def _unfilled(width: int) -> TransformerNet:
    """Return a network whose parameters are to be filled; to make it takes no random numbers."""
    with torch.device("meta"):
        net = TransformerNet(width)
    return net.to_empty(device="cpu")


def _named(terms: Terms) -> Terms:
    """Return the terms with `loss` and `style`, their sums, first."""
    style = sum(value for name, value in terms.items() if name.startswith("style "))
    return {"loss": sum(terms.values()), "content": terms.get("content", 0.0), "style": style, **terms}
