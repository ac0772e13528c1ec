"""The `optimize` step: pictures in, each optimized for one or more paintings out."""

from __future__ import annotations

import math
import posixpath
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from jobs.checkpoints import kept_states
from jobs.errors import UsageError
from jobs.estimates import written_bytes
from jobs.optimize import (
    KIND,
    LBFGS_HISTORY,
    PRESETS,
    AssetRef,
    Extension,
    OptimizePayload,
    RenderSettings,
    StyleImageRef,
    Weight,
    state_name,
)
from jobs.paths import anchor, default_pattern
from jobs.pictures import InputPlaces, NamePattern, Recursive, check_inputs, list_pictures, name_result
from jobs.schema import Location, Mistake, Place, Section, shown, together
from jobs.steps import (
    Checking,
    PlannedItem,
    PlannedTask,
    Planning,
    Step,
    StepKind,
    asset_name,
    register_step,
)
from jobs.storage.base import FARM_PREFIX, Store
from jobs.tiles import state_bytes

_PROPORTION = 3 / 4
"""Of the sides of pictures, about: a listing does not tell."""

_PREVIEW_MEGAPIXELS = 0.8
_CHECKPOINTS = 3
"""States of a picture that lie in the output at once: two that are kept, and the next one."""


# --- what is written ------------------------------------------------------------------------------


class StyleImage(Section):
    """A painting."""

    image: Place = Field(description="Its file, a path or s3:// URL.")
    weight: Weight = Field(default=1.0, description="Its share among several.")


def _read_style_image(value: Any) -> Any:
    if isinstance(value, str):
        return {"image": value}
    if isinstance(value, dict | StyleImage):
        return value
    raise ValueError(f"{shown(value)} is neither a file nor {{image: file, weight: number}}")


AnyStyleImage = Annotated[
    StyleImage, BeforeValidator(_read_style_image, json_schema_input_type=str | StyleImage)
]


class OptimizeStep(RenderSettings, Step):
    """Optimize pictures for paintings; one worker, or several together, take a picture at a time."""

    kind: Literal["optimize"]
    inputs: InputPlaces
    recursive: Recursive = True
    style_images: list[AnyStyleImage] = Field(
        min_length=1, description="Paintings: files, or {image: file, weight: number}."
    )
    loss_network: str | None = Field(
        default=None,
        min_length=1,
        description="Name of a loss network, see `farm weights list`; by default that of the preset.",
    )
    pattern: NamePattern | None = Field(
        default=None,
        description="Names of the results, from {folder} {name} {ext} {style} {index}; "
        "by default {folder}/{name}.{ext}.",
    )
    extends: Extension | None = Field(
        default=None, description="Written by `farm extend`: which finished job to go on from, and how long."
    )

    @model_validator(mode="after")
    def _paintings_count(self) -> Self:
        if not any(style.weight for style in self.style_images):
            text = "every painting has a weight of 0: give one of them more"
            raise together("OptimizeStep", [Mistake(("style_images",), text)])
        return self

    def anchored(self, folder: Path) -> Self:
        """Return the step with every local path made absolute, starting from `folder`."""
        styles = [
            style.model_copy(update={"image": anchor(style.image, folder)}) for style in self.style_images
        ]
        changes: dict[str, Any] = {
            "inputs": [anchor(each, folder) for each in self.inputs],
            "style_images": styles,
        }
        if self.init is not None and self.init.image is not None:
            changes["init"] = self.init.model_copy(update={"image": anchor(self.init.image, folder)})
        return self.model_copy(update=changes)

    @property
    def network(self) -> str:
        """Name of the loss network: the one that is asked for, or that of the preset."""
        return self.loss_network or PRESETS[self.preset].network

    @property
    def style_name(self) -> str:
        """What results are called after: the first painting."""
        stem = posixpath.splitext(posixpath.basename(self.style_images[0].image))[0]
        return stem.strip(" .") or "styled"


# --- the check at submit --------------------------------------------------------------------------


def check(step: OptimizeStep, at: Location, checking: Checking) -> None:
    """Look whether inputs and the loss network are there, and keep the paintings."""
    check_inputs(step, at, checking)
    for number, style in enumerate(step.style_images):
        checking.keep_file((*at, "style_images", number, "image"), style.image)
    if step.init is not None and step.init.image is not None:
        checking.keep_file((*at, "init", "image"), step.init.image)
    advice = ""
    if step.loss_network is None:
        advice = f"or give the preset {step.preset} another one: loss_network, --loss-network NAME"
    checking.find_network((*at, "loss_network"), step.network, advice)


# --- the plan -------------------------------------------------------------------------------------


def plan(step: OptimizeStep, planning: Planning) -> Iterator[PlannedTask]:
    """Yield a task for each picture, in natural order.

    Raises:
        UsageError: If there is no picture, or two results would get one name, or there is nothing that an
            extension could go on from.
    """
    pictures = list_pictures(step, planning)
    payload = _payload(step, planning)
    if payload.keep_state is None:
        payload = payload.model_copy(update={"keep_state": len(pictures) == 1})
    document = payload.model_dump(mode="json", exclude_none=True)
    network = payload.network.sha256
    estimate_s = planning.rates.of_network(network).estimate_s(_evaluated_megapixels(step))
    workers = (step.workers.min, step.workers.max)
    pattern = step.pattern or default_pattern(several_styles=False)
    output = planning.opener(planning.output, planning.store_options)
    planned = False
    for index, picture in enumerate(pictures, 1):
        key = name_result(pattern, picture, style=step.style_name, index=index, format=step.format)
        if step.extends and not _is_kept(step.extends, key, output):
            planning.ignored.add(picture.url, f"job {step.extends.job} kept no state of it")
            continue
        if not planning.names.claim(key, picture.url):
            continue
        size_bytes = _kept_bytes(step, key, payload)
        item = PlannedItem(picture.url, picture.size_bytes, picture.stamp, key, step.style_name, size_bytes)
        planned = True
        yield PlannedTask(
            document,
            (item,),
            network,
            estimate_s,
            workers,
            exclusive=True,
            working_bytes=_CHECKPOINTS * _state_bytes(step),
        )
    if step.extends and not planned:
        raise UsageError(
            f"job {step.extends.job} kept no state to go on from",
            f"states lie in {planning.output}/{FARM_PREFIX}/jobs/{step.extends.job}/final",
        )


def _payload(step: OptimizeStep, planning: Planning) -> OptimizePayload:
    settings = step.model_dump(include=set(RenderSettings.model_fields), exclude_unset=True)
    init = step.init.image if step.init else None
    return OptimizePayload(
        **settings,
        styles=[
            StyleImageRef(
                name=posixpath.basename(style.image) or style.image,
                sha256=planning.assets[asset_name("file", style.image)],
                weight=style.weight,
            )
            for style in step.style_images
        ],
        network=AssetRef(name=step.network, sha256=planning.assets[asset_name("network", step.network)]),
        init_image=AssetRef(name=posixpath.basename(init), sha256=planning.assets[asset_name("file", init)])
        if init
        else None,
        extends=step.extends,
    )


def _is_kept(extension: Extension, key: str, output: Store) -> bool:
    return kept_states(output, extension.job, state_name(key)).is_there()


def _result_megapixels(step: OptimizeStep) -> float:
    return _PROPORTION * step.size_px**2 / 1e6


def _kept_bytes(step: OptimizeStep, key: str, payload: OptimizePayload) -> int:
    """Return about how much a picture adds to the output, with what is kept of its making."""
    kept = written_bytes(key, _result_megapixels(step))
    if step.save_every:
        kept += written_bytes(key, _evaluated_megapixels(step) / step.save_every)
    if step.preview_s:
        kept += written_bytes("preview.jpg", min(_result_megapixels(step), _PREVIEW_MEGAPIXELS))
    return kept + (_state_bytes(step) if payload.keep_state else 0)


def _state_bytes(step: OptimizeStep) -> int:
    """Return about how large the state of a picture is."""
    facts, wanted = PRESETS[step.preset], step.optimizer
    kind = (wanted and wanted.kind) or ("lbfgs" if facts.history else "adam")
    history = ((wanted and wanted.history) or facts.history or LBFGS_HISTORY) if kind == "lbfgs" else 0
    averaged = facts.averaged if step.average_decay is None else step.average_decay > 0
    return state_bytes(round(_result_megapixels(step) * 1e6), history=history, averaged=averaged)


def _evaluated_megapixels(step: OptimizeStep) -> float:
    """Return about how many megapixels all evaluations of a picture have together.

    The scales of a ladder have half the pixels of the next; iterations are spread over them as the preset
    does.
    """
    if step.extends:
        return _result_megapixels(step) * step.extends.iterations[-1]
    if step.scales:
        return sum(_PROPORTION * scale.size_px**2 / 1e6 * scale.iterations for scale in step.scales)
    facts = PRESETS[step.preset]
    smallest_px = step.smallest_px or facts.smallest_px or step.size_px
    scales = 1 + max(0, math.floor(2 * math.log2(step.size_px / smallest_px) + 0.01))
    shares = [facts.first_iterations, *[facts.iterations] * (scales - 1)]
    total = step.iterations or sum(shares)
    pixels = sum(share / 2.0 ** (scales - 1 - number) for number, share in enumerate(shares))
    return _result_megapixels(step) * pixels * total / sum(shares)


register_step(StepKind(KIND, OptimizeStep, plan, check, examined=True))
