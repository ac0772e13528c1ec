"""Trainings of tiny networks: the same style whatever happens on the way, and what is said of it."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch

from jobs.errors import FarmError, StorageError
from tests.workers.rendering import network_bytes, picture_bytes, pixels, saved
from tests.workers.studying import KEY, Attempt, School
from workers import train_files
from workers.kinds import Produced
from workers.nst.loss_networks import NetworkMetadata, encode_loss_network, load_loss_network
from workers.nst.style_models import StyleMetadata, encode_style_model, read_style_model
from workers.nst.transformer import TransformerNet


@pytest.fixture(autouse=True)
def _no_plots(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw no plot, which takes longer than the training, but in the one test that looks at it."""
    if request.function is not test_it_can_be_seen_early:
        monkeypatch.setattr(train_files, "loss_plot", lambda *_: b"")


@pytest.fixture
def school(tmp_path: Path) -> School:
    return School(tmp_path)


def net_of(school: School, data: bytes) -> tuple[TransformerNet, StyleMetadata]:
    path = school.folder / "made.safetensors"
    path.write_bytes(data)
    return read_style_model(path)


def test_a_style_is_trained_kept_and_told_of(school: School) -> None:
    data = school.trained(school.message(license="CC0", source="a museum"))
    net, metadata = net_of(school, data)
    assert (net.width, metadata.name, metadata.origin, metadata.license) == (8, "wave", "trained", "CC0")
    said = metadata.training
    assert (said["steps"], said["data"]["photographs"], said["validation_pictures"]) == (6, 9, 3)
    assert said["loss"] == school.lines("wave")[-1]["loss"]
    assert said["paintings"][0]["sha256"] == hashlib.sha256(picture_bytes(40, 44, 99)).hexdigest()
    result = school.returned
    assert (result["name"], result["sha256"]) == ("wave", hashlib.sha256(data).hexdigest())
    assert (school.folder / result["sha256"]).read_bytes() == data
    entry = result["entry"]
    assert (entry["width"], entry["size_bytes"], entry["source"]) == (8, len(data), "a museum")
    thumbnail = (school.folder / entry["metadata"]["thumbnail_sha256"]).read_bytes()
    assert pixels(thumbnail).shape == (192, 256, 3)


def test_it_can_be_seen_early(school: School) -> None:
    """Held-out losses, pictures, a sheet over time, and progress, while it runs and beside the results."""
    school.trained(school.message(steps=9, validation={"pictures": 3, "every": 4}))
    judged = school.lines("wave-validation")
    assert [each["step"] for each in judged] == [0, 1, 2, 4, 8, 9]
    assert judged[-1]["loss"] < judged[0]["loss"]
    assert all(each["std"] > 2 and not each["trouble"] for each in judged)
    assert [each["step"] for each in school.lines("wave")] == list(range(1, 10))
    assert pixels(school.kept("previews/wave/step-000004-3.jpg")).shape == (36, 44, 3)
    assert pixels(school.kept("traces/wave.png")).size
    sheet = pixels(school.kept("previews/wave.jpg"))
    assert sheet.shape[1] > sheet.shape[0], "five steps of three pictures"
    assert ("progress", {"fraction": 1.0, "message": "step 9 of 9"}) in school.events
    losses = [data for kind, data in school.events if kind == "loss"]
    assert losses[-1]["validation_loss"] == judged[-1]["loss"]
    assert len(school.said("validation")) == 6


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_wherever_it_stops_it_goes_on_to_the_same_bytes(tmp_path: Path, precision: str) -> None:
    """The style, the losses of all steps, and those over pictures that are held out."""
    said: dict[str, Any] = {"precision": precision, "checkpoint": {"steps": 2}}
    whole = School(tmp_path)
    expected = whole.trained(whole.message(**said))
    broken = School(tmp_path)
    assert broken.trained_in_parts(broken.message(**said)) == expected
    for name in ("traces/wave.jsonl", "traces/wave-validation.jsonl", "previews/wave.jpg"):
        assert broken.kept(name) == whole.kept(name)


def test_a_killed_attempt_goes_on_from_its_last_checkpoint(tmp_path: Path) -> None:
    """At most the steps since then are done again, to the same bytes."""
    said: dict[str, Any] = {"steps": 8, "checkpoint": {"steps": 3}}
    whole = School(tmp_path)
    expected = whole.trained(whole.message(**said))
    assert len(whole.saved) == 3, "after 3 and 6 steps, and at the end"
    killed = School(tmp_path)
    killed.checkpoint = saved(whole.saved[1])
    outcome = killed.run(killed.message(**said))
    assert isinstance(outcome, Produced)
    assert outcome.data == expected
    assert killed.kept("traces/wave.jsonl") == whole.kept("traces/wave.jsonl")
    assert outcome.facts["pixel_evaluations"] == 2 * 2 * 16 * 16, "two steps of two photographs"


def test_a_damaged_state_is_none(school: School) -> None:
    expected = school.trained(school.message())
    school.checkpoint = saved(b"no state")
    assert school.trained(school.message()) == expected


def test_more_steps_for_a_finished_style(tmp_path: Path) -> None:
    """The same as if all steps had been asked for at once."""
    whole = School(tmp_path)
    expected = net_of(whole, whole.trained(whole.message(steps=9)))[0].state_dict()
    parts = School(tmp_path)
    parts.trained(parts.message(steps=5))
    parts.checkpoint = None
    more = parts.message(job="j2", steps=5, extends={"job": "j1", "steps": [4]})
    got = net_of(parts, parts.trained(more))[0].state_dict()
    assert all(torch.equal(got[name], value) for name, value in expected.items())
    assert parts.kept("traces/wave.jsonl", "j2") == whole.kept("traces/wave.jsonl")


@pytest.mark.parametrize(
    ("change", "words"),
    [({"seed": 3}, "other settings"), ({"extends": {"job": "j9", "steps": [4]}}, "kept no last state")],
)
def test_what_cannot_be_extended_says_why(school: School, change: dict[str, Any], words: str) -> None:
    school.trained(school.message())
    school.checkpoint = None
    said: dict[str, Any] = {"extends": {"job": "j1", "steps": [4]}, **change}
    outcome = school.run(school.message(job="j2", **said))
    assert isinstance(outcome, FarmError)
    assert words in str(outcome)
    assert school.returned == {}


def test_members_share_each_batch(tmp_path: Path) -> None:
    """Two members take the same steps as one, but for the rounding of sums."""
    one, two = School(tmp_path), School(tmp_path)
    said: dict[str, Any] = {"batch": 3, "steps": 4}
    one.trained(one.message(**said))
    two.trained(two.message(**said), size=2)
    for name in ("wave", "wave-validation"):
        alone, together = ([step["loss"] for step in school.lines(name)] for school in (one, two))
        assert together == pytest.approx(alone, rel=1e-2)
        assert together[0] == pytest.approx(alone[0], rel=1e-5)


def test_a_gang_stops_and_goes_on_together(tmp_path: Path) -> None:
    school = School(tmp_path)
    said: dict[str, Any] = {"batch": 3, "steps": 5}
    expected = school.trained(school.message(**said), size=2)
    school.checkpoint = None
    assert school.run(school.message(**said), size=2, stop_at=3) is None
    assert school.trained(school.message(**said), size=2) == expected


def test_a_style_that_was_finished_before_still_is_a_result(school: School) -> None:
    """Its attempt may have died before it could say what it made."""
    data = school.trained(school.message())
    expected = school.returned
    school.results[KEY] = data
    for size in (1, 2):
        assert school.run(school.message(), size) is None
        assert school.returned == expected


def test_quality_is_measured_where_it_can_be_compared(school: School) -> None:
    """With a VGG-19 whose channels are scaled; it stands in the style's metadata."""
    network, _ = load_loss_network(school.folder / school.keep(network_bytes()))
    scaled = encode_loss_network(network, NetworkMetadata("vgg19", "torchvision", channel_scaled=True))
    said: dict[str, Any] = {
        "loss_network": {"name": "scaled", "sha256": school.keep(scaled)},
        "content_layers": {"relu4_2": 1.0},
        "style_weight": 2.0,
        "optimizer": {"learning_rate": 1e-3},
    }
    plain = net_of(school, school.trained(school.message()))[1].training
    assert "quality" not in plain
    school.checkpoint = None
    quality = net_of(school, school.trained(school.message(**said)))[1].training["quality"]
    assert (quality["photographs"], quality["painting_px"]) == (3, 512)
    assert 0 < quality["style_error"] < 2
    assert 0 < quality["content_error"] < 10
    nothing_held_out = school.message(**said, validation={"pictures": 0})
    assert "quality" not in net_of(school, school.trained(nothing_held_out))[1].training


def test_it_may_begin_with_another_style(school: School) -> None:
    torch.manual_seed(5)
    net = TransformerNet(8)
    with torch.no_grad():
        net.deconv3.conv2d.get_parameter("bias").fill_(100)
    sha256 = school.keep(encode_style_model(net, StyleMetadata("old", 8)))
    begun = school.trained(school.message(steps=1, begin_with={"name": "old", "sha256": sha256}))
    got, metadata = net_of(school, begun)
    moved = got.res1.conv1.conv2d.weight.detach() - net.res1.conv1.conv2d.weight.detach()
    assert 0 < float(moved.abs().max()) < 0.01
    assert metadata.training["begin_with"]["name"] == "old"


def test_a_painting_that_cannot_be_read_fails_its_style(school: School) -> None:
    broken = [{"name": "wave.jpg", "sha256": school.keep(b"\xff\xd8\xff no picture")}]
    for size in (1, 2):
        outcome = school.run(school.message(style_images=broken), size)
        assert isinstance(outcome, FarmError)
        assert "wave.jpg" in str(outcome)
        assert school.returned == {}


def test_a_painting_that_is_too_small_fails_its_style(school: School) -> None:
    small = [{"name": "dot.png", "sha256": school.keep(picture_bytes(1, 1))}]
    for size in (1, 2):
        outcome = school.run(school.message(style_images=small), size)
        assert isinstance(outcome, FarmError)
        assert "too small" in str(outcome)


def test_a_store_that_fails_costs_no_style(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Previews, traces, checkpoints and the last state are missing, which is said once of each."""
    whole = School(tmp_path)
    said: dict[str, Any] = {"checkpoint": {"steps": 1}}
    expected = whole.trained(whole.message(**said))

    def full(*_: Any) -> None:
        raise StorageError("the disk is full")

    monkeypatch.setattr(Attempt, "save_checkpoint", full)
    monkeypatch.setattr(Attempt, "keep_file", full)
    monkeypatch.setattr(Attempt, "keep_state", full)
    troubled = School(tmp_path)
    assert troubled.trained(troubled.message(**said)) == expected
    told = troubled.said()
    for what in ("a checkpoint", f"final/{KEY}.state", "traces/wave.jsonl"):
        assert len([text for text in told if f"{what} could not be kept: the disk is full" in text]) == 1


def test_a_pause_that_cannot_keep_the_state_is_no_pause(
    school: School, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise StorageError("the disk is full")

    monkeypatch.setattr(Attempt, "save_checkpoint", full)
    with pytest.raises(StorageError, match="full"):
        school.run(school.message(), stop_at=3)


def test_a_style_is_kept_as_onnx_too(school: School) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    data = school.trained(school.message(steps=1, onnx=True))
    session = onnxruntime.InferenceSession(school.kept("onnx/wave.onnx"), providers=["CPUExecutionProvider"])
    photographs = torch.rand(2, 3, 24, 32) * 255
    (pictures,) = session.run(None, {"photograph": photographs.numpy()})
    with torch.no_grad():
        torch.testing.assert_close(
            torch.from_numpy(pictures), net_of(school, data)[0](photographs), rtol=1e-3, atol=0.05
        )


def test_test_pictures_may_be_named(school: School) -> None:
    named = {"name": "house.png", "sha256": school.keep(picture_bytes(30, 20, 5))}
    broken = {"name": "gone.png", "sha256": school.keep(b"nothing")}
    school.trained(school.message(test_images=[named, broken], steps=1))
    assert pixels(school.kept("previews/wave/step-000001-1.jpg")).shape == (20, 30, 3)
    assert ("j1", "previews/wave/step-000001-2.jpg") not in school.files
    assert [text for text in school.said() if "gone.png is left out" in text]
