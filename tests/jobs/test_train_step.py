"""The `train` step: what is refused at submit, and what is planned."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from jobs.checkpoints import kept_states
from jobs.errors import ManifestError, UsageError
from jobs.estimates import Rate, Rates
from jobs.library import Library, NetworkEntry, StyleEntry
from jobs.manifest import Manifest, load_manifest
from jobs.optimize import state_name
from jobs.plan import Checked, PlannedTask, begin_planning, plan_step, validate_plan
from jobs.storage import Store, open_store
from jobs.storage.local import LocalStore
from jobs.storage.memory import MemoryStore
from jobs.tasks import StoreOptions
from jobs.train import TrainPayload
from jobs.training_data import decode_listing
from tests.jobs.trainings import GOOD, STEP, document, step_of


def with_network(library: Library) -> Library:
    """Return a library that has the loss network of the default preset now."""
    entry = NetworkEntry(
        name="vgg19",
        sha256=library.put(b"vgg19"),
        architecture="vgg19",
        family="torchvision",
        channel_scaled=False,
        deepest_layer="relu5_4",
        size_bytes=5,
        created_at=0.0,
    )
    library.add_network(entry)
    return library


@pytest.fixture
def known(library: Library) -> Library:
    """The library with the loss network of the default preset."""
    return with_network(library)


@pytest.fixture
def painting(tmp_path: Path) -> Path:
    """A painting."""
    file = tmp_path / "wave.jpg"
    file.write_bytes(b"wave")
    return file


@pytest.fixture
def manifest(photos: Path, painting: Path, tmp_path: Path):
    """Return a function that makes the manifest of one step over the photographs."""

    def make(**said: Any) -> Manifest:
        step = {"data": [str(photos)], "style_images": [str(painting)], "validation": {"pictures": 3}, **said}
        return load_manifest({**document(**step), "output": str(tmp_path / "out")})

    return make


def planned(manifest: Manifest, library: Library, **options: Any) -> PlannedTask:
    """Check a manifest and plan its step."""
    return replanned(manifest, validate_plan(manifest, library), **options)


def replanned(manifest: Manifest, checked: Checked, **options: Any) -> PlannedTask:
    """Plan the step of a manifest that was checked."""
    (task,) = plan_step(manifest.steps[0], begin_planning(manifest, checked, **options))
    return task


def payload(task: PlannedTask) -> TrainPayload:
    """Return a payload as a worker reads it, after its way through JSON."""
    return TrainPayload.model_validate(json.loads(json.dumps(task.payload)))


def refused(manifest: Manifest, library: Library) -> list[str]:
    """Return the lines with which a manifest is refused."""
    with pytest.raises(ManifestError) as caught:
        validate_plan(manifest, library)
    return caught.value.message.splitlines()


# --- the check at submit --------------------------------------------------------------------------


def test_what_is_missing_is_told_at_once_each_with_its_path(manifest, known, tmp_path):
    wrong = manifest(
        data=[f"{tmp_path}/nothing", f"{tmp_path}/*.jpeg"],
        style_images=[f"{tmp_path}/no.jpg"],
        test_images=[f"{tmp_path}/none.png"],
        validation={"data": [f"{tmp_path}/no-folder"]},
        loss_network="vgg11",
        begin_with="candle",
    )
    lines = refused(wrong, known)
    assert [line.partition(": ")[0] for line in lines] == [
        "steps[0].validation.data[0]",
        "steps[0].data[0]",
        "steps[0].data[1]",
        "steps[0].style_images[0].image",
        "steps[0].test_images[0]",
        "steps[0].loss_network",
        "steps[0].begin_with",
    ]
    assert not (tmp_path / "out").exists()


def test_a_folder_without_pictures_is_refused(manifest, known, tmp_path):
    empty, words = tmp_path / "empty", tmp_path / "words"
    for folder in (empty, words):
        folder.mkdir()
    (words / "a.txt").write_text("a")
    (line,) = refused(manifest(data=[str(empty)]), known)
    assert line.startswith(f"steps[0].data[0]: there is nothing in {empty}")
    (line,) = refused(manifest(data=[str(words)]), known)
    assert line.startswith(f"steps[0].data[0]: there is no picture in {words}")


def test_a_missing_network_names_the_command_that_gets_it_and_the_way_around_it(manifest, known):
    (line,) = refused(manifest(preset="pytorch-examples"), known)
    for part in ("steps[0].loss_network", "farm weights fetch vgg16", "loss_network", "--loss-network NAME"):
        assert part in line


@pytest.mark.parametrize(
    ("said", "line"),
    [
        (
            {"validation": {"pictures": 11}},
            "steps[0].validation.pictures: 11 pictures are held out to judge by, and data has 11 pictures",
        ),
        (
            {"validation": {"pictures": 8}},
            "steps[0].batch: 4 pictures a step, and there are 3 to train on",
        ),
        ({"batch": 12, "validation": {"pictures": 0}}, "steps[0].batch: 12 pictures a step"),
    ],
    ids=str,
)
def test_more_pictures_than_there_are_are_refused(manifest, known, said, line):
    """The photographs are ten, and one in the folder below."""
    (found,) = refused(manifest(**said), known)
    assert found.startswith(line)


def test_data_to_judge_by_has_to_suffice_by_itself(manifest, known, photos):
    judged = [str(photos / "sub")]
    (line,) = refused(manifest(validation={"data": judged, "pictures": 2}), known)
    assert line.startswith(
        "steps[0].validation.pictures: 2 are asked for, and validation.data has 1 picture (ask for fewer)"
    )
    task = planned(manifest(validation={"data": judged, "pictures": 1}, batch=11), known)
    said = payload(task)
    assert said.validation_data is not None
    (picture,) = decode_listing(known.path(said.validation_data.sha256).read_bytes())
    assert picture.url == f"{photos}/sub/pic.gif"
    assert said.validation.data is None


def test_the_name_of_another_style_is_refused_unless_it_may_be_replaced(manifest, known, tmp_path):
    (line,) = refused(manifest(style="candy"), known)
    assert line.startswith("steps[0].style: there is another style named 'candy' (take another name, or ")
    assert "--replace" in line
    validate_plan(manifest(style="candy", replace=True), known)
    metadata = {"output": f"{tmp_path}/out"}
    older = StyleEntry("wave", known.put(b"older"), "trained", 32, 5, 0.0, metadata=metadata)
    known.add_style(older)
    validate_plan(manifest(), known)
    elsewhere = load_manifest({**manifest().document(), "output": str(tmp_path / "elsewhere")})
    assert "another style named 'wave'" in refused(elsewhere, known)[0]


def test_a_style_that_came_with_the_farm_is_never_replaced(manifest, tmp_path):
    store, cache = MemoryStore(), tmp_path / "cache"
    bundled = Library(store, cache)
    bundled.add_style(StyleEntry("wave", bundled.put(b"wave"), "trained", 32, 4, 0.0))
    library = with_network(Library(MemoryStore(), cache, bundled=store))
    (line,) = refused(manifest(replace=True), library)
    assert line.startswith("steps[0].style: the style 'wave' came with the farm and stays")


def test_two_steps_of_a_job_do_not_make_the_same_style(manifest, known):
    said = manifest().document()
    again = {**said["steps"][0], "name": "again"}
    (line,) = refused(load_manifest({**said, "steps": [*said["steps"], again]}), known)
    assert line.startswith("steps[1].style: the step train-wave makes a style 'wave' too")


def test_a_style_to_begin_with_has_the_width_of_the_network(manifest, known):
    assert payload(planned(manifest(begin_with="candy"), known)).begin_with is not None
    (line,) = refused(manifest(begin_with="candy", network="slim16"), known)
    assert line.startswith(
        "steps[0].begin_with: the style candy has base width 32, and the network slim16 has 16 "
        "(train network: reference, or begin"
    )


def test_the_list_of_data_is_made_once_in_natural_order_each_file_once(manifest, known, photos):
    said = manifest(data=[f"{photos}/img2.jpg", str(photos)])
    checked = validate_plan(said, known)
    (photos / "img11.jpg").write_bytes(b"x")
    (photos / "img5.jpg").unlink()
    listed = decode_listing(known.path(payload(replanned(said, checked)).data.sha256).read_bytes())
    names = [picture.url.removeprefix(f"{photos}/") for picture in listed]
    numbers = [2, 1, *range(3, 11)]
    assert names == [*(f"img{number}.jpg" for number in numbers), "sub/pic.gif"]
    assert [picture.size_bytes for picture in listed] == [*numbers, 100]
    assert all(picture.stamp for picture in listed)
    (note,) = checked.notes
    assert note.startswith(f"train-wave: 1 file is left out, such as {photos}/notes.txt (not a type of pic")


def test_steps_that_train_on_the_same_list_it_once(manifest, known, photos):
    said = manifest().document()
    again = {**said["steps"][0], "name": "again", "style": "again"}
    flat = {**said["steps"][0], "name": "flat", "style": "flat", "recursive": False}
    opened: list[str] = []

    def opener(url: str, options: StoreOptions | None) -> Store:
        opened.append(url)
        return open_store(url, options)

    both = load_manifest({**said, "steps": [said["steps"][0], again, flat]})
    checked = validate_plan(both, known, opener=opener)
    assert opened.count(str(photos)) == 2
    lists = [checked.assets[f"file data of {name}"] for name in ("train-wave", "again", "flat")]
    assert lists[0] == lists[1] != lists[2]


def test_what_an_earlier_job_kept_is_not_looked_for_again(manifest, known, photos, painting):
    """A training that is extended sees the pictures that it saw, in the same order."""
    said = manifest()
    assets = validate_plan(said, known).assets
    painting.unlink()
    (photos / "img1.jpg").unlink()
    known.remove_network("vgg19")
    assert validate_plan(said, known, assets=assets).assets == assets


# --- the plan -------------------------------------------------------------------------------------


def test_a_step_is_one_task_with_one_item(manifest, known):
    task = planned(manifest(workers={"min": 2, "max": 3}), known)
    (item,) = task.items
    assert (item.input, item.output_key, item.style) == ("", "wave.safetensors", "wave")
    assert task.exclusive
    assert task.workers == (2, 3)
    assert task.affinity == known.network("vgg19").sha256
    assert len(json.dumps(task.payload)) < 2048
    many = planned(manifest(workers={"min": 1, "max": 99}, batch=4), known)
    assert many.workers == (1, 4), "each has at least one picture of a step"


def test_a_payload_says_all_that_the_step_says(manifest, known):
    places = {"extends", "style_images", "loss_network", "preset", "test_images", "recursive", "begin_with"}
    said_here = [
        said for said in GOOD if not said.keys() & places and "data" not in said.get("validation", {})
    ]
    assert len(said_here) > 5
    for said in said_here:
        step, arrived = step_of(manifest(**said)), payload(planned(manifest(**said), known))
        for key in said.keys() - {"workers"}:
            assert getattr(arrived, key) == getattr(step, key)


def test_files_travel_by_content(manifest, known, painting, photos, tmp_path):
    other = tmp_path / "scream.jpg"
    other.write_bytes(b"scream")
    images = [{"image": str(painting), "weight": 3}, str(other)]
    arrived = payload(planned(manifest(style_images=images, test_images=[f"{photos}/img3.jpg"]), known))
    assert [known.path(each.sha256).read_bytes() for each in arrived.style_images] == [b"wave", b"scream"]
    assert [(each.name, each.weight) for each in arrived.style_images] == [("wave.jpg", 3), ("scream.jpg", 1)]
    assert [known.path(each.sha256).read_bytes() for each in arrived.test_images] == [b"xxx"]
    assert arrived.loss_network.name == "vgg19"
    assert arrived.style == "wave"


def test_an_estimate_counts_the_pixels_of_all_steps(manifest, known):
    rates = Rates({known.network("vgg19").sha256: Rate(0.0, 0.5)})
    task = planned(manifest(steps=100, batch=2, crop_px=500), known, rates=rates)
    assert task.estimate_s == pytest.approx(100 * 2 * 0.25 * 0.5)


# --- more steps -----------------------------------------------------------------------------------


def test_an_extension_needs_the_state_that_its_job_kept(manifest, known, tmp_path):
    said = manifest(extends={"job": "j1", "steps": [50, 20]}, steps=100, batch=1, crop_px=1000)
    with pytest.raises(UsageError, match="job j1 kept no state to go on from"):
        planned(said, known)
    kept_states(LocalStore(str(tmp_path / "out")), "j1", state_name("wave.safetensors"), 1).save(b"state")
    task = planned(said, known, rates=Rates(default_network=Rate(0.0, 1.0)))
    assert payload(task).total_steps == 170
    assert task.estimate_s == pytest.approx(20)


def test_an_extended_training_is_the_one_that_had_all_the_steps_at_once(manifest, known, tmp_path):
    """Unless a rule may have stopped it before: then each extension counts for itself."""
    kept_states(LocalStore(str(tmp_path / "out")), "j1", state_name("wave.safetensors"), 1).save(b"state")
    extends = {"job": "j1", "steps": [50, 20]}

    def settings(**said: Any) -> dict[str, Any]:
        return payload(planned(manifest(**said), known)).settings()

    assert settings(steps=100, extends=extends) == settings(steps=170)
    stop = {"improvement": 0.1}
    assert settings(steps=100, extends=extends, stop=stop) != settings(steps=170, stop=stop)


def test_trainings_count_as_the_same_by_what_decides_their_weights(
    manifest, known, painting, photos, tmp_path
):
    """Names, devices, cadences and pictures to look at change nothing."""
    base = payload(planned(manifest(), known)).settings()
    again = tmp_path / "again.jpg"
    again.write_bytes(painting.read_bytes())
    same: list[dict[str, Any]] = [
        {"style": "other", "style_images": [{"image": str(again), "weight": 9}]},
        {"threads": 4, "device": "cpu", "workers": {"min": 2, "max": 2}, "onnx": True, "replace": True},
        {"crop_px": 256, "checkpoint": {"steps": 5}, "test_images": [str(again)], "stop": {"window": 3}},
        {"validation": {"pictures": 3, "every": 7}, "license": "CC0", "source": "Hokusai"},
    ]
    other: list[dict[str, Any]] = [
        {"data": [f"{photos}/*.jpg"]},
        {"style_images": [f"{photos}/img1.jpg"]},
        {"preset": "lengstrom", "loss_network": "vgg19"},
        {"network": "slim16"},
        {"steps": 9999},
        {"batch": 3},
        {"validation": {"pictures": 4}},
        {"validation": {"pictures": 1, "data": [f"{photos}/sub"]}},
        {"seed": 1},
        {"precision": "bf16"},
        {"begin_with": "candy"},
        {"stop": {"improvement": 0.1}},
        {"stop": {"improvement": 0.1}, "validation": {"pictures": 3, "every": 7}},
        {"optimizer": {"learning_rate": 0.1}},
    ]
    for said in same:
        assert payload(planned(manifest(**said), known)).settings() == base
    keys = [json.dumps(payload(planned(manifest(**said), known)).settings()) for said in other]
    assert len({json.dumps(base), *keys}) == len(other) + 1


def test_a_list_that_is_damaged_is_told_by_its_line():
    with pytest.raises(ValueError, match="line 2 is no picture of a training"):
        decode_listing(b'{"url": "a", "size_bytes": 1, "stamp": ""}\n{"url": "b"}\n')


def test_steps_of_a_style_may_be_named_by_later_ones(known, photos, painting, tmp_path):
    """The style that a step makes is planned when it is there, by its content."""
    said = {**STEP, "data": [str(photos)], "style_images": [str(painting)], "validation": {"pictures": 3}}
    render = {"name": "r", "kind": "stylize", "inputs": [str(photos)], "styles": [{"from": "train-wave"}]}
    made = load_manifest({**document(), "steps": [said, render], "output": str(tmp_path / "out")})
    assert made.steps[1].needs == ["train-wave"]
    results = {"train-wave": {"name": "wave", "sha256": "a" * 64, "entry": {"format": "trained"}}}
    planning = begin_planning(made, validate_plan(made, known), results=results)
    (task,) = plan_step(made.steps[1], planning)
    assert task.payload["style"] == {"name": "wave", "sha256": "a" * 64}
    assert "img1.jpg" in [item.output_key for item in task.items]
