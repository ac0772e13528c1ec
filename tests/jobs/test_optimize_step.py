"""The `optimize` step: what is refused at submit, and what is planned."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from jobs.checkpoints import kept_states
from jobs.errors import ManifestError, UsageError
from jobs.estimates import Rate, Rates
from jobs.inputs import Ignored
from jobs.library import Library, NetworkEntry
from jobs.manifest import Manifest, load_manifest
from jobs.optimize import PRESETS, OptimizePayload, state_name
from jobs.plan import PlannedTask, begin_planning, plan_step, validate_plan
from jobs.storage.local import LocalStore
from tests.jobs.optimizations import GOOD, document, step_of


@pytest.fixture
def networks(library: Library) -> Library:
    """The library with the loss networks of the presets for torchvision's weights and for Caffe's."""
    for name in ("vgg19", "vgg19-caffe"):
        architecture, _, family = name.partition("-")
        sha256 = library.put(name.encode())
        entry = NetworkEntry(
            name=name,
            sha256=sha256,
            architecture=architecture,
            family=family or "torchvision",
            channel_scaled=False,
            deepest_layer="conv5_4",
            size_bytes=len(name),
            created_at=0.0,
        )
        library.add_network(entry)
    return library


@pytest.fixture
def paintings(tmp_path: Path) -> Path:
    """A folder with two paintings."""
    folder = tmp_path / "paintings"
    folder.mkdir()
    for name in ("night", "scream"):
        (folder / f"{name}.jpg").write_bytes(name.encode())
    return folder


@pytest.fixture
def manifest(photos: Path, paintings: Path, tmp_path: Path):
    """Return a function that makes the manifest of one step over the photographs."""

    def make(**said: Any) -> Manifest:
        step = {"inputs": [str(photos)], "style_images": [str(paintings / "night.jpg")], **said}
        return load_manifest({**document(**step), "output": str(tmp_path / "out")})

    return make


def planned(manifest: Manifest, library: Library, **options: Any) -> tuple[list[PlannedTask], Ignored]:
    """Check a manifest and plan its step."""
    planning = begin_planning(manifest, validate_plan(manifest, library), **options)
    return list(plan_step(manifest.steps[0], planning)), planning.ignored


def payload(task: PlannedTask) -> OptimizePayload:
    """Return a payload as a worker reads it, after its way through JSON."""
    return OptimizePayload.model_validate(json.loads(json.dumps(task.payload)))


# --- the check at submit --------------------------------------------------------------------------


def test_what_is_missing_is_told_at_once_each_with_its_path(manifest, networks, tmp_path):
    wrong = manifest(
        inputs=[f"{tmp_path}/nothing"],
        style_images=[f"{tmp_path}/no.jpg", str(tmp_path)],
        init={"kind": "picture", "image": f"{tmp_path}/none.png"},
        loss_network="vgg11",
    )
    with pytest.raises(ManifestError) as caught:
        validate_plan(wrong, networks)
    lines = caught.value.message.splitlines()
    assert [line.partition(": ")[0] for line in lines] == [
        "steps[0].inputs[0]",
        "steps[0].style_images[0].image",
        "steps[0].style_images[1].image",
        "steps[0].init.image",
        "steps[0].loss_network",
    ]
    assert "no.jpg" in lines[1]
    assert not (tmp_path / "out").exists()


def test_a_missing_network_names_the_command_that_gets_it_and_for_a_preset_the_way_around_it(
    manifest, library, networks
):
    with pytest.raises(ManifestError) as caught:
        validate_plan(manifest(preset="inetwork"), networks)
    (line,) = caught.value.message.splitlines()
    for part in ("vgg16-caffe", "farm weights add vgg16-caffe", "inetwork", "--loss-network"):
        assert part in line
    with pytest.raises(ManifestError) as caught:
        validate_plan(manifest(loss_network="vgg16"), networks)
    assert "farm weights fetch vgg16" in caught.value.message
    assert "preset" not in caught.value.message


def test_paintings_are_kept_as_they_are_at_submit(manifest, networks, paintings):
    """What is in the file later changes nothing."""
    said = manifest()
    checked = validate_plan(said, networks)
    (paintings / "night.jpg").write_bytes(b"painted over")
    (task, *_) = plan_step(said.steps[0], begin_planning(said, checked))
    (style,) = payload(task).styles
    assert style.name == "night.jpg"
    assert networks.path(style.sha256).read_bytes() == b"night"


def test_what_an_earlier_job_kept_is_not_looked_for_again(manifest, networks, paintings):
    said = manifest()
    assets = validate_plan(said, networks).assets
    (paintings / "night.jpg").unlink()
    networks.remove_network("vgg19")
    assert validate_plan(said, networks, assets=assets).assets == assets
    with pytest.raises(ManifestError):
        validate_plan(said, networks)


# --- the plan -------------------------------------------------------------------------------------


def test_every_picture_is_a_task_of_its_own_that_no_other_waits_behind(manifest, networks):
    tasks, ignored = planned(manifest(workers={"min": 2, "max": 3}, seed=7), networks)
    assert [task.items[0].output_key for task in tasks] == [
        *(f"img{number}.jpg" for number in range(1, 11)),
        "sub/pic.png",
    ]
    assert {len(task.items) for task in tasks} == {1}
    assert {(task.workers, task.exclusive) for task in tasks} == {((2, 3), True)}
    assert {task.affinity for task in tasks} == {networks.network("vgg19").sha256}
    assert {task.items[0].style for task in tasks} == {"night"}
    assert ignored.count == 1
    assert payload(tasks[0]).seed == 7


def test_a_payload_says_all_that_the_step_says(manifest, networks, paintings):
    """Every choice of a render arrives, and a message stays small."""
    for said in GOOD:
        if said.keys() & {"extends", "init", "style_images", "loss_network", "preset"}:
            continue
        step = step_of(manifest(**said))
        tasks, _ = planned(manifest(**said), networks)
        arrived = payload(tasks[0])
        for key in said.keys() - {"workers"}:
            assert getattr(arrived, key) == getattr(step, key)
        assert len(json.dumps(tasks[0].payload)) < 2048


def test_paintings_and_the_picture_to_begin_with_travel_by_content(manifest, networks, paintings):
    said = {
        "style_images": [
            {"image": str(paintings / "night.jpg"), "weight": 3},
            str(paintings / "scream.jpg"),
        ],
        "init": {"kind": "picture", "image": str(paintings / "scream.jpg")},
        "loss_network": "vgg19-caffe",
        "preset": "gatys",
    }
    tasks, _ = planned(manifest(**said), networks)
    arrived = payload(tasks[0])
    assert [networks.path(style.sha256).read_bytes() for style in arrived.styles] == [b"night", b"scream"]
    assert [style.weight for style in arrived.styles] == [3, 1]
    assert arrived.init_image is not None
    assert arrived.init_image.sha256 == arrived.styles[1].sha256
    assert (arrived.network.name, arrived.network.sha256) == (
        "vgg19-caffe",
        networks.network("vgg19-caffe").sha256,
    )


@pytest.mark.parametrize(
    ("said", "keys"),
    [
        ({"pattern": "{style}/{name}-{index:02}.{ext}", "format": "webp"}, ["night/img1-01.webp"]),
        (
            {"style_images": ["{paintings}/scream.jpg"], "pattern": "{style}.{name}.{ext}"},
            ["scream.img1.jpg"],
        ),
    ],
)
def test_results_are_named_by_the_pattern_and_the_first_painting(
    manifest, networks, photos, paintings, said, keys
):
    said = copy.deepcopy(said)
    if "style_images" in said:
        said["style_images"] = [each.format(paintings=paintings) for each in said["style_images"]]
    tasks, _ = planned(manifest(inputs=[f"{photos}/img1.jpg"], **said), networks)
    assert [task.items[0].output_key for task in tasks] == keys


@pytest.mark.parametrize(("file", "name"), [("a.b.jpg", "a.b"), (".jpg", "jpg"), ("s3://x/...", "styled")])
def test_a_painting_of_any_name_gives_results_a_name(file, name):
    step = step_of(load_manifest(document(style_images=[file])))
    assert step.style_name == name


def test_a_preset_brings_its_own_network():
    """Unless another one is asked for."""
    for preset, facts in PRESETS.items():
        assert step_of(load_manifest(document(preset=preset))).network == facts.network
    assert step_of(load_manifest(document(preset="gatys", loss_network="mine"))).network == "mine"


RATES = Rates(default_network=Rate(0.0, 1.0))
"""A second for a megapixel of evaluations."""


@pytest.mark.parametrize(
    ("said", "megapixels"),
    [
        ({"preset": "gatys", "size_px": 1000}, 0.75 * 500),
        ({"preset": "gatys", "size_px": 1000, "iterations": 20}, 0.75 * 20),
        ({"scales": [{"size_px": 500, "iterations": 8}, {"size_px": 1000, "iterations": 2}]}, 0.75 * 4),
        ({"preset": "gatys", "size_px": 1000, "smallest_px": 500, "iterations": 30}, 0.75 * 17.5),
        ({"preset": "default", "size_px": 128}, 0.75 * 0.128**2 * 200),
        ({"preset": "default", "size_px": 256}, 0.75 * 0.256**2 * (200 / 4 + 100 / 2 + 100)),
    ],
    ids=str,
)
def test_an_estimate_adds_up_the_pixels_of_all_evaluations(manifest, networks, said, megapixels):
    tasks, _ = planned(manifest(**said), networks, rates=RATES)
    assert tasks[0].estimate_s == pytest.approx(megapixels)


@pytest.mark.parametrize(
    ("said", "each"),
    [
        ({}, 36 + 20 * 24),
        ({"preset": "crowson"}, 36 + 12),
        ({"preset": "crowson", "average_decay": 0}, 36),
        ({"preset": "gatys"}, 36 + 100 * 24),
        ({"optimizer": {"history": 5}}, 36 + 5 * 24),
        ({"optimizer": {"kind": "adam"}}, 36),
        ({"preset": "crowson", "optimizer": {"kind": "lbfgs"}}, 36 + 12 + 100 * 24),
    ],
    ids=str,
)
def test_states_are_counted_with_what_is_written(manifest, networks, said, each):
    """Three of them lie there while a picture is made, and the last one stays if it is to be kept."""

    def one(**more):
        (task, *_), _ = planned(manifest(size_px=1000, preview_s=0, **said, **more), networks)
        return task

    assert one().working_bytes == 3 * each * 750_000
    kept, not_kept = (one(keep_state=keep).items[0].output_bytes for keep in (True, False))
    assert kept - not_kept == each * 750_000


def test_previews_and_unfinished_pictures_are_counted_too(manifest, networks):
    def written(**said):
        (task, *_), _ = planned(manifest(**{"preview_s": 0, "keep_state": False, **said}), networks)
        return task.items[0].output_bytes

    size = {"size_px": 1000, "preset": "gatys", "iterations": 60}
    assert written(**size, preview_s=5) - written(**size) == pytest.approx(0.6 * 750_000)
    assert written(**size, save_every=20) == 4 * written(**size)


def test_a_measured_rate_of_the_network_replaces_the_guess(manifest, networks):
    rates = Rates({networks.network("vgg19").sha256: Rate(0.0, 0.5)}, default_network=Rate(0.0, 1.0))
    tasks, _ = planned(manifest(size_px=1000, smallest_px=1000, iterations=8), networks, rates=rates)
    assert tasks[0].estimate_s == pytest.approx(0.75 * 8 * 0.5)


# --- more iterations ------------------------------------------------------------------------------


def test_an_extension_takes_the_pictures_whose_state_is_kept(manifest, networks, tmp_path, photos):
    output = LocalStore(str(tmp_path / "out"))
    for name in ("img2.jpg", "sub/pic.png"):
        kept_states(output, "j1", state_name(name), 1).save(b"state")
    said = {"extends": {"job": "j1", "iterations": [50, 20]}, "size_px": 1000}
    tasks, ignored = planned(manifest(**said), networks, rates=RATES)
    assert [task.items[0].output_key for task in tasks] == ["img2.jpg", "sub/pic.png"]
    assert f"{photos}/img1.jpg (job j1 kept no state of it)" in ignored.names
    assert payload(tasks[0]).extends is not None
    assert tasks[0].estimate_s == pytest.approx(0.75 * 20)


def test_an_extension_of_which_nothing_is_kept_is_refused(manifest, networks):
    with pytest.raises(UsageError, match="job j1 kept no state to go on from"):
        planned(manifest(extends={"job": "j1", "iterations": [5]}), networks)


def test_results_count_as_the_same_by_what_decides_their_pixels(manifest, networks, paintings):
    """Names, devices and numbers of workers change nothing; paintings, sizes and extensions do."""
    base = payload(planned(manifest(), networks)[0][0]).settings()
    (paintings / "again.jpg").write_bytes(b"night")
    same: list[dict[str, Any]] = [
        {"style_images": [{"image": str(paintings / "again.jpg"), "weight": 9}]},
        {"threads": 4, "device": "cpu", "workers": {"min": 2, "max": 2}, "preview_s": 1, "keep_state": False},
        {"size_px": 512, "checkpoint": {"seconds": 5}, "save_every": 3, "max_megapixels": 9},
    ]
    other: list[dict[str, Any]] = [
        {"style_images": [str(paintings / "scream.jpg")]},
        {"size_px": 513},
        {"loss_network": "vgg19-caffe"},
        {"seed": 1},
        {"tile_px": 64},
        {"precision": "bf16"},
    ]
    for said in same:
        assert payload(planned(manifest(**said), networks)[0][0]).settings() == base
    keys = [json.dumps(payload(planned(manifest(**said), networks)[0][0]).settings()) for said in other]
    assert len({json.dumps(base), *keys}) == len(other) + 1


def test_each_extension_is_a_result_of_its_own(networks):
    sha256 = "0" * 64
    plain = {"styles": [{"name": "a", "sha256": sha256}], "network": {"name": "n", "sha256": sha256}}
    keys = [OptimizePayload.model_validate(plain).settings()]
    for iterations in ([5], [5, 5], [10]):
        extended = {**plain, "extends": {"job": "j1", "iterations": iterations}}
        keys.append(OptimizePayload.model_validate(extended).settings())
    assert len({json.dumps(key) for key in keys}) == 4
    again = {**plain, "extends": {"job": "j2", "iterations": [5]}}
    assert OptimizePayload.model_validate(again).settings() == keys[1]
