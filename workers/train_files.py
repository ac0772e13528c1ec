"""What a training leaves behind beside its style, under the job's folder: traces, plot, previews, a sheet."""

from __future__ import annotations

import io
import json
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

import torch
from torch import Tensor

from workers.contact_sheets import contact_sheet
from workers.images import encode

PREVIEW_PX = 768
"""Longest side of the test pictures that are rendered on the way."""

_QUALITY = 88
_THUMBNAIL_PX = 256
_MOST_COLUMNS = 8

Validation = dict[str, Any]
"""One look at a training: step, loss, its terms, and `mean`, `std`, `saturated` of its pictures."""


def preview_name(output_key: str, step: int, number: int) -> str:
    """Return the name of a test picture, counted from 1, after so many steps."""
    return f"previews/{PurePosixPath(output_key).stem}/step-{step:06d}-{number}.jpg"


def trace_name(output_key: str) -> str:
    """Return the name of the losses of all steps, as JSON lines."""
    return f"traces/{PurePosixPath(output_key).stem}.jsonl"


def validations_name(output_key: str) -> str:
    """Return the name of the losses over pictures that are not trained with, as JSON lines."""
    return f"traces/{PurePosixPath(output_key).stem}-validation.jsonl"


def plot_name(output_key: str) -> str:
    """Return the name of the plot of both."""
    return f"traces/{PurePosixPath(output_key).stem}.png"


def sheet_name(output_key: str) -> str:
    """Return the name of the sheet of test pictures over time."""
    return f"previews/{PurePosixPath(output_key).stem}.jpg"


def parameters_name(output_key: str) -> str:
    """Return the name of the file that says how a style was trained."""
    return f"parameters/{PurePosixPath(output_key).stem}.json"


def onnx_name(output_key: str) -> str:
    """Return the name of the style as ONNX."""
    return f"onnx/{PurePosixPath(output_key).stem}.onnx"


@dataclass(slots=True)
class Trace:
    """The losses of all steps, of every term, in the order of the steps.

    Attributes:
        names: Of the terms; `loss` is one.
    """

    names: tuple[str, ...] = ()
    _values: array[float] = field(default_factory=lambda: array("d"))
    _lines: list[bytes] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self._values) // len(self.names) if self.names else 0

    def add(self, terms: dict[str, float]) -> None:
        """Take in a step.

        Raises:
            ValueError: If its terms are others than those of the steps before.
        """
        if not self.names:
            self.names = tuple(terms)
        if tuple(terms) != self.names:
            raise ValueError(f"terms {', '.join(terms)} after {', '.join(self.names)}")
        self._values.extend(terms.values())

    def cut(self, steps: int) -> None:
        """Forget what came after so many steps."""
        del self._values[steps * len(self.names) :]
        del self._lines[steps:]

    def at(self, index: int) -> dict[str, float]:
        """Return the terms of a step, counted from 0."""
        row = self._values[index * len(self.names) : (index + 1) * len(self.names)]
        return dict(zip(self.names, row, strict=True))

    def of(self, name: str) -> list[float]:
        """Return one term of all steps."""
        return list(self._values[self.names.index(name) :: len(self.names)]) if self.names else []

    def lines(self) -> bytes:
        """Return it as JSON lines; each is made once, for there may be ten thousands."""
        self._lines += (
            _line({"step": index + 1, **self.at(index)}) for index in range(len(self._lines), len(self))
        )
        return b"".join(self._lines)

    def to_words(self) -> dict[str, Any]:
        """Return it as plain values and a tensor."""
        values = torch.frombuffer(self._values, dtype=torch.float64).clone() if len(self) else torch.empty(0)
        return {"names": list(self.names), "values": values}

    @classmethod
    def from_words(cls, words: dict[str, Any]) -> Trace:
        """Return what `to_words` gave."""
        return cls(tuple(words["names"]), array("d", words["values"].tolist()))


@dataclass(slots=True)
class Sheet:
    """Test pictures over time: a row for each, a column for each of some steps.

    Attributes:
        columns: Step, and a small JPEG of each picture.
    """

    columns: list[tuple[int, list[bytes]]] = field(default_factory=list)

    def add(self, step: int, pictures: Sequence[Tensor]) -> None:
        """Take in pictures, uint8 `[H, W, 3]`; when there are too many columns, every second one goes."""
        self.cut(step - 1)
        if len(self.columns) >= _MOST_COLUMNS:
            self.columns = self.columns[::2]
        self.columns.append((step, [jpeg(picture, _THUMBNAIL_PX) for picture in pictures]))

    def cut(self, step: int) -> None:
        """Forget what came after a step."""
        self.columns = [column for column in self.columns if column[0] <= step]

    def encoded(self) -> bytes:
        """Return it as a JPEG; there must be a picture."""
        rows = zip(*(pictures for _, pictures in self.columns), strict=True)
        steps = [step for step, _ in self.columns]
        tiles = [
            (picture, f"step {step}", None) for row in rows for step, picture in zip(steps, row, strict=True)
        ]
        file = io.BytesIO()
        contact_sheet(tiles, len(steps), thumbnail_px=_THUMBNAIL_PX).save(file, "JPEG", quality=_QUALITY)
        return file.getvalue()

    def to_words(self) -> list[Any]:
        """Return it as plain values and tensors."""
        return [
            [step, [torch.frombuffer(bytearray(data), dtype=torch.uint8) for data in pictures]]
            for step, pictures in self.columns
        ]

    @classmethod
    def from_words(cls, words: list[Any]) -> Sheet:
        """Return what `to_words` gave."""
        return cls([(step, [each.numpy().tobytes() for each in pictures]) for step, pictures in words])


def jpeg(pixels: Tensor, longest_px: int | None = None) -> bytes:
    """Return a JPEG of a picture, uint8 `[H, W, 3]`, its longest side at most so long."""
    if longest_px is not None and max(pixels.shape[:2]) > longest_px:
        from PIL import Image

        image = Image.fromarray(pixels.numpy())
        image.thumbnail((longest_px, longest_px))
        file = io.BytesIO()
        image.save(file, "JPEG", quality=_QUALITY)
        return file.getvalue()
    return encode(pixels.numpy(), None, ".jpg", _QUALITY)[0]


def validation_lines(validations: Sequence[Validation]) -> bytes:
    """Return them as JSON lines."""
    return b"".join(map(_line, validations))


def loss_plot(trace: Trace, validations: Sequence[Validation], title: str) -> bytes:
    """Return a PNG of the losses over all steps, on a log axis, with those of validation.

    Args:
        trace: At least one step.
        validations: Those that have a loss are drawn.
        title: Above it.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 6))
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0.08, 0.09, 0.9, 0.84), yscale="log", title=title)
    axes.set(xlabel="step", ylabel="loss")
    steps = range(1, len(trace) + 1)
    for name in trace.names:
        if not name.startswith("style "):
            color, width = ("black", 1.5) if name == "loss" else (None, 0.8)
            label = "loss of training" if name == "loss" else name
            axes.plot(steps, _positive(trace.of(name)), color=color, linewidth=width, label=label)
    judged = [each for each in validations if each.get("loss") is not None]
    axes.plot(
        [each["step"] for each in judged],
        _positive([each["loss"] for each in judged]),
        color="tab:red",
        marker="o",
        markersize=4,
        label="loss of validation",
    )
    axes.legend(fontsize="small")
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()


def _positive(values: Sequence[float]) -> list[float]:
    """Return the values that a log axis can show."""
    return [value if value > 0 else float("nan") for value in values]


def _line(row: dict[str, Any]) -> bytes:
    return f"{json.dumps(row)}\n".encode()
