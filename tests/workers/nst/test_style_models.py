"""A style model keeps its weights to the bit, says what it is, and has one content hash."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from tests.workers.nst.plain import seeded_picture, seeded_state
from workers.nst.inference import prepare_for_inference, render_batch
from workers.nst.style_models import (
    StyleMetadata,
    encode_style_model,
    is_style_model,
    load_style_model,
    read_style_model,
    save_style_model,
)
from workers.nst.transformer import TransformerNet

METADATA = StyleMetadata(
    "candy", 2, origin="pytorch-examples", origin_sha256="0" * 64, license="BSD-3-Clause", source="a friend"
)


@pytest.fixture
def net() -> TransformerNet:
    made = TransformerNet(2)
    made.load_state_dict(seeded_state(2))
    return made.eval()


def written(folder: Path, data: bytes) -> Path:
    path = folder / "style.safetensors"
    path.write_bytes(data)
    return path


def test_weights_and_metadata_come_back_exactly(tmp_path: Path, net: TransformerNet) -> None:
    path = tmp_path / "candy.safetensors"
    save_style_model(path, net, METADATA)
    again, metadata = read_style_model(path)
    assert metadata == METADATA
    assert all(torch.equal(value, net.state_dict()[name]) for name, value in again.state_dict().items())
    assert is_style_model(path)


def test_how_a_style_was_trained_comes_back_and_changes_nothing_of_others(
    tmp_path: Path, net: TransformerNet
) -> None:
    """A style that was imported has the bytes that it had before there were trained ones."""
    said = {"steps": 3, "paintings": [{"name": "wave.png", "weight": 1.0}], "loss": None}
    trained = encode_style_model(net, replace(METADATA, training=said))
    assert read_style_model(written(tmp_path, trained))[1].training == said
    assert b"training" not in encode_style_model(net, METADATA)


def test_weights_that_fit_into_float16_take_half_the_room(tmp_path: Path, net: TransformerNet) -> None:
    full = encode_style_model(net, METADATA)
    net.load_state_dict({name: value.half() for name, value in net.state_dict().items()})
    half = encode_style_model(net, METADATA)
    assert len(half) < 0.6 * len(full)
    again, _ = read_style_model(written(tmp_path, half))
    assert all(torch.equal(value, net.state_dict()[name]) for name, value in again.state_dict().items())


@pytest.mark.slow
def test_the_same_style_has_the_same_bytes_in_every_process() -> None:
    """Content hashes name styles, so an order that changes from run to run would make two of one."""
    script = (
        "import hashlib; from tests.workers.nst.plain import seeded_state;"
        "from tests.workers.nst.test_style_models import METADATA;"
        "from workers.nst.style_models import encode_style_model;"
        "from workers.nst.transformer import TransformerNet;"
        "net = TransformerNet(2); net.load_state_dict(seeded_state(2));"
        "print(hashlib.sha256(encode_style_model(net, METADATA)).hexdigest())"
    )
    root = Path(__file__).parents[3]
    seen = {
        subprocess.run(
            [sys.executable, "-c", script],
            cwd=root,
            env={"PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(seen) == 1


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_loaded_style_model_renders_like_the_network(
    tmp_path: Path, net: TransformerNet, precision: str
) -> None:
    path = written(tmp_path, encode_style_model(net, METADATA))
    picture = seeded_picture(17, 23)[None]
    loaded = load_style_model(path, "cpu", precision)  # type: ignore[arg-type]
    expected = render_batch(prepare_for_inference(net, precision), picture)  # type: ignore[arg-type]
    assert torch.equal(render_batch(loaded, picture), expected)


def test_metadata_of_another_width_is_a_mistake(net: TransformerNet) -> None:
    with pytest.raises(ValueError, match="base width 2, the metadata says 3"):
        encode_style_model(net, replace(METADATA, width=3))


@pytest.mark.parametrize("kept", [0, 4, 100, 3000, -1])
def test_a_file_that_is_cut_off_is_refused(tmp_path: Path, net: TransformerNet, kept: int) -> None:
    path = written(tmp_path, encode_style_model(net, METADATA)[:kept])
    with pytest.raises(ValueError, match=r"is empty|not a safetensors file, or cut off"):
        read_style_model(path)
    assert not is_style_model(path) or kept == -1


@pytest.mark.parametrize(
    ("metadata", "reason"),
    [
        (None, "not a style model of stylefarm"),
        ({"other": "x"}, "not a style model of stylefarm"),
        ({"stylefarm": "no json"}, "cannot be read"),
        ({"stylefarm": "[]"}, "cannot be read"),
        ({"stylefarm": '{"name": "x"}'}, "cannot be read"),
        ({"stylefarm": '{"name": "x", "width": 2, "version": 9}'}, "layout 9"),
        ({"stylefarm": '{"name": "x", "width": 2, "io": "bgr"}'}, "I/O 'bgr'"),
        ({"stylefarm": '{"name": "x", "width": 2, "network": "unet"}'}, "network 'unet'"),
        ({"stylefarm": '{"name": "x", "width": 4}'}, "base width 4 and has 2"),
    ],
)
def test_metadata_that_does_not_fit_is_refused(
    tmp_path: Path, net: TransformerNet, metadata: dict[str, str] | None, reason: str
) -> None:
    path = written(tmp_path, save(net.state_dict(), metadata))
    with pytest.raises(ValueError, match=reason):
        read_style_model(path)


def test_metadata_that_a_later_version_added_is_left_out(tmp_path: Path, net: TransformerNet) -> None:
    document = {"name": "x", "width": 2, "sample": "later"}
    path = written(tmp_path, save(net.state_dict(), {"stylefarm": json.dumps(document)}))
    assert read_style_model(path)[1] == StyleMetadata("x", 2)


def test_a_wrong_shape_is_refused(tmp_path: Path, net: TransformerNet) -> None:
    state = net.state_dict() | {"in3.bias": torch.ones(7)}
    path = written(tmp_path, save(state, {"stylefarm": '{"name": "x", "width": 2}'}))
    with pytest.raises(ValueError, match=r"in3\.bias has shape \(7,\), not \(8,\)"):
        read_style_model(path)
