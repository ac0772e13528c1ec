"""A training that goes wrong goes back and on more slowly, and one that gets no better ends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from jobs.errors import FarmError
from tests.workers.studying import School
from workers import train_files
from workers.kinds import Produced
from workers.nst.training import OutputStatistics, Terms, Training, TrainingDivergedError
from workers.train_course import MOST_ROLLBACKS, is_looked_at

SOUND = OutputStatistics(120.0, 40.0, 0.01)
GRAY = OutputStatistics(128.0, 0.5, 0.0)


@pytest.fixture(autouse=True)
def _no_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train_files, "loss_plot", lambda *_: b"")


@pytest.fixture
def school(tmp_path: Path) -> School:
    return School(tmp_path)


def diverge(monkeypatch: pytest.MonkeyPatch, at: int, times: int) -> list[float]:
    """Let a step diverge some times; return a list that gets the factor on the rate each time."""
    plain, factors = Training.step, list[float]()

    def step(self: Training, batch: Tensor, total: int | None = None) -> Terms:
        if self.steps_done == at and len(factors) < times:
            factors.append(self.rate_factor)
            raise TrainingDivergedError(f"the loss became nan at step {at + 1}")
        return plain(self, batch, total)

    monkeypatch.setattr(Training, "step", step)
    return factors


def seen(monkeypatch: pytest.MonkeyPatch, by_step: dict[int, list[OutputStatistics]]) -> None:
    """Let pictures be like this after some steps, one after the other where it comes there again."""

    def look(self: Training, _: Tensor) -> OutputStatistics:
        found = by_step.get(self.steps_done)
        return found.pop(0) if found else SOUND

    monkeypatch.setattr(Training, "look", look)


def test_a_loss_that_is_no_number_is_gone_back_from(school: School, monkeypatch: pytest.MonkeyPatch) -> None:
    """To the last look, with half the rate, as often as it takes; the trace has every step once."""
    factors = diverge(monkeypatch, at=5, times=2)
    outcome = school.run(school.message(steps=8))
    assert isinstance(outcome, Produced)
    assert factors == [1.0, 0.5]
    assert [step["step"] for step in school.lines("wave")] == list(range(1, 9))
    assert outcome.facts["rollbacks"] == 2
    assert outcome.facts["steps"] == 8
    told = [text for text in school.said() if "back from step 5 to 4" in text]
    assert [text.split()[-1] for text in told] == ["0.001", "0.0005"]
    training = school.returned["entry"]["metadata"]["training"]
    assert [(each["at"], each["to"], each["rate_factor"]) for each in training["rollbacks"]] == [
        (5, 4, 0.5),
        (5, 4, 0.25),
    ]
    losses = [data for kind, data in school.events if kind == "loss"]
    assert losses[-1]["learning_rate"] == pytest.approx(0.0005)


def test_one_that_goes_wrong_again_and_again_fails(school: School, monkeypatch: pytest.MonkeyPatch) -> None:
    factors = diverge(monkeypatch, at=5, times=1000)
    for size in (1, 2):
        factors.clear()
        outcome = school.run(school.message(steps=8), size)
        assert isinstance(outcome, FarmError)
        assert "diverges: the loss became nan at step 6" in str(outcome)
        assert "back to step 4 4 times" in str(outcome)
        assert len(factors) == size * (MOST_ROLLBACKS + 1)
        assert school.returned == {}
        assert len(school.lines("wave")) == 5, "what was sound is there to be looked at"


def test_progress_gives_it_new_chances(school: School, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, times = Training.step, dict[int, int]()

    def step(self: Training, batch: Tensor, total: int | None = None) -> Terms:
        here = self.steps_done
        times[here] = times.get(here, 0) + 1
        if here in {5, 9} and times[here] < MOST_ROLLBACKS:
            raise TrainingDivergedError("the loss became nan")
        return plain(self, batch, total)

    monkeypatch.setattr(Training, "step", step)
    outcome = school.run(school.message(steps=12))
    assert isinstance(outcome, Produced)
    assert outcome.facts["rollbacks"] == 2 * (MOST_ROLLBACKS - 1)


def test_pictures_of_one_color_are_gone_back_from(school: School, monkeypatch: pytest.MonkeyPatch) -> None:
    seen(monkeypatch, {4: [GRAY]})
    outcome = school.run(school.message(steps=6))
    assert isinstance(outcome, Produced)
    assert outcome.facts["rollbacks"] == 1
    assert [text for text in school.said() if "one color, about 128 of 255: back from step 4 to 2" in text]
    assert [each["step"] for each in school.lines("wave-validation")] == [0, 1, 2, 4, 6]


def test_a_network_that_was_never_sound_has_time(school: School, monkeypatch: pytest.MonkeyPatch) -> None:
    """An untrained network may well make pictures of one color; the result says if it still does."""
    seen(monkeypatch, {step: [GRAY] for step in (0, 1, 2, 4, 6)})
    outcome = school.run(school.message(steps=6))
    assert isinstance(outcome, Produced)
    assert outcome.facts["rollbacks"] == 0
    assert "after 6 steps its pictures are one color" in outcome.note


def test_too_large_a_rate_is_found_out(school: School) -> None:
    """By what it does to the pictures, without anything made up."""
    outcome = school.run(school.message(steps=8, optimizer={"learning_rate": 30.0}))
    assert isinstance(outcome, FarmError)
    assert "diverges: its loss of validation grew" in str(outcome)
    assert "learning_rate" in str(outcome)


def test_a_loss_of_validation_that_explodes_is_gone_back_from(
    school: School, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, said = Training.validate, list[int]()

    def validate(self: Training, batch: Tensor) -> Terms:
        found = plain(self, batch)
        if self.steps_done == 4 and len(said) < 2:  # two parts of one look
            said.append(4)
            return {**found, "loss": 1e6}
        return found

    monkeypatch.setattr(Training, "validate", validate)
    outcome = school.run(school.message(steps=6))
    assert isinstance(outcome, Produced)
    assert [text for text in school.said() if "loss of validation grew from" in text]
    assert outcome.facts["rollbacks"] == 1


def test_what_went_back_and_was_stopped_goes_on_to_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: dict[str, Any] = {"steps": 8}
    diverge(monkeypatch, at=5, times=1)
    whole = School(tmp_path)
    expected = whole.trained(whole.message(**said))
    monkeypatch.undo()
    monkeypatch.setattr(train_files, "loss_plot", lambda *_: b"")
    diverge(monkeypatch, at=5, times=1)
    parts = School(tmp_path)
    assert parts.trained_in_parts(parts.message(**said)) == expected


def test_one_that_gets_no_better_ends(school: School, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the looks that come regularly; those at the beginning do not count."""
    plain = Training.validate
    monkeypatch.setattr(Training, "validate", lambda self, batch: {**plain(self, batch), "loss": 1.0})
    said: dict[str, Any] = {"stop": {"improvement": 0.01, "window": 2}, "steps": 30}
    outcome = school.run(school.message(validation={"pictures": 3, "every": 4}, **said))
    assert isinstance(outcome, Produced)
    assert outcome.facts["steps"] == 12
    school.checkpoint = None
    more = school.message(job="j2", extends={"job": "j1", "steps": [3]}, **said)
    outcome = school.run(more)
    assert isinstance(outcome, Produced)
    assert outcome.facts["steps"] == 15, "an extension goes on from where it ended"


def test_looks_come_early_then_regularly_and_at_the_end() -> None:
    assert [step for step in range(1, 901) if is_looked_at(step, 200, 900)] == [
        *(25, 50, 100, 200, 400, 600, 800, 900)
    ]
    assert [step for step in range(1, 8) if is_looked_at(step, 3, 7)] == [1, 3, 6, 7]
