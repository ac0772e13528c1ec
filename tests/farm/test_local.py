"""The farm of this machine: its folders and its file, and what is found in them."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from farm import farm_file, folders, local, processes, temp_dir
from farm.farm_file import FarmFile
from jobs.errors import NoFarmError, UsageError
from tests.farm.homes import ROOT, control, use_home


@pytest.fixture(autouse=True)
def home(monkeypatch) -> Iterator[Path]:
    """Folders of each test's own, with a path that is short enough for Ray's sockets; no farm stays there."""
    with tempfile.TemporaryDirectory(prefix="sf-", dir="/tmp") as folder:
        yield use_home(monkeypatch, Path(folder))
        if (folders.state_dir() / "farm.json").exists():
            local.down(control=control("record", os.devnull))


@pytest.fixture
def long_home(home, monkeypatch) -> Path:
    """The same with a path that is too long for sockets."""
    long: Path = home / ("long" * 20)
    monkeypatch.setenv("XDG_STATE_HOME", str(long))
    return long


# --- folders and files ---------------------------------------------------------------------------


def test_folders_are_those_of_xdg_and_private(home):
    for folder, name in (
        (folders.data_dir(), "data"),
        (folders.config_dir(), "config"),
        (folders.state_dir(), "state"),
        (folders.cache_dir(), "cache"),
    ):
        assert folder == home / name / "stylefarm"
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_relative_xdg_folders_are_ignored_as_the_specification_says(home, monkeypatch):
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("XDG_STATE_HOME", "relative")
    assert folders.state_dir() == home / ".local/state/stylefarm"


def test_a_folder_that_cannot_be_made_is_named(home, monkeypatch):
    (home / "file").touch()
    with monkeypatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(home / "file"))
        with pytest.raises(UsageError, match="cannot make the folder") as caught:
            folders.state_dir()
    assert "XDG_STATE_HOME" in caught.value.hint


def test_private_files_are_private_whatever_was_there(home):
    path = home / "token"
    path.touch(mode=0o644)
    folders.write_private(path, "secret")
    assert path.read_text() == "secret"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [p.name for p in home.glob("token*")] == ["token"]


def described(**changes: Any) -> FarmFile:
    values: dict[str, Any] = {
        "farm": f"{farm_file.owner()}-12345678",
        "ready": True,
        "version": "1",
        "machine": farm_file.machine(),
        "started_at": 1.5,
        "api_url": "http://127.0.0.1:20000",
        "api_token_file": str(folders.state_dir() / "api-token"),
        "ray_address": "127.0.0.1:30000",
        "ray_token_file": "",
        "own_head": True,
        "node_ip": "127.0.0.1",
        "temp_dir": "",
        "log_dir": str(folders.private(folders.state_dir() / "logs")),
        "pids": ((os.getpid(), farm_file.started_at(os.getpid())),),
        "workers": None,
        "max_workers": None,
        "device": "auto",
        "threads": 2,
        "idle_exit_s": None,
        "store": "s3://bucket/assets",
        "ledger": "/ledger",
    }
    return FarmFile(**(values | changes))


def test_the_farm_that_is_written_is_the_farm_that_is_found():
    farm = described()
    farm_file.write(farm)
    assert local.here() == local.find() == farm
    assert stat.S_IMODE((folders.state_dir() / "farm.json").stat().st_mode) == 0o600


@pytest.mark.parametrize(
    "changes",
    [
        {"ready": False},
        {"machine": "elsewhere"},
        {"farm": "ffffffff-12345678"},
        {"pids": ((2**22 + 1, 1),)},
        {"pids": ((os.getpid(), 1),)},
    ],
    ids=["being started", "another machine", "another folder", "dead", "pid used again"],
)
def test_what_does_not_run_here_is_not_found(changes):
    farm_file.write(described(**changes))
    assert local.here() is None
    (folders.state_dir() / "farm.json").unlink()


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", '{"schema": 0}', '{"schema": 1}', '{"schema": 1, "farm": "x"}', "\x00"],
)
def test_a_state_file_that_is_none_is_no_farm_and_hinders_nothing(text):
    (folders.state_dir() / "farm.json").write_text(text)
    assert local.here() is None
    assert local.down() == local.Down(None, ())
    assert not (folders.state_dir() / "farm.json").exists()


def test_a_zombie_does_not_live():
    child = subprocess.Popen([sys.executable, "-c", ""], stdout=subprocess.DEVNULL)
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert farm_file.started_at(child.pid) is None
    child.wait()


# --- which farm ----------------------------------------------------------------------------------


def test_a_named_farm_wins_over_the_one_of_this_machine(monkeypatch):
    farm_file.write(described())
    monkeypatch.setenv("FARM_ADDRESS", "http://farm.example.org:8080/")
    monkeypatch.setenv("FARM_TOKEN", "abc")
    found = local.find()
    assert isinstance(found, local.RemoteFarm)
    assert (found.api_url, found.token()) == ("http://farm.example.org:8080", "abc")
    assert "abc" not in repr(found)
    assert local.is_remote()


def test_the_farm_of_this_machine_needs_no_token_when_it_is_named():
    farm_file.write(described())
    (folders.state_dir() / "api-token").write_text("abc")
    found = local.find("http://127.0.0.1:20000/")
    assert isinstance(found, FarmFile)
    assert found.token() == "abc"


def test_a_farm_that_has_just_ended_says_so():
    with pytest.raises(NoFarmError, match="just ended"):
        described().token()


@pytest.mark.parametrize("address", ["farm.example.org:8080", "ftp://farm", "http://", "/tmp/farm"])
def test_a_wrong_address_is_refused(monkeypatch, address):
    monkeypatch.setenv("FARM_TOKEN", "abc")
    with pytest.raises(UsageError, match="no address of a farm"):
        local.find(address)


def test_a_farm_elsewhere_needs_a_token():
    with pytest.raises(UsageError, match="no token") as caught:
        local.find("http://farm.example.org:8080")
    assert "FARM_TOKEN" in caught.value.hint


@pytest.mark.parametrize(
    "wrong",
    [
        {"workers": -1},
        {"threads": -1},
        {"cpus": 0},
        {"gpus": -1},
        {"idle_exit_s": 0},
        {"port": 65536},
        {"port": -1},
        {"share": 0},
        {"share": 1.5},
        {"share": 0.5, "device": "cpu"},
    ],
)
def test_options_out_of_range_are_refused(wrong):
    with pytest.raises(UsageError, match=str(next(iter(wrong.values())))):
        local.FarmOptions(**wrong)


def test_a_port_that_is_taken_is_refused_and_a_free_one_is_free():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(UsageError, match=rf"port {port}.*in use"):
            local.up(local.FarmOptions(port=port))
    assert local.here() is None
    assert not list(folders.state_dir().glob("*token*"))
    with socket.create_server(("127.0.0.1", local._free_port("127.0.0.1", 0))):
        pass


def test_finding_a_farm_loads_nothing_heavy():
    code = (
        "import sys; from farm import local; local.find(); "
        "print(*{'ray', 'psutil', 'torch', 'subprocess', 'pydantic', 'asyncio'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


# --- Ray's temporary folder ------------------------------------------------------------------------


def test_ray_gets_a_folder_with_a_short_path_and_its_logs_are_kept(long_home):
    state = folders.state_dir()
    made = temp_dir.make(state, "0badcafe-1")
    (made / "session_2026" / "logs").mkdir(parents=True)
    (made / "session_2026" / "logs" / "raylet.out").write_text("said")
    assert len(os.fsencode(made)) <= 43
    assert stat.S_IMODE(made.stat().st_mode) == 0o700
    temp_dir.remove_all(state, "0badcafe-", "", long_home / "logs")
    assert not made.exists()
    assert (long_home / "logs" / "raylet.out").read_text() == "said"


def test_rays_folder_is_in_the_state_folder_where_that_is_short():
    made = temp_dir.make(folders.state_dir(), "0badcafe-2")
    assert made.parent == folders.state_dir()


def test_a_folder_that_is_there_is_never_taken():
    temp_dir.make(folders.state_dir(), "0badcafe-3")
    with pytest.raises(UsageError, match="File exists"):
        temp_dir.make(folders.state_dir(), "0badcafe-3")


def test_only_folders_that_we_made_are_removed(home):
    (home / "stylefarm-0badcafe-4").symlink_to(home / "photos")
    (home / "photos").mkdir()
    for recorded in (home / "photos", home / "stylefarm-0badcafe-4", Path("/"), Path()):
        temp_dir.remove_all(home, "0badcafe-", str(recorded), home / "logs")
    assert (home / "photos").is_dir()


# --- processes --------------------------------------------------------------------------------------


@pytest.fixture
def sleeper() -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Start marked processes that wait, and deaf ones that SIGTERM does not end."""
    started = []

    def start(mark: str, *, deaf: bool = False) -> subprocess.Popen[bytes]:
        code = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN);" if deaf else "import signal;"
        process = subprocess.Popen(
            [sys.executable, "-c", code + "print(flush=True); signal.pause()"],
            env=os.environ | {processes.MARK_VARIABLE: mark},
            stdout=subprocess.PIPE,
        )
        started.append(process)
        assert process.stdout is not None
        process.stdout.readline()
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def test_exactly_the_marked_processes_end(sleeper):
    ours, deaf, frozen, other = sleeper("a-1"), sleeper("a-2", deaf=True), sleeper("a-3"), sleeper("b-1")
    frozen.send_signal(signal.SIGSTOP)
    ended = processes.end(lambda mark: mark.startswith("a-"), last="none", grace_s=0.2)
    assert [process.pid for process in ended] == sorted([ours.pid, deaf.pid, frozen.pid])
    assert [p.wait(1) for p in (ours, deaf, frozen)] == [-signal.SIGTERM, -signal.SIGKILL, -signal.SIGKILL]
    assert other.poll() is None


def test_a_process_that_is_not_collected_does_not_hold_up_the_end(sleeper):
    child = sleeper("c-1")
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert processes.end("c-1".__eq__, last="none") == []


# --- a cluster that runs already --------------------------------------------------------------------


def test_in_a_cluster_of_others_only_a_controller_is_launched_and_stopped(home):
    record = control("record", home / "calls")
    farm = local.up(local.FarmOptions(ray_address="head.example.org:6379"), record)
    assert farm.fresh
    assert (farm.api_url, farm.own_head, farm.temp_dir) == ("http://head.example.org:8080", False, "")
    assert local.here() == farm
    assert local.down(control=record).farm == farm
    assert local.here() is None
    assert (home / "calls").read_text().split() == ["launch", farm.ray_address, "stop", farm.ray_address]


def test_a_cluster_that_is_gone_does_not_hold_up_the_next_farm():
    local.up(local.FarmOptions(ray_address="head.example.org:6379"), control("record", os.devnull))
    with pytest.raises(NoFarmError, match=r"may still run.*no route"):
        local.down(control=control("fail", "no route to the head"))
    assert farm_file.read() is None


def test_the_farm_of_another_machine_in_a_shared_folder_is_left_alone():
    farm_file.write(described(machine="elsewhere"))
    for call in (local.up, local.down):
        with pytest.raises(UsageError, match="farm of elsewhere"):
            call()
    (folders.state_dir() / "farm.json").unlink()


def test_a_farm_is_not_ended_by_the_end_of_the_one_before():
    farm_file.write(described())
    assert local.main("down", f"{farm_file.owner()}-00000000") == 0
    assert local.here() is not None
