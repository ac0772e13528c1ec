"""Style models as ONNX, for programs that know no torch."""

from __future__ import annotations

import importlib.util
import logging
import tempfile
import warnings
from pathlib import Path

import torch

from workers.nst.transformer import TransformerNet

OPSET = 18

INPUT, OUTPUT = "photograph", "picture"
"""Names of the input and the output: float32 `[N, 3, H, W]`, RGB in 0..255; what comes out is not clamped."""

_SIDE_PX = 32


def can_write_onnx() -> bool:
    """Return whether the package is there that writing ONNX takes."""
    return importlib.util.find_spec("onnx") is not None


def encode_onnx(net: TransformerNet) -> bytes:
    """Return a network as a single ONNX file that takes any number of photographs of any size.

    Sides come out rounded up to a multiple of 4, as of the network itself.

    Args:
        net: The network; it is left as it is.

    Raises:
        ValueError: If the package `onnx` is missing, or what was written does not pass its check.
    """
    if not can_write_onnx():
        raise ValueError("ONNX is written by the package onnx, which is not there")
    import onnx

    own = TransformerNet(net.width)
    own.load_state_dict({name: value.detach().float().cpu() for name, value in net.state_dict().items()})
    sizes = {0: "count", 2: "height", 3: "width"}
    noisy = logging.getLogger("torch.onnx")
    level = noisy.level
    noisy.setLevel(logging.ERROR)
    try:
        with tempfile.TemporaryDirectory(prefix="onnx-") as folder, warnings.catch_warnings():
            file = Path(folder) / "style.onnx"
            # The exporter that needs no further package is the older one, and says so.
            warnings.simplefilter("ignore")
            torch.onnx.export(
                own.eval(),
                (torch.zeros(1, 3, _SIDE_PX, _SIDE_PX),),
                file,
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_axes={INPUT: sizes, OUTPUT: {axis: f"{name} out" for axis, name in sizes.items()}},
                opset_version=OPSET,
                dynamo=False,
            )
            data = file.read_bytes()
    finally:
        noisy.setLevel(level)
    try:
        onnx.checker.check_model(data, full_check=True)
    except onnx.checker.ValidationError as error:
        raise ValueError(f"what was written is no ONNX: {error}") from error
    return data
