"""What a `stylize` task needs to know: one style, and how its pictures are read, rendered and written."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

KIND = "stylize"

OutputFormat = Literal["keep", "jpg", "png", "webp", "tiff", "bmp"]


class StyleRef(BaseModel):
    """A style model by name, for people, and by content hash, for the farm."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(min_length=1)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class StylizePayload(BaseModel):
    """The payload of a `stylize` task; only the kind and its planner look into it.

    Attributes:
        max_size_px: Cap on the longer side; larger pictures are scaled down, none is scaled up.
        max_megapixels: Inputs with more pixels than that fail before they are decoded.
        quality: Of JPEG and WebP, 1 to 100.
        format: Of the outputs; `keep` is that of each input where it can be written.
        device: Where to render: `auto` takes what the worker has.
        threads: Compute threads on a CPU, or None for what the worker was started with.
        batch: Pictures of one size that are rendered at once at most, or None for what suits the device.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    style: StyleRef
    precision: Literal["fp32", "bf16"] = "fp32"
    max_size_px: Annotated[int, Field(ge=1)] | None = None
    max_megapixels: Annotated[float, Field(gt=0)] = 400.0
    quality: Annotated[int, Field(ge=1, le=100)] = 95
    format: OutputFormat = "keep"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: Annotated[int, Field(ge=1)] | None = None
    batch: Annotated[int, Field(ge=1, le=64)] | None = None

    def settings(self) -> dict[str, Any]:
        """Return what decides pixels, for `jobs.records.render_key`.

        Neither the style's name nor device, threads, batch or `max_megapixels` belong here. The output's
        suffix is added by the worker, which knows it for each item.
        """
        return {
            "kind": KIND,
            "style": self.style.sha256,
            "precision": self.precision,
            "max_size_px": self.max_size_px,
            "quality": self.quality,
        }
