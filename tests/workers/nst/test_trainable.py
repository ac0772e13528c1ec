"""The form of the network that trains: the same pictures and the same gradients as the plain one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.workers.nst.plain import plain_transformer, seeded_picture, seeded_state
from workers.nst import trainable
from workers.nst.trainable import styled, trained_parameters
from workers.nst.transformer import TransformerNet


def seeded_net(dtype: torch.dtype, width: int = 2) -> TransformerNet:
    net = TransformerNet(width).to(dtype)
    net.load_state_dict(seeded_state(width))
    return net


def batch(count: int, height: int, width: int) -> Tensor:
    pictures = [seeded_picture(height, width, seed).permute(2, 0, 1) for seed in range(count)]
    return torch.stack(pictures).double()


def gradients(picture: Tensor, leaves: dict[str, Tensor], towards: Tensor) -> dict[str, Tensor]:
    loss = (picture - towards).square().mean()
    return dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))


@pytest.mark.parametrize(("height", "width"), [(16, 16), (13, 22)])
def test_pictures_and_gradients_are_those_of_the_plain_network(height: int, width: int) -> None:
    """In float64, where nothing but the formula decides; each side is rounded up to a multiple of 4."""
    photographs = batch(2, height, width)
    net = seeded_net(torch.float64)
    ours = styled(net, photographs, torch.float64)
    state = {name: value.detach().clone().requires_grad_() for name, value in net.named_parameters()}
    plain = plain_transformer(state, photographs)
    torch.testing.assert_close(ours, plain, rtol=1e-9, atol=1e-7)
    towards = torch.rand_like(plain) * 255
    parameters: dict[str, Tensor] = dict(trained_parameters(net))
    found = gradients(ours, parameters, towards)
    expected = gradients(plain, {name: state[name] for name in parameters}, towards)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-7, atol=1e-9, msg=name)


def test_only_biases_in_front_of_a_norm_are_left_alone() -> None:
    """They cancel out, so their gradients are nothing but rounding."""
    net = seeded_net(torch.float64)
    left_alone = {name for name, _ in net.named_parameters()} - trained_parameters(net).keys()
    assert len(left_alone) == 15
    assert all(name.endswith("conv2d.bias") for name in left_alone)
    state: dict[str, Tensor] = dict(net.named_parameters())
    plain = plain_transformer(state, batch(1, 16, 16))
    moved = {name: value + 3 if name in left_alone else value for name, value in state.items()}
    torch.testing.assert_close(plain_transformer(moved, batch(1, 16, 16)), plain)


def test_the_norm_of_other_devices_is_that_of_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    net, photographs = seeded_net(torch.float64), batch(2, 16, 20)
    usual = styled(net, photographs, torch.float64)
    monkeypatch.setattr(trainable, "_cpu_norm", trainable._norm)
    torch.testing.assert_close(styled(net, photographs, torch.float64), usual, rtol=1e-10, atol=1e-8)


def test_bf16_is_near_fp32_and_gives_float32_gradients() -> None:
    net, photographs = seeded_net(torch.float32, width=8), batch(1, 32, 32).float()
    exact, rough = (styled(net, photographs, dtype) for dtype in (torch.float32, torch.bfloat16))
    assert rough.dtype == torch.bfloat16
    assert float((exact - rough.float()).detach().abs().mean()) < 4
    towards = torch.full_like(exact, 128.0)
    for name, gradient in gradients(rough.float(), dict(trained_parameters(net)), towards).items():
        assert gradient.dtype == torch.float32, name
