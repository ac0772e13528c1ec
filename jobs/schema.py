"""The strict pydantic base of everything a user writes, and the words in which its mistakes are told.

Every mistake becomes one line: its path, what is wrong, what is allowed (`steps[0].quality: ...`).
"""

from __future__ import annotations

import difflib
import re
import reprlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Self
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    GetCoreSchemaHandler,
    ModelWrapValidatorHandler,
    ValidationError,
    model_validator,
)
from pydantic_core import CoreSchema, ErrorDetails, InitErrorDetails, PydanticCustomError, core_schema

from jobs.errors import ManifestError
from jobs.paths import S3_SCHEME, did_you_mean, is_s3, is_url

NAME_LIMIT = 100
SHOWN_LIMIT = 80

_UNFIT_FOR_NAMES = re.compile(r"[\x00-\x1f\x7f/\\\ud800-\udfff]")
_UNFIT_FOR_PATHS = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
_QUOTED = re.compile(r"'([^']*)'")

_shorten = reprlib.Repr()
_shorten.maxstring = _shorten.maxother = 60


def shown(value: Any) -> str:
    """Return a value as a message shows it, cut to a few words however large it is."""
    text = _shorten.repr(value)
    return text if len(text) <= SHOWN_LIMIT else f"{text[: SHOWN_LIMIT - 3]}..."


def near(wrong: Any, known: Iterable[str]) -> str:
    """Return ", did you mean X?" for the known word next to a wrong one, or nothing."""
    return did_you_mean(difflib.get_close_matches(str(wrong).lower(), list(known), 1))


# --- mistakes -------------------------------------------------------------------------------------

Location = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Mistake:
    """One thing that is wrong, and where."""

    at: Location
    text: str

    def __str__(self) -> str:
        path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in self.at).lstrip(".")
        return f"{path}: {self.text}" if path else self.text


def refusal(mistakes: Sequence[Mistake]) -> ManifestError:
    """Return the error that names every mistake, one line each."""
    return ManifestError("\n".join(map(str, mistakes)), "`farm schema` shows every key and its values")


def together(title: str, mistakes: Sequence[Mistake]) -> ValidationError:
    """Return the error by which a validator tells several mistakes, each with a path of its own."""
    details = [
        InitErrorDetails(
            type=PydanticCustomError("mistake", "{text}", {"text": each.text}), loc=each.at, input=None
        )
        for each in mistakes
    ]
    return ValidationError.from_exception_data(title, details)


def mistakes_of(error: ValidationError) -> list[Mistake]:
    """Return what pydantic found, in our words."""
    return [Mistake(each["loc"], _words(each)) for each in error.errors(include_url=False)]


def _words(error: ErrorDetails) -> str:
    value, context = error["input"], error.get("ctx", {})
    simple = {
        "missing": "missing",
        "bool_type": f"{shown(value)} is not true or false",
        "int_type": f"{shown(value)} is not a whole number",
        "float_type": f"{shown(value)} is not a number",
        "list_type": f"{shown(value)} is not a list"
        + (f": write [{shown(value)[1:-1]}]" if isinstance(value, str) else ""),
        "model_type": f"{shown(value)} is not a mapping of keys to values",
        "too_short": "needs at least one entry",
        "string_type": f"{shown(value)} is not text (put it in quotes?)",
    }
    if error["type"] in simple:
        return simple[error["type"]]
    if error["type"] == "value_error":
        return str(context["error"])
    if error["type"] == "literal_error":
        allowed = _QUOTED.findall(context["expected"]) or [str(context["expected"])]
        return f"{shown(value)} is not one of {', '.join(allowed)}{near(value, allowed)}"
    return error["msg"]


# --- the base of all that is written --------------------------------------------------------------


class Section(BaseModel):
    """A part of a manifest: no unknown keys, no silent conversions, never changed once read."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    @model_validator(mode="wrap")
    @classmethod
    def _name_unknown_keys(cls, value: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        """Tell an unknown key together with those that are known, beside all other mistakes."""
        if not isinstance(value, dict):
            return handler(value)
        keys = [field.alias or name for name, field in cls.model_fields.items()]
        mistakes = [
            Mistake((str(key),), f"there is no such key{near(key, keys)} (keys: {', '.join(keys)})")
            for key in value
            if key not in keys
        ]
        try:
            made = handler({key: each for key, each in value.items() if key in keys})
        except ValidationError as error:
            raise together(cls.__name__, [*mistakes, *mistakes_of(error)]) from None
        if mistakes:
            raise together(cls.__name__, mistakes)
        return made


# --- kinds of values ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Within:
    """An annotation for numbers: both bounds are allowed, and both are named when one is broken."""

    low: float
    high: float

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Return the schema of the number with its bounds."""
        kind = "a whole number" if source is int else "a number"

        def check(value: Any, inner: core_schema.ValidatorFunctionWrapHandler) -> Any:
            try:
                return inner(value)
            except ValidationError:
                text = f"{shown(value)} is not {kind} from {self.low:g} to {self.high:g}"
                raise ValueError(text) from None

        number: Any = {**handler(source), "ge": self.low, "le": self.high}
        return core_schema.no_info_wrap_validator_function(check, number)


def check_name(name: str) -> str:
    """Return a name that could be the name of a folder."""
    if name != name.strip() or not name:
        raise ValueError(f"{shown(name)} is empty or has blanks at an end")
    if name in {".", ".."} or _UNFIT_FOR_NAMES.search(name):
        raise ValueError(
            f"{shown(name)} could not name a folder: no / or \\, no control characters, not . or .."
        )
    if len(name.encode()) > NAME_LIMIT:
        raise ValueError(f"{shown(name)} is longer than {NAME_LIMIT} bytes")
    return name


def _check_location(location: str) -> str:
    """Return a path or `s3://` URL."""
    if not location.strip():
        raise ValueError("empty: give a path or s3://bucket/prefix")
    if _UNFIT_FOR_PATHS.search(location):
        raise ValueError(f"{shown(location)} holds control characters")
    if is_url(location) and not is_s3(location):
        raise ValueError(f"{shown(location)} is neither a path nor s3://bucket/prefix")
    if is_s3(location) and not location.removeprefix(S3_SCHEME).partition("/")[0]:
        raise ValueError(f"{shown(location)} names no bucket: write s3://bucket/prefix")
    return location


def _check_endpoint(url: str) -> str:
    """Return the URL of a store; its credentials come from elsewhere, so one in it is never shown."""
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError("not a URL like https://s3.example.org or http://127.0.0.1:8333")
    if parts.username or parts.password:
        raise ValueError("holds a user or password: put credentials into the environment or a profile")
    return url


FolderName = Annotated[str, AfterValidator(check_name)]
Place = Annotated[str, AfterValidator(_check_location)]
Endpoint = Annotated[str, AfterValidator(_check_endpoint)]
