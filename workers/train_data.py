"""The photographs of a training: decoded ahead of the device, and replaced where they cannot be read."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self

import numpy as np
import torch
from torch import Tensor

from jobs.errors import BadInputError
from workers.images import decode, on_white
from workers.memory import free_bytes
from workers.nst.group import Group
from workers.nst.training_data import CropRule, Pick, crop, pick, stacked
from workers.optimize_gang import gather
from workers.train_recipe import MAX_MEGAPIXELS

READERS = 2
"""Threads that decode."""

_AHEAD = 3
"""Batches that are read and not yet computed."""

_MOST_KEPT_BYTES = 1 << 30
_KEPT_SHARE = 0.1
"""Of the memory that is free when a training begins, for decoded photographs."""

_OTHERS = 16
"""Photographs that are drawn in place of one that cannot be read, before the list is gone through."""

_MIDDLE = Pick(0, 0.0, 0.5, 0.5)


class Photographs:
    """Photographs of a list, decoded no larger than their crops need, and kept as far as there is room.

    Those that came first stay: each epoch has another order, so what came last is no better guess. Any
    thread may ask.

    Args:
        urls: Where they are.
        read: Returns the content of one.
        rule: How crops are cut.
        limit_bytes: What the decoded ones may hold; by default a share of the memory that is free.
        bad: Those that are known not to be readable, each with its reason.
    """

    def __init__(
        self,
        urls: Sequence[str],
        read: Callable[[str], bytes],
        rule: CropRule,
        *,
        limit_bytes: int | None = None,
        bad: dict[int, str] | None = None,
    ) -> None:
        self.bad = dict(bad or {})
        self._urls = urls
        self._read = read
        self._rule = rule
        self._least_px = rule.side_px
        if rule.kind == "random":
            self._least_px = int(rule.side_px * rule.largest_zoom)
        self._limit_bytes = _room_bytes() if limit_bytes is None else limit_bytes
        self._lock = threading.Lock()
        self._kept: dict[int, Tensor] = {}
        self._kept_bytes = 0

    def leave_out(self, bad: Mapping[int, str]) -> None:
        """Take it from somebody else that photographs cannot be read."""
        with self._lock:
            self.bad.update(bad)

    def url(self, number: int) -> str:
        """Return where a photograph is."""
        return self._urls[number]

    def crop_at(self, seed: int, position: int, numbers: Sequence[int]) -> Tensor:
        """Return what a training sees at a position, uint8 `[3, side, side]`.

        Args:
            seed: Of the training.
            position: Crops that were seen before.
            numbers: The photographs to train with.

        Raises:
            BadInputError: If none of them can be read.
        """
        where = pick(seed, position, len(numbers))
        for place in _places(seed, position, len(numbers)):
            if (pixels := self.pixels(numbers[place])) is not None:
                return crop(pixels, self._rule, where)
        number = min(self.bad)
        raise BadInputError(
            f"none of {len(numbers)} photographs can be read, such as {self.url(number)}: {self.bad[number]}"
        )

    def middle(self, number: int) -> Tensor | None:
        """Return the middle of a photograph as large as it can be, uint8 `[3, side, side]`, or None."""
        pixels = self.pixels(number)
        return None if pixels is None else crop(pixels, CropRule(self._rule.side_px, "center"), _MIDDLE)

    def pixels(self, number: int) -> Tensor | None:
        """Return a photograph, uint8 `[H, W, 3]`, transparency on white; None if it cannot be read."""
        with self._lock:
            if number in self.bad:
                return None
            if number in self._kept:
                return self._kept[number]
        try:
            pixels = decoded(self._read(self._urls[number]), self._least_px)
        except BadInputError as error:
            with self._lock:
                self.bad[number] = error.message
            return None
        with self._lock:
            if number not in self._kept and self._kept_bytes + pixels.nbytes <= self._limit_bytes:
                self._kept[number] = pixels
                self._kept_bytes += pixels.nbytes
        return pixels


class Batches:
    """The batches of a training, this member's part of each, made ahead by threads.

    Args:
        photographs: All there are.
        numbers: Those to train with.
        seed: Of the training.
        batch: Photographs of a step.
        part: Rank and size of the group that shares each batch.
    """

    def __init__(
        self,
        photographs: Photographs,
        numbers: Sequence[int],
        seed: int,
        batch: int,
        part: tuple[int, int] = (0, 1),
    ) -> None:
        rank, size = part
        self._places = range(rank * batch // size, (rank + 1) * batch // size)
        self._photographs = photographs
        self._numbers = numbers
        self._seed = seed
        self._batch = batch
        self._pool = ThreadPoolExecutor(READERS, thread_name_prefix="photographs")
        self._ahead: deque[list[Future[Tensor]]] = deque()
        self._next = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._drop()
        self._pool.shutdown(cancel_futures=True)

    def at(self, step: int) -> Tensor:
        """Return the batch of a step, counted from 0, uint8 `[N, 3, side, side]`; the next ones are begun.

        Raises:
            BadInputError: If no photograph can be read.
            StorageError: If the store of the photographs fails.
        """
        if step != self._next:
            self._drop()
            self._next = step
        while len(self._ahead) <= _AHEAD:
            self._ahead.append(self._begun(self._next + len(self._ahead)))
        self._next += 1
        return stacked([crop.result() for crop in self._ahead.popleft()])

    def share_bad(self, group: Group) -> None:
        """Let all members know the photographs that one of them could not read; all call this."""
        if group.size > 1:
            for bad in gather(group, dict(self._photographs.bad)):
                self._photographs.leave_out(bad)

    def _begun(self, step: int) -> list[Future[Tensor]]:
        return [
            self._pool.submit(
                self._photographs.crop_at, self._seed, step * self._batch + place, self._numbers
            )
            for place in self._places
        ]

    def _drop(self) -> None:
        for crops in self._ahead:
            for each in crops:
                each.cancel()
        self._ahead.clear()


def decoded(data: bytes, least_px: int | None = None, longest_px: int | None = None) -> Tensor:
    """Return a picture, uint8 `[H, W, 3]`, upright, transparency on white.

    Args:
        data: The file.
        least_px: What its shorter side is needed at; it may be larger.
        longest_px: The longest side is made no larger than this.

    Raises:
        BadInputError: If it cannot be read.
    """
    picture = decode(data, max_megapixels=MAX_MEGAPIXELS, max_size_px=longest_px, least_px=least_px)
    if picture.alpha is None:
        return torch.from_numpy(picture.pixels)
    return torch.from_numpy(np.array(on_white(picture.pixels, picture.alpha)))


def _places(seed: int, position: int, count: int) -> Iterator[int]:
    """Yield the photograph of a position, and then all others in an order that is always the same."""
    drawn = (pick(seed, position, count, again).index for again in range(_OTHERS + 1))
    last = 0
    for last in drawn:
        yield last
    yield from ((last + step) % count for step in range(1, count))


def _room_bytes() -> int:
    return min(_MOST_KEPT_BYTES, int(free_bytes("cpu") * _KEPT_SHARE))
