"""A training learns, goes on to the bit, is shared by members, and says when it has gone wrong."""

from __future__ import annotations

import copy
import io
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.workers.nst.plain import seeded_picture
from workers.nst.features import LossNetwork, seeded
from workers.nst.group import Group
from workers.nst.thread_group import run_together
from workers.nst.training import OutputStatistics, Training, TrainingDivergedError, untrained
from workers.nst.training_data import CropRule, crop, pick
from workers.nst.training_presets import TrainingRecipe, training_preset
from workers.nst.transformer import TransformerNet

RECIPE = replace(
    training_preset("default"),
    content_layers={"relu4_2": 1.0},
    style_weight=2.0,
    steps=12,
    crop=CropRule(32),
    learning_rate=5e-3,
    style_size_px=None,
    output_scale=50.0,
)


def network() -> LossNetwork:
    return seeded("vgg19", 4, seed=1)


def batch(step: int, count: int = 4) -> Tensor:
    picks = [pick(0, step * count + n, 6) for n in range(count)]
    return torch.stack([crop(seeded_picture(48, 40, p.index), RECIPE.crop, p) for p in picks])


def training(recipe: TrainingRecipe = RECIPE, **more: Any) -> Training:
    painting = seeded_picture(64, 64, 77).permute(2, 0, 1)[None].float() / 255
    return Training(recipe, network(), untrained(recipe, 2, 0), [(1.0, painting)], **more)


def trained(steps: int, first: Training | None = None) -> tuple[Training, list[dict[str, float]]]:
    subject = first or training()
    return subject, [subject.step(batch(subject.steps_done)) for _ in range(steps)]


def stored(state: dict[str, Any]) -> dict[str, Any]:
    """Return a state as it comes back from a file."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    back: dict[str, Any] = torch.load(file, weights_only=True)
    return back


def test_the_loss_falls() -> None:
    subject = training()
    before = subject.validate(batch(900))
    trained(40, subject)
    after = subject.validate(batch(900))
    assert after["loss"] < 0.6 * before["loss"]
    assert after["style"] < 0.7 * before["style"]
    assert after["loss"] == pytest.approx(after["content"] + after["style"] + after["tv"])
    assert after["style"] == pytest.approx(sum(v for k, v in after.items() if k.startswith("style ")))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_it_goes_on_from_its_state_to_the_bit(precision: Any) -> None:
    """Losses, parameters and the moments of Adam, wherever it was stopped."""
    whole, losses = trained(8, training(precision=precision))
    half, first = trained(3, training(precision=precision))
    again = training(precision=precision)
    again.load_state_dict(stored(half.state_dict()))
    assert again.steps_done == 3
    _, second = trained(5, again)
    assert first + second == losses
    ours, theirs = again.state_dict(), whole.state_dict()
    for part in ("net", "adam"):
        torch.testing.assert_close(ours[part], theirs[part], rtol=0, atol=0)
    picture = seeded_picture(20, 24)
    assert torch.equal(again.render(picture), whole.render(picture))


def test_a_state_is_not_changed_by_what_follows() -> None:
    subject, _ = trained(2)
    state = subject.state_dict()
    kept = copy.deepcopy(state)
    trained(2, subject)
    torch.testing.assert_close(state, kept, rtol=0, atol=0)


def test_looking_changes_nothing() -> None:
    quiet, curious = training(), training()
    for _ in range(3):
        quiet.step(batch(quiet.steps_done))
        curious.validate(batch(50))
        curious.look(batch(51))
        curious.render(seeded_picture(20, 20))
        curious.trained()
        curious.step(batch(curious.steps_done))
    torch.testing.assert_close(quiet.state_dict()["net"], curious.state_dict()["net"], rtol=0, atol=0)


def test_validation_measures_what_a_step_reports() -> None:
    subject = training()
    expected = subject.validate(batch(0))
    assert subject.step(batch(0)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("size", [2, 3])
def test_members_that_share_a_batch_learn_what_one_learns_alone(size: int) -> None:
    """All hold the same bits afterwards.

    Beside one alone, gradients are added up in another order, which Adam makes visible near zero.
    """
    _, losses = trained(3)

    def member(group: Group) -> tuple[list[dict[str, float]], dict[str, Any]]:
        subject = training(group=group)
        seen = [subject.step(batch(n)[group.rank :: group.size], total=4) for n in range(3)]
        return seen, subject.state_dict()["net"]

    members = run_together(size, member)
    for seen, net in members:
        assert seen == members[0][0]
        torch.testing.assert_close(net, members[0][1], rtol=0, atol=0)
    for tolerance, ours, theirs in zip((1e-5, 1e-2, 1e-2), members[0][0], losses, strict=True):
        assert ours == pytest.approx(theirs, rel=tolerance)


def test_a_loss_that_is_no_number_is_told_and_nothing_is_learned_from_it() -> None:
    subject, _ = trained(2)
    state = subject.state_dict()
    poisoned = copy.deepcopy(state)
    poisoned["net"]["in5.weight"].fill_(float("nan"))
    subject.load_state_dict(poisoned)
    with pytest.raises(TrainingDivergedError, match="at step 3"):
        subject.step(batch(2))
    assert subject.steps_done == 2
    torch.testing.assert_close(subject.state_dict()["adam"], state["adam"], rtol=0, atol=0)
    subject.load_state_dict(state)
    subject.rate_factor = 0.5
    assert subject.step(batch(2))["loss"] > 0


def test_the_rate_decays_and_can_be_made_smaller() -> None:
    recipe = replace(RECIPE, learning_rate=0.1, decay_every=10, decay_factor=0.5)
    assert [recipe.rate_at(step) for step in (0, 9, 10, 25)] == [0.1, 0.1, 0.05, 0.025]

    def moved(subject: Training) -> float:
        before = subject.state_dict()["net"]["in5.bias"]
        subject.step(batch(0))
        return float((subject.state_dict()["net"]["in5.bias"] - before).abs().mean())

    slow = training()
    slow.rate_factor = 0.25
    assert moved(slow) == pytest.approx(0.25 * moved(training()), rel=1e-3)


def test_a_dead_network_is_recognized() -> None:
    subject, _ = trained(10)
    assert subject.look(batch(0)).trouble == ""
    state = subject.state_dict()
    state["net"]["deconv3.conv2d.weight"].zero_()
    for bias, trouble in ((0.0, "one color, about 0"), (9e3, "one color, about 255")):
        state["net"]["deconv3.conv2d.bias"].fill_(bias)
        subject.load_state_dict(state)
        assert trouble in subject.look(batch(0)).trouble
    assert "far outside" in OutputStatistics(128.0, 120.0, 0.8).trouble
    assert "no numbers" in OutputStatistics(float("nan"), 1.0, 0.0).trouble
    assert OutputStatistics(110.0, 60.0, 0.01).trouble == ""


def test_what_does_not_go_together_is_refused() -> None:
    with pytest.raises(ValueError, match="too small for relu5_1"):
        training(replace(RECIPE, crop=CropRule(12)))
    with pytest.raises(ValueError, match="fp16"):
        training(precision="fp16")
    with pytest.raises(ValueError, match="uint8"):
        training().step(torch.zeros(1, 3, 32, 32))
    state = training().state_dict()
    with pytest.raises(ValueError, match="layout 9"):
        training().load_state_dict({**state, "version": 9})
    with pytest.raises(ValueError, match="base width 16, not 2"):
        training().load_state_dict({**state, "width": 16})


def test_a_scale_of_the_output_is_what_a_factor_behind_the_network_does() -> None:
    """Adam moves weights by its rate, so weights that are larger need a rate that is."""
    plain, scaled = (untrained(replace(RECIPE, output_scale=scale), 2, 0) for scale in (1.0, 30.0))
    weights = [net.deconv3.conv2d.weight for net in (plain, scaled)]
    torch.testing.assert_close(weights[1], 30 * weights[0])
    assert scaled.deconv3.conv2d.get_parameter("bias").tolist() == [127.5] * 3
    assert torch.equal(plain.conv1.conv2d.weight, scaled.conv1.conv2d.weight)
    moves = []
    for scale in (1.0, 30.0):
        subject = training(replace(RECIPE, output_scale=scale))
        before = subject.state_dict()["net"]
        subject.step(batch(0))
        after = subject.state_dict()["net"]
        moves.append(
            [
                (after[f"{k}.conv2d.weight"] - before[f"{k}.conv2d.weight"]).abs().max()
                for k in ("conv2", "deconv3")
            ]
        )
    assert float(moves[0][0]) == pytest.approx(float(moves[1][0]), rel=1e-2)
    assert 30 * float(moves[0][1]) == pytest.approx(float(moves[1][1]), rel=1e-2)


def test_a_network_begins_the_same_for_the_same_seed() -> None:
    one, same, other = (untrained(RECIPE, 2, seed).state_dict()["conv1.conv2d.weight"] for seed in (4, 4, 5))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_first_weights_are_those_of_torch_whoever_else_draws_random_numbers() -> None:
    """Members of a gang may be threads of one process: they draw from nothing that they share."""
    with torch.random.fork_rng():
        torch.manual_seed(5)
        expected = TransformerNet(2).state_dict()
    before = torch.get_rng_state()
    net = untrained(training_preset("pytorch-examples"), 2, 5)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(value, expected[name]) for name, value in net.state_dict().items())


def test_a_wider_network_learns_at_a_smaller_rate() -> None:
    """And its last convolution at one that is smaller still; a narrower one keeps the rate."""
    suited = [training_preset("default").for_width(width) for width in (8, 16, 32)]
    assert [recipe.learning_rate for recipe in suited] == [2e-3, 2e-3, 1e-3]
    assert [recipe.output_scale for recipe in suited] == [50.0, 25.0, 12.5]
    assert all(recipe.for_width(64) == recipe for recipe in suited)
    examples = training_preset("pytorch-examples")
    assert examples.for_width(8) == examples
