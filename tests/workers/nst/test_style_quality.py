"""A style's figures: nothing learned is (0, 1); a picture that is the painting has no error of style."""

from __future__ import annotations

import pytest

from tests.workers.nst.plain import seeded_picture
from workers.nst.features import seeded
from workers.nst.style_quality import style_quality

NETWORK = seeded("vgg19", 2, seed=0)
PHOTOGRAPHS = [seeded_picture(40, 48, seed) for seed in range(3)]
PAINTING = seeded_picture(64, 56, 9).flip(0)


def test_doing_nothing_leaves_the_content_and_the_whole_error_of_style() -> None:
    found = style_quality(NETWORK, lambda photograph: photograph, PHOTOGRAPHS, PAINTING)
    assert (found.content_error, found.style_error, found.photographs) == (0.0, 1.0, 3)


def test_the_painting_itself_has_its_style_and_nothing_of_the_photograph() -> None:
    painting = PAINTING[:40, :48]
    found = style_quality(NETWORK, lambda _: painting, PHOTOGRAPHS, painting)
    assert found.style_error == pytest.approx(0, abs=1e-9)
    assert found.content_error > 0.01


def test_without_photographs_there_is_no_figure() -> None:
    with pytest.raises(ValueError, match="without photographs"):
        style_quality(NETWORK, lambda photograph: photograph, [], PAINTING)
