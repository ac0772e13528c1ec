"""Pictures rendered by optimization: the same bytes whoever renders them, and whatever happens meanwhile."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from jobs.errors import BadInputError, DeviceMemoryError, FarmError
from tests.workers.rendering import Desk, made, network_bytes, picture_bytes, pixels, saved
from workers import optimize_gang

pytestmark = pytest.mark.usefixtures("one_thread", "no_plots")

TILED: dict[str, Any] = {"tile_px": 16}
ADAM: dict[str, Any] = {"preset": "crowson", "tile_px": 16}


def rendered(desk: Desk, *keys: str, size: int = 1, **said: Any) -> bytes:
    """Return the file of the only picture of a job that nothing happens to."""
    (outcome,) = desk.run(desk.message(*keys, **said), size).values()
    return made(outcome).data


# --- the same bytes -------------------------------------------------------------------------------


@pytest.mark.parametrize("said", [TILED, ADAM], ids=["default", "crowson"])
def test_the_number_of_members_does_not_change_a_byte(tmp_path: Path, said: dict[str, Any]) -> None:
    """Of the file, with what it says of how it was made, and of no loss in the trace."""
    files, traces = set(), set()
    for size in (1, 2, 3):
        desk = Desk(tmp_path)
        (outcome,) = desk.run(desk.message(**said), size, seed=size).values()
        files.add(made(outcome).data)
        traces.add(str([(step["loss"], step["terms"]) for step in desk.trace()]))
        assert made(outcome).facts["workers"] == size
    assert (len(files), len(traces)) == (1, 1)


@pytest.mark.parametrize("stop_at", range(9))
def test_a_render_that_was_stopped_goes_on_with_other_members_to_the_same_bytes(
    tmp_path: Path, stop_at: int
) -> None:
    """Stopped at every place there is; twice, with three numbers of members. The trace is whole."""
    wanted = Desk(tmp_path)
    expected = rendered(wanted, **TILED)
    desk = Desk(tmp_path)
    sizes = [(stop_at + n) % 3 + 1 for n in range(3)]
    task = desk.message(**TILED)
    for size in sizes[:2]:
        if desk.run(task, size, stop_at=stop_at):
            break
        assert desk.checkpoint is not None
    else:
        (outcome,) = desk.run(task, sizes[2]).values()
        assert made(outcome).data == expected
    losses = [(step["scale"], step["iteration"], step["loss"]) for step in desk.trace()]
    assert losses == [(step["scale"], step["iteration"], step["loss"]) for step in wanted.trace()]


def test_a_moving_average_and_moments_go_on_as_well(tmp_path: Path) -> None:
    expected = rendered(Desk(tmp_path), **ADAM)
    desk = Desk(tmp_path)
    assert not desk.run(desk.message(**ADAM), 2, stop_at=5)
    assert rendered(desk, size=3, **ADAM) == expected


def test_a_render_in_one_piece_stays_that_whoever_goes_on_with_it(tmp_path: Path) -> None:
    expected = rendered(Desk(tmp_path))
    desk = Desk(tmp_path)
    assert not desk.run(desk.message(), stop_at=5)
    (outcome,) = desk.run(desk.message(), 2).values()
    assert made(outcome).data == expected
    facts = made(outcome).facts
    assert (facts["tile_px"], facts["workers"]) == (None, 1)


def test_tiles_that_nobody_asked_for_stay_as_they_were_chosen(tmp_path: Path) -> None:
    """Two members have a tile each; one that goes on alone keeps the tiles."""
    desk = Desk(tmp_path)
    assert not desk.run(desk.message(), 2, stop_at=5)
    (outcome,) = desk.run(desk.message(), 1).values()
    assert made(outcome).facts["tile_px"] == 32
    assert made(outcome).data == rendered(Desk(tmp_path), tile_px=32)


def test_a_state_of_another_picture_or_of_another_version_is_not_gone_on_from(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    assert not desk.run(desk.message(), stop_at=3)
    desk.inputs["photo.png"] = picture_bytes(48, 36, 7)
    other = Desk(tmp_path)
    other.inputs = desk.inputs
    assert rendered(desk) == rendered(other)
    words = optimize_gang.unpacked(desk.saved[0])
    desk.checkpoint = saved(optimize_gang.packed({**words, "version": 99}))
    assert rendered(desk) == rendered(other)


# --- extending ------------------------------------------------------------------------------------

ONE_SCALE = {"size_px": 48, "smallest_px": 48}


def extension(job: str, *iterations: int) -> dict[str, Any]:
    return {"extends": {"job": job, "iterations": [*iterations]}}


@pytest.mark.parametrize("said", [{}, TILED], ids=["whole", "tiles"])
def test_more_iterations_later_are_the_same_as_all_at_once(desk: Desk, said: dict[str, Any]) -> None:
    said = said | ONE_SCALE
    at_once = rendered(desk, job="at-once", iterations=9, **said)
    desk.checkpoint = None
    first = rendered(desk, job="first", iterations=4, **said)
    desk.checkpoint = None
    rendered(desk, job="second", iterations=4, **said, **extension("first", 2))
    desk.checkpoint = None
    third = rendered(desk, job="third", iterations=4, **said, **extension("second", 2, 3))
    assert third == at_once != first
    assert [step["loss"] for step in desk.trace(job="third")] == [
        step["loss"] for step in desk.trace(job="at-once")
    ]


def test_an_extension_that_was_stopped_goes_on_with_itself(desk: Desk) -> None:
    rendered(desk, job="first", iterations=4, **ONE_SCALE)
    desk.checkpoint = None
    more = {"iterations": 4, **ONE_SCALE, **extension("first", 3)}
    expected = rendered(desk, job="a", **more)
    desk.checkpoint = None
    assert not desk.run(desk.message(job="b", **more), stop_at=1)
    assert rendered(desk, job="b", **more) == expected


def test_a_render_that_a_rule_had_stopped_is_extended_from_there(desk: Desk) -> None:
    stop: dict[str, Any] = {"stop": {"loss": 1e9}}
    rendered(desk, job="first", **ONE_SCALE, **stop)
    assert len(desk.trace(job="first")) == 1
    desk.checkpoint = None
    rendered(desk, job="more", **ONE_SCALE, **stop, **extension("first", 3))
    assert [step["iteration"] for step in desk.trace(job="more")] == [1, 2, 3, 4]


def test_what_cannot_be_extended_says_why(desk: Desk) -> None:
    rendered(desk, job="kept-nothing", keep_state=False)
    desk.checkpoint = None
    (error,) = desk.run(desk.message(job="more", **extension("kept-nothing", 3))).values()
    assert isinstance(error, FarmError)
    assert "job kept-nothing kept no last state" in str(error)
    rendered(desk, job="first")
    desk.checkpoint = None
    desk.inputs["photo.png"] = picture_bytes(48, 36, 5)
    (error,) = desk.run(desk.message(job="more", **extension("first", 3))).values()
    assert "is not what job first rendered" in str(error)
    desk.states["first", "final/photo.png.state"] = saved(b"cut off")
    (error,) = desk.run(desk.message(job="more", **extension("first", 3))).values()
    assert "job first kept a state that cannot be read" in str(error)


# --- pictures -------------------------------------------------------------------------------------


def test_pictures_of_every_kind_come_out_upright_in_color_and_with_their_alpha(desk: Desk) -> None:
    turned = Image.open(io.BytesIO(picture_bytes(60, 40)))
    exif = Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    turned.save(file, "JPEG", exif=exif)
    gray = io.BytesIO()
    turned.convert("L").save(gray, "PNG")
    desk.inputs = {
        "turned.jpg": file.getvalue(),
        "gray.png": gray.getvalue(),
        "clear.png": picture_bytes(60, 40, 3, mode="RGBA"),
    }
    outcomes = desk.run(desk.message(*desk.inputs))
    shapes = {key: pixels(made(outcome).data).shape for key, outcome in outcomes.items()}
    assert shapes == {"turned.jpg": (48, 32, 3), "gray.png": (32, 48, 3), "clear.png": (32, 48, 4)}
    with Image.open(io.BytesIO(desk.inputs["clear.png"])) as image:
        wanted = np.asarray(image.getchannel("A").resize((48, 32)), np.float32)
    alpha = pixels(made(outcomes["clear.png"]).data)[..., 3]
    assert np.abs(alpha - wanted).max() <= 2


def test_a_small_picture_is_enlarged_and_that_is_said(desk: Desk) -> None:
    desk.inputs["small.png"] = picture_bytes(30, 20)
    (outcome,) = desk.run(desk.message("small.png")).values()
    assert pixels(made(outcome).data).shape == (32, 48, 3)
    assert made(outcome).note == "enlarged from 30x20 px"


def test_one_picture_that_cannot_be_rendered_fails_alone(desk: Desk) -> None:
    """A sliver, which is no picture any more at half the size; a gang goes on with the next one."""
    desk.inputs["sliver.png"] = picture_bytes(48, 2)
    outcomes = desk.run(desk.message("sliver.png", "photo.png", **TILED), 2)
    assert isinstance(outcomes["sliver.png"], BadInputError)
    assert "at the scale of 34 px the picture has 34x1 px, and relu2_2 needs 2 px" in str(
        outcomes["sliver.png"]
    )
    made(outcomes["photo.png"])


@pytest.mark.parametrize(
    ("said", "words"), [({}, "lower the learning rate"), (TILED, "not finite")], ids=["whole", "tiles"]
)
def test_numbers_that_get_too_large_fail_their_picture_and_leave_a_gang_in_step(
    desk: Desk, said: dict[str, Any], words: str
) -> None:
    said = {**said, "network": {"name": "loud", "sha256": desk.keep(network_bytes(gain=1e12))}}
    desk.inputs["again.png"] = desk.inputs["photo.png"]
    outcomes = desk.run(desk.message("photo.png", "again.png", **said), 2 if "tile_px" in said else 1)
    assert len(outcomes) == 2
    for outcome in outcomes.values():
        assert isinstance(outcome, BadInputError)
        assert words in str(outcome)


def test_too_little_memory_is_said_by_name_before_the_first_iteration(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(optimize_gang, "free_bytes", lambda _: 701_000_000)
    (outcome,) = desk.run(desk.message()).values()
    assert isinstance(outcome, DeviceMemoryError)
    assert "48x36 px on 1 worker need" in str(outcome)
    assert desk.files == {}


def test_colors_of_the_content_are_kept(desk: Desk) -> None:
    plain = rendered(desk, job="plain")
    desk.checkpoint = None
    after = rendered(desk, job="after", colors={"method": "ycbcr", "when": "after"})
    photo = pixels(desk.inputs["photo.png"])
    chroma = [
        np.asarray(Image.fromarray(p).convert("YCbCr"), np.int16)[..., 1:] for p in (photo, pixels(after))
    ]
    assert np.abs(chroma[0] - chroma[1]).mean() < 3
    assert after != plain


# --- what people see ------------------------------------------------------------------------------


def test_a_picture_says_how_it_was_made_and_nothing_of_where(desk: Desk) -> None:
    data = rendered(desk, size=2, **TILED)
    with Image.open(io.BytesIO(data)) as image:
        said = json.loads(image.info["stylefarm"])
    assert (said["preset"], said["tile_px"], said["seed"]) == ("default", 16, 0)
    assert said["loss_network"]["name"] == "tiny"
    assert [scale["iterations"] for scale in said["scales"]] == [4, 3]
    document = json.loads(desk.kept("parameters/photo.png.json"))
    assert said.items() <= document.items()
    assert document["made"]["workers"] == 2
    assert not {"workers", "threads", "input", "made"} & said.keys()


def test_progress_grows_to_one_and_says_where_it_is(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.optimize_notes._SAID_EVERY_S", 0.0)
    rendered(desk, **TILED)
    told = [data for kind, data in desk.events if kind == "progress"]
    fractions = [data["fraction"] for data in told]
    assert fractions == sorted(fractions)
    assert (len(fractions), fractions[-1]) == (7, 1.0)
    assert fractions[3] == pytest.approx(4 * 34 * 26 / (4 * 34 * 26 + 3 * 48 * 36))
    assert told[4]["message"] == "scale 2 of 2, 48 px, iteration 1 of 3"
    losses = [data for kind, data in desk.events if kind == "loss"]
    assert losses == [{"item": "photo.png", **step} for step in desk.trace()]
    assert losses[0].keys() == {
        *("item", "scale", "size_px", "iteration", "evaluations"),
        *("budget", "loss", "terms", "seconds"),
    }


def test_previews_unfinished_pictures_and_a_plot_are_kept_by_a_gang(desk: Desk) -> None:
    rendered(desk, size=3, preview_s=1e-6, save_every=2, **TILED)
    previews = [data for kind, data in desk.events if kind == "preview"]
    assert previews[0] == {"item": "photo.png", "file": "previews/photo.png.jpg"}
    assert len(previews) == 8
    assert pixels(desk.kept("previews/photo.png.jpg")).shape == (36, 48, 3)
    kept = {name: pixels(data).shape for (_, name), data in desk.files.items() if "iterations/" in name}
    assert kept == {
        "iterations/photo-1-2.png": (26, 34, 3),
        "iterations/photo-1-4.png": (26, 34, 3),
        "iterations/photo-2-2.png": (36, 48, 3),
    }
    assert desk.kept("traces/photo.png.png") == b"photo.png 7"


def test_states_are_kept_every_few_iterations_and_where_a_scale_begins(desk: Desk) -> None:
    rendered(desk, size=2, checkpoint={"iterations": 3, "seconds": 3600}, **TILED)
    places = [optimize_gang.unpacked(data)["state"]["progress"] for data in desk.saved]
    assert [(place["scale"], place["iterations"]) for place in places] == [(0, 3), (1, 1)]


def test_facts_for_the_report(desk: Desk) -> None:
    network = {"name": "other", "sha256": desk.keep(network_bytes("caffe"))}
    (outcome,) = desk.run(desk.message(network=network, **TILED), 2).values()
    facts = made(outcome).facts
    assert {name: facts[name] for name in ("width_px", "height_px", "evaluations", "scales", "tiles")} == {
        "width_px": 48,
        "height_px": 36,
        "evaluations": 7,
        "scales": 2,
        "tiles": 9,
    }
    assert facts["network_note"] == "vgg19 of caffe, not the preset's own, vgg19 of torchvision"
    assert facts["loss"] == desk.trace()[-1]["loss"]
    assert 0 < facts["look"] < 1


# --- numbers --------------------------------------------------------------------------------------


def test_half_the_bits_give_nearly_the_same_picture(desk: Desk) -> None:
    """And the cache holds both networks apart."""
    exact = pixels(rendered(desk, **ADAM)).astype(np.int16)
    desk.checkpoint = None
    rough = pixels(rendered(desk, precision="bf16", **ADAM)).astype(np.int16)
    assert 0 < np.abs(exact - rough).mean() < 8


def test_a_mode_of_gpus_is_refused_on_a_cpu(desk: Desk) -> None:
    with pytest.raises(FarmError, match="precision tf32 needs a newer NVIDIA GPU, and this worker has cpu"):
        desk.run(desk.message(precision="tf32"))
    with pytest.raises(FarmError, match="the job wants a GPU"):
        desk.run(desk.message(device="cuda"))
