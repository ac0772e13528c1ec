"""What a render leaves behind: names, traces, plots, previews."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from workers import optimize_files as files


def step(scale: int, iteration: int, loss: float, **terms: float) -> files.Step:
    return {
        "scale": scale,
        "size_px": 100 * (scale + 1),
        "iteration": iteration,
        "loss": loss,
        "terms": terms,
    }


def test_the_plot_shows_losses_also_where_a_log_axis_has_no_place_for_them() -> None:
    trace = [step(0, 1, 9.0, style=8.0, tv=0.0), step(0, 2, 4.0, style=-1.0), step(1, 1, 6.0, content=6.0)]
    with Image.open(io.BytesIO(files.trace_plot(trace, "town.png"))) as image:
        assert image.size == (1000, 600)
        colors = image.convert("RGB").getcolors(1 << 20)
    assert colors is not None
    assert len(colors) > 20
    below = [step(0, n, -1.0, style=-1.0) for n in range(3)]
    assert files.trace_plot(below, "sunk.png") != files.trace_plot(trace, "sunk.png")


def test_a_trace_has_a_line_for_each_iteration() -> None:
    assert files.trace_lines([{"loss": 1.0}, {"loss": 0.5}]) == b'{"loss": 1.0}\n{"loss": 0.5}\n'


def test_names_lie_beside_each_other_by_the_result() -> None:
    assert files.iterate_name("trip/a.b.png", 1, 20) == "iterations/trip/a.b-2-20.png"
    assert files.preview_name("trip/a.png") == "previews/trip/a.png.jpg"
    assert files.state_name("trip/a.png") == "final/trip/a.png.state"


@pytest.mark.parametrize(("size", "shown"), [((30, 50), (50, 30)), ((512, 2048), (1024, 256))])
def test_previews_are_small(size: tuple[int, int], shown: tuple[int, int]) -> None:
    with Image.open(io.BytesIO(files.preview(torch.rand(1, 3, *size)))) as image:
        assert (image.format, image.size) == ("JPEG", shown)


def test_pixels_become_bytes_and_back() -> None:
    pixels = np.arange(48, dtype=np.uint8).reshape(4, 4, 3) * 5
    assert np.array_equal(files.eight_bit(files.from_eight_bit(torch.from_numpy(pixels))), pixels)
    wild = torch.tensor([-0.5, 0.4999, 1.5]).view(1, 3, 1, 1)
    assert files.eight_bit(wild).tolist() == [[[0, 127, 255]]]


def test_alpha_follows_the_size_of_the_picture() -> None:
    alpha = np.zeros((4, 6), np.uint8)
    alpha[:, 3:] = 255
    large = files.alpha_at(alpha, 8, 12)
    assert large is not None
    assert large.shape == (8, 12)
    assert (int(large[4, 1]), int(large[4, 10])) == (0, 255)
    assert files.alpha_at(alpha, 4, 6) is alpha
    assert files.alpha_at(None, 4, 6) is None
