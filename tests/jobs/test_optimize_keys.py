"""What a manifest may say of an `optimize` step."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from jobs.errors import ManifestError
from jobs.manifest import Manifest, load_manifest
from tests.jobs.optimizations import GOOD, document, step_of


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


def test_a_painting_by_itself_has_a_weight_of_one():
    step = step_of(load_manifest(document(style_images=["a.jpg", {"image": "b.jpg", "weight": 3}])))
    assert [(style.image, style.weight) for style in step.style_images] == [("a.jpg", 1.0), ("b.jpg", 3.0)]


def test_the_size_is_that_of_the_last_scale():
    scales = [{"size_px": 256, "iterations": 9}, {"size_px": 700, "iterations": 1}]
    assert step_of(load_manifest(document(scales=scales))).size_px == 700


BAD: list[tuple[dict[str, Any], str]] = [
    ({"style_images": []}, "steps[0].style_images: needs at least one entry"),
    (
        {"style_images": [3]},
        "steps[0].style_images[0]: 3 is neither a file nor {image: file, weight: number}",
    ),
    (
        {"style_images": [{"image": "a.jpg", "weight": -1}]},
        "steps[0].style_images[0].weight: -1 is not a num",
    ),
    ({"style_images": [{"image": "a.jpg", "weight": 0}]}, "steps[0].style_images: every painting has a wei"),
    ({"style_images": [{"picture": "a.jpg", "image": "b"}]}, "steps[0].style_images[0].picture: there is no"),
    ({"preset": "gatis"}, "steps[0].preset: 'gatis' is not one of"),
    ({"loss_network": ""}, "steps[0].loss_network: "),
    ({"size_px": 8}, "steps[0].size_px: 8 is not a whole number from 16 to 65536"),
    ({"iterations": 0}, "steps[0].iterations: 0 is not a whole number"),
    ({"tile_px": 100}, "steps[0].tile_px: 100 is no multiple of 16: use 96 or 112"),
    ({"smallest_px": 600}, "steps[0].smallest_px: 600 is more than the size of the result, 512"),
    ({"scales": []}, "steps[0].scales: needs at least one entry"),
    (
        {"scales": [{"size_px": 64, "iterations": 1}], "iterations": 5},
        "steps[0].iterations: `scales` say that themselves",
    ),
    (
        {"scales": [{"size_px": 64, "iterations": 1}], "size_px": 512},
        "steps[0].size_px: 512 is not the size of the last scale, 64",
    ),
    (
        {"scales": [{"size_px": 64, "iterations": 1}, {"size_px": 32, "iterations": 1}], "size_px": 32},
        "steps[0].scales: they go from coarse to fine, each size once, not [64, 32]",
    ),
    ({"scales": ["64"]}, "steps[0].scales[0]: '64' is not a mapping"),
    ({"init": {"kind": "picture"}}, "steps[0].init: `image` goes with the kind picture"),
    ({"init": {"kind": "picture", "image": "http://x/y.png"}}, "steps[0].init.image: "),
    ({"colors": {"method": "yuv", "when": "before"}}, "steps[0].colors: before a render there is only"),
    ({"extends": {"job": "x", "iterations": [0]}}, "steps[0].extends.iterations[0]: 0 is not a whole number"),
    ({"style": "a.jpg"}, "steps[0].style: there is no such key, did you mean "),
    ({"pattern": "x.{ext}"}, "steps[0].pattern: "),
]


@pytest.mark.parametrize(("said", "says"), BAD, ids=lambda value: str(value)[:40])
def test_a_wrong_value_is_told_in_one_line_with_its_path(said, says):
    (line,) = mistakes(**said)
    assert line.startswith(says)


@pytest.mark.parametrize("key", ["inputs", "style_images"])
def test_a_missing_key_is_named(key):
    wrong = document()
    del wrong["steps"][0][key]
    with pytest.raises(ManifestError) as caught:
        load_manifest(wrong)
    assert caught.value.message == f"steps[0].{key}: missing"


def test_paths_start_where_the_manifest_is():
    said = {"style_images": ["night.jpg", "s3://b/c.png"], "init": {"kind": "picture", "image": "../x.png"}}
    step = step_of(load_manifest(document(**said)).anchored(Path("/home/anna")))
    assert step.inputs == ["/home/anna/photos"]
    assert [style.image for style in step.style_images] == ["/home/anna/night.jpg", "s3://b/c.png"]
    assert step.init is not None
    assert step.init.image == "/home/x.png"
