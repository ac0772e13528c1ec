"""A render goes from coarse to fine, says what it does, stops by its rules, and goes on to the same bytes."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from workers.nst.color import ColorRule, transfer_color
from workers.nst.features import PREPROCESSING, seeded
from workers.nst.inits import Init
from workers.nst.lbfgs import LbfgsSettings
from workers.nst.multiscale import Scale, resize
from workers.nst.optimization import Iteration, Optimization, Pictures
from workers.nst.optimizers import AdamSettings
from workers.nst.presets import preset
from workers.nst.recipes import Recipe
from workers.nst.stopping import Stopping
from workers.nst.whole import WholeStage

NETWORKS = {family: seeded("vgg19", 2, seed=0, family=family) for family in PREPROCESSING}

SCALES = (Scale(24, 4), Scale(34, 3), Scale(48, 3))


def image(seed: int, height: int, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return resize(torch.rand(1, 3, 6, 6, generator=generator), (height, width)).clamp(0, 1)


PICTURES = Pictures(image(0, 40, 48), ((3.0, image(1, 50, 40)), (1.0, image(2, 30, 30))))

SHALLOW = {"relu1_1": 0.5, "relu2_1": 0.5}


def shallow(name: str = "default", **changes: Any) -> Recipe:
    layers = {"style_layers": SHALLOW, "content_layers": {"relu2_2": 1.0}}
    return replace(preset(name), **(layers | changes))


def optimization(recipe: Recipe | None = None, **options: Any) -> Optimization:
    settings: dict[str, Any] = {"scales": SCALES, "pictures": PICTURES, "open_stage": WholeStage} | options
    recipe = recipe or shallow()
    network = NETWORKS[recipe.family]
    return Optimization(recipe, network, settings.pop("pictures"), settings.pop("scales"), **settings)


def finished(recipe: Recipe | None = None, **options: Any) -> Tensor:
    render = optimization(recipe, **options)
    assert render.run()
    return render.picture()


def watched(recipe: Recipe | None = None, **options: Any) -> list[Iteration]:
    seen: list[Iteration] = []
    assert optimization(recipe, **options).run(seen.append)
    return seen


RECIPES = {
    "default": shallow(),
    "crowson": shallow("crowson"),
    "adam": shallow("anish"),
    "lbfgs": shallow("neural-style"),
    "strong-wolfe": shallow("gatys", optimizer=LbfgsSettings(1.0, 3, "strong-wolfe")),
    "average": shallow(carry="image", average_decay=0.9),
}


@pytest.mark.parametrize("name", RECIPES)
def test_a_render_that_was_stopped_goes_on_to_the_same_bytes(name: str) -> None:
    """Stopped after every iteration, also where a scale ends, saved as bytes and begun in a new object."""
    scales = tuple(replace(scale, iterations=20) for scale in SCALES) if name == "strong-wolfe" else SCALES
    straight = finished(RECIPES[name], scales=scales)
    stops, state = 0, None
    while True:
        render = optimization(RECIPES[name], scales=scales, seed=0 if state is None else 99)
        if state is not None:
            render.load_state_dict(torch.load(io.BytesIO(state), weights_only=True))
        asked = iter([False, True])
        done = render.run(should_stop=lambda asked=asked: next(asked, True))  # type: ignore[misc]
        file = io.BytesIO()
        torch.save(render.state_dict(), file)
        state = file.getvalue()
        if done:
            break
        stops += 1
    assert stops >= 5
    assert torch.equal(render.picture(), straight)


@pytest.mark.parametrize("name", RECIPES)
def test_the_loss_falls_and_the_picture_is_one(name: str) -> None:
    losses = [iteration.loss for iteration in watched(RECIPES[name], scales=(Scale(48, 60),))]
    assert losses[-1] < 0.9 * losses[0]
    picture = finished(RECIPES[name])
    assert picture.shape == (1, 3, 40, 48)
    assert picture.dtype == torch.float32
    assert 0 <= float(picture.min()) < float(picture.max()) <= 1


def test_every_iteration_is_told_with_its_place_and_its_terms() -> None:
    seen = watched()
    assert [(i.scale, i.iteration, i.budget) for i in seen] == [
        (number, iteration, scale.iterations)
        for number, scale in enumerate(SCALES)
        for iteration in range(1, scale.iterations + 1)
    ]
    assert {i.size for i in seen} == {(20, 24), (28, 34), (40, 48)}
    for iteration in seen:
        assert iteration.loss == pytest.approx(sum(iteration.terms.values()))
        assert set(iteration.terms) == {"style relu1_1", "style relu2_1", "content relu2_2", "tv nine-point"}
    assert [i.seconds for i in seen] == sorted(i.seconds for i in seen)


def test_pictures_on_the_way_have_the_size_of_their_scale_and_disturb_nothing() -> None:
    sizes = []
    render = optimization()

    def look(iteration: Iteration) -> None:
        sizes.append((iteration.size, tuple(render.picture().shape[-2:])))
        render.state_dict()

    assert render.run(look)
    assert all(size == shape for size, shape in sizes)
    assert torch.equal(render.picture(), finished())


def test_a_finished_render_can_be_extended_and_is_then_that_of_more_iterations() -> None:
    render = optimization()
    assert render.run()
    state = render.state_dict()
    longer = (*SCALES[:2], replace(SCALES[2], iterations=7))
    extended = optimization(scales=longer)
    extended.load_state_dict(state)
    assert extended.run()
    assert torch.equal(extended.picture(), finished(scales=longer))


def test_the_seed_decides_the_noise_and_nothing_else_is_random() -> None:
    noisy = shallow(init=Init("noise", sigma=0.2))
    assert torch.equal(finished(noisy, seed=1), finished(noisy, seed=1))
    assert not torch.equal(finished(noisy, seed=1), finished(noisy, seed=2))
    assert torch.equal(finished(seed=1), finished(seed=2))


def test_lbfgs_gets_away_from_a_flat_picture_in_float32() -> None:
    """Its first step moves pixels by less than float32 resolves near white: unless it sees them centered."""
    recipe = replace(preset("neural-style"), style_layers=SHALLOW, tv_weight=0.0)
    losses = [i.loss for i in watched(recipe, scales=(Scale(192, 40),))]
    assert losses[-1] < 0.5 * losses[0]


def test_evaluations_are_counted_where_a_line_search_needs_several() -> None:
    scales = (Scale(48, 12),)
    recipe = RECIPES["strong-wolfe"]
    seen = watched(recipe, scales=scales)
    assert seen[-1].evaluations >= 12 > seen[-2].evaluations
    assert seen[-1].iteration < 12
    assert watched(replace(recipe, counts_evaluations=False), scales=scales)[-1].iteration == 12


# --- stopping -----------------------------------------------------------------------------------------------


def test_a_scale_is_left_at_the_target_loss() -> None:
    losses = [i.loss for i in watched(scales=(Scale(48, 12),))]
    target = losses[5]
    stopped = [i.loss for i in watched(scales=(Scale(48, 12),), stopping=Stopping(target_loss=target))]
    assert stopped == losses[: len(stopped)]
    assert len(stopped) == next(number for number, loss in enumerate(losses, 1) if loss <= target)


def test_a_scale_is_left_when_the_loss_falls_too_little_over_a_window() -> None:
    rule = Stopping(improvement=0.01, window=3)
    assert not rule.is_good_enough([100.0, 50.0, 49.9])
    assert not rule.is_good_enough([100.0, 99.9, 99.8, 98.9])
    assert rule.is_good_enough([100.0, 99.9, 99.8, 99.1])
    assert rule.is_good_enough([-1.0, -1.0, -1.0, -1.0])
    assert not Stopping().is_good_enough([1.0] * 100)
    seen = watched(scales=(Scale(24, 200), Scale(48, 2)), stopping=Stopping(improvement=0.9, window=2))
    assert [i.scale for i in seen] == [0, 0, 0, 1, 1]


def test_the_clock_ends_a_render_at_its_full_size_and_counts_over_attempts() -> None:
    """Each iteration takes two ticks of this clock."""

    def ticking() -> Callable[[], float]:
        now = iter(range(1000))
        return lambda: float(next(now))

    stopping = Stopping(seconds=2.5)
    render = optimization(stopping=stopping, clock=ticking())
    seen: list[Iteration] = []
    asked = iter([False, False, True])
    assert not render.run(seen.append, should_stop=lambda: next(asked))
    resumed = optimization(stopping=stopping, clock=ticking())
    resumed.load_state_dict(render.state_dict())
    assert resumed.run(seen.append)
    assert [i.seconds for i in seen] == [1.0, 2.0, 3.0]
    assert resumed.picture().shape == (1, 3, 40, 48)


# --- between scales, and colors -----------------------------------------------------------------------------


def test_what_is_carried_as_a_difference_keeps_the_fine_structure_of_the_content() -> None:
    """Without an iteration that counts, an enlarged picture is near the content where it was near before."""
    still = AdamSettings(1e-9)
    errors = {}
    fine = Pictures(torch.rand(1, 3, 48, 48, generator=torch.Generator().manual_seed(3)), PICTURES.styles)
    for carry in ("image", "difference"):
        recipe = shallow(carry=carry, optimizer=still)
        picture = finished(recipe, pictures=fine, scales=(Scale(24, 1), Scale(48, 1)))
        errors[carry] = float((picture - fine.content).abs().mean())
    assert errors["difference"] < 1e-6
    assert errors["image"] > 0.1


def test_the_average_is_that_of_the_iterates_corrected_for_its_beginning() -> None:
    pixels: list[Tensor] = []
    recipe = shallow("crowson", average_decay=0.8)
    render = optimization(recipe, scales=(Scale(48, 5),))
    begin = optimization(replace(recipe, average_decay=0.0), scales=(Scale(48, 5),))
    assert begin.run(lambda _: pixels.append(begin.picture()))
    assert render.run()
    iterates = [PICTURES.content, *pixels]
    weights = [0.2 * 0.8 ** (5 - number) for number in range(6)]
    expected = sum(weight * picture for weight, picture in zip(weights, iterates, strict=True)) / sum(weights)
    torch.testing.assert_close(render.picture(), expected)


def test_colors_are_kept_after_a_render_and_given_to_the_styles_before_it() -> None:
    plain = finished()
    after = finished(color=ColorRule("ycbcr"))
    torch.testing.assert_close(after, transfer_color("ycbcr", plain, PICTURES.content))
    styles = tuple(
        (w, transfer_color("mean-covariance", rgb, PICTURES.content)) for w, rgb in PICTURES.styles
    )
    before = finished(color=ColorRule("mean-covariance", "before"))
    assert torch.equal(before, finished(pictures=Pictures(PICTURES.content, styles)))


# --- what cannot be -----------------------------------------------------------------------------------------


def run_to_infinity() -> None:
    optimization(shallow(optimizer=LbfgsSettings(1e30), pixel_range=1e-30)).run()


def load(change: Callable[[dict[str, Any]], object]) -> None:
    render = optimization()
    asked = iter([False, False, True])
    render.run(should_stop=lambda: next(asked))
    state = render.state_dict()
    change(state)
    optimization().load_state_dict(state)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: optimization(scales=()), "no scale"),
        (lambda: optimization(pictures=Pictures(PICTURES.content)), "needs a style image"),
        (lambda: Pictures(torch.ones(3, 5, 5)), r"shape \(3, 5, 5\)"),
        (lambda: Pictures(PICTURES.content, ((-1.0, PICTURES.content),)), "weights of styles"),
        (lambda: optimization(preset("gatys"), scales=(Scale(12, 1),)).run(), "too small for relu5_1"),
        (lambda: optimization().picture(), "has not begun"),
        (lambda: optimization().state_dict(), "has not begun"),
        (lambda: load(lambda state: state.update(version=9)), "layout 9"),
        (lambda: load(lambda state: state.update(size=[1, 1])), "state is of a picture"),
        (lambda: load(lambda state: state["progress"].update(scale=3)), "scale 4 of 3"),
        (lambda: Stopping(improvement=1.5), "improvement of 1.5"),
        (lambda: Stopping(window=0), "window of 0"),
        (lambda: Stopping(seconds=0.0), "0.0 seconds"),
        (run_to_infinity, "the loss became"),
    ],
)
def test_what_cannot_be_is_refused_and_says_why(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_a_render_takes_the_network_as_the_recipe_wants_it_and_leaves_the_given_one() -> None:
    network = NETWORKS["torchvision"]
    finished(shallow(pooling="avg"))
    assert network.pooling == "max"
    assert not torch.equal(finished(shallow(pooling="avg")), finished())
