"""The one error root of the project, and the few kinds of error that callers tell apart."""

from __future__ import annotations

from enum import StrEnum


class Failure(StrEnum):
    """Why an item or an attempt failed; each class has a budget of its own (`jobs.scheduler`)."""

    BAD_INPUT = "bad_input"
    OUT_OF_MEMORY = "out_of_memory"
    WORKER_LOST = "worker_lost"
    PREEMPTED = "preempted"
    TIMEOUT = "timeout"
    STORAGE = "storage"
    OUTPUT_CHECK = "output_check"
    ERROR = "error"


class FarmError(Exception):
    """Something a person can act on.

    Args:
        message: What is wrong, with the value that is wrong.
        hint: What to do about it, or an empty string.
    """

    failure = Failure.ERROR

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __reduce__(self) -> tuple[type[FarmError], tuple[str, str]]:
        """Survive pickling between processes, whatever a subclass adds to `args`."""
        return type(self), (self.message, self.hint)

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class UsageError(FarmError):
    """The user asked for something that cannot be done as asked (exit code 2)."""


class ManifestError(UsageError):
    """A manifest is wrong; the message has one line per mistake, each with its path."""


class BadInputError(FarmError):
    """An input file cannot be rendered, now or later: final at once, for its own item only."""

    failure = Failure.BAD_INPUT


class DeviceMemoryError(FarmError):
    """The device has too little memory for this piece of work."""

    failure = Failure.OUT_OF_MEMORY


class OutputCheckError(FarmError):
    """A result did not pass the check that every result must pass before it is committed."""

    failure = Failure.OUTPUT_CHECK


class StorageError(FarmError):
    """A store did not do what was asked; trying again later may help."""

    failure = Failure.STORAGE


class ConflictError(FarmError):
    """A file that the farm did not make stands where a result should go; trying again does not help."""

    failure = Failure.BAD_INPUT


class LeaseLostError(FarmError):
    """This attempt no longer holds the lease of its task and must not commit anything."""

    failure = Failure.PREEMPTED


class NoFarmError(FarmError):
    """No farm answers (exit code 7)."""
