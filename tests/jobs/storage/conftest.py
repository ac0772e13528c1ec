"""The stores that all keep the same promises: in memory, on a disk, and on two real S3 servers."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs.storage import Store, open_store
from jobs.storage.local import LocalStore
from jobs.storage.memory import MemoryStore
from tests.servers import Server, rclone, seaweedfs

BUCKET = "renders"


@pytest.fixture(scope="session")
def seaweedfs_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with seaweedfs(tmp_path_factory.mktemp("weed")) as server:
        server.make_bucket(BUCKET)
        yield server


@pytest.fixture(scope="session")
def rclone_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with rclone(tmp_path_factory.mktemp("rclone")) as server:
        server.make_bucket(BUCKET)
        yield server


def _kinds(*names: str) -> list[object]:
    """Return parameters for a fixture; what needs a server is slow."""
    servers = {"seaweedfs", "rclone"}
    return [pytest.param(name, marks=pytest.mark.slow) if name in servers else name for name in names]


def _empty(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Store:
    if request.param == "local":
        return LocalStore(request.getfixturevalue("tmp_path") / "output")
    if request.param == "memory":
        return MemoryStore()
    server: Server = request.getfixturevalue(f"{request.param}_server")
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    return open_store(f"s3://{BUCKET}/{secrets.token_hex(4)}/july ü")


@pytest.fixture(params=_kinds("local", "memory", "seaweedfs", "rclone"))
def store(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Store:
    """Return an empty store of each kind."""
    return _empty(request, monkeypatch)


@pytest.fixture(params=_kinds("local", "memory", "seaweedfs"))
def strict_store(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Store:
    """Return an empty store of each kind that honors conditions; no other can promise an only winner."""
    return _empty(request, monkeypatch)


@pytest.fixture
def folder(tmp_path: Path) -> LocalStore:
    """Return an empty store on the disk."""
    return LocalStore(tmp_path / "output")
