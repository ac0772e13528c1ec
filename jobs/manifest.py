"""The manifest: the versioned document in which a user says what the farm should do."""

from __future__ import annotations

import graphlib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    ValidationError,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from jobs.documents import read_document
from jobs.paths import anchor
from jobs.schema import (
    Endpoint,
    FolderName,
    Mistake,
    Place,
    Section,
    Within,
    mistakes_of,
    near,
    refusal,
    shown,
    together,
)
from jobs.steps import Step, step_kind, step_kinds
from jobs.tasks import StoreOptions


class _AnyStep:
    """An annotation: the step's `kind` says by which model it is read, whoever registered it."""

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Return the schema that looks the kind up when a step is read."""
        return core_schema.no_info_plain_validator_function(cls._read)

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """Return one alternative for each kind that is registered now."""
        kinds = step_kinds()
        return {
            "oneOf": [handler(kind.model.__pydantic_core_schema__) for kind in kinds.values()],
            "discriminator": {"propertyName": "kind"},
        }

    @staticmethod
    def _read(value: Any) -> Step:
        if isinstance(value, Step):
            return value
        if not isinstance(value, dict):
            raise ValueError(f"{shown(value)} is not a mapping of keys to values")  # noqa: TRY004
        if "kind" not in value:
            raise together(
                "Step", [Mistake(("kind",), f"missing (kinds: {', '.join(sorted(step_kinds()))})")]
            )
        try:
            kind = step_kind(value["kind"])
        except ValueError as error:
            raise together("Step", [Mistake(("kind",), str(error))]) from None
        return kind.model.model_validate(value)


def _check_max_failed(value: Any) -> int | str | None:
    """Return a count or a percentage as it is written."""
    allowed = "write a count such as 10, a percentage such as 5%, or leave it out for no limit"
    if value is None or (isinstance(value, int) and not isinstance(value, bool) and value >= 0):
        return value
    if isinstance(value, str) and value.endswith("%"):
        digits = value[:-1]
        if digits.isascii() and digits.replace(".", "", 1).isdigit() and float(digits) <= 100:
            return value
    raise ValueError(f"{shown(value)} is no number of items: {allowed}")


class _MaxFailed:
    """An annotation for `max_failed`."""

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Return the schema with one message for all that is wrong."""
        return core_schema.no_info_plain_validator_function(_check_max_failed)

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """Return what a form or an editor may offer."""
        percentage = {"type": "string", "pattern": r"^(100(\.0*)?|[0-9]{1,2}(\.[0-9]*)?)%$"}
        return {"anyOf": [{"type": "integer", "minimum": 0}, percentage, {"type": "null"}]}


class S3(Section):
    """How to reach an S3-compatible store. Credentials are not written here, but found by boto3."""

    endpoint_url: Endpoint | None = Field(default=None, description="URL of the store, unless it is AWS.")
    region: str | None = Field(default=None, description="Region of the bucket.")
    profile: str | None = Field(default=None, description="Profile in the AWS configuration files.")
    path_style: bool | None = Field(
        default=None, description="Whether the bucket's name stands in the path and not in the host name."
    )

    def options(self) -> StoreOptions:
        """Return the same for `open_store`."""
        return StoreOptions(**self.model_dump())


def _check_steps(steps: list[Step]) -> list[Step]:
    """Return steps that have names of their own and need one another without going round in circles."""
    names = [step.name for step in steps]
    mistakes = []
    for number, step in enumerate(steps):
        if step.name in names[:number]:
            mistakes.append(Mistake((number, "name"), f"{shown(step.name)} names an earlier step too"))
        for place, need in enumerate(step.needs):
            if need not in names:
                text = f"there is no step {shown(need)}{near(need, names)} (steps: {', '.join(names)})"
                mistakes.append(Mistake((number, "needs", place), text))
    if not mistakes:
        mistakes = _circles(steps)
    if mistakes:
        raise together("steps", mistakes)
    return steps


def _circles(steps: list[Step]) -> list[Mistake]:
    try:
        graphlib.TopologicalSorter({step.name: step.needs for step in steps}).prepare()
    except graphlib.CycleError as error:
        circle = error.args[1][::-1]
        number = next(number for number, step in enumerate(steps) if step.name == circle[0])
        return [Mistake((number, "needs"), f"the step would wait for itself: {' needs '.join(circle)}")]
    return []


class Manifest(Section):
    """A job as a user describes it."""

    version: Literal[1] = Field(description="Version of this format.")
    name: FolderName = Field(description="Name of the job, for people.")
    user: FolderName | None = Field(
        default=None, description="Who submits; by default the user of the system."
    )
    priority: Annotated[int, Within(0, 100)] = Field(
        default=50, description="Among jobs of one user and tier, the higher one goes first."
    )
    tier: Literal["rush", "default", "batch"] = Field(
        default="default", description="Nothing of a later tier starts while an earlier one has work."
    )
    max_failed: Annotated[int | str | None, _MaxFailed] = Field(
        default=None, description="Stop the job when more items failed: a count, or a percentage such as 5%."
    )
    output: Place | None = Field(
        default=None, description="Folder or s3://bucket/prefix for the results; by default beside the input."
    )
    on_existing: Literal["fail", "replace", "rename"] = Field(
        default="fail", description="What to do with a file in the way that the farm did not make."
    )
    s3: S3 = Field(default_factory=S3, description="How to reach the store of s3:// inputs and outputs.")
    steps: Annotated[
        list[Annotated[Step, _AnyStep]], Field(min_length=1, max_length=1000), AfterValidator(_check_steps)
    ] = Field(description="What to do; steps without `needs` run side by side.")

    @model_validator(mode="before")
    @classmethod
    def _name_the_version(cls, value: Any) -> Any:
        """Say at once that a manifest of another version cannot be read, not what else is unknown in it."""
        version = value.get("version", 1) if isinstance(value, dict) else 1
        if version != 1 or isinstance(version, bool):
            text = f"{shown(version)} is not known to this version of the farm: write 1"
            raise together("Manifest", [Mistake(("version",), text)])
        return value

    def document(self) -> dict[str, Any]:
        """Return the manifest as JSON values that `load_manifest` reads again."""
        return self.model_dump(mode="json", by_alias=True)

    def anchored(self, folder: Path) -> Self:
        """Return the manifest with every local path made absolute, starting from `folder`.

        Whoever has the manifest in hand knows what a relative path means; the controller does not.
        """
        steps = [step.anchored(folder) for step in self.steps]
        output = None if self.output is None else anchor(self.output, folder)
        return self.model_copy(update={"steps": steps, "output": output})


def load_manifest(source: Path | str | Mapping[str, Any]) -> Manifest:
    """Return the manifest in a file, in a YAML or JSON text, or in a mapping that was read already.

    Raises:
        ManifestError: With one line for each mistake.
    """
    document = read_document(source) if isinstance(source, Path | str) else dict(source)
    try:
        return Manifest.model_validate(document)
    except ValidationError as error:
        raise refusal(mistakes_of(error)) from None
