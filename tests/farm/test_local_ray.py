"""The farm of this machine, started and ended with a real Ray."""

from __future__ import annotations

import contextlib
import os
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from farm import farm_file, folders, local, processes
from farm.farm_file import FarmFile
from jobs.errors import FarmError
from tests.farm.homes import ACTOR, ROOT, UP, control, mine, use_home, using, wait_for


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


# --- a real Ray --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def running() -> Iterator[FarmFile]:
    """A farm that several tests look at. Its user's own settings for Ray lead elsewhere."""
    with tempfile.TemporaryDirectory(prefix="sf-", dir="/tmp") as folder:
        with pytest.MonkeyPatch.context() as patch:
            use_home(patch, Path(folder))
            patch.setenv("RAY_ADDRESS", "192.0.2.1:6379")
            patch.setenv("RAY_AUTH_MODE", "disabled")
            patch.setenv("FARM_TOKEN", "of another farm")
            farm = local.up(local.FarmOptions(gpus=3), ACTOR)
        yield farm
        with pytest.MonkeyPatch.context() as patch:
            use_home(patch, Path(folder))
            local.down()


def drive(farm: FarmFile, token_file: str | None) -> subprocess.CompletedProcess[str]:
    """Run a driver that asks the cluster of a farm for its GPUs."""
    code = (
        "import sys, ray; ray.init(address=sys.argv[1], log_to_driver=False); "
        "print(ray.cluster_resources().get('GPU'))"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment |= {
        "RAY_AUTH_MODE": "disabled",
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_NUM_REDIS_GET_RETRIES": "1",  # so that one who is refused learns it soon
    }
    if token_file:
        environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": token_file}
    return subprocess.run(
        [sys.executable, "-c", code, farm.ray_address],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.mark.slow
def test_a_farm_listens_on_the_loopback_address_alone(running):
    listening = [c.laddr.ip for p in mine(running) for c in p.net_connections("inet") if c.status == "LISTEN"]
    assert len(listening) >= 5
    assert {ip.removeprefix("::ffff:") for ip in listening} == {"127.0.0.1"}
    assert running.ray_address.startswith("127.0.0.1:")


@pytest.mark.slow
def test_no_secret_of_a_farm_can_be_read_by_others(running):
    secrets = [Path(running.ray_token_file).read_text(), Path(running.api_token_file).read_text()]
    assert min(map(len, secrets)) == 64
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            said = " ".join(process.cmdline())
            assert not any(secret in said for secret in secrets)
    for process in mine(running):
        assert not {*secrets, "of another farm"} & {*process.environ().values()}
    folder = Path(running.ray_token_file).parent
    for path in folder.rglob("*"):
        if path.is_file() and path.suffix not in {"", ".json"}:
            assert not any(secret.encode() in path.read_bytes() for secret in secrets), path
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.glob("*token")} == {0o600}


@pytest.mark.slow
def test_the_token_opens_the_cluster_and_nothing_else_does(running, tmp_path):
    wrong = tmp_path / "token"
    wrong.write_text("0" * 64)
    with_token = drive(running, running.ray_token_file)
    assert (with_token.returncode, with_token.stdout.strip()) == (0, "3.0"), with_token.stderr
    for refused in (drive(running, None), drive(running, str(wrong))):
        assert refused.returncode != 0
        assert "InvalidAuthToken" in refused.stderr


@pytest.mark.slow
def test_two_farms_do_not_meet_and_the_end_of_one_leaves_no_trace(running, home):
    before = {process.pid for process in mine(running)}
    second = local.up(control=ACTOR)
    assert second.fresh
    assert not local.up(control=("a", "second", "is", "not", "started")).fresh
    assert second.farm != running.farm
    assert second.ray_address != running.ray_address
    assert Path(second.temp_dir).is_relative_to(home)

    pids = {process.pid for process in mine(second)}
    assert {process.pid for process in using(home)} <= pids
    done = local.down()
    assert done.farm == second
    assert {process.pid for process in done.processes} >= pids
    assert not using(home)
    assert {process.pid for process in mine(running)} == before
    assert sorted(path.name for path in folders.state_dir().iterdir()) == ["farm.lock", "logs"]
    assert (folders.state_dir() / "logs" / "ray" / "raylet.out").is_file()
    assert drive(running, running.ray_token_file).returncode == 0


@pytest.mark.slow
@pytest.mark.usefixtures("long_home")
def test_four_commands_at_once_start_one_farm_and_it_can_end_itself():
    """With a path that is too long for sockets, too."""
    calls = [
        subprocess.Popen([sys.executable, "-c", UP, *ACTOR], stdout=subprocess.PIPE, text=True, cwd=ROOT)
        for _ in range(4)
    ]
    answers = [call.communicate(timeout=120)[0].split() for call in calls]
    farm = local.here()
    assert farm is not None
    assert sorted(answers) == [[farm.farm, "False"]] * 3 + [[farm.farm, "True"]]
    assert sum(process.name() == "raylet" for process in mine(farm)) == 1
    assert Path(farm.temp_dir).parent == Path("/tmp")

    member = os.environ | {processes.MARK_VARIABLE: farm.farm}
    code = "import sys, signal; from farm import local; local.down_from_within(sys.argv[1]); signal.pause()"
    ended = subprocess.run([sys.executable, "-c", code, farm.farm], env=member, check=False, timeout=60)
    assert ended.returncode == -signal.SIGTERM
    wait_for(lambda: not (folders.state_dir() / "farm.json").exists())
    assert not mine(farm)
    assert not Path(farm.temp_dir).exists()


@pytest.mark.slow
def test_half_a_farm_is_no_farm_and_is_cleared_for_the_next_one(home):
    first = local.up(control=ACTOR)
    raylet = next(process for process in mine(first) if process.name() == "raylet")
    raylet.kill()
    wait_for(lambda: local.here() is None)
    (folders.state_dir() / "farm.json").write_text("not ours")
    second = local.up(control=ACTOR)
    assert second.fresh
    assert not mine(first)
    assert local.here() == second
    assert local.down().farm == second
    assert not using(home)


@pytest.mark.slow
def test_a_controller_that_does_not_start_says_why_and_leaves_nothing(home):
    with pytest.raises(FarmError, match="could not launch the controller: no space left on device") as caught:
        local.up(control=control("fail", "no space left on device"))
    log = Path(caught.value.hint.removeprefix("see "))
    assert log.read_text().startswith("the ledger is locked")
    assert farm_file.read() is None
    assert not using(home)
    assert not processes.marked(lambda mark: mark.startswith(farm_file.owner()))


@pytest.mark.slow
def test_a_ray_that_does_not_start_says_why_and_leaves_nothing(home, monkeypatch):
    monkeypatch.setattr("farm.head._OBJECT_STORE_BYTES", 1)
    with pytest.raises(FarmError, match=r"Ray did not start: .*object store") as caught:
        local.up(control=ACTOR)
    assert Path(caught.value.hint.removeprefix("see ")).read_text()
    assert farm_file.read() is None
    assert not using(home)


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupt_while_it_starts_leaves_nothing_behind(home, how):
    """After ctrl-C at once; what a killed command left is ended by the next one."""
    hung = home / "hung"
    starting = subprocess.Popen(
        [sys.executable, "-c", UP, *control("hang", hung)], stderr=subprocess.DEVNULL, cwd=ROOT
    )
    wait_for(hung.exists)
    assert local.here() is None
    starting.send_signal(how)
    assert starting.wait(timeout=60) != 0
    if how == signal.SIGKILL:
        assert {process.name for process in local.down().processes} >= {"raylet", "gcs_server"}
    assert not using(home)
    assert farm_file.read() is None
    assert not (folders.state_dir() / "ray").exists()
