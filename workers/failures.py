"""Which class of failure an exception is, whoever raised it."""

from __future__ import annotations

import logging

from jobs.errors import Failure, FarmError

log = logging.getLogger(__name__)


def as_farm_error(error: Exception) -> FarmError:
    """Return an error that names its failure class, whatever was raised."""
    if isinstance(error, FarmError):
        return error
    log.error("unexpected", exc_info=error)
    named = FarmError(f"{type(error).__name__}: {error}")
    named.failure = failure_class(error)
    return named


def failure_class(error: Exception) -> Failure:
    """Return the class of a failure that is not one of our own errors."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return Failure.OUT_OF_MEMORY
    if isinstance(error, TimeoutError):
        return Failure.TIMEOUT
    return Failure.STORAGE if isinstance(error, OSError) else Failure.ERROR
