"""Manifests: what is accepted, and how every mistake is told with its path."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from jobs import paths
from jobs.errors import ManifestError
from jobs.manifest import Manifest, load_manifest
from jobs.scheduler import TIERS, too_many_failed
from jobs.stylize_step import StylizeStep
from jobs.tasks import StoreOptions

STEP: dict[str, Any] = {"name": "render", "kind": "stylize", "inputs": ["photos"], "styles": ["candy"]}
MANIFEST: dict[str, Any] = {"version": 1, "name": "holiday", "steps": [STEP]}


def with_value(place: str, value: Any) -> dict[str, Any]:
    """Return a good manifest in which the value at `place` (`steps.0.quality`) is another."""
    document = copy.deepcopy(MANIFEST)
    *above, last = place.split(".")
    target: Any = document
    for part in above:
        target = target[int(part)] if isinstance(target, list) else target.setdefault(part, {})
    if isinstance(target, list):
        target[int(last) :] = [value]
    else:
        target[last] = value
    return document


def mistakes(document: Any) -> list[str]:
    """Return the lines that a wrong manifest is refused with."""
    with pytest.raises(ManifestError) as caught:
        load_manifest(document)
    return caught.value.message.splitlines()


def stylize(manifest: Manifest, number: int = 0) -> StylizeStep:
    step = manifest.steps[number]
    assert isinstance(step, StylizeStep)
    return step


def test_a_short_manifest_is_enough():
    """Everything else has the documented default."""
    manifest = load_manifest(MANIFEST)
    step = stylize(manifest)
    assert (manifest.priority, manifest.tier, manifest.max_failed, manifest.on_existing) == (
        50,
        "default",
        None,
        "fail",
    )
    assert (manifest.output, manifest.user) == (None, None)
    assert (step.format, step.quality, step.max_size_px, step.max_megapixels) == ("keep", 95, None, 400)
    assert (step.recursive, step.pattern, step.device, step.precision) == (True, None, "auto", "fp32")
    assert (step.chunk.items, step.chunk.seconds, step.workers.min, step.workers.max) == (64, 5, 1, 1)


@pytest.mark.parametrize("write", [json.dumps, yaml.safe_dump])
def test_yaml_and_json_say_the_same(tmp_path, write):
    """As text, as a file, and as a mapping that was read already."""
    (tmp_path / "job").write_text(write(MANIFEST))
    assert load_manifest(write(MANIFEST)) == load_manifest(tmp_path / "job") == load_manifest(MANIFEST)


GOOD = [
    ("user", "anna"),
    ("priority", 0),
    ("priority", 100),
    ("tier", "rush"),
    ("tier", "batch"),
    ("max_failed", 0),
    ("max_failed", 12),
    ("max_failed", "5%"),
    ("max_failed", "0.5%"),
    ("max_failed", None),
    ("output", "out"),
    ("output", "s3://bucket/out"),
    ("on_existing", "rename"),
    ("s3", {"endpoint_url": "http://127.0.0.1:8333", "region": "x", "profile": "p", "path_style": True}),
    ("steps.0.needs", []),
    ("steps.0.workers", {"min": 1, "max": 1}),
    ("steps.0.inputs", ["a.jpg", "b/", "c/**/*.png", "s3://bucket", "s3://bucket/d/*.jpg", "ünï cödé"]),
    ("steps.0.recursive", False),
    ("steps.0.styles", ["candy", "mosaic"]),
    ("steps.0.pattern", "{style}-{index:04}-{name}.{ext}"),
    ("steps.0.format", "webp"),
    ("steps.0.quality", 1),
    ("steps.0.max_size_px", 1024),
    ("steps.0.max_megapixels", 0.5),
    ("steps.0.max_megapixels", 1000),
    ("steps.0.device", "cuda"),
    ("steps.0.precision", "bf16"),
    ("steps.0.chunk", {"items": 1}),
    ("steps.0.chunk", {"seconds": 0.5}),
    ("steps.0.threads", 4),
]


@pytest.mark.parametrize(("place", "value"), GOOD)
def test_good_values_survive_the_way_through_json(place, value):
    """A manifest that is sent and kept as JSON is the one that was written; the schema agrees."""
    manifest = load_manifest(with_value(place, value))
    document = json.loads(json.dumps(manifest.document()))
    assert load_manifest(document) == manifest
    jsonschema.validate(document, Manifest.model_json_schema())
    jsonschema.validate(with_value(place, value), Manifest.model_json_schema())


BAD = [
    ("version", 2, "version: 2 is not known to this version of the farm: write 1"),
    ("version", "1", "version: '1' is not known"),
    ("version", True, "version: True is not known"),
    ("version", [1], "version: [1] is not known"),
    ("name", "", "name: '' is empty"),
    ("name", " x", "name: ' x' is empty or has blanks at an end"),
    ("name", "a/b", "name: 'a/b' could not name a folder"),
    ("name", "..", "name: '..' could not name a folder"),
    ("name", "a\nb", "name: 'a\\nb' could not name a folder"),
    ("name", "n" * 101, "name: 'nnnnnnnnnnnnn"),
    ("name", 2024, "name: 2024 is not text (put it in quotes?)"),
    ("user", "a\\b", "user: 'a\\\\b' could not name a folder"),
    ("priority", 101, "priority: 101 is not a whole number from 0 to 100"),
    ("priority", -1, "priority: -1 is not a whole number from 0 to 100"),
    ("priority", "50", "priority: '50' is not a whole number from 0 to 100"),
    ("priority", 5.5, "priority: 5.5 is not a whole number from 0 to 100"),
    ("priority", True, "priority: True is not a whole number from 0 to 100"),
    ("priority", None, "priority: None is not a whole number from 0 to 100"),
    ("tier", "rsh", "tier: 'rsh' is not one of rush, default, batch, did you mean rush?"),
    ("tier", 1, "tier: 1 is not one of rush, default, batch"),
    ("max_failed", -1, "max_failed: -1 is no number of items: write a count such as 10"),
    ("max_failed", "5", "max_failed: '5' is no number of items"),
    ("max_failed", "101%", "max_failed: '101%' is no number of items"),
    ("max_failed", "x%", "max_failed: 'x%' is no number of items"),
    ("max_failed", True, "max_failed: True is no number of items"),
    ("max_failed", 0.5, "max_failed: 0.5 is no number of items"),
    ("output", "", "output: empty: give a path or s3://bucket/prefix"),
    ("output", "gs://b/p", "output: 'gs://b/p' is neither a path nor s3://bucket/prefix"),
    ("output", "s3:///p", "output: 's3:///p' names no bucket"),
    ("output", "a\0b", "output: 'a\\x00b' holds control characters"),
    ("output", ["a"], "output: ['a'] is not text"),
    ("on_existing", "overwrite", "on_existing: 'overwrite' is not one of fail, replace, rename"),
    ("s3", "http://x", "s3: 'http://x' is not a mapping of keys to values"),
    ("s3.endpoint_url", "127.0.0.1:8333", "s3.endpoint_url: not a URL like https://s3.example.org"),
    ("s3.endpoint_url", "http://[", "s3.endpoint_url: "),
    ("s3.region", 1, "s3.region: 1 is not text"),
    ("s3.profile", 1, "s3.profile: 1 is not text"),
    ("s3.path_style", "yes", "s3.path_style: 'yes' is not true or false"),
    ("steps", [], "steps: needs at least one entry"),
    ("steps", {"a": 1}, "steps: {'a': 1} is not a list"),
    ("steps", None, "steps: None is not a list"),
    ("steps.0", "render", "steps[0]: 'render' is not a mapping of keys to values"),
    ("steps.0", {"name": "x"}, "steps[0].kind: missing (kinds: "),
    (
        "steps.0.kind",
        "stylise",
        "steps[0].kind: 'stylise' is no kind of step, did you mean stylize? (kinds: ",
    ),
    ("steps.0.kind", ["stylize"], "steps[0].kind: ['stylize'] is no kind of step"),
    ("steps.0.name", "", "steps[0].name: '' is empty"),
    ("steps.0.name", "a/b", "steps[0].name: 'a/b' could not name a folder"),
    ("steps.0.needs", ["train"], "steps[0].needs[0]: there is no step 'train' (steps: render)"),
    ("steps.0.needs", ["rendr"], "steps[0].needs[0]: there is no step 'rendr', did you mean render?"),
    ("steps.0.needs", ["render"], "steps[0].needs: the step would wait for itself: render needs render"),
    ("steps.0.needs", "render", "steps[0].needs: 'render' is not a list: write [render]"),
    ("steps.0.workers", {"min": 2, "max": 1}, "steps[0].workers: min 2 is more than max 1"),
    ("steps.0.workers", {"max": 4}, "steps[0].workers: one worker renders a picture"),
    ("steps.0.workers", {"min": 0}, "steps[0].workers.min: 0 is not a whole number from 1 to 1024"),
    ("steps.0.workers", 2, "steps[0].workers: 2 is not a mapping of keys to values"),
    ("steps.0.inputs", [], "steps[0].inputs: needs at least one entry"),
    ("steps.0.inputs", "photos", "steps[0].inputs: 'photos' is not a list: write [photos]"),
    ("steps.0.inputs", ["a", ""], "steps[0].inputs[1]: empty: give a path or s3://bucket/prefix"),
    ("steps.0.inputs", [1], "steps[0].inputs[0]: 1 is not text"),
    ("steps.0.inputs", ["http://x/y.jpg"], "steps[0].inputs[0]: 'http://x/y.jpg' is neither a path nor"),
    ("steps.0.inputs", ["s3://"], "steps[0].inputs[0]: 's3://' names no bucket"),
    ("steps.0.recursive", 1, "steps[0].recursive: 1 is not true or false"),
    ("steps.0.styles", [], "steps[0].styles: needs at least one entry"),
    ("steps.0.styles", "candy", "steps[0].styles: 'candy' is not a list: write [candy]"),
    ("steps.0.styles", ["a", 3], "steps[0].styles[1]: 3 is neither the name of a style nor {from: step}"),
    ("steps.0.styles", ["a", ""], "steps[0].styles[1]: '' is empty"),
    ("steps.0.styles", ["a", "../b"], "steps[0].styles[1]: '../b' could not name a folder"),
    ("steps.0.styles", ["a", "b", "a"], "steps[0].styles[2]: a is there twice"),
    (
        "steps.0.styles",
        [{"from": "x", "form": "x"}],
        "steps[0].styles[0].form: there is no such key, did you mean from?",
    ),
    ("steps.0.styles", [{"from": 1}], "steps[0].styles[0].from: 1 is not text"),
    ("steps.0.styles", [{"from": "x"}], "steps[0].needs[0]: there is no step 'x'"),
    ("steps.0.pattern", "{names}.{ext}", "steps[0].pattern: there is no {names}, did you mean name?"),
    ("steps.0.pattern", 3, "steps[0].pattern: 3 is not text"),
    ("steps.0.format", "jpeg", "steps[0].format: 'jpeg' is not one of keep, jpg, png, webp, tiff, bmp"),
    ("steps.0.quality", 0, "steps[0].quality: 0 is not a whole number from 1 to 100"),
    ("steps.0.quality", 101, "steps[0].quality: 101 is not a whole number from 1 to 100"),
    ("steps.0.max_size_px", 0, "steps[0].max_size_px: 0 is not a whole number from 1 to 100000"),
    ("steps.0.max_size_px", "1k", "steps[0].max_size_px: '1k' is not a whole number from 1 to 100000"),
    ("steps.0.max_megapixels", 0, "steps[0].max_megapixels: 0 is not a number from 0.001 to 100000"),
    ("steps.0.max_megapixels", float("nan"), "steps[0].max_megapixels: nan is not a number from"),
    ("steps.0.max_megapixels", float("inf"), "steps[0].max_megapixels: inf is not a number from"),
    ("steps.0.device", "gpu", "steps[0].device: 'gpu' is not one of auto, cpu, cuda"),
    ("steps.0.precision", "fp16", "steps[0].precision: 'fp16' is not one of fp32, bf16"),
    ("steps.0.chunk", 64, "steps[0].chunk: 64 is not a mapping of keys to values"),
    ("steps.0.chunk", {"items": 0}, "steps[0].chunk.items: 0 is not a whole number from 1 to 1000"),
    ("steps.0.chunk", {"seconds": 0}, "steps[0].chunk.seconds: 0 is not a number from 0.1 to 3600"),
    ("steps.0.threads", 0, "steps[0].threads: 0 is not a whole number from 1 to 1024"),
]


@pytest.mark.parametrize(("place", "value", "says"), BAD)
def test_a_wrong_value_is_told_in_one_line_with_its_path(place, value, says):
    (line,) = mistakes(with_value(place, value))
    assert line.startswith(says)


def test_every_key_has_a_bad_value_above():
    """A key that is added without a test of what it refuses fails here."""
    tested = {place.replace(".0", "") for place, _, _ in BAD}
    keys = set(Manifest.model_fields) | {f"steps.{key}" for key in StylizeStep.model_fields}
    assert keys <= tested


@pytest.mark.parametrize(
    ("place", "says"),
    [
        (
            "priorities",
            "priorities: there is no such key, did you mean priority? (keys: version, name, user, ",
        ),
        ("colour", "colour: there is no such key (keys: version, "),
        ("s3.secret_access_key", "s3.secret_access_key: there is no such key"),
        ("steps.0.style", "steps[0].style: there is no such key, did you mean styles? (keys: name, kind, "),
        ("steps.0.chunk.item", "steps[0].chunk.item: there is no such key, did you mean items?"),
        ("steps.0.workers.n", "steps[0].workers.n: there is no such key (keys: min, max)"),
    ],
)
def test_an_unknown_key_is_refused_with_those_that_are_known(place, says):
    (line,) = mistakes(with_value(place, "hidden"))
    assert line.startswith(says)
    assert "hidden" not in line, "the value may be a secret"


@pytest.mark.parametrize("key", ["version", "name", "steps"])
def test_a_missing_key_is_named(key):
    assert mistakes({k: v for k, v in MANIFEST.items() if k != key}) == [f"{key}: missing"]


@pytest.mark.parametrize("key", ["name", "inputs", "styles"])
def test_a_missing_key_of_a_step_is_named(key):
    step = {k: v for k, v in STEP.items() if k != key}
    assert mistakes(with_value("steps.0", step)) == [f"steps[0].{key}: missing"]


def test_all_mistakes_are_told_at_once():
    """One line each, in every step."""
    wrong = {**STEP, "quality": 0, "format": "gif", "inptus": []}
    lines = mistakes({"version": 1, "priority": 200, "steps": [wrong, {**wrong, "kind": "stylish"}], "x": 1})
    assert [line.partition(":")[0] for line in lines] == [
        "x",
        "name",
        "priority",
        "steps[0].inptus",
        "steps[0].format",
        "steps[0].quality",
        "steps[1].kind",
    ]


def test_a_password_in_a_url_is_refused_and_not_repeated():
    (line,) = mistakes(with_value("s3.endpoint_url", "https://anna:hunter2@host"))
    assert line.startswith("s3.endpoint_url: holds a user or password")
    assert "hunter2" not in line


def test_a_huge_wrong_value_makes_a_short_message():
    (line,) = mistakes(with_value("steps.0.quality", [["x" * 1000] * 1000] * 1000))
    assert len(line) < 200


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(),
        lambda v: (
            st.lists(v)
            | st.dictionaries(
                st.sampled_from(["version", "name", "steps", "kind", "styles", "from", "inputs", "x"]), v
            )
        ),
    )
)
def test_any_value_of_steps_is_a_clear_error(value):
    with pytest.raises(ManifestError):
        load_manifest({**MANIFEST, "steps": [value]})


# --- what others build on -------------------------------------------------------------------------


def test_paths_start_where_the_manifest_is():
    document = with_value("steps.0.inputs", ["photos/", "../a/*.jpg", "/b", "s3://bucket/c"])
    manifest = load_manifest({**document, "output": "out"}).anchored(Path("/home/anna/jobs"))
    assert manifest.output == "/home/anna/jobs/out"
    assert stylize(manifest).inputs == [
        "/home/anna/jobs/photos/",
        "/home/anna/a/*.jpg",
        "/b",
        "s3://bucket/c",
    ]
    assert load_manifest(manifest.document()) == manifest


def test_store_options_leave_credentials_out():
    manifest = load_manifest(with_value("s3", {"endpoint_url": "http://127.0.0.1:1", "path_style": False}))
    assert manifest.s3.options() == StoreOptions(endpoint_url="http://127.0.0.1:1", path_style=False)


def test_words_that_are_written_twice_agree():
    """The schema needs them as literals; who acts on them has them as values."""
    schema = Manifest.model_json_schema()
    assert tuple(schema["properties"]["tier"]["enum"]) == TIERS
    step = StylizeStep.model_json_schema()
    assert step["properties"]["format"]["enum"] == ["keep", *paths.FORMATS]
    assert not too_many_failed("5%", 5, 100)
    assert too_many_failed("0.5%", 1, 100)


def step_schemas() -> dict[str, Any]:
    """Return what the manifest's schema says of each kind of step."""
    schema = Manifest.model_json_schema()
    kinds = schema["properties"]["steps"]["items"]["oneOf"]
    whole = (schema["$defs"][kind["$ref"].rpartition("/")[2]] if "$ref" in kind else kind for kind in kinds)
    return {kind["title"]: kind for kind in whole}


def test_the_schema_describes_every_key():
    schema = Manifest.model_json_schema()
    assert schema["additionalProperties"] is False
    of_steps = [step_schemas()[name]["properties"] for name in ("StylizeStep", "OptimizeStep")]
    for properties in (schema["properties"], *of_steps):
        assert [key for key, value in properties.items() if not value.get("description")] in ([], ["kind"])


BEYOND_A_SCHEMA = (
    "could not name",
    "is empty",
    "empty:",
    "nnn",
    "neither a path",
    "no bucket",
    "control characters",
    "there is no",
    "would wait",
    "min 2 is",
    "one worker",
    "twice",
    "endpoint_url",
    "inf is",
    "nan is",
)


@pytest.mark.parametrize(
    ("place", "value"),
    [(place, value) for place, value, says in BAD if not any(words in says for words in BEYOND_A_SCHEMA)],
)
def test_the_schema_refuses_wrong_types_and_ranges(place, value):
    """So that an editor marks them while the manifest is written."""
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(with_value(place, value), Manifest.model_json_schema())
