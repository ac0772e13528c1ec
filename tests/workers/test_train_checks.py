"""What cannot be trained is refused at submit, in one line that names the key; what would be done is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from jobs.errors import UsageError
from jobs.steps import PlannedItem
from tests.workers.rendering import network_bytes, picture_bytes
from tests.workers.studying import KEY, School
from workers import precision, train_checks, train_forecast
from workers.kinds import Checks
from workers.nst.features import seeded
from workers.nst.style_models import StyleMetadata, encode_style_model
from workers.nst.training import Training
from workers.nst.training_presets import training_preset
from workers.nst.transformer import TransformerNet
from workers.train_checks import check, needed_bytes
from workers.train_forecast import forecast

GIB = 1 << 30
ITEMS = [PlannedItem("", -1, "", KEY)]


@pytest.fixture
def school(tmp_path: Path) -> School:
    return School(tmp_path)


def checks_of(school: School, notes: list[str], **more: Any) -> Checks:
    said = {"workers": 1, "device": "cpu", "memory_bytes": 8 * GIB, **more}
    return Checks(lambda sha256: school.folder / sha256, lambda _: b"", note=notes.append, **said)


def refused(school: School, on: dict[str, Any] | None = None, **said: Any) -> tuple[str, list[str]]:
    """Return why a training is refused, or nothing, and what is noted."""
    payload = {key: value for key, value in school.payload(**said).items() if value is not None}
    notes: list[str] = []
    try:
        check(payload, ITEMS, checks_of(school, notes, **(on or {})))
    except UsageError as error:
        return str(error), notes
    return "", notes


def test_what_can_be_trained_passes_without_a_word(school: School) -> None:
    assert refused(school) == ("", [])
    assert refused(school, {"workers": 2, "memory_bytes": 0}) == ("", [])
    assert refused(school, {"device": "cuda"}, device="cuda", precision="bf16") == ("", [])


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"device": "cuda"}, "device: the workers of this farm have no GPU"),
        ({"style_layers": {"relu9_1": 1}}, "style_layers: vgg19 has no layer 'relu9_1'"),
        ({"content_layers": {"pool5": 1}}, "crop_px: a picture of 16x16 px is too small"),
        ({"crop_px": 32, "pyramid": {"levels": 6}}, "pyramid: a picture of 1x1 px is too small for relu2_2"),
        ({"batch": 64, "crop_px": 1024}, "batch: 64 crops of 1024 px take about 268.4 GB, and a worker has"),
        ({"style_layers": {"relu1_1": 0}}, "preset: nothing of the style has a weight"),
    ],
)
def test_what_cannot_be_trained_is_refused_by_its_key(
    school: School, said: dict[str, Any], words: str
) -> None:
    refusal, _ = refused(school, **said)
    assert refusal.startswith(words)
    assert "\n" not in refusal


def test_more_members_than_photographs_of_a_step_are_refused(school: School) -> None:
    assert refused(school, {"workers": 3})[0].startswith("batch: 3 workers share the 2 photographs")


def test_files_that_cannot_be_used_are_refused_by_name(school: School) -> None:
    network = {"name": "mine", "sha256": school.keep(b"no network")}
    refusal, _ = refused(school, loss_network=network)
    assert refusal.startswith("loss_network: the loss network mine cannot be loaded")
    short = {"name": "short", "sha256": school.keep(network_bytes(convolutions=2))}
    refusal, _ = refused(school, loss_network=short)
    assert refusal.startswith("style_layers: the file of the loss network short ends at pool1")
    broken = {"name": "old", "sha256": school.keep(b"no style")}
    assert refused(school, begin_with=broken)[0].startswith("begin_with: old cannot be loaded")
    wide = school.keep(encode_style_model(TransformerNet(2), StyleMetadata("old", 2)))
    refusal, _ = refused(school, begin_with={"name": "old", "sha256": wide})
    assert refusal.startswith("begin_with: old has base width 2, and slim8 has 8")


def test_a_painting_that_is_wrong_is_refused_or_fails_its_own_style(school: School) -> None:
    """It fails by itself where the job trains other styles too; there it is a note."""
    torn = {"name": "torn.png", "sha256": school.keep(picture_bytes(40, 30)[:-200])}
    small = {"name": "dot.png", "sha256": school.keep(picture_bytes(1, 3))}
    for painting, words in ((torn, "torn.png: the file is"), (small, "dot.png: a picture of 1x3 px is too")):
        assert refused(school, style_images=[painting])[0].startswith(f"style_images[0]: {words}")
        refusal, notes = refused(school, {"alone": False}, style_images=[painting])
        assert refusal == ""
        assert words in notes[0]
        assert notes[0].startswith("wave will fail: ")


def test_a_precision_that_the_cpu_would_have_to_imitate_is_noted(
    school: School, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "computes_in_bf16", lambda: False)
    [note] = refused(school, precision="bf16")[1]
    assert note.startswith("precision bf16: ")


def test_another_network_than_the_presets_own_is_noted(school: School) -> None:
    """Where its weights are for the activations of its own."""
    [note] = refused(school, preset="lengstrom")[1]
    assert note.startswith("loss network tiny: vgg19 of torchvision, not the preset's own, vgg19 of caffe")
    caffe = {"name": "c", "sha256": school.keep(network_bytes("caffe"))}
    assert refused(school, loss_network=caffe) == ("", [])


def test_onnx_takes_its_package(school: School, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train_checks, "can_write_onnx", lambda: False)
    assert refused(school, onnx=True)[0].startswith("onnx: writing ONNX takes the package onnx")
    assert refused(school) == ("", [])


def test_half_the_precision_and_more_members_take_less_memory() -> None:
    recipe = training_preset("default")
    plain = needed_bytes(recipe, 32, "fp32")
    assert needed_bytes(recipe, 32, "bf16") < plain
    assert needed_bytes(recipe, 16, "fp32") < plain
    assert needed_bytes(recipe, 32, "fp32", 4) == plain // 4


def test_a_dry_run_tells_time_and_memory(school: School, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train_forecast, "photograph_s", lambda *_: 0.25)
    payload = school.payload(steps=100)
    told = forecast(payload, ITEMS, checks_of(school, [], workers=2))
    assert told["seconds"] == 100 * 2 * 0.25
    assert "a step took 0.25 s for each photograph on" in told["basis"]
    assert (told["workers"], told["device"], told["device_bytes"]) == (2, "cpu", 8 * GIB)
    assert told["pixel_evaluations"] == 100 * 2 * 16 * 16
    assert told["loss_network"]["architecture"] == "vgg19"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    told = forecast(payload, ITEMS, checks_of(school, [], device="cuda"))
    assert told["seconds"] is None
    assert "there is none here" in told["basis"]


def test_a_step_is_timed_without_its_first(monkeypatch: pytest.MonkeyPatch, school: School) -> None:
    from jobs.train import TrainPayload
    from workers.train_recipe import recipe_of

    said = TrainPayload.model_validate(school.payload(batch=4))
    now, durations, batches = [0.0], [9.0, 0.5, 0.25, 0.5, 0.5, 0.5], []
    plain = Training.step

    def step(self: Training, batch: torch.Tensor) -> dict[str, float]:
        batches.append(tuple(batch.shape))
        now[0] += durations[len(batches) - 1]
        return plain(self, batch)

    monkeypatch.setattr(Training, "step", step)
    recipe = recipe_of(said)
    took = train_forecast.photograph_s(recipe, seeded("vgg19", 2, 0), said, seconds=1.0, clock=lambda: now[0])
    assert took == 0.25
    assert set(batches) == {(1, 3, 16, 16)}
