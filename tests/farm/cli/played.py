"""A farm that is played by a real HTTP server with scripted answers."""

from __future__ import annotations

import contextlib
import json
import threading
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

TOKEN = "a-token-of-the-tests"

Answer = tuple[int, bytes]


@dataclass
class Request:
    """What the command line sent."""

    method: str
    path: str
    query: dict[str, str]
    body: Any


@dataclass
class PlayedFarm:
    """The farm's api, answering each route with what it was told to, in turn; the last answer stays."""

    url: str = ""
    requests: list[Request] = field(default_factory=list)
    hang_ups: int = 0
    """How many of the next requests lose their connection before an answer."""

    _answers: dict[tuple[str, str], deque[Answer]] = field(default_factory=dict)

    def on(self, method: str, path: str, *documents: Any, status: int = 200) -> None:
        """Answer a route with these JSON documents, one after the other, after those it was told before."""
        self.on_bytes(method, path, *(json.dumps(d).encode() for d in documents), status=status)

    def on_bytes(self, method: str, path: str, *bodies: bytes, status: int = 200) -> None:
        """Answer a route with these bytes."""
        queue = self._answers.setdefault((method, path), deque())
        queue.extend((status, body) for body in bodies)

    def refuse(
        self, method: str, path: str, kind: str, message: str, hint: str = "", status: int = 400
    ) -> None:
        """Answer a route with an error of the farm."""
        self.on(method, path, {"error": {"message": message, "hint": hint, "type": kind}}, status=status)

    def has_job(self, *looks: dict[str, Any]) -> None:
        """Play a job that looks so, one look after the other."""
        self.on("GET", f"/v1/jobs/{looks[0]['id']}", *looks)

    def answer(self, request: Request) -> Answer:
        """Note a request and return the answer to it."""
        self.requests.append(request)
        queue = self._answers.get((request.method, request.path))
        if not queue:
            error = {"message": f"nothing was told of {request.method} {request.path}", "type": "UsageError"}
            return 404, json.dumps({"error": error}).encode()
        return queue.popleft() if len(queue) > 1 else queue[0]

    def asked(self, method: str, path: str) -> list[Request]:
        """Return the requests of a route."""
        return [r for r in self.requests if (r.method, r.path) == (method, path)]


class _Handler(BaseHTTPRequestHandler):
    farm: PlayedFarm

    def _reply(self) -> None:
        if self.farm.hang_ups:
            self.farm.hang_ups -= 1
            self.close_connection = True
            return
        size = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(size)) if size else None
        parts = urlsplit(self.path)
        query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        if self.headers.get("Authorization") == f"Bearer {TOKEN}":
            status, data = self.farm.answer(Request(self.command, unquote(parts.path), query, body))
        else:
            status, data = 401, b'{"detail": "no token"}'
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = _reply  # noqa: N815 - the names of http.server

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Stay quiet."""


@contextlib.contextmanager
def play() -> Iterator[PlayedFarm]:
    """Run a farm that is played, on a port of its own."""
    farm = PlayedFarm()
    handler = type("Handler", (_Handler,), {"farm": farm})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    farm.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield farm
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def make_job(**changes: Any) -> dict[str, Any]:
    """Return a job as the api shows it: 4 of 10 items done unless told otherwise."""
    items = {"total": 10, "done": 4, "skipped": 0, "failed": 0, "pending": 6, "canceled": 0}
    items |= changes.pop("items", {})
    job = {
        "id": "j7",
        "name": "photos-candy",
        "user": "ada",
        "tier": "default",
        "priority": 50,
        "state": "active",
        "reason": "",
        "output": "/renders/july",
        "created_at": 1_700_000_000.0,
        "started_at": 1_700_000_001.0,
        "finished_at": None,
        "seconds": 2.5,
        "items": items,
        "tasks": {"waiting": 0, "queued": 1, "leased": 1, "done": 1, "failed": 0, "canceled": 0},
        "images_per_s": 1.6,
        "eta_s": [3.0, 5.0],
        "megapixels": None,
        "ignored": {"count": 0, "names": []},
        "notes": [],
        "plan": {
            "items": 10,
            "tasks": 3,
            "input_bytes": 2_000_000,
            "estimate_s": 6.0,
            "output_bytes": 3_000_000,
        },
        "steps": [{"name": "render", "kind": "stylize", "state": "ready", "reason": "", "items": items}],
        "failures": [],
        "warnings": [],
    }
    return job | changes


def ended_job(state: str = "completed", failed: int = 0, **changes: Any) -> dict[str, Any]:
    """Return a job of 10 items that is over; its failed items are `bad-0.jpg` and so on."""
    items = {"done": 10 - failed, "failed": failed, "pending": 0}
    failures = [
        {
            "input": f"/photos/bad-{n}.jpg",
            "style": "candy",
            "reason": "the file is cut off",
            "failure": "bad_input",
        }
        for n in range(failed)
    ]
    return make_job(
        state=state, items=items, failures=failures[:20], eta_s=None, finished_at=1_700_000_009.0, **changes
    )
