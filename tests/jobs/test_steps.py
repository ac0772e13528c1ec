"""Steps: how they need one another, what comes late, and where their kinds come from."""

from __future__ import annotations

from typing import Any

import pytest

from jobs.errors import ManifestError, UsageError
from jobs.manifest import Manifest, load_manifest
from jobs.steps import Late, step_kinds
from jobs.stylize_step import StylizeStep

STEP: dict[str, Any] = {"name": "render", "kind": "stylize", "inputs": ["photos"], "styles": ["candy"]}
MANIFEST: dict[str, Any] = {"version": 1, "name": "holiday", "steps": [STEP]}


def mistakes(document: Any) -> list[str]:
    """Return the lines that a wrong manifest is refused with."""
    with pytest.raises(ManifestError) as caught:
        load_manifest(document)
    return caught.value.message.splitlines()


def stylize(manifest: Manifest, number: int) -> StylizeStep:
    step = manifest.steps[number]
    assert isinstance(step, StylizeStep)
    return step


def chain(**needs: list[str]) -> dict[str, Any]:
    """Return a manifest with one step for each name."""
    steps = [{**STEP, "name": name, "needs": needed} for name, needed in needs.items()]
    return {**MANIFEST, "steps": steps}


def test_steps_may_need_one_another_in_any_order():
    manifest = load_manifest(chain(c=["a", "b"], a=[], b=["a"]))
    assert [step.needs for step in manifest.steps] == [["a", "b"], [], ["a"]]


def test_a_circle_of_needs_is_refused():
    (line,) = mistakes(chain(a=["c"], b=["a"], c=["b"], d=["a"]))
    assert line.startswith(("steps[0].needs", "steps[1].needs", "steps[2].needs"))
    assert "the step would wait for itself" in line
    assert set(line.partition("itself: ")[2].split(" needs ")) == {"a", "b", "c"}, "d is not part of it"


def test_two_steps_of_one_name_are_refused():
    steps = [STEP, {**STEP, "name": "other"}, STEP]
    assert mistakes({**MANIFEST, "steps": steps}) == ["steps[2].name: 'render' names an earlier step too"]


def test_a_late_value_makes_its_step_needed():
    """Whether or not `needs` says so."""
    late = {**STEP, "name": "late", "styles": ["candy", {"from": "render"}]}
    for needs in ([], ["render"]):
        step = stylize(load_manifest({**MANIFEST, "steps": [STEP, {**late, "needs": needs}]}), 1)
        assert step.needs == ["render"]
        assert step.styles[1] == Late.model_validate({"from": "render"})


def test_a_late_value_is_written_as_it_was():
    late = {**STEP, "name": "late", "styles": [{"from": "render"}]}
    manifest = load_manifest({**MANIFEST, "steps": [STEP, late]})
    assert manifest.document()["steps"][1]["styles"] == [{"from": "render"}]
    assert load_manifest(manifest.document()) == manifest


def test_several_styles_need_the_style_in_the_pattern():
    (line,) = mistakes({**MANIFEST, "steps": [{**STEP, "styles": ["a", "b"], "pattern": "{name}.{ext}"}]})
    assert line == "steps[0].pattern: '{name}.{ext}' gives 2 styles the same name: use {style}"


def step_schemas() -> dict[str, Any]:
    """Return what the manifest's schema says of each kind of step."""
    kinds = Manifest.model_json_schema()["properties"]["steps"]["items"]["oneOf"]
    return {kind["title"]: kind for kind in kinds}


TOY = """
from typing import Literal
from jobs.steps import PlannedTask, Step, StepKind, register_step

class Count(Step):
    kind: Literal["count"]
    to: int

register_step(StepKind("count", Count, lambda step, planning: iter([PlannedTask({"to": step.to}, ())])))
"""


def test_a_further_kind_of_step_comes_from_a_module(tmp_path, monkeypatch):
    """`FARM_KINDS` names it; the manifest, its mistakes and the schema know it at once."""
    (tmp_path / "toy_count.py").write_text(TOY)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("FARM_KINDS", " toy_count,")
    # Other tests may have registered kinds of their own in this process.
    kinds = {name: kind for name, kind in step_kinds().items() if name in {"stylize", "count"}}
    monkeypatch.setattr("jobs.steps._KINDS", kinds)
    count = {"name": "n", "kind": "count", "to": 3}
    manifest = load_manifest({**MANIFEST, "steps": [STEP, count]})
    assert manifest.document()["steps"][1]["to"] == 3
    assert mistakes({**MANIFEST, "steps": [{**count, "to": "x"}]}) == [
        "steps[0].to: 'x' is not a whole number"
    ]
    assert step_schemas().keys() == {"StylizeStep", "Count"}


def test_a_module_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setenv("FARM_KINDS", "no_such_module_of_kinds")
    with pytest.raises(UsageError, match=r"no_such_module_of_kinds.*FARM_KINDS"):
        load_manifest(MANIFEST)
