"""What every kind of step that takes pictures has: its inputs, their check at submit, names of results."""

from __future__ import annotations

from typing import Annotated, Protocol

from pydantic import AfterValidator, Field

from jobs.errors import UsageError
from jobs.inputs import Inputs, Picture
from jobs.paths import INPUT_EXTENSIONS, check_pattern, is_picture, output_key
from jobs.schema import Location, Place
from jobs.steps import Checking, Planning
from jobs.storage.rules import NAME_LIMIT_BYTES, result_key

CHECK_LIMIT = 200
"""How many entries of `inputs` are looked at while the user waits; planning looks at all of them."""


# --- what is written ------------------------------------------------------------------------------


def _check_pattern(pattern: str) -> str:
    check_pattern(pattern)
    return pattern


InputPlaces = Annotated[
    list[Place],
    Field(
        min_length=1, description="Folders, files, globs (`**` is any folders) and s3://bucket/prefix URLs."
    ),
]
Recursive = Annotated[bool, Field(description="Whether the folders below a folder are taken too.")]
NamePattern = Annotated[str, AfterValidator(_check_pattern)]
"""Names of the results, from `{folder} {name} {ext} {style} {index}`."""


class TakesPictures(Protocol):
    """A step with these inputs."""

    @property
    def inputs(self) -> list[str]:
        """Absolute paths, globs or URLs."""
        ...

    @property
    def recursive(self) -> bool:
        """Whether the folders below a folder are taken too."""
        ...


# --- the check at submit --------------------------------------------------------------------------


def check_inputs(step: TakesPictures, at: Location, checking: Checking) -> None:
    """Look whether the inputs of a step exist, have pictures, and keep clear of the output."""
    inputs = Inputs(checking.store_options, checking.opener)
    usable = False
    for number, spec in enumerate(step.inputs[:CHECK_LIMIT]):
        try:
            usable |= _check_input(inputs, spec, step, checking.output)
        except UsageError as error:
            usable = True
            checking.refuse((*at, "inputs", number), error)
    if not usable and len(step.inputs) <= CHECK_LIMIT:
        hint = f"these are read: {' '.join(sorted(INPUT_EXTENSIONS))}"
        checking.refuse(
            (*at, "inputs"), UsageError("none of the files is a type of picture that is read", hint)
        )


def _check_input(inputs: Inputs, spec: str, step: TakesPictures, output: str) -> bool:
    """Return whether an input has pictures; a file that is none is reported later, with the ignored ones."""
    source = inputs.locate(spec, recursive=step.recursive)
    if source.form == "file":
        return is_picture(source.pattern)
    if source.covers(output):
        raise UsageError(
            f"the output {output} lies inside the input {spec}, so results would become inputs",
            "choose an output beside the input",
        )
    inputs.check(source)
    return True


# --- the plan -------------------------------------------------------------------------------------


def list_pictures(step: TakesPictures, planning: Planning) -> list[Picture]:
    """Return the pictures of all inputs, each file once, in the order of the inputs.

    Raises:
        UsageError: If there is none, or a result would be written over one.
    """
    inputs = Inputs(planning.store_options, planning.opener)
    pictures: dict[str, Picture] = {}
    for spec in step.inputs:
        for picture in inputs.pictures(inputs.locate(spec, recursive=step.recursive), planning.ignored):
            pictures.setdefault(picture.url, picture)
    if not pictures:
        raise UsageError(
            f"there is no picture in {', '.join(step.inputs[:3])}", "see which files were ignored, and why"
        )
    for url in pictures:
        planning.names.protect(url)
    return list(pictures.values())


def name_result(
    pattern: str,
    picture: Picture,
    *,
    style: str,
    index: int,
    format: str,  # noqa: A002 - the manifest's word
) -> str:
    """Return where the result of a picture goes, relative to the job's output.

    Raises:
        UsageError: If no store could keep a file of that name.
    """
    key = output_key(pattern, picture.key, style=style, index=index, format=format)
    if any(len(part.encode()) > NAME_LIMIT_BYTES for part in key.split("/")):
        raise UsageError(
            f"the name {key} is longer than {NAME_LIMIT_BYTES} bytes", "use {index} in `pattern`"
        )
    return result_key(key)
