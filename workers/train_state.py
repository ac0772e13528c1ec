"""The state of a training as it is kept: for later attempts, and for extensions of what is finished."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Any

from workers.optimize_gang import packed, unpacked
from workers.train_files import Sheet, Trace, Validation

KEPT_VERSION = 1

log = logging.getLogger(__name__)

EngineState = dict[str, Any]
"""What `workers.nst.training.Training.state_dict` returns."""


@dataclass(slots=True)
class Diary:
    """What a training has been through.

    Attributes:
        trace: The losses of all steps; those that were taken back are not in it.
        validations: What was seen on the way, in order.
        rollbacks: Times that it went back: `at` and `to` which step, why, and the factor on its rate since.
        bad: Photographs that cannot be read, by number, with the reason.
        sheet: Test pictures over time.
        seconds: That all attempts trained.
    """

    trace: Trace = field(default_factory=Trace)
    validations: list[Validation] = field(default_factory=list)
    rollbacks: list[dict[str, Any]] = field(default_factory=list)
    bad: dict[int, str] = field(default_factory=dict)
    sheet: Sheet = field(default_factory=Sheet)
    seconds: float = 0.0

    def cut(self, step: int) -> None:
        """Forget what came after a step."""
        self.trace.cut(step)
        self.sheet.cut(step)
        self.validations = [each for each in self.validations if each["step"] <= step]

    def to_words(self) -> dict[str, Any]:
        """Return it as plain values and tensors."""
        return {
            "trace": self.trace.to_words(),
            "validations": self.validations,
            "rollbacks": self.rollbacks,
            "bad": self.bad,
            "sheet": self.sheet.to_words(),
            "seconds": self.seconds,
        }

    @classmethod
    def from_words(cls, words: dict[str, Any]) -> Diary:
        """Return what `to_words` gave."""
        return cls(
            Trace.from_words(words["trace"]),
            list(words["validations"]),
            list(words["rollbacks"]),
            dict(words["bad"]),
            Sheet.from_words(words["sheet"]),
            float(words["seconds"]),
        )


@dataclass(slots=True)
class Position:
    """Where a training stands; every member of a gang has the same.

    Attributes:
        total: Steps that it is to have.
        engine: State of the engine; None before the first step.
        good: The last one whose pictures were all right, to go back to; None if that is `engine`.
        tries: How often it went back there.
    """

    total: int
    engine: EngineState | None = None
    good: EngineState | None = None
    tries: int = 0

    def to_words(self) -> dict[str, Any]:
        """Return it as plain values and tensors."""
        return {"total": self.total, "engine": self.engine, "good": self.good, "tries": self.tries}


@dataclass(frozen=True, slots=True)
class Kept:
    """A state of a training.

    Attributes:
        fingerprint: Of the training: with others the state is good for nothing.
    """

    fingerprint: str
    position: Position
    diary: Diary

    def packed(self) -> bytes:
        """Return it as bytes."""
        return packed(
            {
                "version": KEPT_VERSION,
                "fingerprint": self.fingerprint,
                "position": self.position.to_words(),
                "diary": self.diary.to_words(),
            }
        )


def read_kept(data: bytes | None) -> Kept | None:
    """Return what was kept, or None if there is nothing, or nothing that this version can read."""
    if data is None:
        return None
    try:
        words = unpacked(data)
        if words["version"] != KEPT_VERSION:
            return None
        position, diary = Position(**words["position"]), Diary.from_words(words["diary"])
        return Kept(words["fingerprint"], position, diary)
    except Exception as error:  # noqa: BLE001 - what a damaged file makes torch raise is anything
        log.warning("a state that was kept cannot be read: %s", error)
        return None
