"""How a render is laid out: one piece or tiles, whom they are dealt to, what memory they need."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from jobs.errors import DeviceMemoryError, UsageError
from jobs.optimize import OptimizePayload
from jobs.tiles import grid, tile_memory, usable_bytes
from workers import optimize_layout
from workers.nst.features import seeded
from workers.nst.presets import preset
from workers.nst.tiling import Tiling
from workers.optimize_layout import Layout, graphs_px, lay_out, margin_px, tile_cut, too_small

ASSET = {"name": "n", "sha256": "0" * 64}
NETWORK = seeded("vgg19", 2, 0)
GIB = 1 << 30
PHOTO = (1500, 2000)


FEW_PAIRS: dict[str, Any] = {"optimizer": {"history": 2}}


def laid_out(workers: int = 1, memory_bytes: int = 24 * GIB, **said: Any) -> Layout:
    payload = OptimizePayload.model_validate({"styles": [ASSET], "network": ASSET, **said})
    return lay_out(payload, PHOTO, NETWORK, workers, "cpu", memory_bytes, style_sizes=[(600, 800)])


@pytest.mark.parametrize(
    ("layer", "wanted_px"),
    [("conv1_1", 1), ("conv2_1", 4), ("conv3_1", 10), ("conv4_1", 30), ("conv4_2", 38), ("conv5_1", 70)],
)
def test_the_margin_follows_from_the_network(layer: str, wanted_px: int) -> None:
    """The halos of VGG-19 as they were found by changing single pixels."""
    recipe = replace(preset("default"), content_layers={}, style_layers={layer: 1.0})
    assert margin_px(recipe.prepare(NETWORK), recipe) == wanted_px


def test_what_fits_is_rendered_in_one_piece_by_one_worker() -> None:
    layout = laid_out(size_px=512)
    assert layout.tile_px is None
    assert [scale.size for scale in layout.scales] == [
        (96, 128),
        (136, 181),
        (192, 256),
        (272, 362),
        (384, 512),
    ]
    assert layout.last.read_px == layout.last.busiest_px == 384 * 512
    assert layout.pixel_evaluations == sum(s.size[0] * s.size[1] * s.scale.iterations for s in layout.scales)
    assert layout.memory_bytes <= usable_bytes(24 * GIB, "cpu")


@pytest.mark.parametrize("workers", [2, 3, 5, 8])
@pytest.mark.parametrize("size_px", [64, 512, 2048])
def test_every_worker_of_a_gang_has_a_tile_at_the_end(workers: int, size_px: int) -> None:
    layout = laid_out(workers, size_px=size_px)
    assert layout.tile_px is not None
    assert layout.tile_px <= 2048
    cores = grid(*layout.last.size, layout.tile_px)
    assert len(cores) == layout.last.tiles
    assert set(Tiling.dealt(*layout.last.size, cores, workers).holders) == set(range(workers))


def test_tiles_are_of_a_size_by_which_the_work_is_shared_evenly() -> None:
    """Of three workers none has twice as much to read as the others."""
    last = laid_out(3, size_px=2048).last
    assert last.busiest_px < 1.3 * last.read_px / 3


def test_what_does_not_fit_in_one_piece_is_rendered_in_tiles_that_fit() -> None:
    layout = laid_out(memory_bytes=8 * GIB, size_px=4096, **FEW_PAIRS)
    assert layout.tile_px is not None
    assert layout.tile_px <= 1024
    assert layout.memory_bytes <= usable_bytes(8 * GIB, "cpu")
    large = laid_out(memory_bytes=40 * GIB, size_px=6000, **FEW_PAIRS)
    assert large.tile_px == 2048


def test_tiles_that_are_asked_for_are_made_or_refused_by_name() -> None:
    layout = laid_out(size_px=512, tile_px=128)
    assert (layout.tile_px, layout.last.rows, layout.last.columns) == (128, 3, 4)
    with pytest.raises(
        DeviceMemoryError, match=r"tiles of 4096 px need \d+\.\d GiB on each of 1 w"
    ) as raised:
        laid_out(memory_bytes=8 * GIB, size_px=4096, tile_px=4096, **FEW_PAIRS)
    assert "use tile_px 1" in raised.value.hint
    with pytest.raises(UsageError, match="tiles of 16 px cut 8192x6144 px into 196608 pieces"):
        laid_out(size_px=8192, tile_px=16)


def test_too_little_memory_for_any_tile_is_said_with_both_numbers() -> None:
    with pytest.raises(DeviceMemoryError, match=r"20000x15000 px on 2 workers need \d+\.\d GiB on each"):
        laid_out(2, 8 * GIB, size_px=20000)


def test_memory_that_is_not_known_is_no_obstacle() -> None:
    assert laid_out(memory_bytes=0, size_px=20000).tile_px is None
    assert laid_out(2, 0, size_px=8192).tile_px is not None


def test_what_memory_is_left_keeps_graphs() -> None:
    memory = tile_memory("fp32", "max")
    assert graphs_px(memory, usable_bytes(8 * GIB, "cpu"), "cpu", 8 * GIB) == 0
    assert graphs_px(memory, 1 << 40, "cpu", 8 * GIB) == 0
    assert graphs_px(memory, usable_bytes(8 * GIB, "cpu") - 10 * memory.resident_bytes, "cpu", 8 * GIB) == 10


def test_room_for_a_part_of_a_state_on_its_way_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small tiles by a network that looks not far need less than that; it is not needed at the same time."""
    said: dict[str, Any] = {
        "content_layers": {"relu1_1": 1.0},
        "style_layers": {"relu1_1": 1.0},
        "tile_px": 64,
    }

    def needed(part_bytes: int, size_px: int = 1024) -> int:
        monkeypatch.setattr(optimize_layout, "PART_BYTES", part_bytes)
        return laid_out(2, size_px=size_px, **said).last.memory_bytes

    passing = tile_memory("fp32", "max").passing_bytes * 66**2
    assert passing < 4 * 20_000_000
    assert needed(20_000_000) - needed(1) == 4 * 20_000_000 - passing
    assert needed(20_000_000, 48) == needed(40_000_000, 48), "a small picture has a small state"


def test_half_the_bytes_allow_larger_tiles() -> None:
    pieces = [
        laid_out(memory_bytes=5 * GIB, size_px=4096, precision=p, **FEW_PAIRS).tile_px
        for p in ("fp32", "bf16")
    ]
    assert pieces[0] is not None
    assert pieces[1] is not None
    assert pieces[0] < pieces[1]


def test_tiles_are_cut_as_the_layout_says() -> None:
    assert list(tile_cut(32)(40, 70)) == list(grid(40, 70, 32))


def test_what_is_too_small_is_named_with_its_scale() -> None:
    recipe = preset("default")
    prepared = recipe.prepare(NETWORK)
    scales = recipe.schedule.scales(512)
    assert too_small(prepared, recipe, scales, PHOTO, [(100, 100)]) == ""
    assert too_small(prepared, recipe, scales, (100, 1000), [(100, 100)]) == (
        "at the scale of 128 px the picture has 128x13 px, and relu5_1 needs 16 px a side"
    )
    assert "painting 2 has 8x15 px" in too_small(prepared, recipe, scales, PHOTO, [(90, 90), (15, 8)])
