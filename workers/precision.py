"""What a precision is worth on the processor at hand."""

from __future__ import annotations

import torch


def computes_in_bf16() -> bool:
    """Return whether this machine's CPU has instructions (AVX-512, or Arm's) that bf16 is computed with."""
    # torch has no public question for it; this one is what its own quantization asks.
    asked = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    return asked is not None and bool(asked())


def note_on_precision(precision: str, device: str) -> str:
    """Return what a user should know about a precision on a kind of device, or an empty string.

    Of CPUs only that of this machine is known: at submit the controller's, which stands for the workers'.
    """
    if precision != "bf16" or device != "cpu" or computes_in_bf16():
        return ""
    return "precision bf16: the CPU here cannot compute in it and takes many times as long as with fp32"
