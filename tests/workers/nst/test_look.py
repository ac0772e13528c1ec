"""The look of a picture does not hang on its size, and is further away the more the strokes differ."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from workers.nst.features import seeded
from workers.nst.look import look_distance, style_distance
from workers.nst.multiscale import resize

NETWORK = seeded("vgg19", 4, seed=0)
LAYERS = ("relu1_1", "relu2_1", "relu3_1")


def strokes(side_px: int, period: float, angle: float = 0.5) -> Tensor:
    """Return stripes whose period is a part of the side, in three colors: the same look at every size."""
    steps = (torch.arange(side_px) + 0.5) / side_px
    y, x = torch.meshgrid(steps, steps, indexing="ij")
    phase = (x * torch.cos(torch.tensor(angle)) + y * torch.sin(torch.tensor(angle))) * 6.283 / period
    return torch.stack([0.5 + 0.4 * (phase + shift).sin() for shift in (0.0, 1.0, 2.5)])[None]


def test_a_picture_has_the_look_of_itself() -> None:
    picture = strokes(64, 0.25)
    assert look_distance(NETWORK, LAYERS, picture, picture) == 0


def test_a_picture_keeps_its_look_when_it_is_enlarged() -> None:
    """Without the common size, the features of the enlarged picture would be others."""
    small = strokes(64, 0.25)
    rendered_large, enlarged = strokes(192, 0.25), resize(small, (192, 192))
    other = look_distance(NETWORK, LAYERS, strokes(64, 0.125), small)
    for large in (rendered_large, enlarged):
        assert look_distance(NETWORK, LAYERS, large, small) < 0.02 * other
        assert look_distance(NETWORK, LAYERS, small, large) < 0.02 * other


def test_finer_strokes_on_a_larger_picture_are_another_look() -> None:
    """The failure of a large render at a single scale: strokes of as many pixels, and so of another size."""
    small = strokes(64, 0.25)
    assert look_distance(NETWORK, LAYERS, strokes(192, 0.25 / 3), small) > 10 * look_distance(
        NETWORK, LAYERS, strokes(192, 0.26), small
    )


def test_it_is_the_formula_of_gram_matrices() -> None:
    first, second = strokes(48, 0.3), strokes(48, 0.2)
    wanted = []
    for layer in LAYERS:
        grams = []
        for picture in (first, second):
            features = NETWORK.taps(NETWORK.preprocess(picture), [layer])[layer][0].flatten(1).double()
            grams.append(features @ features.T / features.shape[1])
        wanted.append(float((grams[0] - grams[1]).square().sum() / grams[1].square().sum()))
    expected = sum(wanted) / len(wanted)
    assert look_distance(NETWORK, LAYERS, first, second) == pytest.approx(expected, rel=1e-5)


def test_pictures_are_compared_at_the_smallest_of_their_sizes() -> None:
    large, small = strokes(96, 0.3), strokes(48, 0.2)
    reduced = resize(large, (48, 48)).clamp(0, 1)
    expected = look_distance(NETWORK, LAYERS, reduced, small)
    assert look_distance(NETWORK, LAYERS, large, small, longest_px=80) == expected
    assert look_distance(NETWORK, LAYERS, large, small, longest_px=32) != expected


def test_a_blend_of_styles_lies_between_them() -> None:
    first, second = strokes(48, 0.3), strokes(48, 0.15)

    def distance(weight: float) -> float:
        return style_distance(NETWORK, LAYERS, first, [(weight, first), (1 - weight, second)])

    assert distance(1.0) == 0
    assert 0 < distance(0.75) < distance(0.25) < distance(0.0)
    assert distance(0.0) == look_distance(NETWORK, LAYERS, first, second)
    doubled = style_distance(NETWORK, LAYERS, first, [(6.0, first), (2.0, second)])
    assert doubled == pytest.approx(distance(0.75))


def test_what_cannot_be_compared_is_said() -> None:
    picture = strokes(32, 0.25)
    with pytest.raises(ValueError, match="none is named"):
        look_distance(NETWORK, [], picture, picture)
    with pytest.raises(ValueError, match="no layer 'relu9_9'"):
        look_distance(NETWORK, ["relu9_9"], picture, picture)
    with pytest.raises(ValueError, match="add up to 0"):
        style_distance(NETWORK, LAYERS, picture, [(0.0, picture)])
    with pytest.raises(ValueError, match="too small for relu3_1"):
        look_distance(NETWORK, LAYERS, picture, picture, longest_px=3)
