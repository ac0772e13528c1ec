"""The styles that people have give the pictures that their makers published."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.workers.nst.plain import plain_transformer
from workers.nst.inference import prepare_for_inference, render_batch
from workers.nst.weights_files import read_pytorch_examples

STYLES = {"candy.pth": 0.99, "mosaic.pth": 0.99, "udnie_nc16.model": 0.999, "mosaic_nc8.model": 0.985}
"""Weights, and how closely their published picture is met: small ones have more of what JPEG loses."""


def pixels(source: Path | io.BytesIO) -> torch.Tensor:
    return torch.from_numpy(np.array(Image.open(source).convert("RGB")))


@pytest.mark.slow
@pytest.mark.parametrize("name", STYLES)
def test_a_published_style_gives_its_published_picture(test_data: Path, name: str) -> None:
    """After the same JPEG encoding, at 1080 px."""
    folder = test_data / "checkpoints"
    published = folder / "references" / f"amber-{Path(name).stem}.jpg"
    net = prepare_for_inference(read_pytorch_examples(folder / name))
    rendered = render_batch(net, pixels(folder / "references" / "amber.jpg")[None])[0]
    file = io.BytesIO()
    with Image.open(published) as image:
        tables = image.quantization  # type: ignore[attr-defined]
        Image.fromarray(rendered.numpy()).save(file, "JPEG", qtables=tables)
    ours, theirs = pixels(file).double().flatten(), pixels(published).double().flatten()
    assert np.corrcoef(ours, theirs)[0, 1] >= STYLES[name]


@pytest.mark.parametrize("name", STYLES)
def test_a_published_style_gives_the_picture_of_plain_torch(test_data: Path, name: str) -> None:
    """Within one of 255 levels in fp32, and close in bf16."""
    net = read_pytorch_examples(test_data / "checkpoints" / name)
    picture = pixels(test_data / "checkpoints" / "references" / "amber.jpg")[300:430, 400:601]
    with torch.inference_mode():
        plain = plain_transformer(net.state_dict(), picture.permute(2, 0, 1)[None].float())
    expected = plain[0, :, :130, :201].permute(1, 2, 0).round().clamp(0, 255)
    for precision, largest, mean in (("fp32", 1, 0.01), ("bf16", 80, 2.5)):
        rendered = render_batch(prepare_for_inference(net, precision), picture[None])[0]  # type: ignore[arg-type]
        difference = (rendered - expected).abs()
        assert difference.max() <= largest
        assert difference.mean() <= mean
