"""The stylize kind: every picture gets its own outcome, in batches or alone, with or without memory."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import workers.memory
import workers.precision
import workers.stylize
from jobs.bundled import bundled_store
from jobs.errors import BadInputError, DeviceMemoryError, FarmError, OutputCheckError
from jobs.library import Library
from jobs.states import ItemState
from jobs.storage import open_store
from jobs.tasks import Event, Item, ItemFinished, TaskEnded, TaskMessage
from tests.workers.nst.plain import seeded_picture, seeded_state
from workers.kinds import Produced, load_kind
from workers.models import ModelCache
from workers.nst.group import Alone
from workers.nst.inference import InferenceNet, render_batch
from workers.nst.style_models import StyleMetadata, encode_style_model, load_style_model
from workers.nst.transformer import TransformerNet
from workers.stylize import prepare, run, settings
from workers.worker import Worker, WorkerOptions

PATIENCE_S = 60.0
VERSION = version("stylefarm")


@pytest.fixture(scope="module")
def style(tmp_path_factory: pytest.TempPathFactory) -> Path:
    net = TransformerNet(2)
    net.load_state_dict(seeded_state(2))
    path = tmp_path_factory.mktemp("style") / "style.safetensors"
    path.write_bytes(encode_style_model(net, StyleMetadata("made-up", 2)))
    return path


def message(*items: Item, output: str = "", **payload: Any) -> TaskMessage:
    full = {"style": {"name": "made-up", "sha256": "a" * 64}, **payload}
    return TaskMessage("j", "s", 1, 1, "stylize", 60.0, output, full, items)


def picture_file(height_px: int, width_px: int, seed: int = 0) -> bytes:
    file = io.BytesIO()
    Image.fromarray(seeded_picture(height_px, width_px, seed).numpy()).save(file, "PNG")
    return file.getvalue()


class Recording:
    """A context that hands out prepared pictures and keeps what becomes of them."""

    device = "cpu"
    threads = 1
    group = Alone()

    def __init__(self, task: TaskMessage, style: Path, files: list[bytes]) -> None:
        self.models = ModelCache(1 << 20)
        self.outcomes: dict[int, Produced | FarmError] = {}
        self.said: list[str] = []
        self.stop_after: int | None = None
        self._works = [
            (item, prepare(task, item, file).value) for item, file in zip(task.items, files, strict=True)
        ]
        self._style = style

    def emit(self, _type: str, data: dict[str, Any]) -> None:
        """Keep a message."""
        self.said.append(data["text"])

    def asset(self, _sha256: str) -> Path:
        """Return the one style there is."""
        return self._style

    def should_stop(self) -> bool:
        """Stop once so many pictures have their outcome."""
        return self.stop_after is not None and len(self.outcomes) >= self.stop_after

    def read_ahead(self) -> Iterator[tuple[Item, Any]]:
        """Yield what `prepare` made, decoded already."""
        yield from self._works

    def finish_item(self, item: Item, result: Callable[[], Produced] | FarmError) -> None:
        """Encode at once and keep the outcome, of which each item has one."""
        assert item.id not in self.outcomes
        self.outcomes[item.id] = result if isinstance(result, FarmError) else result()


def rendered(style: Path, sizes: list[tuple[int, int]], **payload: Any) -> Recording:
    """Run a task over made-up pictures of these sizes and return its context."""
    items = [Item(n, f"{n}.png", 1, "", f"{n}.png") for n in range(len(sizes))]
    task = message(*items, **payload)
    context = Recording(task, style, [picture_file(*size, seed=n) for n, size in enumerate(sizes)])
    run(task, context)  # type: ignore[arg-type] # what stylize needs of a context
    return context


def pixels(outcome: Produced | FarmError) -> np.ndarray:
    assert isinstance(outcome, Produced), outcome
    return np.asarray(Image.open(io.BytesIO(outcome.data)))


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return the sizes of the batches that are rendered from now on."""
    seen: list[int] = []

    def watch(net: InferenceNet, pictures: torch.Tensor) -> torch.Tensor:
        seen.append(len(pictures))
        return render_batch(net, pictures)

    monkeypatch.setattr(workers.stylize, "render_batch", watch)
    return seen


@pytest.mark.parametrize("batch", [None, 1, 2, 64])
def test_every_picture_is_rendered_at_its_own_size(style: Path, batch: int | None) -> None:
    sizes = [(20, 30), (20, 30), (20, 30), (30, 20), (9, 9), (1, 1), (20, 30)]
    context = rendered(style, sizes, batch=batch)
    net = load_style_model(style)
    for n, size in enumerate(sizes):
        expected = render_batch(net, seeded_picture(*size, seed=n)[None])[0].numpy()
        assert abs(pixels(context.outcomes[n]).astype(int) - expected).max() <= 1
        facts = context.outcomes[n].facts  # type: ignore[union-attr]
        assert (facts["width_px"], facts["height_px"]) == (size[1], size[0])
        assert facts["seconds"] >= 0


def test_only_neighbors_of_one_size_share_a_batch(style: Path, batches: list[int]) -> None:
    """No picture is padded to fit a batch: that would change its norm statistics, and so the picture."""
    rendered(style, [(8, 8)] * 5 + [(8, 9)] * 2 + [(8, 8)], batch=3)
    assert batches == [3, 2, 2, 1]


def test_a_cpu_renders_one_picture_at_a_time(style: Path, batches: list[int]) -> None:
    rendered(style, [(8, 8)] * 3)
    assert batches == [1, 1, 1]


def test_a_batch_that_is_too_much_is_halved(style: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[int] = []

    def tight(net: InferenceNet, pictures: torch.Tensor) -> torch.Tensor:
        tried.append(len(pictures))
        if len(pictures) > 2:
            raise torch.OutOfMemoryError("tried to allocate")
        return render_batch(net, pictures)

    monkeypatch.setattr(workers.stylize, "render_batch", tight)
    context = rendered(style, [(8, 8)] * 5, batch=8)
    assert tried == [5, 2, 3, 1, 2]
    assert all(isinstance(outcome, Produced) for outcome in context.outcomes.values())
    assert len(context.outcomes) == 5


def test_a_picture_that_is_too_much_alone_fails_itself_only(
    style: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def tight(net: InferenceNet, pictures: torch.Tensor) -> torch.Tensor:
        if pictures.shape[1] > 20:
            raise torch.OutOfMemoryError("tried to allocate")
        return render_batch(net, pictures)

    monkeypatch.setattr(workers.stylize, "render_batch", tight)
    context = rendered(style, [(8, 8), (30, 8), (8, 8)])
    assert isinstance(context.outcomes[1], DeviceMemoryError)
    assert "max_size_px" in context.outcomes[1].hint
    assert [type(context.outcomes[n]) for n in (0, 2)] == [Produced, Produced]


def test_a_picture_that_cannot_fit_is_not_tried(
    style: Path, monkeypatch: pytest.MonkeyPatch, batches: list[int]
) -> None:
    """Trying would not raise but bring in the kernel, which kills the worker with all it holds."""
    monkeypatch.setattr(workers.stylize, "free_bytes", lambda _device: 1 << 20)
    context = rendered(style, [(100, 100)])
    assert isinstance(context.outcomes[0], DeviceMemoryError)
    assert "0.01 megapixels need about" in context.outcomes[0].message
    assert batches == []


def test_memory_that_is_free_is_known() -> None:
    assert 1 << 20 < workers.memory.free_bytes("cpu") < 1 << 50


def test_the_limit_of_a_container_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine may have plenty; pages that only cache files can be had back."""
    monkeypatch.setattr(workers.memory, "_CGROUP", tmp_path)
    whole = workers.memory.free_bytes("cpu")
    (tmp_path / "memory.current").write_text("800000\n")
    (tmp_path / "memory.stat").write_text("anon 500000\ninactive_file 300000\n")
    (tmp_path / "memory.max").write_text("1000000\n")
    assert workers.memory.free_bytes("cpu") == 500_000
    (tmp_path / "memory.max").write_text("max\n")
    assert workers.memory.free_bytes("cpu") > whole / 2


def test_values_that_are_no_numbers_fail_their_picture_only(
    style: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def picky(net: InferenceNet, pictures: torch.Tensor) -> torch.Tensor:
        if (pictures == seeded_picture(8, 8, 1)).all((1, 2, 3)).any():
            raise ValueError("no numbers")
        return render_batch(net, pictures)

    monkeypatch.setattr(workers.stylize, "render_batch", picky)
    context = rendered(style, [(8, 8)] * 4, batch=4)
    assert isinstance(context.outcomes[1], FarmError)
    assert "could not be rendered: no numbers" in context.outcomes[1].message
    assert [n for n, outcome in context.outcomes.items() if isinstance(outcome, Produced)] == [0, 2, 3]


def test_it_stops_between_pictures(style: Path) -> None:
    items = [Item(n, f"{n}.png", 1, "", f"{n}.png") for n in range(5)]
    context = Recording(message(*items), style, [picture_file(8, 8)] * 5)
    context.stop_after = 2
    run(message(*items), context)  # type: ignore[arg-type]
    assert sorted(context.outcomes) == [0, 1]


def test_max_size_scales_down_before_rendering(style: Path) -> None:
    context = rendered(style, [(40, 80), (10, 10)], max_size_px=20)
    assert [pixels(context.outcomes[n]).shape for n in (0, 1)] == [(10, 20, 3), (10, 10, 3)]


def test_precision_changes_the_picture(style: Path) -> None:
    full, half = (rendered(style, [(40, 40)], precision=p) for p in ("fp32", "bf16"))
    difference = abs(pixels(full.outcomes[0]).astype(int) - pixels(half.outcomes[0]))
    assert 0 < difference.mean() < 3


def test_bf16_that_a_cpu_imitates_is_said_once(style: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers.precision, "computes_in_bf16", lambda: False)
    [said] = rendered(style, [(16, 20), (20, 16)], precision="bf16").said
    assert said.startswith("precision bf16: ")
    assert rendered(style, [(16, 20)], precision="fp32").said == []


def test_alpha_comes_back_with_the_rendered_colors(style: Path) -> None:
    alpha = np.full((12, 16), 255, np.uint8)
    alpha[:6] = 0
    file = io.BytesIO()
    Image.fromarray(np.dstack([seeded_picture(12, 16).numpy(), alpha])).save(file, "PNG")
    items = [Item(1, "a.png", 1, "", "a.png"), Item(2, "a.png", 1, "", "b.jpg")]
    task = message(*items)
    context = Recording(task, style, [file.getvalue()] * 2)
    run(task, context)  # type: ignore[arg-type]
    kept = pixels(context.outcomes[1])
    expected = render_batch(load_style_model(style), seeded_picture(12, 16)[None])[0].numpy()
    assert (kept[:, :, 3] == alpha).all()
    assert (kept[:, :, :3] == expected).all()
    assert context.outcomes[2].note.startswith("transparent parts became white")  # type: ignore[union-attr]


def test_a_result_is_checked_before_it_is_handed_on(style: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers.stylize, "encode", lambda *_: (b"\x89PNG broken", ""))
    with pytest.raises(OutputCheckError):
        rendered(style, [(8, 8)])


def test_a_result_that_its_format_cannot_hold_is_final(style: Path) -> None:
    item = Item(1, "a.png", 1, "", "a.gif")
    task = message(item)
    with pytest.raises(BadInputError, match="cannot write"):
        run(task, Recording(task, style, [picture_file(8, 8)]))  # type: ignore[arg-type]


def test_a_gpu_that_is_not_there_is_said(style: Path) -> None:
    with pytest.raises(FarmError, match="wants a GPU and this worker has cpu"):
        rendered(style, [(8, 8)], device="cuda")


def test_a_style_that_cannot_be_loaded_fails_the_task(tmp_path: Path) -> None:
    broken = tmp_path / "style.safetensors"
    broken.write_bytes(b"nothing of use")
    with pytest.raises(FarmError, match="the style made-up cannot be loaded"):
        rendered(broken, [(8, 8)])


def test_the_model_is_loaded_only_when_there_is_something_to_render(style: Path) -> None:
    assert rendered(style, []).models.loads == 0
    assert rendered(style, [(8, 8)] * 3).models.loads == 1


def test_settings_are_those_of_the_payload() -> None:
    full = message(quality=80).payload
    assert settings(full)["quality"] == 80
    assert load_kind("stylize").settings is settings


# --- on a real worker -------------------------------------------------------------------------------


def test_a_worker_renders_a_folder_of_everything(tmp_path: Path, style: Path) -> None:
    """Each good file is rendered, each bad one has its reason, and a second run renders nothing again."""
    photos = tmp_path / "photos"
    photos.mkdir()
    good = picture_file(30, 40)
    frames = [Image.new("RGB", (20, 10), color) for color in ("red", "blue")]
    files = {
        "a.png": good,
        "cut.png": good[: len(good) // 2],
        "empty.jpg": b"",
        "text.jpg": b"Dear diary\n" * 50,
        "large.png": picture_file(400, 300),
    }
    for name, data in files.items():
        (photos / name).write_bytes(data)
    frames[0].save(photos / "moving.gif", save_all=True, append_images=frames[1:])
    names = {**{name: name for name in files}, "moving.gif": "moving.png"}
    items = [
        Item(n, str(photos / name), (photos / name).stat().st_size, "1", key)
        for n, (name, key) in enumerate(names.items())
    ]
    first = _work(tmp_path, style, items)
    by_name = {Path(items[e.item].input).name: e for e in first}
    assert {name for name, e in by_name.items() if e.state is ItemState.DONE} == {"a.png", "moving.gif"}
    assert by_name["moving.gif"].reason == "first of 2 frames"
    assert by_name["cut.png"].reason.startswith("the file is cut off")
    assert by_name["empty.jpg"].reason == "the file is empty"
    assert by_name["text.jpg"].reason == "not a picture"
    assert by_name["large.png"].reason.startswith("0.12 megapixels are more than max_megapixels 0.1")
    with Image.open(tmp_path / "out" / "a.png") as image:
        assert image.size == (40, 30)
    second = {Path(items[e.item].input).name: e.state for e in _work(tmp_path, style, items, "k")}
    assert second == {
        name: ItemState.SKIPPED if e.state is ItemState.DONE else ItemState.FAILED
        for name, e in by_name.items()
    }


def test_a_worker_finds_a_style_that_came_with_the_farm_in_its_own_package(tmp_path: Path) -> None:
    """Nothing is in the farm's store, and nothing is put there."""
    ink = Library(bundled_store(), tmp_path / "unused").style("ink")
    item = _photo(tmp_path)
    done, _ = _run_on_a_worker(tmp_path, [item], {"name": ink.name, "sha256": ink.sha256})
    assert [event.state for event in done] == [ItemState.DONE]
    with Image.open(tmp_path / "out" / item.output_key) as image:
        assert image.size == (40, 30)
    assert not (tmp_path / "store").exists()


def test_a_worker_of_another_version_says_what_it_lacks(tmp_path: Path) -> None:
    """Its package came without the style: the attempt fails and names style, asset and remedy."""
    done, ended = _run_on_a_worker(tmp_path, [_photo(tmp_path)], {"name": "later", "sha256": "5" * 64})
    assert done == []
    assert ended.outcome == "failed"
    assert ended.reason.startswith(
        f"the style later is missing: neither the farm's store nor stylefarm {VERSION}"
    )
    assert "5" * 64 in ended.reason
    assert "one version of stylefarm on all machines" in ended.reason


def _photo(folder: Path) -> Item:
    file = folder / "photo.png"
    file.write_bytes(picture_file(30, 40))
    return Item(0, str(file), file.stat().st_size, "1", file.name)


def _work(folder: Path, style: Path, items: list[Item], job: str = "j") -> list[ItemFinished]:
    """Run the items as one task on a worker of its own and return their outcomes."""
    sha256 = Library(open_store(str(folder / "store")), folder / "cache").put(style)
    done, _ = _run_on_a_worker(folder, items, {"name": "made-up", "sha256": sha256}, job)
    return done


def _run_on_a_worker(
    folder: Path, items: list[Item], style: dict[str, str], job: str = "j"
) -> tuple[list[ItemFinished], TaskEnded]:
    """Run the items as one task on a worker of its own; return their outcomes, and how the task ended."""
    events: list[Event] = []
    over = threading.Event()

    def hear(some: list[Event]) -> None:
        events.extend(some)
        if any(isinstance(event, TaskEnded) for event in some):
            over.set()

    worker = Worker(WorkerOptions("w", store=str(folder / "store"), cache_dir=str(folder / "cache")), hear)
    thread = threading.Thread(target=worker.run_forever)
    thread.start()
    payload = {"style": style, "max_megapixels": 0.1}
    worker.submit(replace(message(*items, output=str(folder / "out"), **payload), job=job))
    assert over.wait(PATIENCE_S)
    worker.close()
    thread.join(PATIENCE_S)
    [ended] = [event for event in events if isinstance(event, TaskEnded)]
    return [event for event in events if isinstance(event, ItemFinished)], ended
