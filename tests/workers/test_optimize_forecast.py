"""What a dry run says of an optimization."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from jobs.errors import FarmError
from jobs.steps import PlannedItem
from workers import optimize_forecast
from workers.kinds import Checks
from workers.nst.features import seeded
from workers.nst.loss_networks import NetworkMetadata, encode_loss_network
from workers.nst.speed import Speed
from workers.optimize_forecast import forecast


def picture(width_px: int, height_px: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.zeros((height_px, width_px, 3), np.uint8)).save(file, "png")
    return file.getvalue()


@dataclass
class Desk:
    """Assets, and what a check may use."""

    folder: Path
    notes: list[str] = field(default_factory=list)

    def keep(self, data: bytes) -> str:
        sha256 = hashlib.sha256(data).hexdigest()
        (self.folder / sha256).write_bytes(data)
        return sha256

    def checks(self, workers: int = 1, device: str = "cpu", memory_bytes: int = 8 << 30) -> Checks:
        return Checks(
            lambda sha256: self.folder / sha256,
            lambda _: picture(200, 150),
            workers,
            device,
            memory_bytes,
            self.notes.append,
        )

    def payload(self, family: str = "torchvision", **said: Any) -> dict[str, Any]:
        network = encode_loss_network(seeded("vgg19", 2, 0, family), NetworkMetadata("vgg19", family))
        styles = [
            {"name": "night.jpg", "sha256": self.keep(picture(60, 80)), "weight": 3},
            {"name": "day.jpg", "sha256": self.keep(picture(90, 80)), "weight": 1},
        ]
        network_ref = {"name": "tiny", "sha256": self.keep(network)}
        return {"styles": styles, "network": network_ref, "size_px": 128, **said}


ITEMS = [PlannedItem("/photos/town.png", 1, "", "town.png")]


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


@pytest.fixture(autouse=True)
def a_pixel_takes_a_microsecond(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is measured is tested with `workers.nst.speed`; here it is a known number."""
    monkeypatch.setattr(optimize_forecast, "_measured", lambda *_: Speed(100, 0.01))


def test_scales_are_told_with_sizes_iterations_and_weights(desk: Desk) -> None:
    scales = [{"size_px": 64, "iterations": 30, "style_weight": 2.0}, {"size_px": 128, "iterations": 10}]
    payload = desk.payload(content_weight=5.0, style_weight=100.0, scales=scales)
    told = forecast(payload, ITEMS, desk.checks())
    assert told["picture"] == {"name": "town.png", "width_px": 200, "height_px": 150}
    keys = ("width_px", "height_px", "iterations", "content_weight", "style_weight", "tile_px", "margin_px")
    assert [tuple(scale[key] for key in keys) for scale in told["scales"]] == [
        (64, 48, 30, 5.0, 200.0, None, 0),
        (128, 96, 10, 5.0, 100.0, None, 0),
    ]
    assert [scale["pixel_evaluations"] for scale in told["scales"]] == [64 * 48 * 30, 128 * 96 * 10]
    assert told["pixel_evaluations"] == 64 * 48 * 30 + 128 * 96 * 10
    assert told["styles"] == [{"name": "night.jpg", "share": 0.75}, {"name": "day.jpg", "share": 0.25}]


def test_iterations_that_are_said_in_all_are_spread_over_the_ladder(desk: Desk) -> None:
    told = forecast(desk.payload(smallest_px=64, iterations=90), ITEMS, desk.checks())
    assert [scale["width_px"] for scale in told["scales"]] == [64, 91, 128]
    assert sum(scale["iterations"] for scale in told["scales"]) == 90


def test_tiles_are_told_with_their_grid_and_margin(desk: Desk) -> None:
    told = forecast(desk.payload(smallest_px=128, tile_px=64), ITEMS, desk.checks(workers=2))
    (scale,) = told["scales"]
    assert (scale["rows"], scale["columns"], scale["tile_px"]) == (2, 2, 64)
    assert scale["margin_px"] > 0
    assert told["workers"] == 2


def test_time_is_that_of_the_work_at_the_measured_speed(desk: Desk) -> None:
    told = forecast(desk.payload(smallest_px=128, iterations=100), ITEMS, desk.checks())
    assert told["seconds"] == pytest.approx(100 * 128 * 96 * 1e-6, abs=0.1)
    assert "100x100 px took 0.01 s" in told["basis"]
    assert "estimate" in told["basis"]


@pytest.mark.parametrize(("load", "cores", "busy"), [(0.4, 2, False), (0.6, 2, True), (7.5, 32, False)])
def test_a_busy_machine_is_said_with_the_time(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, load: float, cores: int, busy: bool
) -> None:
    monkeypatch.setattr("os.getloadavg", lambda: (load, 0.0, 0.0))
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(cores)))
    basis = forecast(desk.payload(), ITEMS, desk.checks())["basis"]
    assert (f"which was busy (load {load} on {cores} cores)" in basis) is busy


def test_margins_and_the_slowest_worker_cost_time(desk: Desk) -> None:
    """Every tile of 64 px of so small a picture reads all of it."""
    payload = desk.payload(smallest_px=128, iterations=100, tile_px=64)
    alone = forecast(payload, ITEMS, desk.checks())["seconds"]
    assert alone == pytest.approx(4 * 100 * 128 * 96 * 1e-6, abs=0.1)
    assert forecast(payload, ITEMS, desk.checks(workers=2))["seconds"] == alone, "they share the cores"


def test_time_on_gpus_is_not_guessed_from_a_cpu(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    told = forecast(desk.payload(), ITEMS, desk.checks(device="cuda"))
    assert told["seconds"] is None
    assert "GPU" in told["basis"]


@pytest.mark.parametrize(("family", "own"), [("torchvision", True), ("caffe", False)])
def test_it_says_whether_the_network_is_the_presets_own(desk: Desk, family: str, own: bool) -> None:
    network = forecast(desk.payload(family), ITEMS, desk.checks())["loss_network"]
    assert network == {
        "name": "tiny",
        "architecture": "vgg19",
        "family": family,
        "channel_scaled": False,
        "of_preset": own,
    }


def test_a_picture_that_cannot_be_read_is_left_to_fail_by_itself(desk: Desk) -> None:
    checks = replace(desk.checks(), read=lambda _: b"no picture")
    told = forecast(desk.payload(), ITEMS, checks)
    assert told["picture"] == {"name": "town.png", "width_px": None, "height_px": None}
    assert (told["scales"][-1]["width_px"], told["scales"][-1]["height_px"]) == (128, 96)


def test_what_does_not_fit_is_refused(desk: Desk) -> None:
    with pytest.raises(FarmError, match="GiB can be used"):
        forecast(desk.payload(size_px=4096, tile_px=2048), ITEMS, desk.checks(memory_bytes=2 << 30))


@pytest.mark.parametrize("precision", ["fp32", "bf16", "tf32"])
def test_the_real_network_is_measured_in_the_number_format_that_is_asked_for(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(optimize_forecast, "_MEASURED_S", 0.01)
    told = forecast(
        desk.payload(smallest_px=128, iterations=10, precision=precision, threads=1), ITEMS, desk.checks()
    )
    assert told["seconds"] >= 0
    assert told["precision"] == precision
