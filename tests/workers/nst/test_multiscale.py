"""Sizes, schedules and first pictures are what their rules say."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from workers.nst.inits import Init, InitKind, initial_picture
from workers.nst.multiscale import Scale, Schedule, StyleSize, fit, ladder, resize, spread


def test_the_ladder_is_the_one_of_style_transfer_pytorch() -> None:
    assert ladder(512, 128) == [128, 181, 256, 362, 512]
    assert ladder(96, 64) == [68, 96]
    assert ladder(100, 128) == [100]


@given(st.integers(1, 9000), st.integers(1, 600))
def test_a_ladder_grows_by_the_root_of_two_up_to_the_size(longest: int, smallest: int) -> None:
    sides = ladder(longest, smallest)
    assert sides[-1] == longest
    assert sides == sorted(set(sides))
    assert len(sides) == 1 or sides[0] >= smallest
    assert all(large <= small * 2**0.5 + 2 for small, large in itertools.pairwise(sides))


@given(st.lists(st.integers(1, 1000), min_size=1, max_size=9), st.integers(0, 5000))
def test_iterations_are_spread_in_proportion_and_none_is_lost(shares: list[int], extra: int) -> None:
    total = len(shares) + extra
    counts = spread(total, shares)
    assert sum(counts) == total
    assert min(counts) >= 1
    assert all(
        abs(count - 1 - extra * share / sum(shares)) < 1 for count, share in zip(counts, shares, strict=True)
    )


def test_a_schedule_takes_the_iterations_of_the_recipe_or_spreads_a_total() -> None:
    schedule = Schedule(smallest_px=128, iterations=500, first_iterations=1000)
    own = schedule.scales(256)
    assert [(scale.longest_px, scale.iterations) for scale in own] == [(128, 1000), (181, 500), (256, 500)]
    assert [scale.iterations for scale in schedule.scales(256, 203)] == [101, 51, 51]
    assert [scale.longest_px for scale in Schedule(None, 5, 5).scales(700)] == [700]
    with pytest.raises(ValueError, match="2 iterations for 3 scales"):
        schedule.scales(256, 2)


def test_fitting_keeps_proportions_and_no_side_becomes_nothing() -> None:
    assert fit((80, 96), 68) == (57, 68)
    assert fit((90, 120), 512, enlarge=False) == (90, 120)
    assert fit((90, 120), 512) == (384, 512)
    assert fit((2, 3000), 300) == (1, 300)


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (StyleSize("longest"), (100, 50)),
        (StyleSize("longest", factor=0.5), (50, 25)),
        (StyleSize("longest", factor=3.0), (200, 100)),
        (StyleSize("longest", factor=3.0, enlarge=True), (300, 150)),
        (StyleSize("shortest", enlarge=True), (160, 80)),
        (StyleSize("width"), (200, 100)),
        (StyleSize("width", factor=0.5), (100, 50)),
        (StyleSize("stretch"), (80, 100)),
        (StyleSize(longest_px=150), (150, 75)),
        (StyleSize(longest_px=400), (200, 100)),
    ],
)
def test_style_sizes_follow_their_rule(rule: StyleSize, expected: tuple[int, int]) -> None:
    """A style image of 200 x 100 px beside a picture of 80 x 100 px, height first."""
    assert rule.of((200, 100), (80, 100)) == expected


def test_resizing_to_the_same_size_changes_nothing_and_smaller_sizes_are_low_passed() -> None:
    stripes = torch.tensor([0.0, 1.0]).repeat(16).expand(1, 3, 32, 32)
    assert resize(stripes, (32, 32)) is stripes
    small = resize(stripes, (8, 8))
    assert float((small[..., 1:-1] - 0.5).abs().max()) < 0.05
    large = resize(torch.full((1, 3, 4, 4), 0.25), (7, 9))
    torch.testing.assert_close(large, torch.full((1, 3, 7, 9), 0.25))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Scale(0, 1), "longest side of 0 px"),
        (lambda: Scale(64, 0), "0 iterations at 64 px"),
        (lambda: Scale(64, 1, style=-1.0), "factor of -1.0 on style"),
        (lambda: StyleSize(factor=0.0), "style scale of 0.0"),
        (lambda: StyleSize(longest_px=0), "style size of 0 px"),
    ],
)
def test_sizes_that_cannot_be_are_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


# --- first pictures -----------------------------------------------------------------------------------------

NEUTRAL = (0.2, 0.4, 0.6)


def image(seed: int, height: int = 40, width: int = 50) -> Tensor:
    return torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(seed))


def first(kind: InitKind, seed: int = 0, sigma: float = 1.0, noise_blend: float = 0.0) -> Tensor:
    styles = ((1.0, image(1) * 0.2), (3.0, image(2) * 0.2 + 0.5))
    generator = torch.Generator().manual_seed(seed)
    return initial_picture(
        Init(kind, sigma, noise_blend), image(0), styles, NEUTRAL, generator, given=image(4, 20, 25)
    )


@pytest.mark.parametrize(
    "kind", ["content", "noise", "style", "gray", "uniform", "normal", "style-statistics", "picture"]
)
def test_a_first_picture_is_as_large_as_the_content_and_the_same_for_a_seed(kind: InitKind) -> None:
    assert first(kind).shape == (1, 3, 40, 50)
    assert torch.equal(first(kind), first(kind))
    if kind not in {"content", "style", "picture"}:
        assert not torch.equal(first(kind, seed=1), first(kind))


def test_first_pictures_have_the_statistics_that_they_should() -> None:
    assert torch.equal(first("content"), image(0))
    noise = first("noise", sigma=0.01)
    torch.testing.assert_close(noise.mean((0, 2, 3)), torch.tensor(NEUTRAL), atol=2e-3, rtol=0)
    assert float(noise.std((2, 3)).mean()) == pytest.approx(0.01, rel=0.1)
    assert 0.5 <= float(first("gray").min()) <= float(first("gray").max()) <= 0.5 + 1 / 255
    assert float(first("uniform").std()) == pytest.approx(12**-0.5, rel=0.05)
    normal = first("normal")
    assert 0 <= float(normal.min()) < float(normal.max()) <= 1
    styles = torch.cat([image(1) * 0.2, *[image(2) * 0.2 + 0.5] * 3], dim=3)
    statistics = first("style-statistics")
    torch.testing.assert_close(statistics.mean((0, 2, 3)), styles.mean((0, 2, 3)), atol=0.03, rtol=0)
    torch.testing.assert_close(statistics.std((0, 2, 3)), styles.std((0, 2, 3)), atol=0.03, rtol=0)


def test_noise_is_blended_into_any_first_picture() -> None:
    noise, content = first("noise", sigma=0.5), first("content")
    torch.testing.assert_close(
        first("content", sigma=0.5, noise_blend=0.3), 0.7 * content + 0.3 * noise, atol=1e-6, rtol=0
    )


@pytest.mark.parametrize("kind", ["style", "style-statistics", "picture"])
def test_a_first_picture_that_needs_another_one_says_so(kind: InitKind) -> None:
    with pytest.raises(ValueError, match="needs a"):
        initial_picture(Init(kind), image(0), (), NEUTRAL, torch.Generator(), given=None)
