"""Real S3 servers on this machine, each on ports of its own, as context managers.

SeaweedFS keeps every promise that the farm needs; rclone ignores conditions and answers 200.
"""

from __future__ import annotations

import http.client
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

START_LIMIT_S = 60.0


@dataclass(frozen=True, slots=True)
class Server:
    """A running S3 server; its only account may do everything."""

    endpoint_url: str
    access_key: str
    secret_key: str
    process: subprocess.Popen[bytes]

    @property
    def environment(self) -> dict[str, str]:
        """The variables that let boto3 in another process find the server."""
        return {
            "AWS_ENDPOINT_URL_S3": self.endpoint_url,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def client(self) -> Any:
        """Return a boto3 client, to look at the server past our own code."""
        import boto3
        from botocore.config import Config

        return boto3.client(
            "s3",
            endpoint_url=self.endpoint_url,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            region_name="us-east-1",
            config=Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 1}),
        )

    def make_bucket(self, name: str) -> str:
        """Make a bucket and return its `s3://` URL."""
        self.client().create_bucket(Bucket=name)
        return f"s3://{name}"


@contextmanager
def seaweedfs(folder: Path) -> Iterator[Server]:
    """Run SeaweedFS with its files in `folder`; a store that honors conditions."""
    access_key, secret_key = "farm-test", secrets.token_hex(16)
    data, sockets = folder / "seaweedfs", _short_folder()
    data.mkdir(parents=True, exist_ok=True)
    config = data / "identities.json"
    credentials = [{"accessKey": access_key, "secretKey": secret_key}]
    actions = ["Admin", "Read", "Write", "List", "Tagging"]
    config.write_text(
        json.dumps({"identities": [{"name": "test", "credentials": credentials, "actions": actions}]})
    )
    master, volume, filer, s3, admin = _free_ports(5)
    command = [
        *(_binary("weed"), "mini", f"-dir={data}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"),
        *(f"-master.port={master}", f"-volume.port={volume}", f"-filer.port={filer}", f"-s3.port={s3}"),
        *(f"-s3.config={config}", "-webdav=false", "-admin.ui=false", f"-admin.port={admin}"),
        *("-metricsPort=0", "-s3.port.iceberg=0", "-s3.autoCreateBucket=false"),
        *(f"-filer.localSocket={sockets}/f.sock", f"-s3.localSocket={sockets}/s.sock"),
    ]
    try:
        with _running(command, data / "log.txt") as process:
            server = Server(f"http://127.0.0.1:{s3}", access_key, secret_key, process)
            _wait_until_it_writes(server)
            yield server
    finally:
        shutil.rmtree(sockets)


@contextmanager
def rclone(folder: Path) -> Iterator[Server]:
    """Run rclone over `folder`; a store that ignores conditions."""
    access_key, secret_key = "farm-test", secrets.token_hex(16)
    data = folder / "rclone"
    data.mkdir(parents=True, exist_ok=True)
    (port,) = _free_ports(1)
    command = [
        *(_binary("rclone"), "serve", "s3", str(data), "--addr", f"127.0.0.1:{port}"),
        *("--auth-key", f"{access_key},{secret_key}", "--config", os.devnull),
    ]
    with _running(command, folder / "rclone.log") as process:
        server = Server(f"http://127.0.0.1:{port}", access_key, secret_key, process)
        _wait_until_it_writes(server)
        yield server


def _binary(name: str) -> str:
    """Return the program that its wheel put beside this Python, or skip the test."""
    found = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    if found is None:
        pytest.skip(f"needs {name}: install the extra `test-servers`")
    return found


def _short_folder() -> Path:
    """Return a folder for Unix sockets, whose paths may be 107 bytes long."""
    return Path(tempfile.mkdtemp(prefix="sf-"))


def _free_ports(count: int) -> list[int]:
    """Return ports on which nobody listens now; of each, the one 10,000 above is free too (gRPC)."""
    ports: list[int] = []
    with ExitStack() as held:
        while len(ports) < count:
            port = 10_000 + secrets.randbelow(20_000)
            try:
                for number in (port, port + 10_000):
                    held.enter_context(socket.socket()).bind(("127.0.0.1", number))
            except OSError:
                continue
            ports.append(port)
    return ports


@contextmanager
def _running(command: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program in its own folder until the block ends; say what it logged if it ended before."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("AWS_", "RCLONE_", "WEED_"))}
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=log.parent, env=environment, stdout=output, stderr=subprocess.STDOUT
        )
    try:
        yield process
    except ServerDiedError as error:
        raise ServerDiedError(f"{error}\n{log.read_text(errors='replace')[-2000:]}") from error
    finally:
        process.kill()  # nothing is kept, and a farewell takes SeaweedFS seconds
        process.wait()


class ServerDiedError(AssertionError):
    """A server did not start."""


def _wait_until_it_writes(server: Server) -> None:
    """Return once an object can be put: a list succeeds before that."""
    from botocore.exceptions import BotoCoreError, ClientError

    client, bucket = server.client(), f"ready-{secrets.token_hex(4)}"

    def ready() -> bool:
        try:
            if bucket not in {b["Name"] for b in client.list_buckets()["Buckets"]}:
                client.create_bucket(Bucket=bucket)
            client.put_object(Bucket=bucket, Key="ready", Body=b"ready")
        except (BotoCoreError, ClientError):
            return False
        client.delete_object(Bucket=bucket, Key="ready")
        client.delete_bucket(Bucket=bucket)
        return True

    _wait_for(ready, server.process)


def _wait_for(ready: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_LIMIT_S
    while not ready():
        if process.poll() is not None or time.monotonic() > deadline:
            raise ServerDiedError(f"{process.args!r} did not come up (exit status {process.returncode})")
        time.sleep(0.05)


@dataclass(slots=True)
class Trouble:
    """What a proxy does to coming requests, in order; when nothing is left, it only passes them on.

    Attributes:
        endpoint_url: Where the proxy answers.
        plan: Pairs of a method (`PUT`, empty for any) and what happens to the next such request: a status
            to answer without asking the store, `lost` (the store does it, but its reply is cut off),
            or `pass`.
        seen: Methods and paths of all requests so far.
        connections: All that were ever opened.
    """

    endpoint_url: str
    plan: list[tuple[str, int | str]] = field(default_factory=list)
    seen: list[tuple[str, str]] = field(default_factory=list)
    connections: list[socket.socket] = field(default_factory=list)

    def next_for(self, method: str) -> int | str | None:
        """Return what happens to this request, and forget it."""
        for position, (wanted, what) in enumerate(self.plan):
            if wanted in {"", method}:
                del self.plan[position]
                return what
        return None


@contextmanager
def troubled(endpoint_url: str) -> Iterator[Trouble]:
    """Run a proxy in front of a server that answers with errors, or loses replies, as it is told."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Proxy)
    server.daemon_threads = True
    trouble = Trouble(f"http://127.0.0.1:{server.server_port}")
    server.trouble, server.behind = trouble, endpoint_url.removeprefix("http://")  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield trouble
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
        for connection in trouble.connections:
            with suppress(OSError):  # closed by its client already
                connection.shutdown(socket.SHUT_RDWR)


class _Proxy(BaseHTTPRequestHandler):
    """Passes requests on, byte for byte, except for what `Trouble` says."""

    wbufsize = -1  # a reply in several pieces would wait for acknowledgments
    protocol_version = "HTTP/1.1"  # boto3 waits for `100 Continue` before it sends a body
    _CODES: ClassVar = {403: "AccessDenied", 409: "ConditionalRequestConflict", 501: "NotImplemented"}

    def setup(self) -> None:
        """Remember the connection, which a client may keep open."""
        super().setup()
        self.server.trouble.connections.append(self.connection)  # type: ignore[attr-defined]

    def handle_expect_100(self) -> bool:
        """Let the client send its body at once."""
        super().handle_expect_100()
        self.wfile.flush()
        return True

    def _handle(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        trouble: Trouble = self.server.trouble  # type: ignore[attr-defined]
        trouble.seen.append((self.command, self.path))
        what = trouble.next_for(self.command)
        if isinstance(what, int):
            code = self._CODES.get(what, "SlowDown")
            self._answer(
                what, {}, f"<Error><Code>{code}</Code><Message>so it was told</Message></Error>".encode()
            )
            return
        connection = http.client.HTTPConnection(self.server.behind, timeout=20)  # type: ignore[attr-defined]
        with closing(connection):
            headers = {name: value for name, value in self.headers.items() if name.lower() != "expect"}
            connection.request(self.command, self.path, body, headers)
            reply = connection.getresponse()
            content = reply.read()
        if what == "lost":
            self.close_connection = True
            return
        self._answer(reply.status, dict(reply.getheaders()), content)

    do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = _handle  # noqa: N815

    def _answer(self, status: int, headers: dict[str, str], content: bytes) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            if name.lower() not in {"transfer-encoding", "connection"}:
                self.send_header(name, value)
        if "content-length" not in {name.lower() for name in headers}:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Keep quiet."""
