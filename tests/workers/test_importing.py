"""`farm styles add`: somebody's file becomes one verified style model, the same whenever it is added."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from jobs.errors import UsageError
from tests.workers.nst.plain import seeded_state
from workers.importing import FORMATS, import_style, sample_picture
from workers.nst.style_models import read_style_model


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "candy.pth"
    torch.save(seeded_state(2), path)
    return path


def test_a_file_becomes_a_style_model_that_says_where_it_comes_from(weights: Path, tmp_path: Path) -> None:
    style = import_style(
        weights, format="pytorch-examples", name="candy", license="BSD-3-Clause", source="https://example.org"
    )
    assert (style.name, style.format, style.width) == ("candy", "pytorch-examples", 2)
    assert style.sha256 == hashlib.sha256(style.data).hexdigest()
    kept = tmp_path / "kept.safetensors"
    kept.write_bytes(style.data)
    net, metadata = read_style_model(kept)
    assert all(torch.equal(value, seeded_state(2)[name]) for name, value in net.state_dict().items())
    assert (metadata.license, metadata.source) == ("BSD-3-Clause", "https://example.org")
    assert metadata.origin_sha256 == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert style.metadata["io"] == "rgb-0-255"


def test_the_same_file_twice_is_the_same_style(weights: Path) -> None:
    first, second = (import_style(weights, format="pytorch-examples", name="candy") for _ in range(2))
    assert first == second


def test_a_style_model_of_ours_is_kept_byte_for_byte(weights: Path, tmp_path: Path) -> None:
    first = import_style(weights, format="pytorch-examples", name="candy")
    path = tmp_path / "from-a-friend.safetensors"
    path.write_bytes(first.data)
    second = import_style(path, format="stylefarm", name="sweets")
    assert (second.data, second.sha256, second.name) == (first.data, first.sha256, "sweets")
    assert second.thumbnail == first.thumbnail


def test_the_thumbnail_shows_the_sample_in_the_style(weights: Path) -> None:
    style = import_style(weights, format="pytorch-examples", name="candy")
    with Image.open(io.BytesIO(style.thumbnail)) as image:
        shown = np.asarray(image)
    assert shown.shape == sample_picture().shape == (192, 256, 3)
    assert shown.std() > 20
    assert (shown != sample_picture()).mean() > 0.9


@pytest.mark.parametrize("unknown", ["pytorch", "onnx", ""])
def test_an_unknown_format_is_refused_with_those_there_are(weights: Path, unknown: str) -> None:
    with pytest.raises(UsageError) as refused:
        import_style(weights, format=unknown, name="candy")
    assert all(known in refused.value.hint for known in FORMATS)


def test_what_is_wrong_with_the_file_is_said(tmp_path: Path, weights: Path) -> None:
    weights.write_bytes(weights.read_bytes()[:3000])
    with pytest.raises(UsageError, match=r"candy\.pth is cut off or damaged"):
        import_style(weights, format="pytorch-examples", name="candy")
    with pytest.raises(UsageError, match="not there"):
        import_style(tmp_path / "no.pth", format="pytorch-examples", name="candy")


def test_a_style_model_of_ours_under_another_format_is_told_apart(weights: Path, tmp_path: Path) -> None:
    path = tmp_path / "style.pth"
    path.write_bytes(import_style(weights, format="pytorch-examples", name="candy").data)
    with pytest.raises(UsageError) as refused:
        import_style(path, format="pytorch-examples", name="candy")
    assert refused.value.hint == "say --format stylefarm"


def test_weights_that_give_no_picture_are_refused_at_once(tmp_path: Path) -> None:
    """Finite numbers alone do not make a style; the farm should not find out in the middle of a job."""
    state = seeded_state(2)
    state["in1.weight"].fill_(1e38)
    state["res1.in2.weight"].fill_(1e38)
    torch.save(state, tmp_path / "wild.pth")
    with pytest.raises(UsageError, match="no numbers"):
        import_style(tmp_path / "wild.pth", format="pytorch-examples", name="wild")
