"""Plans: how pictures become tasks, under which names, and what that adds up to."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.errors import FarmError, UsageError
from jobs.estimates import Rate, Rates, listed_megapixels
from jobs.manifest import Manifest
from jobs.plan import Checked, PlanSummary, begin_planning, plan_step, validate_plan
from jobs.steps import PlannedItem, PlannedTask, Style
from jobs.storage.base import Store
from jobs.storage.local import LocalStore
from jobs.storage.memory import MemoryStore
from jobs.stylize import StylizePayload
from jobs.tasks import Item, TaskMessage
from tests.jobs.plans import keys_of, manifest_of, tasks_of

CANDY, MOSAIC = "c" * 64, "d" * 64


def test_a_folder_becomes_items_in_natural_order_with_its_folders_kept(photos, tmp_path, library):
    tasks, ignored = tasks_of(manifest_of({"inputs": [str(photos)]}, output=tmp_path / "out"), library)
    assert keys_of(tasks) == [*(f"img{number}.jpg" for number in range(1, 11)), "sub/pic.png"]
    assert ignored.names == [f"{photos}/notes.txt (not a type of picture that is read)"]
    first = tasks[0].items[0]
    entry = LocalStore(str(photos)).stat("img1.jpg")
    assert entry is not None
    assert (first.input, first.size_bytes, first.stamp) == (f"{photos}/img1.jpg", 1, entry.stamp)


def test_several_styles_come_one_after_the_other_in_folders_of_their_own(photos, tmp_path, library):
    """All of one style before the next, so that a worker loads each once."""
    step = {"inputs": [f"{photos}/img?.jpg"], "styles": ["mosaic", "candy"], "chunk": {"items": 4}}
    tasks, _ = tasks_of(manifest_of(step, output=tmp_path / "out"), library)
    styles = [task.items[0].style for task in tasks]
    assert styles == ["mosaic"] * 3 + ["candy"] * 3
    assert [task.affinity for task in tasks] == [library.style(style).sha256 for style in styles]
    assert keys_of(tasks) == [f"{s}/img{n}.jpg" for s in ("mosaic", "candy") for n in range(1, 10)]


def test_styles_of_several_steps_have_folders_of_their_own_too(photos, tmp_path, library):
    """Two steps of one style each are a job of two styles."""
    steps = [{"inputs": [str(photos)], "styles": [style]} for style in ("candy", "mosaic")]
    manifest = manifest_of(*steps, output=tmp_path / "out")
    planning = begin_planning(manifest, validate_plan(manifest, library))
    first, second = (keys_of(plan_step(step, planning)) for step in manifest.steps)
    assert (first[0], second[0]) == ("candy/img1.jpg", "mosaic/img1.jpg")


def test_the_payload_is_what_the_kind_of_work_reads(photos, tmp_path, library):
    settings = {
        "quality": 80,
        "format": "webp",
        "max_size_px": 512,
        "max_megapixels": 12.5,
        "precision": "bf16",
        "device": "cpu",
        "threads": 3,
    }
    tasks, _ = tasks_of(manifest_of({"inputs": [str(photos)], **settings}, output=tmp_path / "out"), library)
    payload = StylizePayload(**tasks[0].payload)
    assert (payload.style.name, payload.style.sha256) == ("candy", library.style("candy").sha256)
    assert {key: getattr(payload, key) for key in settings} == settings
    assert keys_of(tasks)[0] == "img1.webp"


def test_a_pattern_names_the_results(photos, tmp_path, library):
    step = {"inputs": [f"{photos}/img*.jpg"], "pattern": "{style}_{index:03}.{ext}", "format": "png"}
    tasks, _ = tasks_of(manifest_of(step, output=tmp_path / "out"), library)
    assert keys_of(tasks)[::9] == ["candy_001.png", "candy_010.png"]


@pytest.mark.parametrize(
    ("chunk", "rate", "sizes"),
    [
        ({}, Rate(0, 0), [10]),
        ({"items": 4}, Rate(0, 0), [4, 4, 2]),
        ({"items": 1}, Rate(0, 0), [1] * 10),
        ({"seconds": 3}, Rate(1, 0), [3, 3, 3, 1]),
        ({"seconds": 1}, Rate(5, 0), [1] * 10),
        ({"seconds": 3, "items": 2}, Rate(1, 0), [2] * 5),
    ],
)
def test_chunks_close_at_their_number_or_their_time(photos, tmp_path, library, chunk, rate, sizes):
    step = {"inputs": [f"{photos}/*.jpg"], "chunk": chunk}
    tasks, _ = tasks_of(manifest_of(step, output=tmp_path / "out"), library, rates=Rates(default=rate))
    assert [len(task.items) for task in tasks] == sizes
    assert [task.estimate_s for task in tasks] == pytest.approx([size * rate.item_s for size in sizes])


def test_a_huge_file_is_a_chunk_of_its_own(photos, tmp_path, library):
    with (photos / "img5.jpg").open("wb") as file:
        file.truncate(50_000_000)
    tasks, _ = tasks_of(
        manifest_of({"inputs": [f"{photos}/*.jpg"]}, output=tmp_path / "out"), library, rates=Rates()
    )
    assert [len(task.items) for task in tasks] == [4, 1, 5]
    assert tasks[1].estimate_s > 100


def test_measured_rates_replace_the_guess(photos, tmp_path, library):
    """A style that was measured is estimated by its own rate, others by the default."""
    rates = Rates({library.style("candy").sha256: Rate(2, 0)}, default=Rate(1, 0))
    step = {"inputs": [f"{photos}/img1.jpg"], "styles": ["candy", "mosaic"]}
    tasks, _ = tasks_of(manifest_of(step, output=tmp_path / "out"), library, rates=rates)
    assert [task.estimate_s for task in tasks] == [2, 1]


@given(
    sizes=st.lists(st.integers(-1, 10_000_000), min_size=1, max_size=30),
    items=st.integers(1, 8),
    seconds=st.floats(0.1, 20),
)
def test_chunks_keep_every_item_once_in_order_within_their_limits(sizes, items, seconds):
    """Whatever the sizes: a chunk over its time has one item."""
    store = MemoryStore()
    for number, size in enumerate(sizes):
        store._files[f"{number}.jpg"] = (b"x" * min(max(size, 0), 100), 0)
    step = {"inputs": ["s3://in"], "chunk": {"items": items, "seconds": seconds}}
    manifest = manifest_of(step, output="s3://out/x")
    rate = Rate(item_s=0.3, megapixel_s=4000)
    planning = begin_planning(
        manifest, _checked(), rates=Rates(default=rate), opener=lambda url, _: _at(store, url)
    )
    tasks = list(plan_step(manifest.steps[0], planning))
    assert keys_of(tasks) == [f"{number}.jpg" for number in range(len(sizes))]
    for task in tasks:
        expected = sum(rate.estimate_s(listed_megapixels(i.input, i.size_bytes)) for i in task.items)
        assert task.estimate_s == pytest.approx(expected)
        assert len(task.items) <= items
        assert task.estimate_s <= seconds or len(task.items) == 1


def _checked() -> Checked:
    """Return what a check would have found."""
    return Checked({"candy": Style("candy", CANDY)})


def _at(store: MemoryStore, url: str) -> Store:
    store.url = url
    return store


def test_a_plan_is_the_same_again(photos, tmp_path, library):
    """A plan that was cut off is thrown away and made anew."""
    manifest = manifest_of({"inputs": [str(photos)], "chunk": {"items": 3}}, output=tmp_path / "out")
    assert tasks_of(manifest, library)[0] == tasks_of(manifest, library)[0]


def test_tasks_come_one_after_the_other(photos, tmp_path, library):
    """The first is there before the last is made."""
    manifest = manifest_of({"inputs": [str(photos)], "chunk": {"items": 2}}, output=tmp_path / "out")
    tasks = plan_step(manifest.steps[0], begin_planning(manifest, validate_plan(manifest, library)))
    assert isinstance(tasks, Iterator)
    assert len(next(tasks).items) == 2
    assert len(list(islice(tasks, 100))) == 5


def test_the_message_of_a_task_is_small(tmp_path, library):
    """About two kilobytes and the items: references, never pixels."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(64):
        (folder / f"{number}.jpg").write_bytes(b"x" * 1000)
    (task,), _ = tasks_of(manifest_of({"inputs": [str(folder)]}, output=tmp_path / "out"), library)
    items = tuple(
        Item(number, each.input, each.size_bytes, each.stamp, each.output_key)
        for number, each in enumerate(task.items)
    )

    def size_bytes(items: tuple[Item, ...]) -> int:
        return len(
            pickle.dumps(TaskMessage("j" * 20, "step-0", 1, 1, "stylize", 60.0, "/out", task.payload, items))
        )

    assert size_bytes(()) < 2000
    assert size_bytes(items) < 2000 + 64 * (len(items[0].input) + 150)
    assert b"\0" * 100 not in pickle.dumps(items)


# --- names ----------------------------------------------------------------------------------------


def test_two_inputs_with_one_output_name_are_refused(photos, tmp_path, library):
    """Both are named: `pic.gif` cannot be written as such, so it would become the `pic.png` there is."""
    (photos / "sub/pic.png").write_bytes(b"x")
    manifest = manifest_of({"inputs": [str(photos)]}, output=tmp_path / "out")
    with pytest.raises(UsageError, match=r"sub/pic\.gif and .*sub/pic\.png would both be written to sub/pic"):
        tasks_of(manifest, library)


def test_two_steps_with_one_output_name_are_refused(photos, tmp_path, library):
    (tmp_path / "more").mkdir()
    (tmp_path / "more/img1.jpg").write_bytes(b"x")
    manifest = manifest_of(
        {"inputs": [str(photos)]}, {"inputs": [str(tmp_path / "more")]}, output=tmp_path / "out"
    )
    planning = begin_planning(manifest, validate_plan(manifest, library))
    assert len(list(plan_step(manifest.steps[0], planning))) == 1
    with pytest.raises(UsageError, match=r"photos/img1\.jpg and .*more/img1\.jpg"):
        list(plan_step(manifest.steps[1], planning))


def test_names_given_away_earlier_stay_taken(photos, tmp_path, library):
    """A step that is planned when another is done gets none of its names."""
    manifest = manifest_of({"inputs": [str(photos)]}, output=tmp_path / "out")
    with pytest.raises(UsageError, match=r"/else/a\.jpg and .*img3\.jpg"):
        tasks_of(manifest, library, taken=[("img3.jpg", "/else/a.jpg")])


def test_a_file_that_is_listed_twice_is_taken_once(photos, tmp_path, library):
    """Through a folder, a glob, its own name, or a folder below: the first decides its name."""
    inputs = [f"{photos}/img2.jpg", str(photos), f"{photos}/**/*.gif", f"{photos}/sub"]
    tasks, _ = tasks_of(manifest_of({"inputs": inputs}, output=tmp_path / "out"), library)
    assert sorted(keys_of(tasks)) == sorted([*(f"img{n}.jpg" for n in range(1, 11)), "sub/pic.png"])
    assert keys_of(tasks)[0] == "img2.jpg", "the order of the inputs is kept"


def test_a_link_to_a_file_that_is_taken_adds_nothing(photos, tmp_path, library):
    """Whether the folder or the file is a link."""
    (tmp_path / "link").symlink_to(photos)
    (tmp_path / "some").mkdir()
    (tmp_path / "some/img1.jpg").symlink_to(photos / "img1.jpg")
    inputs = [str(photos), f"{tmp_path}/link", f"{tmp_path}/some"]
    tasks, _ = tasks_of(manifest_of({"inputs": inputs}, output=tmp_path / "out"), library)
    assert len(keys_of(tasks)) == 11
    assert {str(Path(item.input).resolve()) for item in tasks[0].items} == {
        *(f"{photos}/img{number}.jpg" for number in range(1, 11)),
        f"{photos}/sub/pic.gif",
    }


def test_no_input_is_written_over(photos, library):
    """A single file can be rendered next to itself, but not onto itself."""
    step = {"inputs": [f"{photos}/img1.jpg"]}
    beside = manifest_of({**step, "pattern": "{name}-{style}.{ext}"}, output=photos)
    assert keys_of(tasks_of(beside, library)[0]) == ["img1-candy.jpg"]
    with pytest.raises(UsageError, match="over the input"):
        tasks_of(manifest_of(step, output=photos), library)


def test_a_result_whose_name_is_too_long_is_refused(photos, tmp_path, library):
    long = "n" * 250
    (photos / f"{long}.jpg").write_bytes(b"x")
    step = {"inputs": [str(photos)], "pattern": "{name}-{style}.{ext}"}
    with pytest.raises(UsageError, match="longer than 255 bytes"):
        tasks_of(manifest_of(step, output=tmp_path / "out"), library)


# --- late values ----------------------------------------------------------------------------------


def late_manifest(photos: Path, tmp_path: Path) -> Manifest:
    steps: list[dict[str, Any]] = [
        {"inputs": [str(photos)]},
        {"inputs": [f"{photos}/img1.jpg"], "styles": [{"from": "step-0"}]},
    ]
    return manifest_of(*steps, output=tmp_path / "out")


@pytest.mark.parametrize(("named", "folder"), [({"name": "mine"}, "mine"), ({}, "step-0")])
def test_a_late_style_is_the_one_that_was_made(photos, tmp_path, library, named, folder):
    """Its name is what the step calls it, or the step's own."""
    results = {"step-0": {"sha256": MOSAIC, **named}}
    tasks, _ = tasks_of(late_manifest(photos, tmp_path), library, 1, results=results)
    assert keys_of(tasks) == [f"{folder}/img1.jpg"]
    assert (tasks[0].affinity, tasks[0].payload["style"]["sha256"]) == (MOSAIC, MOSAIC)


@pytest.mark.parametrize(
    "results", [{}, {"step-0": {}}, {"step-0": {"sha256": "x"}}, {"step-0": {"sha256": 1}}]
)
def test_a_late_style_that_was_not_made_is_an_error(photos, tmp_path, library, results):
    with pytest.raises(FarmError, match="the step step-0 made no style"):
        tasks_of(late_manifest(photos, tmp_path), library, 1, results=results)


# --- the summary ----------------------------------------------------------------------------------


def test_the_summary_adds_up(photos, tmp_path, library):
    step = {"inputs": [f"{photos}/*.jpg"], "styles": ["candy", "mosaic"], "chunk": {"items": 4}}
    tasks, _ = tasks_of(
        manifest_of(step, output=tmp_path / "out"), library, rates=Rates(default=Rate(1.0, 0.0))
    )
    summary = PlanSummary()
    for task in tasks:
        summary.add(task)
    assert (summary.items, summary.tasks, summary.input_bytes) == (20, 6, 2 * sum(range(1, 11)))
    assert summary.estimate_s == pytest.approx(20)
    assert summary.output_bytes == sum(item.output_bytes for task in tasks for item in task.items) > 0


def test_too_little_space_is_told_in_time():
    summary = PlanSummary(output_bytes=3_000_000_000)
    assert summary.note_on_space(None) == ""
    assert summary.note_on_space(3_000_000_000) == ""
    assert summary.note_on_space(1_000_000_000) == (
        "the results may need 3,000.0 MB, but the output has 1,000.0 MB left"
    )


def test_room_for_checkpoints_is_counted_once_however_many_tasks_there_are():
    summary = PlanSummary()
    for working_bytes in (10_000_000, 30_000_000, 20_000_000):
        item = PlannedItem("a.jpg", 1, "", "a.jpg", output_bytes=1_000_000)
        summary.add(PlannedTask({}, (item,), working_bytes=working_bytes))
    summary = summary.plus(PlanSummary(working_bytes=5))
    assert (summary.output_bytes, summary.working_bytes) == (3_000_000, 30_000_000)
    assert summary.note_on_space(33_000_000) == ""
    assert summary.note_on_space(32_000_000) == (
        "the results may need 3.0 MB, and 30.0 MB for checkpoints, but the output has 32.0 MB left"
    )


def test_estimates_are_near_real_photographs(test_data):
    """Megapixels guessed from the sizes of files are within a factor of two of the real ones."""
    from PIL import Image

    for folder in ("kodak", "large"):
        files = sorted((test_data / "photos" / folder).glob("*.jpg"))
        guessed = sum(listed_megapixels(file.name, file.stat().st_size) for file in files)
        real = 0.0
        for file in files:
            with Image.open(file) as image:
                real += image.width * image.height / 1e6
        assert real / 2 < guessed < real * 2, folder


def test_estimates_know_the_size_that_is_rendered():
    """A file of unknown size is taken for small, and a limit on the size bounds the work."""
    assert listed_megapixels("a.png", -1) == 0
    assert listed_megapixels("a.png", 50_000_000) > 10
    assert listed_megapixels("a.png", 50_000_000, max_size_px=1000) == 1.0
    assert listed_megapixels("a.jpg", 1000) > listed_megapixels("a.bmp", 1000)
