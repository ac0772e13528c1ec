"""Colors of the content are kept as each method says."""

from __future__ import annotations

import colorsys
from collections.abc import Callable
from typing import get_args

import pytest
import torch
from torch import Tensor

from workers.nst.color import REC601, ColorMethod, ColorRule, transfer_color


def image(seed: int, height: int = 12, width: int = 15) -> Tensor:
    return torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def calm(seed: int) -> Tensor:
    """Return a picture whose colors stay in range when its luma moves."""
    return image(seed) * 0.2 + 0.4


def luma(rgb: Tensor) -> Tensor:
    return (rgb * torch.tensor(REC601, dtype=rgb.dtype).view(1, 3, 1, 1)).sum(1)


def chroma(rgb: Tensor) -> Tensor:
    """Return Cb and Cr of Rec. 601, full range."""
    y = luma(rgb)
    return torch.stack([(rgb[:, 2] - y) / 1.772, (rgb[:, 0] - y) / 1.402])


@pytest.mark.parametrize("method", ["ycbcr", "yuv"])
def test_luma_is_the_pictures_and_chroma_the_contents(method: ColorMethod) -> None:
    found = transfer_color(method, calm(0), calm(1))
    torch.testing.assert_close(luma(found), luma(calm(0)))
    torch.testing.assert_close(chroma(found), chroma(calm(1)))


def test_value_is_the_pictures_and_hue_and_saturation_the_contents() -> None:
    picture, colors = image(0), image(1)
    found = transfer_color("hsv", picture, colors)
    for y in range(picture.shape[2]):
        h, s, _ = colorsys.rgb_to_hsv(*colors[0, :, y, 3].tolist())
        _, _, v = colorsys.rgb_to_hsv(*picture[0, :, y, 3].tolist())
        assert found[0, :, y, 3].tolist() == pytest.approx(colorsys.hsv_to_rgb(h, s, v))
    black = torch.zeros_like(colors)
    torch.testing.assert_close(
        transfer_color("hsv", picture, black), picture.amax(1, keepdim=True).expand(1, 3, 12, 15)
    )


def test_histograms_become_the_contents_and_the_order_of_values_stays() -> None:
    picture, colors = image(0), image(1) ** 2
    found = transfer_color("histogram", picture, colors)
    torch.testing.assert_close(found.flatten(2).sort(2).values, colors.flatten(2).sort(2).values)
    assert torch.equal(found.flatten(2).argsort(2), picture.flatten(2).argsort(2))
    other_size = transfer_color("histogram", picture, image(2, 30, 31) ** 2)
    assert float(other_size.mean()) == pytest.approx(1 / 3, abs=0.03)


def test_mean_and_covariance_become_the_contents() -> None:
    mixing = torch.tensor([[0.5, 0.2, 0.1], [0.1, 0.4, 0.1], [0.0, 0.2, 0.5]], dtype=torch.float64)
    colors = torch.einsum("ij,njhw->nihw", mixing, image(1, 9, 9)) * 0.3 + 0.3
    found = transfer_color("mean-covariance", calm(0), colors).flatten(2)[0]
    torch.testing.assert_close(found.mean(1), colors.flatten(2)[0].mean(1))
    torch.testing.assert_close(torch.cov(found, correction=0), torch.cov(colors.flatten(2)[0], correction=0))


def test_a_gray_picture_takes_the_mean_color_without_infinities() -> None:
    found = transfer_color("mean-covariance", torch.full((1, 3, 8, 8), 0.5), image(1).float())
    assert bool(found.isfinite().all())
    torch.testing.assert_close(found[0, :, 0, 0], image(1).float().mean((0, 2, 3)), atol=1e-4, rtol=0)


@pytest.mark.parametrize("method", get_args(ColorMethod))
def test_every_method_leaves_a_picture_with_its_own_colors_as_it_is_and_stays_in_range(
    method: ColorMethod,
) -> None:
    torch.testing.assert_close(transfer_color(method, image(3), image(3)), image(3))
    found = transfer_color(method, image(4), image(5))
    assert 0 <= float(found.min()) <= float(found.max()) <= 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: transfer_color("lab", image(0), image(1)), "'lab' is not known"),  # type: ignore[arg-type]
        (lambda: transfer_color("hsv", image(0), image(1, 9, 9)), "do not go together"),
        (lambda: ColorRule("lab"), "'lab' is not known"),  # type: ignore[arg-type]
        (lambda: ColorRule("ycbcr", "before"), "there is only histogram and mean-covariance"),
    ],
)
def test_what_cannot_be_is_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
