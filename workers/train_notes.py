"""What the first member of a gang lets people see of a training, and keeps of it."""

from __future__ import annotations

import time
from collections.abc import Callable

from jobs.errors import StorageError
from jobs.optimize import state_name
from workers import train_files as files
from workers.kinds import Context
from workers.nst.training import Terms, Training
from workers.train_looks import Looks, is_young, named_bad
from workers.train_recipe import fingerprint
from workers.train_state import Diary, Kept, Position
from workers.train_studio import Data, Studio

_SAID_EVERY_S = 0.2
_SAVING_SHARE = 0.1
"""Of the time, for keeping states, where seconds say how often."""

_PLOTTED_EVERY_S = 10.0
_PLOTTING_SHARE = 0.02
"""Of the time, for traces and plots beside those with a checkpoint."""


class Notes:
    """What is told of one training, and kept of it.

    Args:
        context: Of the attempt.
        studio: What trains.
        data: Its photographs.
        diary: What it has been through.
        total: Steps that it is to have.
        clock: Seconds.

    Raises:
        BadInputError: If no picture to validate with can be read.
    """

    def __init__(
        self,
        context: Context,
        studio: Studio,
        data: Data,
        diary: Diary,
        total: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.diary = diary
        self.trouble = ""
        self.steps_here = 0
        self._context = context
        self._studio = studio
        self._payload = studio.payload
        self._key = studio.key
        self._data = data
        self._total = total
        self._clock = clock
        self._step = len(diary.trace)
        self._rate_factor = 1.0
        self._said_at = self._kept_at = self._counted_at = self._plotted_at = clock()
        self._kept_step = self._step
        self._saving_s = self._plotting_s = 0.0
        self._said = (-1, 0)
        self._warned: set[str] = set()
        self._looks = Looks(context, studio, data, self.say)

    # While it runs.

    def stepped(self, terms: Terms, step: int) -> None:
        """Take in a step that was learned from, counted from 1."""
        self.diary.trace.add(terms)
        self._step = step
        self.steps_here += 1
        if self._clock() - self._said_at >= _SAID_EVERY_S:
            self._say()

    def is_due(self) -> bool:
        """Return whether to keep the state now."""
        rule = self._payload.checkpoint
        since_s = self._clock() - self._kept_at
        steps = self._step - self._kept_step
        return steps > 0 and (
            (rule.steps is not None and steps >= rule.steps)
            or since_s >= max(rule.seconds, self._saving_s / _SAVING_SHARE)
        )

    def looked(self, training: Training) -> tuple[str, bool]:
        """Look at a training, and show it; return what is wrong with it, and whether it may end here.

        A young network may make pictures of one color, and any may leap at first: nothing is wrong with that
        yet. So the looks before the first regular one only show it.
        """
        step, diary = training.steps_done, self.diary
        diary.validations = [each for each in diary.validations if each["step"] < step]
        look = self._looks.look(training, diary.validations)
        diary.validations.append(look)
        self._step, self._rate_factor, self.trouble = step, training.rate_factor, look["trouble"]
        self._name_bad()
        self._say()
        if look.get("loss") is not None:
            text = f"{self._payload.style}: after {step} steps the loss of validation is {look['loss']:.4g}"
            self._context.emit("validation", {"item": self._key, "text": text, **look})
        early = bool(step % self._payload.validation.every) and step != self._total
        if self.trouble and not early and not is_young(diary.validations):
            return self.trouble, False
        if step:
            self._show(training)
        return "", bool(step) and self._looks.is_enough(diary.validations)

    def went_back(self, at: int, training: Training, reason: str) -> None:
        """Take in that the training went back from a step to where it stands now."""
        step, self._rate_factor = training.steps_done, training.rate_factor
        rate = training.recipe.rate_at(step) * training.rate_factor
        self.diary.rollbacks.append(
            {"at": at, "to": step, "reason": reason, "rate_factor": self._rate_factor}
        )
        self.diary.cut(step)
        self._step = self._kept_step = step
        text = f"{reason}: back from step {at} to {step}, and on with a learning rate of {rate:.3g}"
        self._context.emit("message", {"text": f"{self._payload.style}: {text}"})

    def keep_state(self, position: Position, *, going_on: bool) -> None:
        """Keep the state for later attempts, and the traces up to it.

        A training that goes on holds all it needs: it does without where the store fails, and tries again
        when the next state is due.

        Raises:
            StorageError: If it could not be kept and the training does not go on.
        """
        begin = self._clock()
        self._name_bad()
        self._count_time()
        try:
            self._context.save_checkpoint(self._packed(position))
        except StorageError as error:
            if not going_on:
                raise
            self._warn("a checkpoint", error)
        self._keep_traces()
        self._say()
        self._kept_at = self._clock()
        self._saving_s = self._kept_at - begin
        self._kept_step = self._step

    # When it is done.

    def finished(self, position: Position) -> None:
        """Keep what is of use later: the last state, the traces and their plot."""
        if self._step > self._kept_step:
            self.keep_state(position, going_on=True)
        self._name_bad()
        self._count_time()
        self._say()
        try:
            self._context.keep_state(state_name(self._key), self._packed(position))
        except StorageError as error:
            self._warn(state_name(self._key), error)
        self._keep_traces(plotted=True)

    def failed(self) -> None:
        """Keep the traces of a training that went wrong."""
        self._name_bad()
        self._keep_traces(plotted=True)

    def keep_aside(self, name: str, data: bytes) -> bool:
        """Keep a file that the style can do without; return whether that went well."""
        try:
            self._context.keep_file(name, data)
        except StorageError as error:
            self._warn(name, error)
            return False
        return True

    def say(self, text: str) -> None:
        """Let a message be read."""
        self._context.emit("message", {"text": f"{self._payload.style}: {text}"})

    def _show(self, training: Training) -> None:
        pictures = self._looks.pictures(training)
        if pictures:
            for number, picture in enumerate(pictures, 1):
                name = files.preview_name(self._key, training.steps_done, number)
                self.keep_aside(name, files.jpeg(picture))
            self.diary.sheet.add(training.steps_done, pictures)
            name = files.sheet_name(self._key)
            if self.keep_aside(name, self.diary.sheet.encoded()):
                self._context.emit("preview", {"item": self._key, "file": name})
        since_s = self._clock() - self._plotted_at
        if since_s >= max(_PLOTTED_EVERY_S, self._plotting_s / _PLOTTING_SHARE):
            self._keep_traces(plotted=True)

    def _name_bad(self) -> None:
        """Say which photographs are left out, each once."""
        photographs = self._data.photographs
        news = {number: why for number, why in [*photographs.bad.items()] if number not in self.diary.bad}
        self.diary.bad.update(news)
        if news:
            count = f"; {len(self.diary.bad)} in all" if len(self.diary.bad) > len(news) else ""
            self.say(f"{named_bad(photographs.url, news)}{count}")

    # Keeping.

    def _packed(self, position: Position) -> bytes:
        return Kept(fingerprint(self._payload), position, self.diary).packed()

    def _keep_traces(self, *, plotted: bool = False) -> None:
        begin = self._clock()
        self.keep_aside(files.trace_name(self._key), self.diary.trace.lines())
        name = files.validations_name(self._key)
        self.keep_aside(name, files.validation_lines(self.diary.validations))
        if len(self.diary.trace) and plotted:
            plot = files.loss_plot(self.diary.trace, self.diary.validations, self._payload.style)
            self.keep_aside(files.plot_name(self._key), plot)
            self._plotted_at = self._clock()
            self._plotting_s = self._plotted_at - begin

    def _warn(self, what: str, error: StorageError) -> None:
        """Say once that something could not be kept."""
        if what not in self._warned:
            self._warned.add(what)
            self.say(f"{what} could not be kept: {error}")

    def _count_time(self) -> None:
        now = self._clock()
        self.diary.seconds += now - self._counted_at
        self._counted_at = now

    def _say(self) -> None:
        """Say where the training is."""
        step, trace = self._step, self.diary.trace
        news = (step, len(self.diary.validations))
        self._said_at = self._clock()
        if news == self._said:
            return
        self._said = news
        self._context.progress(step / self._total, f"step {step} of {self._total}")
        if not len(trace):
            return
        terms = trace.at(len(trace) - 1)
        judged = [each["loss"] for each in self.diary.validations if each.get("loss") is not None]
        recipe = self._studio.recipe
        self._context.emit(
            "loss",
            {
                "item": self._key,
                "scale": 0,
                "size_px": recipe.crop.side_px,
                "iteration": step,
                "evaluations": step,
                "budget": self._total,
                "loss": terms.pop("loss"),
                "terms": terms,
                "validation_loss": judged[-1] if judged else None,
                "learning_rate": recipe.rate_at(max(0, step - 1)) * self._rate_factor,
                "seconds": round(self.diary.seconds + self._clock() - self._counted_at, 3),
            },
        )
