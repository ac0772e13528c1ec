"""Published styles on real photographs through the real farm; needs the test data."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.end_to_end.awkward import as_seen, difference
from tests.end_to_end.real_farm import RealFarm, results, running_farm
from tests.workers.nst.plain import plain_transformer
from workers.nst.weights_files import read_pytorch_examples

pytestmark = pytest.mark.slow

STYLES = ("candy", "mosaic")


@pytest.fixture(scope="module")
def published(test_data: Path) -> Iterator[RealFarm]:
    """A farm that knows published styles, from the files that people have."""
    with running_farm() as farm:
        for name in STYLES:
            file = test_data / "checkpoints" / f"{name}.pth"
            farm.run("styles", "add", file, "--name", name, "--format", "pytorch-examples")
        yield farm


def test_kodaks_photographs_keep_their_sizes_and_names(
    published: RealFarm, test_data: Path, tmp_path: Path
) -> None:
    """Two of them as they are, the others smaller to be quick."""
    folder, output = tmp_path / "kodak", tmp_path / "out"
    folder.mkdir()
    originals = sorted((test_data / "photos" / "kodak").iterdir())
    assert len(originals) == 24
    for number, original in enumerate(originals):
        with Image.open(original) as image:
            image.thumbnail(image.size if number in {0, 3} else (96, 96))
            image.save(folder / original.name)
    published.run("render", folder, "--style", "candy", "--output", output)
    sizes = {path.name: as_seen(path)[0].shape for path in folder.iterdir()}
    assert {name: as_seen(path)[0].shape for name, path in results(output).items()} == sizes
    assert {(512, 768, 3), (768, 512, 3)} <= set(sizes.values()), "lying and upright ones"


@pytest.mark.timeout(240)
def test_the_published_pictures_and_those_of_plain_pytorch_come_out(
    published: RealFarm, test_data: Path, tmp_path: Path
) -> None:
    """Correlated by 0.99 after the same JPEG encoding, and within 1/255 of plain PyTorch in fp32."""
    checkpoints = test_data / "checkpoints"
    amber = checkpoints / "references" / "amber.jpg"
    styles = [word for name in STYLES for word in ("--style", name)]
    published.run("render", amber, *styles, "--format", "png", "--output", tmp_path / "out")
    assert set(results(tmp_path / "out")) == {f"{name}/amber.png" for name in STYLES}
    for name in STYLES:
        ours, _ = as_seen(tmp_path / "out" / name / "amber.png")
        with Image.open(checkpoints / "references" / f"amber-{name}.jpg") as theirs:
            file = io.BytesIO()
            Image.fromarray(ours).save(file, "JPEG", qtables=theirs.quantization)  # type: ignore[attr-defined]
            encoded = np.array(Image.open(file)).astype(float)
            assert np.corrcoef(encoded.ravel(), np.array(theirs).astype(float).ravel())[0, 1] >= 0.99
        state = read_pytorch_examples(checkpoints / f"{name}.pth").state_dict()
        with torch.inference_mode():
            x = torch.from_numpy(as_seen(amber)[0]).permute(2, 0, 1)[None].float()
            plain = plain_transformer(state, x)[0].permute(1, 2, 0).round().clamp(0, 255).byte().numpy()
        assert difference(ours, plain)[0] <= 1
