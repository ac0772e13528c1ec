"""The `stylize` step: pictures in, the same pictures in one or more styles out."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from jobs.errors import FarmError
from jobs.estimates import listed_megapixels, written_bytes
from jobs.inputs import Picture
from jobs.paths import anchor, default_pattern
from jobs.pictures import InputPlaces, NamePattern, Recursive, check_inputs, list_pictures, name_result
from jobs.schema import Location, Mistake, Section, Within, check_name, shown, together
from jobs.steps import (
    Checking,
    Late,
    PlannedItem,
    PlannedTask,
    Planning,
    Step,
    StepKind,
    Style,
    register_step,
)
from jobs.stylize import StyleRef, StylizePayload

_SHA256 = re.compile(r"[0-9a-f]{64}")


# --- what is written ------------------------------------------------------------------------------


def _read_style(value: Any) -> str | Late:
    if isinstance(value, str):
        return check_name(value)
    if isinstance(value, dict):
        return Late.model_validate(value)
    if isinstance(value, Late):
        return value
    raise ValueError(f"{shown(value)} is neither the name of a style nor {{from: step}}")


def _check_styles(styles: list[str | Late]) -> list[str | Late]:
    twice = [
        Mistake((n,), f"{_label(each)} is there twice") for n, each in enumerate(styles) if each in styles[:n]
    ]
    if twice:
        raise together("styles", twice)
    return styles


def _label(style: str | Late) -> str:
    return style if isinstance(style, str) else f"{{from: {style.step}}}"


class Chunk(Section):
    """How many pictures one task takes; whichever limit comes first closes it."""

    items: Annotated[int, Within(1, 1000)] = Field(default=64, description="Most pictures.")
    seconds: Annotated[float, Within(0.1, 3600)] = Field(default=5.0, description="Device time to aim at.")


class StylizeStep(Step):
    """Render pictures with trained style models."""

    kind: Literal["stylize"]
    inputs: InputPlaces
    recursive: Recursive = True
    styles: Annotated[
        list[Annotated[str | Late, BeforeValidator(_read_style)]],
        Field(min_length=1),
        AfterValidator(_check_styles),
    ] = Field(description="Names of styles, or {from: step} for one that an earlier step makes.")
    pattern: NamePattern | None = Field(
        default=None,
        description="Names of the results, from {folder} {name} {ext} {style} {index}; "
        "by default {folder}/{name}.{ext}, below {style}/ where the job has several styles.",
    )
    format: Literal["keep", "jpg", "png", "webp", "tiff", "bmp"] = Field(
        default="keep", description="Type of the results; kept types that cannot be written become png."
    )
    quality: Annotated[int, Within(1, 100)] = Field(default=95, description="Of jpg and webp.")
    max_size_px: Annotated[int, Within(1, 100_000)] | None = Field(
        default=None, description="Scale larger pictures down to this longest side before they are rendered."
    )
    max_megapixels: Annotated[float, Within(0.001, 100_000)] = Field(
        default=400.0, description="Refuse inputs with more pixels than this."
    )
    device: Literal["auto", "cpu", "cuda"] = Field(default="auto", description="Where to render.")
    precision: Literal["fp32", "bf16"] = Field(default="fp32", description="Of the network's arithmetic.")
    chunk: Chunk = Field(default_factory=Chunk, description="How pictures are grouped into tasks.")
    threads: Annotated[int, Within(1, 1024)] | None = Field(
        default=None,
        description="Compute threads of a worker on the CPU; by default those it was started with.",
    )

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        mistakes = []
        if self.pattern and len(self.styles) > 1 and "{style}" not in self.pattern:
            text = f"{shown(self.pattern)} gives {len(self.styles)} styles the same name: use {{style}}"
            mistakes.append(Mistake(("pattern",), text))
        if self.workers.max > 1:
            text = "one worker renders a picture; many pictures use all workers of the farm as it is"
            mistakes.append(Mistake(("workers",), text))
        if mistakes:
            raise together("StylizeStep", mistakes)
        late = [style.step for style in self.styles if isinstance(style, Late)]
        self.needs.extend(step for step in late if step not in self.needs)
        return self

    def anchored(self, folder: Path) -> Self:
        """Return the step with every local path made absolute, starting from `folder`."""
        return self.model_copy(update={"inputs": [anchor(each, folder) for each in self.inputs]})


# --- the check at submit --------------------------------------------------------------------------


def check(step: StylizeStep, at: Location, checking: Checking) -> None:
    """Look whether styles and inputs exist, and whether the output keeps clear of the inputs."""
    for number, style in enumerate(step.styles):
        if isinstance(style, str):
            checking.find_style((*at, "styles", number), style)
    check_inputs(step, at, checking)


# --- the plan -------------------------------------------------------------------------------------


def plan(step: StylizeStep, planning: Planning) -> Iterator[PlannedTask]:
    """Yield the tasks of a step: style by style, so that models stay loaded, pictures in natural order.

    Raises:
        UsageError: If there is no picture, or two results would get one name.
        FarmError: If an earlier step did not make the style that it should have made.
    """
    pictures = list_pictures(step, planning)
    styles = [_resolve(style, planning) for style in step.styles]
    of_job = {
        _label(each) for other in planning.steps if isinstance(other, StylizeStep) for each in other.styles
    }
    pattern = step.pattern or default_pattern(several_styles=len(of_job) > 1)
    for style in styles:
        yield from _plan_style(step, style, pattern, pictures, planning)


def _resolve(style: str | Late, planning: Planning) -> Style:
    if isinstance(style, str):
        return planning.styles[style]
    made = planning.results.get(style.step, {})
    sha256 = made.get("sha256")
    if not isinstance(sha256, str) or not _SHA256.fullmatch(sha256):
        raise FarmError(f"the step {style.step} made no style", "look at what it reports")
    return Style(str(made.get("name", style.step)), sha256)


@dataclass(slots=True)
class _OpenChunk:
    """Items that go into one task, until it is large enough."""

    limits: Chunk
    items: list[PlannedItem] = field(default_factory=list)
    seconds: float = 0.0

    def is_full_for(self, seconds: float) -> bool:
        """Return whether an item of so many seconds belongs into the next chunk."""
        full = len(self.items) >= self.limits.items or self.seconds + seconds > self.limits.seconds
        return full and bool(self.items)


def _plan_style(
    step: StylizeStep, style: Style, pattern: str, pictures: Sequence[Picture], planning: Planning
) -> Iterator[PlannedTask]:
    payload = StylizePayload(
        style=StyleRef(name=style.name, sha256=style.sha256),
        precision=step.precision,
        max_size_px=step.max_size_px,
        max_megapixels=step.max_megapixels,
        quality=step.quality,
        format=step.format,
        device=step.device,
        threads=step.threads,
    ).model_dump(mode="json")

    def task(chunk: _OpenChunk) -> PlannedTask:
        return PlannedTask(
            payload, tuple(chunk.items), style.sha256, chunk.seconds, (step.workers.min, step.workers.max)
        )

    rate = planning.rates.of(style.sha256)
    chunk = _OpenChunk(step.chunk)
    for index, picture in enumerate(pictures, 1):
        key = name_result(pattern, picture, style=style.name, index=index, format=step.format)
        if not planning.names.claim(key, picture.url):
            continue
        megapixels = listed_megapixels(picture.key, picture.size_bytes, step.max_size_px)
        seconds = rate.estimate_s(megapixels)
        if chunk.is_full_for(seconds):
            yield task(chunk)
            chunk = _OpenChunk(step.chunk)
        size_bytes = written_bytes(key, megapixels)
        chunk.items.append(
            PlannedItem(picture.url, picture.size_bytes, picture.stamp, key, style.name, size_bytes)
        )
        chunk.seconds += seconds
    if chunk.items:
        yield task(chunk)


register_step(StepKind("stylize", StylizeStep, plan, check))
