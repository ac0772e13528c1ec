"""The HTTP api of a running farm: who may ask, what streams, what is refused."""

from __future__ import annotations

import json
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.end_to_end.real_farm import LONG_S, toy_manifest

pytestmark = pytest.mark.slow


def test_the_api_answers_only_to_its_token(farm):
    with farm.http() as api:
        paths = api.get("/openapi.json").json()["paths"]
        assert {"/v1/jobs", "/v1/jobs/{job}:cancel", "/v1/workers", "/v1/jobs/{job}/stream"} <= paths.keys()
        for claim in (
            b"",
            b"Bearer",
            b"Bearer wrong",
            f"Bearer {farm.token}x".encode(),
            "Bearer ünï".encode(),
        ):
            headers = {b"Authorization": claim}
            for path, methods in paths.items():
                for method in methods:
                    answer = api.request(method, path.replace("{job}", "x"), headers=headers, json={})
                    assert answer.status_code == 401, (method, path)
                    assert answer.headers["WWW-Authenticate"] == "Bearer"
                    assert farm.token not in answer.text
        page = api.get("/docs")
        assert "swagger" in page.text.lower()
    assert Path(farm.file()["api_token_file"]).stat().st_mode & 0o777 == 0o600


def test_events_are_streamed_as_they_happen_until_the_job_is_over(farm, tmp_path, gate):
    job = farm.submit(toy_manifest(tmp_path / "out", items=3, count=2, gate=str(gate)))
    seen: list[tuple[str, dict[str, Any]]] = []
    with farm.http() as api, api.stream("GET", f"/v1/jobs/{job}/stream") as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        kind = ""
        for line in answer.iter_lines():
            field, _, value = line.partition(": ")
            if field == "event":
                kind = value
            elif field == "data":
                seen.append((kind, json.loads(value)))
                # Nothing of the rest can have happened before this is read.
                gate.unlink(missing_ok=True)
    events = [data["type"] for kind, data in seen if kind == "event"]
    assert events[0] == "submitted"
    assert events[-1] == "finished"
    assert events.count("loss") == 6
    states = [data["state"] for kind, data in seen if kind == "job"]
    assert states[-1] == "completed"
    assert [data["id"] for kind, data in seen if kind == "event"] == [e["id"] for e in farm.events(job)]


def test_the_same_client_token_is_the_same_job_also_at_the_same_time(farm, tmp_path):
    token = uuid.uuid4().hex
    manifest = toy_manifest(tmp_path / "out", items=2)
    together = threading.Barrier(6, timeout=LONG_S)

    def submit(_: int) -> Any:
        together.wait()
        return farm.client.submit(manifest, token)

    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(submit, range(6)))
    assert len({answer["id"] for answer in answers}) == 1
    farm.wait(answers[0]["id"])
    assert farm.client.submit(manifest, token)["id"] == answers[0]["id"]
    assert farm.job(answers[0]["id"])["items"]["done"] == 2


def test_bodies_that_are_too_large_are_refused_before_they_are_read(farm):
    with farm.http() as api:
        large = api.post("/v1/jobs", content=b" " * (17 << 20))
        assert (large.status_code, large.json()["error"]["type"]) == (413, "UsageError")
        # One that comes in pieces does not say how large it will be.
        assert api.post("/v1/jobs", content=iter([b"{", b"}"])).status_code == 411
        assert api.get("/v1/health").status_code == 200


def test_every_process_of_the_farm_listens_on_the_loopback_address_alone(farm):
    listening = [
        connection.laddr
        for process in farm.processes()
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert len(listening) >= 3
    assert {address.ip.removeprefix("::ffff:") for address in listening} == {"127.0.0.1"}
