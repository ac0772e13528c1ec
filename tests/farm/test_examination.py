"""What kinds of work say of their tasks at submit, before any work starts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from jobs.errors import ManifestError, StorageError
from jobs.tasks import WorkerReport
from tests.farm.controlled import farm, manifest, over, run
from tests.farm.scripted_pool import ScriptedPool


@pytest.fixture(autouse=True)
def _kinds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FARM_KINDS", "tests.toy,tests.farm.picky")


def picky(**said: Any) -> dict[str, Any]:
    return {"kind": "picky", **said}


class Sized(ScriptedPool):
    """Workers of one host with 8 GB."""

    def _report(self, name: str) -> WorkerReport:
        return WorkerReport(name, 1, "here", "cpu", tasks=self._tasks(name), device_bytes=8_000_000_000)


@pytest.mark.parametrize(
    ("wrong", "line"),
    [
        ("plan", "steps[1]: there is nothing to do (do something else)"),
        ("input", "steps[1].input: it is too small (take a larger one)"),
        ("file", "steps[1]: night.jpg is no picture"),
    ],
)
def test_what_cannot_be_done_is_refused_with_its_place_and_leaves_nothing(tmp_path, wrong, line):
    async def scene() -> None:
        async with farm(tmp_path, ScriptedPool()) as controller:
            with pytest.raises(ManifestError) as caught:
                await controller.commands.submit(manifest(tmp_path, {"items": 1}, picky(wrong=wrong)))
            assert caught.value.message == line
            assert controller.view.jobs() == []

    run(scene())
    assert not (tmp_path / "out").exists()


def test_all_steps_are_looked_at(tmp_path):
    async def scene() -> None:
        async with farm(tmp_path, ScriptedPool()) as controller:
            steps = [picky(wrong="input"), picky(), picky(wrong="file")]
            with pytest.raises(ManifestError) as caught:
                await controller.commands.submit(manifest(tmp_path, *steps))
            places = [line.partition(":")[0] for line in caught.value.message.splitlines()]
            assert places == ["steps[0].input", "steps[2]"]

    run(scene())


def test_a_store_that_does_not_answer_is_no_mistake_of_the_manifest(tmp_path):
    async def scene() -> None:
        async with farm(tmp_path, ScriptedPool()) as controller:
            with pytest.raises(StorageError):
                await controller.commands.submit(manifest(tmp_path, picky(wrong="store")))

    run(scene())


@pytest.mark.parametrize(("workers", "least", "told"), [(1, 1, "workers=1"), (2, 2, "workers=2")])
def test_a_kind_may_look_at_inputs_and_at_what_workers_have_and_its_notes_are_kept(
    tmp_path, workers, least, told
):
    """Workers share the memory of their host, as many as the task wants at least."""
    (tmp_path / "in.txt").write_text("content")

    async def scene() -> None:
        async with farm(tmp_path, Sized(2)) as controller:
            step = picky(input=str(tmp_path / "in.txt"), workers={"min": least, "max": workers})
            job = await over(controller, await controller.commands.submit(manifest(tmp_path, step)))
            assert job["state"] == "completed"
            assert job["notes"] == [f"content {told} device=cpu bytes=4000000000"]

    run(scene())


@pytest.mark.parametrize(
    ("others", "refused"),
    [
        ([], True),
        ([{"items": 1, "needs": ["s0"]}], True),
        ([{"items": 1, "needs": ["s2"]}, {"items": 1, "needs": ["s0"]}], True),
        ([{"items": 1}], False),
        ([{"items": 1}, {"items": 1, "needs": ["s0", "s1"]}], False),
    ],
    ids=("no other step", "one that needs it", "a chain", "another one", "another one beside what needs it"),
)
def test_what_is_wrong_with_a_part_is_wrong_with_a_job_that_is_nothing_without_it(tmp_path, others, refused):
    """A kind may let its step fail by itself, where others have something to do."""

    async def scene() -> None:
        async with farm(tmp_path, ScriptedPool()) as controller:
            document = manifest(tmp_path, picky(wrong="by itself"), *others)
            if refused:
                with pytest.raises(ManifestError, match=r"steps\[0\].input: it is broken"):
                    await controller.commands.submit(document)
            else:
                job = await over(controller, await controller.commands.submit(document))
                assert job["notes"] == ["input: it is broken"]

    run(scene())


NO_TORCH = """
import sys
import jobs.manifest, farm.controller, farm.examination
jobs.manifest.load_manifest({"version": 1, "name": "x", "steps": [
    {"name": "a", "kind": "optimize", "inputs": ["a"], "style_images": ["b"]},
    {"name": "b", "kind": "stylize", "inputs": ["a"], "styles": ["b"]}]})
print("torch" in sys.modules)
"""


def test_nothing_heavy_is_loaded_before_a_step_is_examined():
    done = subprocess.run(
        [sys.executable, "-c", NO_TORCH],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "False\n"
