"""What a user is told of a precision that the processor at hand has no instructions for."""

from __future__ import annotations

from pathlib import Path

import pytest

from workers import precision
from workers.precision import computes_in_bf16, note_on_precision


def test_this_machine_knows_whether_it_computes_in_bf16() -> None:
    flags = Path("/proc/cpuinfo").read_text().split()
    assert computes_in_bf16() == ("avx512bw" in flags or "bf16" in flags)  # of x86, of Arm


def test_bf16_is_noted_only_where_a_cpu_would_have_to_imitate_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "computes_in_bf16", lambda: False)
    assert note_on_precision("bf16", "cpu").startswith("precision bf16: the CPU here cannot compute in it")
    assert note_on_precision("bf16", "cuda") == ""
    assert note_on_precision("fp32", "cpu") == ""
    monkeypatch.setattr(precision, "computes_in_bf16", lambda: True)
    assert note_on_precision("bf16", "cpu") == ""
