"""What a manifest may say of a `train` step."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import jsonschema
import pytest

from jobs.errors import ManifestError
from jobs.manifest import Manifest, load_manifest
from jobs.train import NETWORK_WIDTHS, PRESETS, NetworkName, TrainingPreset
from tests.jobs.trainings import GOOD, document, step_of


def mistakes(**said: Any) -> list[str]:
    """Return the lines that a wrong manifest is refused with."""
    with pytest.raises(ManifestError) as caught:
        load_manifest(document(**said))
    return caught.value.message.splitlines()


@pytest.mark.parametrize("said", GOOD, ids=str)
def test_good_values_survive_the_way_through_json(said):
    """A manifest that is kept as JSON is the one that was written; the schema agrees."""
    manifest = load_manifest(document(**said))
    kept = json.loads(json.dumps(manifest.document()))
    assert load_manifest(kept).document() == manifest.document()
    jsonschema.validate(kept, Manifest.model_json_schema())
    jsonschema.validate(document(**said), Manifest.model_json_schema())


def test_every_preset_and_network_that_can_be_named_is_in_its_table():
    assert set(get_args(TrainingPreset)) == set(PRESETS)
    assert set(get_args(NetworkName)) == set(NETWORK_WIDTHS)


def test_what_is_not_said_is_as_the_preset_has_it():
    for preset, facts in PRESETS.items():
        step = step_of(load_manifest(document(preset=preset)))
        assert (step.known_steps, step.known_batch, step.known_crop_px) == (
            facts.steps,
            facts.batch,
            facts.crop_px,
        )
        assert step.known_loss_network == facts.network
    step = step_of(load_manifest(document(steps=7, batch=2, crop_px=64, loss_network="mine")))
    assert (step.known_steps, step.known_batch, step.known_crop_px) == (7, 2, 64)
    assert step.known_loss_network == "mine"


BAD: list[tuple[dict[str, Any], str]] = [
    ({"data": []}, "steps[0].data: needs at least one entry"),
    ({"data": ["http://x/y"]}, "steps[0].data[0]: "),
    ({"style_images": []}, "steps[0].style_images: needs at least one entry"),
    ({"style_images": [{"image": "a.jpg", "weight": 0}]}, "steps[0].style_images: every painting has a wei"),
    ({"style": "Great Wave"}, "steps[0].style: 'Great Wave' cannot be the name of a style (use lower-case"),
    ({"style": "a/b"}, "steps[0].style: 'a/b' could not name a folder"),
    ({"preset": "lengstorm"}, "steps[0].preset: 'lengstorm' is not one of"),
    ({"network": "slim"}, "steps[0].network: 'slim' is not one of reference, slim16, slim8"),
    ({"steps": 0}, "steps[0].steps: 0 is not a whole number from 1 to 1e+07"),
    ({"batch": 0}, "steps[0].batch: 0 is not a whole number"),
    ({"crop_px": 250}, "steps[0].crop_px: 250 is no multiple of 4: use 248 or 252"),
    ({"crop_px": 8}, "steps[0].crop_px: 8 is not a whole number from 16"),
    ({"resize_px": 200}, "steps[0].resize_px: 200 is less than the side of the crops, 256"),
    ({"crop": "center", "resize_px": 300}, "steps[0].resize_px: center crops are of pictures whose"),
    ({"style_size_px": 9}, "steps[0].style_size_px: 9 is neither 16 or more nor 0"),
    ({"batch": 2, "workers": {"min": 3, "max": 3}}, "steps[0].workers: 3 workers share the pictures of a"),
    ({"pyramid": {"levels": 0}}, "steps[0].pyramid.levels: 0 is not a whole number from 1 to 8"),
    ({"optimizer": {"kind": "adam"}}, "steps[0].optimizer.kind: there is no such key"),
    (
        {"stop": {"improvement": 0.1}, "validation": {"pictures": 0}},
        "steps[0].stop.improvement: nothing says",
    ),
    ({"validation": {"data": []}}, "steps[0].validation.data: needs at least one entry"),
    ({"extends": {"job": "x", "steps": [0]}}, "steps[0].extends.steps[0]: 0 is not a whole number"),
    ({"inputs": ["a"]}, "steps[0].inputs: there is no such key"),
]


@pytest.mark.parametrize(("said", "line"), BAD, ids=str)
def test_a_mistake_is_one_line_with_its_path(said, line):
    (found,) = mistakes(**said)
    assert found.startswith(line)


def test_paths_begin_in_the_folder_of_the_manifest():
    said = {
        "data": ["photos", "s3://bucket/photos"],
        "style_images": ["wave.jpg"],
        "test_images": ["me.jpg"],
        "validation": {"data": ["held"]},
    }
    step = step_of(load_manifest(document(**said)).anchored(Path("/here")))
    assert step.data == ["/here/photos", "s3://bucket/photos"]
    assert step.style_images[0].image == "/here/wave.jpg"
    assert step.test_images == ["/here/me.jpg"]
    assert step.inputs == [*step.data, "/here/held"]
