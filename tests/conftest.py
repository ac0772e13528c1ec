"""What every test can count on: no user's folders, no foreign Ray, no network beyond this machine.

The environment is set when this file is loaded, before any module of ours, so that the processes that tests
start (Ray, servers, the command line) inherit it.
"""

from __future__ import annotations

import ipaddress
import os
import random
import secrets
import shutil
import socket
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import hypothesis
import psutil
import pytest

TEST_DATA_VARIABLE = "FARM_TEST_DATA"

# Unix sockets are made below these folders, and their paths may be 107 bytes long: no long names.
_SESSION_FOLDER = Path(tempfile.mkdtemp(prefix="sf-"))

# What a developer has set for a farm, a Ray or an account of his own must not lead a test there.
for _name in [*os.environ]:
    if _name.startswith(("AWS_", "RAY_")) or _name in {"FARM_ADDRESS", "FARM_TOKEN", "FARM_KINDS"}:
        del os.environ[_name]

os.environ |= {
    "XDG_DATA_HOME": str(_SESSION_FOLDER / "data"),
    "XDG_CONFIG_HOME": str(_SESSION_FOLDER / "config"),
    "XDG_STATE_HOME": str(_SESSION_FOLDER / "state"),
    "XDG_CACHE_HOME": str(_SESSION_FOLDER / "cache"),
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    "AWS_EC2_METADATA_DISABLED": "true",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TMPDIR": str(_SESSION_FOLDER),
    "RAY_AUTH_TOKEN_PATH": str(_SESSION_FOLDER / "ray-token"),  # or Ray would leave one in the home folder
}
Path(os.environ["RAY_AUTH_TOKEN_PATH"]).write_text(secrets.token_hex(32))
if "PYTEST_XDIST_WORKER" in os.environ:
    # Several test processes share the cores; threads of their own would only get in each other's way.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

hypothesis.settings.register_profile("stylefarm", deadline=None, print_blob=True)
hypothesis.settings.load_profile("stylefarm")


class NetworkForbiddenError(AssertionError):
    """A test tried to reach another machine."""


@cache
def _own_addresses() -> frozenset[str]:
    """Return the addresses of this machine; Ray talks to itself through them."""
    return frozenset(a.address for nic in psutil.net_if_addrs().values() for a in nic)


def _is_here(host: str) -> bool:
    if host in {"", "localhost", socket.gethostname()} or host in _own_addresses():
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified


def _forbid_network(event: str, args: tuple[Any, ...]) -> None:
    """Stop connections and name lookups that leave this machine, in this process and its threads."""
    if event == "socket.connect":
        connection, address = args
        # A datagram socket sends nothing when it is connected: it is how Ray learns its own address.
        if connection.family not in {socket.AF_INET, socket.AF_INET6} or connection.type == socket.SOCK_DGRAM:
            return
        host = address[0]
    elif event == "socket.getaddrinfo":
        host = args[0]
        host = host.decode() if isinstance(host, bytes) else host or ""
    else:
        return
    if not _is_here(host):
        raise NetworkForbiddenError(f"a test tried to reach {host!r}; only this machine is allowed")


sys.addaudithook(_forbid_network)


@pytest.fixture(scope="session")
def test_data() -> Path:
    """Return the folder of real photographs and weights, or skip the test."""
    folder = os.environ.get(TEST_DATA_VARIABLE, "")
    if not folder:
        pytest.skip(f"needs real data: {TEST_DATA_VARIABLE} is not set")
    if not Path(folder).is_dir():
        pytest.skip(f"needs real data: {TEST_DATA_VARIABLE} names {folder!r}, which is no folder")
    return Path(folder).resolve()


@pytest.fixture(autouse=True)
def _seed_torch() -> None:
    """Give torch the seed of the test, where it is loaded; pytest-randomly does so for random and numpy."""
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(random.getrandbits(63))


def _skipped_for_no_good_reason(config: pytest.Config) -> list[str]:
    """Return what was skipped and is not marked `gpu`, one line each."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    reports = reporter.stats.get("skipped", []) if reporter else []
    return [
        f"{report.nodeid}: {report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr}"
        for report in reports
        if "gpu" not in report.keywords
    ]


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Under CI, let a skipped test fail the run: it promises something that nobody checked."""
    if os.environ.get("CI") and _skipped_for_no_good_reason(session.config):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say which skips made the run fail."""
    skipped = _skipped_for_no_good_reason(config) if os.environ.get("CI") else []
    if skipped:
        terminalreporter.section("skipped under CI", red=True, bold=True)
        for line in skipped:
            terminalreporter.line(line)


def pytest_unconfigure() -> None:
    """Remove the folders of this session."""
    shutil.rmtree(_SESSION_FOLDER, ignore_errors=True)
