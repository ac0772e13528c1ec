"""What cannot be rendered is refused at submit, in one line that names the key."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from jobs.errors import UsageError
from jobs.steps import PlannedItem
from tests.workers.rendering import SHALLOW, Desk, network_bytes, picture_bytes
from workers import precision
from workers.kinds import Checks
from workers.optimize_checks import check

GIB = 1 << 30
DEEP = {"style_layers": None, "content_layers": None}


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def refused(
    desk: Desk,
    *,
    workers: int = 1,
    on: str = "cpu",
    memory_bytes: int = 8 * GIB,
    single: bool = True,
    **said: Any,
) -> tuple[str, list[str]]:
    """Return why a render is refused, or nothing, and what is noted."""
    payload = {key: value for key, value in desk.payload(**said).items() if value is not None}
    notes: list[str] = []
    checks = Checks(
        lambda sha256: desk.folder / sha256,
        lambda url: desk.inputs[url],
        workers,
        on,
        memory_bytes,
        notes.append,
        single,
    )
    name = next(iter(desk.inputs))
    try:
        check(payload, [PlannedItem(name, len(desk.inputs[name]), "", "out.webp")], checks)
    except UsageError as error:
        return str(error), notes
    return "", notes


def test_what_can_be_rendered_passes_without_a_word(desk: Desk) -> None:
    assert refused(desk) == ("", [])
    assert refused(desk, workers=3, tile_px=16) == ("", [])
    assert refused(desk, on="cuda", precision="tf32") == ("", [])


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"iterations": 1}, "iterations: 1 iterations for 2 scales"),
        ({"style_layers": {"relu9_1": 1}}, "style_layers: vgg19 has no layer 'relu9_1'"),
        ({"optimizer": {"kind": "adam", "history": 3}}, "optimizer: history is not of adam"),
        (DEEP, "size_px: at the scale of 48 px painting 1 has 16x13 px"),
        ({**DEEP, "size_px": 16, "smallest_px": 16}, "size_px: at the scale of 16 px the picture has 16x12"),
        ({"precision": "tf32"}, "precision: tf32 is of NVIDIA GPUs"),
        ({"device": "cuda"}, "device: the workers of this farm have no GPU"),
        ({"tile_px": 2048, "size_px": 2048, "iterations": 99}, "tile_px: tiles of 2048 px need"),
        ({"tile_px": 16, "size_px": 8000, "iterations": 99}, "tile_px: tiles of 16 px cut 8000x6000 px into"),
        ({"size_px": 16000, "iterations": 99}, "size_px: 16000x12000 px on 1 worker need"),
        ({"size_px": 20000, "iterations": 99}, "format: webp cannot hold a side of 20000 px"),
        ({"preset": "inetwork", "style_layers": {"relu1_1": 1}}, "style_layers: one layer of style"),
        (
            {"scales": [{"size_px": 16, "iterations": 2}], "content_layers": {"pool5": 1}},
            "scales: at the scale of 16 px the picture has 16x12 px, and pool5 needs 32 px a side",
        ),
    ],
)
def test_what_cannot_be_rendered_is_refused_by_its_key(desk: Desk, said: dict[str, Any], words: str) -> None:
    if said is DEEP:
        painting = {"name": "tiny.png", "sha256": desk.keep(picture_bytes(16, 13))}
        said = {**said, "styles": [painting], "size_px": 48, "smallest_px": 48, "iterations": 2}
        desk.inputs = {"photo.png": picture_bytes(48, 48)}
    refusal, _ = refused(desk, **said)
    assert refusal.startswith(words)
    assert "\n" not in refusal


def test_files_that_cannot_be_used_are_refused_by_name(desk: Desk) -> None:
    broken = desk.keep(picture_bytes(40, 30)[:-200])
    styles = [desk.payload()["styles"][0], {"name": "torn.png", "sha256": broken}]
    assert refused(desk, styles=styles)[0].startswith("style_images[1]: torn.png: the file is")
    init: dict[str, Any] = {"init": {"kind": "picture", "image": "/x/torn.png"}}
    refusal, _ = refused(desk, init_image={"name": "torn.png", "sha256": broken}, **init)
    assert refusal.startswith("init.image: torn.png: the file is")
    network = {"name": "mine", "sha256": desk.keep(b"no network")}
    assert "loss_network: the loss network mine cannot be loaded" in refused(desk, network=network)[0]
    short = {"name": "short", "sha256": desk.keep(network_bytes(convolutions=2))}
    refusal, _ = refused(desk, network=short)
    assert refusal.startswith(
        "style_layers: the file of the loss network short ends at pool1, before relu2_1"
    )


def test_a_precision_that_the_cpu_would_have_to_imitate_is_noted(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "computes_in_bf16", lambda: False)
    [note] = refused(desk, precision="bf16")[1]
    assert note.startswith("precision bf16: ")
    assert refused(desk, precision="bf16", on="cuda") == ("", [])


def test_another_network_than_the_presets_own_is_noted(desk: Desk) -> None:
    refusal, notes = refused(desk, preset="gatys", smallest_px=None)
    assert refusal == ""
    (note,) = notes
    assert note.startswith("loss network tiny: vgg19 of torchvision, not the preset's own, vgg19 of caffe")


def test_a_picture_that_cannot_be_read_is_noted_since_others_may_be_fine(desk: Desk) -> None:
    desk.inputs = {"photo.png": b"no picture"}
    assert refused(desk, single=False) == ("", ["photo.png: not a picture"])
    refusal, notes = refused(desk)
    assert refusal.startswith("inputs: photo.png: not a picture")
    assert notes == []
    assert SHALLOW.keys() <= desk.payload().keys()


def test_a_narrow_picture_among_others_is_noted_and_refused_alone(desk: Desk) -> None:
    file = io.BytesIO()
    Image.new("RGB", (400, 8)).save(file, "PNG")
    desk.inputs = {"strip.png": file.getvalue()}
    said: dict[str, Any] = {**DEEP, "size_px": 128, "smallest_px": 128}
    refusal, notes = refused(desk, single=False, **said)
    assert refusal == ""
    assert notes[0].startswith("strip.png: at the scale of 128 px the picture has 128x3")
    assert "128x3" in refused(desk, **said)[0]
