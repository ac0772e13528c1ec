"""The course of a training on one member of a gang: steps, looks at it, and back where it went wrong."""

from __future__ import annotations

from collections.abc import Callable

from jobs.errors import BadInputError
from workers.nst.group import Group
from workers.nst.training import Training, TrainingDivergedError
from workers.optimize_gang import agree
from workers.train_data import Batches
from workers.train_notes import Notes
from workers.train_state import EngineState, Position

MOST_ROLLBACKS = 4
"""To one state; then it is given up."""

_SLOWER = 0.5
"""Factor on the learning rate after each."""


class DivergedError(BadInputError):
    """A training goes wrong again and again; all members find that."""


class Course:
    """A training from where it stands to its end; all members make the same calls.

    Args:
        training: Of this member.
        batches: Its part of each.
        group: Who trains together.
        position: Where it stands; the same on all members.
        every: Steps from one look at it to the next; see `is_looked_at`.
        notes: Of member 0.
    """

    def __init__(
        self,
        training: Training,
        batches: Batches,
        group: Group,
        position: Position,
        *,
        every: int,
        notes: Notes | None,
    ) -> None:
        self.training = training
        self._batches = batches
        self._group = group
        self._total = position.total
        self._every = every
        self._notes = notes
        if position.engine is not None:
            training.load_state_dict(position.engine)
        self._good: EngineState = position.good or training.state_dict()
        self._tries = position.tries

    def run(self, should_stop: Callable[[], bool]) -> bool:
        """Train to the end; return whether it was reached, or the state was kept where it was told to stop.

        Raises:
            DivergedError: If it goes wrong again and again.
            BadInputError: If no photograph can be read.
        """
        training, notes = self.training, self._notes
        if training.steps_done == 0:
            self._look()
        while training.steps_done < self._total:
            asked = [should_stop(), notes.is_due()] if notes else [False, False]
            stop, keep = agree(self._group, asked)
            if (stop or keep) and notes:
                notes.keep_state(self.position(), going_on=not stop)
            if stop:
                return False
            if self._step() and is_looked_at(training.steps_done, self._every, self._total) and self._look():
                break
        return True

    def position(self) -> Position:
        """Return where it stands."""
        engine = self.training.state_dict()
        same = engine["steps_done"] == self._good["steps_done"]
        return Position(self._total, engine, None if same else self._good, self._tries)

    def _step(self) -> bool:
        """Learn from a batch; return whether that went well, or it had to go back."""
        training = self.training
        batch = self._batches.at(training.steps_done)
        try:
            terms = training.step(batch, training.recipe.batch)
        except TrainingDivergedError as error:
            self._go_back(str(error))
            return False
        if self._notes:
            self._notes.stepped(terms, training.steps_done)
        return True

    def _look(self) -> bool:
        """Look at the pictures that it makes now; return whether it is good enough to end."""
        self._batches.share_bad(self._group)
        notes, reason, enough = self._notes, "", False
        if notes:
            reason, enough = notes.looked(self.training)
        sound = notes is not None and not notes.trouble
        wrong, enough, sound = agree(self._group, [bool(reason), enough, sound])
        if wrong:
            self._go_back(reason)
            return False
        if sound and self.training.steps_done > self._good["steps_done"]:
            self._good, self._tries = self.training.state_dict(), 0
        return enough

    def _go_back(self, reason: str) -> None:
        """Go on from the last good state, more slowly.

        Raises:
            DivergedError: If that was tried too often.
        """
        training, at = self.training, self.training.steps_done
        self._tries += 1
        if self._tries > MOST_ROLLBACKS:
            raise DivergedError(
                f"the training diverges: {reason}; it went back to step {self._good['steps_done']} "
                f"{MOST_ROLLBACKS} times, in the end with a learning rate {1 / training.rate_factor:g} times "
                "smaller",
                "use a smaller learning_rate, or less style_weight",
            )
        factor = training.rate_factor * _SLOWER
        training.load_state_dict(self._good)
        training.rate_factor = factor
        if self._notes:
            self._notes.went_back(at, training, reason)


def is_looked_at(step: int, every: int, total: int) -> bool:
    """Return whether a training is looked at after a step: soon after it began, regularly, and at the end.

    Args:
        step: Steps that are done, at least 1.
        every: Steps from one look to the next; the first ones come after an eighth, a fourth and a half.
        total: Steps of the training.
    """
    early = {every // part for part in (8, 4, 2)}
    return step % every == 0 or step == total or step in early
