"""A style as ONNX gives the pictures that the style gives."""

from __future__ import annotations

import pytest
import torch

from tests.workers.nst.plain import seeded_state
from workers.nst import onnx_files
from workers.nst.onnx_files import INPUT, OPSET, OUTPUT, encode_onnx
from workers.nst.transformer import TransformerNet


@pytest.fixture(scope="module")
def net() -> TransformerNet:
    net = TransformerNet(4)
    net.load_state_dict(seeded_state(4, 0))
    return net.eval()


@pytest.fixture(scope="module")
def data(net: TransformerNet) -> bytes:
    return encode_onnx(net)


@pytest.mark.parametrize("shape", [(1, 64, 48), (2, 37, 50), (3, 20, 21)])
def test_any_number_of_any_size(net: TransformerNet, data: bytes, shape: tuple[int, int, int]) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    count, height, width = shape
    generator = torch.Generator().manual_seed(1)
    photographs = torch.rand(count, 3, height, width, generator=generator) * 255
    (pictures,) = session.run([OUTPUT], {INPUT: photographs.numpy()})
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(pictures), net(photographs), rtol=1e-4, atol=0.02)


def test_it_is_one_file_of_a_known_version(data: bytes) -> None:
    onnx = pytest.importorskip("onnx")
    model = onnx.load_from_string(data)
    assert [opset.version for opset in model.opset_import if not opset.domain] == [OPSET]
    assert not any(each.external_data for each in model.graph.initializer)
    sides = model.graph.input[0].type.tensor_type.shape.dim
    assert [side.dim_param for side in sides] == ["count", "", "height", "width"]


def test_without_the_package_it_says_so(net: TransformerNet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_files, "can_write_onnx", lambda: False)
    with pytest.raises(ValueError, match="package onnx"):
        encode_onnx(net)
