"""Which farm a command talks to: the one that runs, one that is started for it, or the ledger alone."""

from __future__ import annotations

from typing import Any

from farm import client, folders, local
from farm.cli import view
from farm.client import Farm, Reader
from jobs.errors import NoFarmError, UsageError


class _NoHistory:
    """The history of a machine on which no farm has run yet."""

    def jobs(
        self,
        limit: int = 50,  # noqa: ARG002 - the shape of `Reader`
        user: str | None = None,  # noqa: ARG002
        state: str | None = None,  # noqa: ARG002
    ) -> list[dict[str, Any]]:
        return []

    def job(self, word: str, /) -> dict[str, Any]:
        raise UsageError(f"there is no job {word!r}", "no farm has run here yet: begin with `farm render`")

    def items(
        self,
        word: str,
        /,
        state: str | None = None,  # noqa: ARG002
        limit: int = 1000,  # noqa: ARG002
        offset: int = 0,  # noqa: ARG002
    ) -> dict[str, Any]:
        return self.job(word)

    def tasks(self, word: str, /) -> list[dict[str, Any]]:
        return [self.job(word)]

    def events(self, word: str, /, after: int = 0) -> list[dict[str, Any]]:  # noqa: ARG002
        return [self.job(word)]

    def losses(self, word: str, /) -> list[dict[str, Any]]:
        return [self.job(word)]

    def manifest(self, word: str, /) -> dict[str, Any]:
        return self.job(word)


def running() -> Farm:
    """Return the farm that runs.

    Raises:
        NoFarmError: If there is none.
    """
    farm = client.find()
    if farm is None:
        raise NoFarmError("no farm is running", "start one with `farm up`, or name one with FARM_ADDRESS")
    return farm


def started(together: int = 1) -> Farm:
    """Return the farm that runs, after starting one on this machine if there is none.

    Args:
        together: How many workers one task needs at least: a farm that is started has room for them.
    """
    return client.find() or start(together)


def start(together: int = 1) -> Farm:
    """Start the farm of this machine, and say so."""
    view.say("no farm is running: starting one on this machine ...")
    found = local.up(local.FarmOptions(max_workers=together) if together > 1 else None)
    idle = (
        f"after {view.duration(found.idle_exit_s)} without work" if found.idle_exit_s else "never by itself"
    )
    view.say(f"it is up at {found.api_url}, and ends {idle} or with `farm down`")
    return running()


def reader() -> Reader:
    """Return what jobs can be read from: the farm that runs, or the ledger of this machine's last one.

    Raises:
        NoFarmError: If a farm elsewhere is named and does not answer.
    """
    farm = client.find()
    if farm is not None:
        try:
            farm.health()
        except NoFarmError as error:
            if not farm.here:
                raise
            view.say(f"{error.message}; this is what its ledger says")
        else:
            return farm
    from farm import views

    return views.read_ledger(folders.data_dir() / "ledger.sqlite") or _NoHistory()
