"""The `train` step: photographs and a painting in, a style out, under a name in the library."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from jobs.checkpoints import kept_states
from jobs.entries import check_entry_name
from jobs.errors import UsageError
from jobs.inputs import Ignored, Inputs, Picture
from jobs.library import StyleEntry
from jobs.optimize import AssetRef, StyleImageRef, state_name
from jobs.optimize_step import AnyStyleImage
from jobs.paths import anchor
from jobs.pictures import Recursive
from jobs.schema import FolderName, Location, Mistake, Place, together
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
from jobs.storage.base import FARM_PREFIX
from jobs.train import (
    KIND,
    NETWORK_WIDTHS,
    TrainingExtension,
    TrainPayload,
    TrainSettings,
    result_key,
)
from jobs.training_data import encode_listing

_BYTES_PER_PARAMETER = 4
_PARAMETERS_PER_WIDTH_SQUARED = 1640
"""About: the size of the file is known before it is made."""

_STATE_SIZE = 6
"""Of a state against the style model: weights and two averages of Adam, now and when all was last well."""

_STATES = 3
"""States that lie in the output at once: two that are kept, and the next one."""


# --- what is written ------------------------------------------------------------------------------


def _check_style(name: str) -> str:
    try:
        check_entry_name(name, StyleEntry)
    except UsageError as error:
        raise ValueError(str(error)) from None
    return name


class TrainStep(TrainSettings, Step):
    """Train one style; steps of this kind without `needs` run side by side, one on each device."""

    kind: Literal["train"]
    data: list[Place] = Field(
        min_length=1,
        description="Photographs to train on: folders, files, globs and s3://bucket/prefix URLs.",
    )
    recursive: Recursive = True
    style: Annotated[FolderName, AfterValidator(_check_style)] = Field(
        description="Name of the style in the library, and of its file {style}.safetensors in the output."
    )
    style_images: list[AnyStyleImage] = Field(
        min_length=1, description="Paintings: files, or {image: file, weight: number}."
    )
    loss_network: str | None = Field(
        default=None,
        min_length=1,
        description="Name of a loss network, see `farm weights list`; by default that of the preset.",
    )
    begin_with: str | None = Field(
        default=None,
        min_length=1,
        description="Name of a style of this network whose weights it begins with.",
    )
    test_images: list[Place] = Field(
        default_factory=list, description="Pictures to render at each validation, for people to look at."
    )
    extends: TrainingExtension | None = Field(
        default=None, description="Written by `farm extend`: which finished job to go on from, and how long."
    )

    @model_validator(mode="after")
    def _counts_fit(self) -> Self:
        mistakes = []
        if not any(style.weight for style in self.style_images):
            text = "every painting has a weight of 0: give one of them more"
            mistakes.append(Mistake(("style_images",), text))
        if self.workers.min > self.known_batch:
            text = f"{self.workers.min} workers share the pictures of a step, and it has {self.known_batch}"
            mistakes.append(Mistake(("workers",), f"{text}: use fewer, or a larger batch"))
        if mistakes:
            raise together("TrainStep", mistakes)
        return self

    def anchored(self, folder: Path) -> Self:
        """Return the step with every local path made absolute, starting from `folder`."""
        styles = [
            style.model_copy(update={"image": anchor(style.image, folder)}) for style in self.style_images
        ]
        changes: dict[str, Any] = {
            "data": [anchor(each, folder) for each in self.data],
            "style_images": styles,
            "test_images": [anchor(each, folder) for each in self.test_images],
        }
        if self.validation.data is not None:
            data = [anchor(each, folder) for each in self.validation.data]
            changes["validation"] = self.validation.model_copy(update={"data": data})
        return self.model_copy(update=changes)

    @property
    def inputs(self) -> list[str]:
        """All places that workers must see."""
        return [*self.data, *(self.validation.data or ())]

    @property
    def known_loss_network(self) -> str:
        """Name of the loss network: the one that is asked for, or that of the preset."""
        return self.loss_network or self.facts.network


# --- the check at submit --------------------------------------------------------------------------


def check(step: TrainStep, at: Location, checking: Checking) -> None:
    """Look whether all that a training needs is there, keep its files, and list its data."""
    _check_name(step, at, checking)
    _keep_listings(step, at, checking)
    for number, style in enumerate(step.style_images):
        checking.keep_file((*at, "style_images", number, "image"), style.image)
    for number, image in enumerate(step.test_images):
        checking.keep_file((*at, "test_images", number), image)
    advice = ""
    if step.loss_network is None:
        advice = f"or give the preset {step.preset} another one: loss_network, --loss-network NAME"
    checking.find_network((*at, "loss_network"), step.known_loss_network, advice)
    if step.begin_with is not None:
        _check_beginning(step, step.begin_with, (*at, "begin_with"), checking)


def _check_name(step: TrainStep, at: Location, checking: Checking) -> None:
    """Refuse the name of another style, be it in the library or made by the same job."""
    other = checking.making.setdefault(step.style, step.name)
    if other != step.name:
        error = UsageError(
            f"the step {other} makes a style {step.style!r} too", "give each a name of its own"
        )
        checking.refuse((*at, "style"), error)
    try:
        checking.library.check_style_name(step.style, made_in=checking.output, replacing=step.replace)
    except UsageError as error:
        checking.refuse((*at, "style"), error)


def _check_beginning(step: TrainStep, name: str, at: Location, checking: Checking) -> None:
    found = checking.find_style(at, name)
    if found is None or found.width == step.width:
        return
    names = [each for each, width in NETWORK_WIDTHS.items() if width == found.width]
    hint = f"train network: {names[0]}, or begin with another style" if names else "begin with another style"
    text = f"the style {name} has base width {found.width}, and the network {step.network} has {step.width}"
    checking.refuse(at, UsageError(text, hint))


def _keep_listings(step: TrainStep, at: Location, checking: Checking) -> None:
    """Keep the lists of what a training is to see; one that goes on keeps those it had."""
    held_out = step.validation.pictures
    if (own := step.validation.data) is not None:
        held_out = 0
        place = (*at, "validation", "data")
        if (judged := _keep_listing(_judged_name(step), own, step, place, checking)) is not None:
            _check_count(judged, step.validation.pictures, (*at, "validation", "pictures"), checking)
    data = _keep_listing(_data_name(step), step.data, step, (*at, "data"), checking)
    if data is None:
        return
    if data <= held_out:
        text = f"{held_out} pictures are held out to judge by, and data has {_pictures(data)}"
        hint = "hold out fewer, or give `validation.data` pictures of its own"
        checking.refuse((*at, "validation", "pictures"), UsageError(text, hint))
    elif data - held_out < step.known_batch:
        text = f"{step.known_batch} pictures a step, and there are {data - held_out} to train on"
        checking.refuse((*at, "batch"), UsageError(text, "use a smaller batch, or more pictures"))


def _check_count(found: int, wanted: int, at: Location, checking: Checking) -> None:
    if found < wanted:
        text = f"{wanted} are asked for, and validation.data has {_pictures(found)}"
        checking.refuse(at, UsageError(text, "ask for fewer"))


def _pictures(count: int) -> str:
    return "1 picture" if count == 1 else f"{count} pictures"


def _keep_listing(
    name: str, places: list[str], step: TrainStep, at: Location, checking: Checking
) -> int | None:
    """Keep the list of the pictures in `places`; return how many they are.

    Several steps of a job that train on the same list it once.

    Returns:
        None if there are none, which was refused, or the list was kept for an earlier job.
    """
    if name in checking.assets:
        return None
    what = (str(step.recursive), *places)
    if what in checking.listed:
        checking.assets[name], count = checking.listed[what]
        return count
    inputs, ignored = Inputs(checking.store_options, checking.opener), Ignored()
    pictures: dict[str, Picture] = {}
    wrong = False
    for number, spec in enumerate(places):
        try:
            source = inputs.locate(spec, recursive=step.recursive)
            found = inputs.pictures(source, ignored)
            if not found:
                inputs.check(source)
        except UsageError as error:
            wrong = True
            checking.refuse((*at, number), error)
        else:
            pictures.update((each.url, each) for each in found)
    if ignored.count:
        left_out = "1 file is" if ignored.count == 1 else f"{ignored.count} files are"
        checking.notes.append(f"{step.name}: {left_out} left out, such as {ignored.names[0]}")
    if wrong:
        return None
    if not pictures:
        hint = "name a folder of photographs, a glob or an s3:// prefix"
        checking.refuse(at, UsageError(f"there is no picture in {', '.join(places[:3])}", hint))
        return None
    checking.assets[name] = checking.library.put(encode_listing(pictures.values()))
    checking.listed[what] = checking.assets[name], len(pictures)
    return len(pictures)


def _data_name(step: TrainStep) -> str:
    return asset_name("file", f"data of {step.name}")


def _judged_name(step: TrainStep) -> str:
    return asset_name("file", f"validation data of {step.name}")


# --- the plan -------------------------------------------------------------------------------------


def plan(step: TrainStep, planning: Planning) -> Iterator[PlannedTask]:
    """Yield the one task of a step.

    Raises:
        UsageError: If another result has the name, or there is nothing that an extension could go on from.
    """
    key = result_key(step.style)
    planning.names.claim(key, f"the step {step.name}")
    if step.extends:
        _check_kept(step.extends, key, planning)
    payload = _payload(step, planning)
    steps = step.extends.steps[-1] if step.extends else step.known_steps
    megapixels = steps * step.known_batch * step.known_crop_px**2 / 1e6
    network = payload.loss_network.sha256
    yield PlannedTask(
        payload.model_dump(mode="json", exclude_none=True),
        (PlannedItem("", -1, "", key, step.style, (1 + _STATE_SIZE) * model_bytes(step.width)),),
        network,
        planning.rates.of_network(network).estimate_s(megapixels),
        # Each has at least one picture of a step.
        (step.workers.min, min(step.workers.max, step.known_batch)),
        exclusive=True,
        working_bytes=_STATES * _STATE_SIZE * model_bytes(step.width),
    )


def _check_kept(extension: TrainingExtension, key: str, planning: Planning) -> None:
    output = planning.opener(planning.output, planning.store_options)
    if not kept_states(output, extension.job, state_name(key)).is_there():
        raise UsageError(
            f"job {extension.job} kept no state to go on from",
            f"states lie in {planning.output}/{FARM_PREFIX}/jobs/{extension.job}/final",
        )


def _payload(step: TrainStep, planning: Planning) -> TrainPayload:
    settings = step.model_dump(include=set(TrainSettings.model_fields), exclude_unset=True)
    if step.validation.data is not None:
        settings["validation"] = step.validation.model_dump(exclude={"data"})

    def kept(place: str, name: str = "") -> AssetRef:
        sha256 = planning.assets[asset_name("file", place)]
        return AssetRef(name=name or posixpath.basename(place) or place, sha256=sha256)

    return TrainPayload(
        **settings,
        style=step.style,
        style_images=[
            StyleImageRef(**kept(style.image).model_dump(), weight=style.weight)
            for style in step.style_images
        ],
        loss_network=AssetRef(
            name=step.known_loss_network,
            sha256=planning.assets[asset_name("network", step.known_loss_network)],
        ),
        data=AssetRef(name="data", sha256=planning.assets[_data_name(step)]),
        validation_data=AssetRef(name="validation data", sha256=planning.assets[_judged_name(step)])
        if step.validation.data is not None
        else None,
        test_images=[kept(image) for image in step.test_images],
        begin_with=AssetRef(name=step.begin_with, sha256=planning.styles[step.begin_with].sha256)
        if step.begin_with
        else None,
        extends=step.extends,
    )


def model_bytes(width: int) -> int:
    """Return about how large the file of a style is, by the base width of its network."""
    return _BYTES_PER_PARAMETER * _PARAMETERS_PER_WIDTH_SQUARED * width**2


register_step(StepKind(KIND, TrainStep, plan, check, examined=True, makes_style=True))
