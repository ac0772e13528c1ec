"""What a training sees is decided by its seed and the position, and by nothing that has to be remembered."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torchvision.transforms import v2

from tests.workers.nst.plain import seeded_picture
from workers.nst.training_data import CropRule, Pick, crop, held_out, pick


def test_every_photograph_comes_once_before_any_comes_again_each_time_in_another_order() -> None:
    epochs = [[pick(7, epoch * 50 + n, 50).index for n in range(50)] for epoch in range(3)]
    assert all(sorted(epoch) == list(range(50)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    assert [pick(8, n, 50).index for n in range(50)] != epochs[0]


def test_a_position_shows_the_same_whatever_was_asked_before() -> None:
    wanted = [pick(3, position, 9) for position in range(40)]
    assert [pick(3, position, 9) for position in reversed(range(40))] == wanted[::-1]


def test_places_and_zooms_are_spread_over_the_whole_range() -> None:
    picks = [pick(1, position, 10) for position in range(2000)]
    for values in ([p.zoom for p in picks], [p.across for p in picks], [p.down for p in picks]):
        counts = Counter(int(value * 10) for value in values)
        assert counts.keys() == set(range(10))
        assert max(counts.values()) < 300 > 2 * 100 > min(counts.values()) > 120


def test_a_photograph_that_cannot_be_read_is_replaced_by_any_of_the_others() -> None:
    others = {pick(0, 5, 30, again).index for again in range(1, 60)}
    assert len(others) > 20
    assert pick(0, 5, 30, 3) == pick(0, 5, 30, 3)


def test_photographs_are_parted_into_those_to_learn_from_and_those_to_validate_with() -> None:
    learned, validated = held_out(0, 20, 6)
    assert len(validated) == 6
    assert sorted(learned + validated) == list(range(20))
    assert held_out(1, 20, 6)[1] != validated
    with pytest.raises(ValueError, match="20 of 20 photographs are held out"):
        held_out(0, 20, 20)
    with pytest.raises(ValueError, match="no photograph"):
        pick(0, 0, 0)


@pytest.mark.parametrize(("height", "width"), [(90, 60), (60, 91), (64, 64), (20, 33)])
def test_center_crops_are_those_of_torchvision(height: int, width: int) -> None:
    """Resize of the shorter side and center crop, as pytorch/examples prepares its data."""
    picture = seeded_picture(height, width)
    plain = v2.Compose([v2.Resize(32, antialias=True), v2.CenterCrop(32)])(picture.permute(2, 0, 1))
    ours = crop(picture, CropRule(32, "center"), Pick(0, 0.9, 0.9, 0.9))
    assert ours.dtype == torch.uint8
    assert (ours.int() - plain.int()).abs().max() <= 1


def test_a_random_crop_moves_over_the_whole_photograph_and_never_enlarges_it() -> None:
    picture = torch.zeros(40, 80, 3, dtype=torch.uint8)
    picture[:, :, 0] = torch.arange(80)
    rule = CropRule(32, "random", largest_zoom=4.0)
    shown = crop(picture, rule, Pick(0, 1.0, 0.0, 0.0))
    assert shown.shape == (3, 32, 32)
    assert shown[0, 0].tolist() == list(range(32))
    shown = crop(picture, rule, Pick(0, 1.0, 1.0, 1.0))
    assert shown[0, 0].tolist() == list(range(48, 80))
    whole = crop(picture, rule, Pick(0, 0.0, 0.0, 0.0))
    assert int(whole[0, 0, -1]) == pytest.approx(40, abs=2)


def test_a_photograph_smaller_than_the_square_is_enlarged() -> None:
    assert crop(seeded_picture(10, 30), CropRule(32), Pick(0, 0.5, 0.5, 0.5)).shape == (3, 32, 32)
