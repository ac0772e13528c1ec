"""The client of the farm's HTTP api: plain dicts in and out, over the standard library alone.

The command line must answer in a fraction of a second, so nothing heavier than `http.client` is loaded here.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator
from typing import Any, Protocol
from urllib.parse import quote, urlencode, urlsplit

from farm import local
from farm.farm_file import FarmFile
from jobs import errors
from jobs.errors import FarmError, NoFarmError, UsageError

FIRST_PATIENCE_S = 3.0
"""How long a farm elsewhere that has not answered yet is asked again."""

LOST_PATIENCE_S = 45.0
"""How long any other farm is asked again: Ray restarts a lost controller in less."""

_CONNECT_S = 5.0
_ANSWER_S = 60.0
_BUSY = frozenset({502, 503, 504})


class Reader(Protocol):
    """What can be read of jobs, from a running farm or from its ledger alone.

    A job is named by its id, the start of it, or its name (the latest of that name).

    Every method raises `UsageError` for a job that is not there.
    """

    def jobs(
        self, limit: int = 50, user: str | None = None, state: str | None = None
    ) -> list[dict[str, Any]]:
        """Return the latest jobs, newest first."""
        ...

    def job(self, word: str, /) -> dict[str, Any]:
        """Return one job."""
        ...

    def items(
        self, word: str, /, state: str | None = None, limit: int = 1000, offset: int = 0
    ) -> dict[str, Any]:
        """Return a page of a job's items as `{"items": [...], "total": n}`."""
        ...

    def tasks(self, word: str, /) -> list[dict[str, Any]]:
        """Return a job's tasks."""
        ...

    def events(self, word: str, /, after: int = 0) -> list[dict[str, Any]]:
        """Return what happened in a job after event number `after`, oldest first."""
        ...

    def losses(self, word: str, /) -> list[dict[str, Any]]:
        """Return the loss curves of a job."""
        ...

    def manifest(self, word: str, /) -> dict[str, Any]:
        """Return the manifest that a job was made from."""
        ...


class Farm:
    """A farm that runs somewhere and is reached over HTTP.

    A connection that is refused or lost is tried again for some seconds, because the controller may be
    restarting; every request may therefore arrive twice, and the api promises that this does no harm.

    Args:
        url: Where its api is, such as `http://127.0.0.1:8420`.
        token: Its bearer token; empty for none.
        here: Whether it is the farm of this machine, whose ledger can be read without it.

    Raises:
        UsageError: If `url` is not an http(s) address.
    """

    def __init__(self, url: str, token: str = "", *, here: bool = False) -> None:
        hint = "give an address such as http://127.0.0.1:8420"
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError as error:
            raise UsageError(f"{url!r} is not the address of a farm: {error}", hint) from error
        if parts.scheme not in {"http", "https"} or not host:
            raise UsageError(f"{url!r} is not the address of a farm", hint)
        if any(not " " < sign < "\x7f" for sign in token):
            raise UsageError(
                "the farm's token holds characters that no token has", "check FARM_TOKEN for line ends"
            )
        self.url = url.rstrip("/")
        self._host, self._port, self._path = host, port, parts.path.rstrip("/")
        self._secure = parts.scheme == "https"
        self._token = token
        self.here = here
        self._answered = False

    def health(self) -> dict[str, Any]:
        """Return who answers: `farm`, `version`, `pid`, `uptime_s`."""
        return self._ask("GET", "/v1/health")

    def submit(self, manifest: dict[str, Any], client_token: str) -> dict[str, Any]:
        """Hand in a manifest and return its job; the same `client_token` again returns the same job.

        Raises:
            ManifestError: If the manifest is wrong.
            UsageError: If the job cannot be done as asked.
        """
        return self._ask("POST", "/v1/jobs", {"manifest": manifest, "client_token": client_token})

    def jobs(
        self, limit: int = 50, user: str | None = None, state: str | None = None
    ) -> list[dict[str, Any]]:
        """Return the latest jobs, newest first."""
        return self._list("jobs", "/v1/jobs", limit=limit, user=user, state=state)

    def job(self, word: str, /) -> dict[str, Any]:
        """Return one job."""
        return self._ask("GET", _job_path(word))

    def items(
        self, word: str, /, state: str | None = None, limit: int = 1000, offset: int = 0
    ) -> dict[str, Any]:
        """Return a page of a job's items as `{"items": [...], "total": n}`."""
        return self._ask("GET", _job_path(word, "/items") + _query(state=state, limit=limit, offset=offset))

    def tasks(self, word: str, /) -> list[dict[str, Any]]:
        """Return a job's tasks."""
        return self._list("tasks", _job_path(word, "/tasks"))

    def events(self, word: str, /, after: int = 0) -> list[dict[str, Any]]:
        """Return what happened in a job after event number `after`, oldest first."""
        return self._list("events", _job_path(word, "/events"), after=after)

    def losses(self, word: str, /) -> list[dict[str, Any]]:
        """Return the loss curves of a job: `item`, and `points` in order."""
        return self._list("items", _job_path(word, "/losses"))

    def workers(self) -> list[dict[str, Any]]:
        """Return the workers, with what each holds and does."""
        return self._list("workers", "/v1/workers")

    def manifest(self, word: str) -> dict[str, Any]:
        """Return the manifest that a job was made from."""
        return self._ask("GET", _job_path(word, "/manifest"))

    def pause(self, word: str) -> dict[str, Any]:
        """Stop a job within a chunk; `resume` goes on with what is left."""
        return self._ask("POST", _job_path(word, ":pause"))

    def resume(self, word: str) -> dict[str, Any]:
        """Let a paused job go on."""
        return self._ask("POST", _job_path(word, ":resume"))

    def cancel(self, word: str) -> dict[str, Any]:
        """End a job for good; what is finished stays."""
        return self._ask("POST", _job_path(word, ":cancel"))

    def retry(self, word: str) -> dict[str, Any]:
        """Try the failed items of a job again, and nothing else."""
        return self._ask("POST", _job_path(word, ":retry"))

    def extend(self, word: str, *, iterations: int | None = None, steps: int | None = None) -> dict[str, Any]:
        """Go on with what a finished job optimized or trained, as a new job, which is returned.

        Raises:
            UsageError: If there is nothing to go on with.
        """
        body = {"iterations": iterations, "steps": steps, "client_token": uuid.uuid4().hex}
        return self._ask("POST", _job_path(word, ":extend"), body)

    def _list(self, key: str, path: str, **query: Any) -> list[dict[str, Any]]:
        found = self._ask("GET", path + _query(**query)).get(key)
        if not isinstance(found, list):
            raise self._strange(path)
        return found

    def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        status, data = self._patiently(method, path, body)
        try:
            answer = json.loads(data)
        except ValueError:
            answer = None
        if status >= 400:
            raise _refusal(status, answer)
        if not isinstance(answer, dict):
            raise self._strange(path)
        return answer

    def _strange(self, path: str) -> FarmError:
        return FarmError(
            f"{self.url}{path} answered with something that no farm says",
            "check that the address is that of a farm of the same version",
        )

    def _patiently(self, method: str, path: str, body: dict[str, Any] | None) -> tuple[int, bytes]:
        """Ask until there is an answer or patience ends."""
        started = time.monotonic()
        pause_s = 0.05
        while True:
            try:
                status, data = self._once(method, path, body)
            except OSError as error:
                reason = str(error) or type(error).__name__
            else:
                if status not in _BUSY:
                    self._answered = True
                    return status, data
                reason = f"status {status}"
            if time.monotonic() - started + pause_s > self._patience_s():
                raise NoFarmError(
                    f"the farm at {self.url} does not answer: {reason}",
                    "it may be starting again: try once more, or `farm up`; submitted jobs are kept",
                )
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, 1.0)

    def _patience_s(self) -> float:
        """Return how long to ask again. A controller comes back as long as its Ray lives, and only then."""
        if self.here:
            found = local.here()
            return LOST_PATIENCE_S if found is not None and found.api_url == self.url else 0.0
        return LOST_PATIENCE_S if self._answered else FIRST_PATIENCE_S

    def _once(self, method: str, path: str, body: dict[str, Any] | None) -> tuple[int, bytes]:
        import http.client  # a tenth of the start-up time, and not every command asks a farm

        kind = http.client.HTTPSConnection if self._secure else http.client.HTTPConnection
        connection = kind(self._host, self._port, timeout=_CONNECT_S)
        headers = {"Accept": "application/json"}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        data = None
        if body is not None:
            headers["Content-Type"] = "application/json"
            data = json.dumps(body).encode()
        try:
            connection.connect()
            connection.sock.settimeout(_ANSWER_S)
            connection.request(method, self._path + path, body=data, headers=headers)
            answer = connection.getresponse()
            return answer.status, answer.read()
        except http.client.HTTPException as error:
            raise ConnectionError(f"the answer was cut off: {error}") from error
        finally:
            connection.close()


def find() -> Farm | None:
    """Return the farm that commands talk to: the one that FARM_ADDRESS names, else this machine's, or None.

    Raises:
        FarmError: If a farm is named but cannot be used as named.
    """
    found = local.find()
    return Farm(found.api_url, found.token(), here=isinstance(found, FarmFile)) if found else None


def every_item(reader: Reader, job: str, *, state: str | None = None) -> Iterator[dict[str, Any]]:
    """Yield all items of a job, page by page."""
    seen = 0
    while True:
        page = reader.items(job, state=state, offset=seen)
        yield from page["items"]
        seen += len(page["items"])
        if not page["items"] or seen >= page["total"]:
            return


def _job_path(word: str, rest: str = "") -> str:
    if word in {"", ".", ".."}:
        raise UsageError(f"there is no job {word!r}", "`farm status` lists the jobs")
    return f"/v1/jobs/{quote(word, safe='', errors='surrogateescape')}{rest}"


def _query(**values: Any) -> str:
    given = {name: value for name, value in values.items() if value is not None}
    return f"?{urlencode(given)}" if given else ""


def _refusal(status: int, answer: Any) -> FarmError:
    """Make the error that the farm raised out of the body it sent."""
    said = answer.get("error") if isinstance(answer, dict) else None
    if isinstance(said, dict) and said.get("message"):
        kind = getattr(errors, str(said.get("type")), None)
        if not isinstance(kind, type) or not issubclass(kind, FarmError):
            kind = UsageError if status < 500 else FarmError
        return kind(str(said["message"]), str(said.get("hint") or ""))
    if status in {401, 403}:
        return UsageError("the farm refused the token", "set FARM_TOKEN to the token of that farm")
    detail = answer.get("detail") if isinstance(answer, dict) else None
    return FarmError(
        f"the farm answered with status {status}{f': {detail}' if detail else ''}",
        "the log of the farm says more",
    )
