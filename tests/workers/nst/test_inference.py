"""The network gives the published network's picture, and so does its fast form."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.workers.nst.plain import plain_transformer, seeded_picture, seeded_state
from workers.nst.inference import (
    InferenceNet,
    fold_shuffle,
    fold_upsampling,
    normalize,
    prepare_for_inference,
    render_batch,
    render_bytes,
)
from workers.nst.transformer import TransformerNet, parameter_shapes

REFERENCE = Path(__file__).parents[2] / "reference" / "transformer_w2.npz"


def seeded_net(width: int = 2, seed: int = 0) -> TransformerNet:
    net = TransformerNet(width)
    net.load_state_dict(seeded_state(width, seed))
    return net.eval()


def as_input(picture: torch.Tensor) -> torch.Tensor:
    return picture.permute(2, 0, 1)[None].float()


def test_the_published_network_has_62_parameters_of_the_published_sizes() -> None:
    """Files of others load key by key, so keys and shapes are a promise."""
    shapes = parameter_shapes(32)
    assert len(shapes) == 62
    assert sum(int(np.prod(shape)) for shape in shapes.values()) == 1_679_235
    assert shapes == {name: tuple(value.shape) for name, value in seeded_state(32).items()}


@pytest.mark.parametrize("size", ["37x50", "24x20"])
def test_the_stored_pictures_are_rendered_again(size: str) -> None:
    """Results made today and in a year are the same pictures; see tests/reference/make_transformer.py."""
    stored = torch.from_numpy(np.load(REFERENCE)[size])
    picture = seeded_picture(*stored.shape[:2])
    with torch.inference_mode():
        plain = seeded_net()(as_input(picture))[0, :, : stored.shape[0], : stored.shape[1]]
    assert (plain.permute(1, 2, 0) - stored).abs().max() < 0.01
    rendered = render_batch(prepare_for_inference(seeded_net()), picture[None])[0]
    assert stored.std() > 20, "a flat picture would prove nothing"
    assert (rendered - stored.clamp(0, 255)).abs().max() <= 0.51


@pytest.mark.parametrize("width", [1, 3, 4])
@pytest.mark.parametrize("size", [(5, 5), (5, 9), (16, 16), (33, 47), (65, 66)])
def test_the_fast_form_gives_the_same_picture(width: int, size: tuple[int, int]) -> None:
    """Every rewriting in it is exact up to rounding, at any size and base width."""
    net, x = seeded_net(width), as_input(seeded_picture(*size))
    with torch.inference_mode():
        expected = plain_transformer(net.state_dict(), x.double())
        fast = prepare_for_inference(net)(x)
    assert fast.shape == expected.shape == (1, 3, -(-size[0] // 4) * 4, -(-size[1] // 4) * 4)
    assert (fast - expected).abs().max() < 0.01


def test_bf16_gives_nearly_the_same_picture() -> None:
    picture = seeded_picture(64, 48)
    full, half = (
        render_batch(prepare_for_inference(seeded_net(4), p), picture[None]) for p in ("fp32", "bf16")
    )
    difference = (full.int() - half.int()).abs().float()
    assert 0 < difference.mean() < 3


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(ValueError, match="fp32, bf16"):
        prepare_for_inference(seeded_net(), "fp8")  # type: ignore[arg-type]


def test_folded_upsampling_is_upsampling_padding_and_convolution() -> None:
    weight, x = torch.randn(3, 2, 3, 3, dtype=torch.float64), torch.randn(1, 2, 5, 4, dtype=torch.float64)
    doubled = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
    expected = torch.conv2d(torch.nn.functional.pad(doubled, [1] * 4, "reflect"), weight)
    padded = torch.nn.functional.pad(x, [1] * 4, "replicate")
    folded = torch.conv_transpose2d(padded, fold_upsampling(weight), stride=2, padding=3)
    torch.testing.assert_close(folded, expected)


def test_the_folded_last_convolution_is_the_convolution() -> None:
    weight, x = torch.randn(3, 2, 9, 9, dtype=torch.float64), torch.randn(1, 2, 16, 20, dtype=torch.float64)
    folded = torch.pixel_shuffle(torch.conv2d(x, fold_shuffle(weight), stride=2), 2)
    torch.testing.assert_close(folded, torch.conv2d(x, weight))


@pytest.mark.parametrize(("height", "width"), [(1, 3), (20, 31), (32, 32), (600, 800)])
@pytest.mark.parametrize(("offset", "error"), [(0, 1e-4), (30, 0.015)])
def test_norm_statistics_keep_their_digits(height: int, width: int, offset: int, error: float) -> None:
    """Also where the mean is many deviations away from zero, in a large picture, in a batch of several.

    The channels-last group norm of torch is off by 0.03 in the largest of these.
    """
    x = torch.randn(2, 3, height, width) * torch.tensor([1.0, 5.0]).view(2, 1, 1, 1) + offset
    x = x.contiguous(memory_format=torch.channels_last)
    scale, shift = torch.tensor([0.5, 1.0, 2.0]), torch.tensor([0.0, -1.0, 3.0])
    expected = torch.nn.functional.instance_norm(x.double(), weight=scale.double(), bias=shift.double())
    assert (normalize(x, scale, shift) - expected).abs().max() < error


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (2, 2), (3, 4), (4, 9), (5, 5), (7, 130)])
def test_a_picture_of_any_size_keeps_its_size(size: tuple[int, int]) -> None:
    net = prepare_for_inference(seeded_net())
    rendered = render_batch(net, seeded_picture(*size)[None])
    assert rendered.shape == (1, *size, 3)
    assert rendered.dtype == torch.uint8


def test_a_picture_below_the_minimum_is_rendered_as_its_reflection() -> None:
    picture = seeded_picture(3, 4)
    rows, columns = [0, 1, 2, 1, 0], [0, 1, 2, 3, 2]
    grown = picture[rows][:, columns]
    net = prepare_for_inference(seeded_net())
    assert torch.equal(render_batch(net, picture[None])[0], render_batch(net, grown[None])[0, :3, :4])


def test_values_are_clamped_and_rounded_not_truncated() -> None:
    net = seeded_net()
    picture = seeded_picture(20, 20)
    with torch.inference_mode():
        net.deconv3.conv2d.weight.mul_(4)
        exact = plain_transformer(net.state_dict(), as_input(picture).double())[0].permute(1, 2, 0)
    assert exact.min() < -5
    assert exact.max() > 260
    rendered = render_batch(prepare_for_inference(net), picture[None])[0]
    error = rendered - exact.clamp(0, 255)
    assert error.abs().max() < 0.51
    assert abs(error[(exact > 1) & (exact < 254)].mean()) < 0.1, "truncation would be off by a half"


def test_each_picture_of_a_batch_is_rendered_as_it_is_alone() -> None:
    """Instance norm uses the statistics of each picture, so neighbors in a batch change nothing."""
    net = prepare_for_inference(seeded_net(3))
    pictures = torch.stack([seeded_picture(30, 41, seed) for seed in range(3)])
    together = render_batch(net, pictures)
    for n in range(3):
        alone = render_batch(net, pictures[n : n + 1])[0]
        assert (alone.int() - together[n].int()).abs().max() <= 1


def test_the_same_picture_twice_gives_the_same_bytes() -> None:
    net = prepare_for_inference(seeded_net(4))
    picture = seeded_picture(50, 70)[None]
    assert torch.equal(render_batch(net, picture), render_batch(net, picture))


def test_preparing_leaves_the_network_as_it_is() -> None:
    net = seeded_net()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    prepared = prepare_for_inference(net)
    render_batch(prepared, seeded_picture(9, 9)[None])
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert not any(parameter.requires_grad for parameter in prepared.parameters())
    assert prepared.weight_bytes > 4 * 62


@pytest.mark.parametrize(
    "wrong",
    [
        torch.zeros(1, 8, 8, 3),
        torch.zeros(8, 8, 3, dtype=torch.uint8),
        torch.zeros(1, 3, 8, 8, dtype=torch.uint8),
        torch.zeros(0, 8, 8, 3, dtype=torch.uint8),
        torch.zeros(1, 0, 8, 3, dtype=torch.uint8),
    ],
)
def test_what_is_no_picture_is_refused(wrong: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="not uint8 pictures"):
        render_batch(prepare_for_inference(seeded_net()), wrong)


def test_values_that_are_no_numbers_are_refused() -> None:
    """They would become arbitrary bytes in a picture that looks finished."""
    net = seeded_net()
    with torch.no_grad():
        net.in1.weight.fill_(1e38)
        net.res1.in2.weight.fill_(1e38)
    with pytest.raises(ValueError, match="no numbers"):
        render_batch(prepare_for_inference(net), seeded_picture(9, 9)[None])


def test_memory_that_cannot_be_had_is_said_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    """The allocator of the CPU raises a bare RuntimeError; callers tell memory from other failures."""
    net = prepare_for_inference(seeded_net())

    def allocate(_net: InferenceNet, _x: torch.Tensor) -> torch.Tensor:
        return torch.empty(1 << 60, dtype=torch.uint8)

    monkeypatch.setattr(InferenceNet, "forward", allocate)
    with pytest.raises(torch.OutOfMemoryError):
        render_batch(net, seeded_picture(9, 9)[None])


def test_the_estimate_of_memory_grows_with_the_picture_and_shrinks_in_bf16() -> None:
    full, half = (prepare_for_inference(seeded_net(32), precision) for precision in ("fp32", "bf16"))
    assert render_bytes(full, 4000, 3000) > 12e6 * 2 * 32 * 4
    assert render_bytes(half, 4000, 3000) < render_bytes(full, 4000, 3000)
    assert render_bytes(full, 40, 30) < render_bytes(full, 4000, 3000) / 10
