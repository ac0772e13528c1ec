"""Options that are declared once, as the fields of a dataclass, for every command that takes them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import MISSING, fields
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar, get_type_hints

import typer

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Declared = TypeVar("Declared", bound="DataclassInstance")
Params = ParamSpec("Params")


def option(*names: str, about: str, panel: str | None = None, shows: bool = False, **more: Any) -> Any:
    """Return an option for the annotation of a field; `shows` lets its help show the default."""
    return typer.Option(*names, help=about, rich_help_panel=panel, show_default=shows, **more)


def takes(
    declared: type[Declared],
) -> Callable[[Callable[Concatenate[Declared, Params], None]], Callable[..., None]]:
    """Give a command one parameter for each field of a dataclass in place of its first, for Typer to see.

    Fields whose names are in `LEFT_OUT` of the class cannot be said: they keep their defaults.
    """
    left_out: frozenset[str] = getattr(declared, "LEFT_OUT", frozenset())
    hints = get_type_hints(declared, include_extras=True)
    shared = [
        inspect.Parameter(
            f.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if f.default is MISSING else f.default,
            annotation=hints[f.name],
        )
        for f in fields(declared)
        if f.name not in left_out
    ]

    def decorate(command: Callable[Concatenate[Declared, Params], None]) -> Callable[..., None]:
        own = list(inspect.signature(command, eval_str=True).parameters.values())[1:]

        def run(**values: Any) -> None:
            options = declared(**{parameter.name: values.pop(parameter.name) for parameter in shared})
            command(options, **values)  # type: ignore[call-arg]

        run.__name__, run.__doc__ = command.__name__, command.__doc__
        run.__signature__ = inspect.Signature([*shared, *own])  # type: ignore[attr-defined]
        return run

    return decorate
