"""Looking at a training on its way: its loss over pictures it does not see, and what it makes of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import PurePosixPath
from typing import Any

from torch import Tensor

from jobs.errors import BadInputError
from workers.kinds import Context
from workers.nst.stopping import Stopping
from workers.nst.training import Training
from workers.nst.training_data import stacked
from workers.train_data import decoded
from workers.train_files import PREVIEW_PX, Validation
from workers.train_studio import Data, Studio

_TEST_PICTURES = 3
_LOOKED_AT = 8
"""Crops whose pictures are looked at for what is wrong with them."""

_YOUNG_STEPS = 1000
"""A network that has not made a sound picture yet may need so many steps to reach the range of colors."""

_LOST_FACTOR = 10.0
"""A loss of validation so many times the best one is no loss that training leads to."""


class Looks:
    """What a training is judged by, and shown with.

    Args:
        context: Of the attempt.
        studio: What trains.
        data: Its photographs.
        say: Takes what should be read.

    Raises:
        BadInputError: If no picture to validate with can be read.
    """

    def __init__(self, context: Context, studio: Studio, data: Data, say: Callable[[str], None]) -> None:
        self._context = context
        self._payload = studio.payload
        self._data = data
        self._say = say
        self._crops = self._judged_crops()
        self._tests = self._test_pictures()

    def look(self, training: Training, before: Sequence[Validation]) -> Validation:
        """Look at a training.

        Args:
            training: As it stands.
            before: What was seen at earlier steps.
        """
        terms: dict[str, float] = {}
        if self._data.judged:
            size = training.recipe.batch
            for begin in range(0, len(self._crops), size):
                part = self._crops[begin : begin + size]
                share = len(part) / len(self._crops)
                for name, value in training.validate(stacked(part)).items():
                    terms[name] = terms.get(name, 0.0) + share * value
        seen = training.look(stacked(self._crops[:_LOOKED_AT]))
        trouble = seen.trouble or _trouble(terms, before)
        return {"step": training.steps_done, **_as_json({**terms, **asdict(seen)}), "trouble": trouble}

    def pictures(self, training: Training) -> list[Tensor]:
        """Return the test pictures in the style as it is now, uint8 `[H, W, 3]`, or none."""
        try:
            return [training.render(picture) for picture in self._tests]
        except ValueError as error:
            self._say(f"no test pictures after {training.steps_done} steps: {error}")
            return []

    def is_enough(self, validations: Sequence[Validation]) -> bool:
        """Return whether a rule ends the training after the last of these.

        An extension does all its steps: they were asked for.
        """
        rule, every = self._payload.stop, self._payload.validation.every
        if self._payload.extends is not None or rule.improvement is None or validations[-1]["step"] % every:
            return False
        regular = [each["loss"] for each in validations if each["step"] and each["step"] % every == 0]
        losses = [loss for loss in regular if loss is not None]
        return Stopping(rule.improvement, rule.window).is_good_enough(losses)

    def _judged_crops(self) -> list[Tensor]:
        """Return the middles of the pictures to validate with, or to look at where there are none."""
        data = self._data
        numbers, photographs = data.judged, data.judging
        if not numbers:
            numbers, photographs = data.trained, data.photographs
        crops: list[Tensor] = []
        for number in numbers:
            middle = photographs.middle(number)
            crops += [] if middle is None else [middle]
            if not data.judged and len(crops) == _LOOKED_AT:
                break
        if photographs is not data.photographs and photographs.bad:
            self._say(f"{named_bad(photographs.url, photographs.bad)} of the pictures to validate with")
        if not crops:
            first = numbers[0]
            raise BadInputError(
                f"none of {len(numbers)} pictures to validate with can be read, such as "
                f"{photographs.url(first)}: {photographs.bad[first]}",
                "name others: validation.data",
            )
        return crops

    def _test_pictures(self) -> list[Tensor]:
        pictures: list[Tensor] = []
        for ref in self._payload.test_images:
            pictures += self._read(ref.name, self._context.asset(ref.sha256).read_bytes())
        if self._payload.test_images:
            return pictures
        judging = self._data.judging
        sound = [number for number in self._data.judged if number not in judging.bad]
        for number in sound[:_TEST_PICTURES]:
            pictures += self._read(judging.url(number), self._context.read(judging.url(number)))
        return pictures

    def _read(self, name: str, data: bytes) -> list[Tensor]:
        try:
            return [decoded(data, PREVIEW_PX, PREVIEW_PX)]
        except BadInputError as error:
            self._say(f"the test picture {PurePosixPath(name).name} is left out: {error}")
            return []


def is_young(validations: Sequence[Validation]) -> bool:
    """Return whether a network has not made a sound picture yet, and still has time for that."""
    sound = any(not each["trouble"] for each in validations)
    return not sound and bool(validations[-1]["step"] < _YOUNG_STEPS)


def named_bad(url: Callable[[int], str], bad: dict[int, str]) -> str:
    """Return a line that names photographs that are left out, the first of them with its reason."""
    numbers = sorted(bad)
    first = ", ".join(f"{PurePosixPath(url(number)).name} ({bad[number]})" for number in numbers[:3])
    more = f" and {len(numbers) - 3} more" if len(numbers) > 3 else ""
    return f"{first}{more} left out"


def _trouble(terms: dict[str, float], before: Sequence[Validation]) -> str:
    """Return what is wrong with a loss of validation, or an empty string."""
    if not terms:
        return ""
    loss = terms["loss"]
    if not math.isfinite(loss):
        return "its loss of validation is no number"
    best = min((each["loss"] for each in before if each["loss"] is not None), default=math.inf)
    if loss > _LOST_FACTOR * best:
        return f"its loss of validation grew from {best:.3g} to {loss:.3g}"
    return ""


def _as_json(numbers: dict[str, float]) -> dict[str, Any]:
    return {name: value if math.isfinite(value) else None for name, value in numbers.items()}
