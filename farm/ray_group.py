"""Gangs over Ray: their members' letters travel as calls from actor to actor."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import ray
import torch
from ray.exceptions import ActorDiedError, RayError

from jobs.errors import Failure, FarmError
from jobs.tasks import GangPlace, TaskMessage
from workers.mail import AttemptId, Bytes, Letter, MailGroup, MailRoom
from workers.nst.group import Group

log = logging.getLogger(__name__)

_ON_ITS_WAY_BYTES = 64 << 20
"""How much a member sends before the first of it has arrived; Ray's object store must hold it."""

_ON_ITS_WAY = 256
_SHARED_FROM_BYTES = 100_000
"""Ray keeps larger arguments in its object store; for several recipients one copy there is enough."""

_ARRIVE_WITHIN_S = 0.05


class RayGroups:
    """The groups of one worker's attempts, and its mail (`workers.attempt.Groups`)."""

    def __init__(self, device: str) -> None:
        self._device = torch.device(device)
        self._room = MailRoom()
        self._members: dict[AttemptId, Mapping[str, Any]] = {}
        self.deliver = self._room.deliver

    def expect(self, message: TaskMessage, members: Mapping[str, Any]) -> None:
        """Say how to reach the members of the gang of an attempt to come: handles of actors by name."""
        self._members[message.task, message.attempt] = members

    def open(self, message: TaskMessage, place: GangPlace, interrupted: Callable[[], None]) -> Group:
        """Return a member's view of its gang; see `workers.attempt.Groups`."""
        attempt = (message.task, message.attempt)
        members = self._members.get(attempt, {})
        courier = Courier([members.get(name) for name in place.workers], place.workers, interrupted)
        self._room.open(attempt)
        return MailGroup(
            attempt,
            place.rank,
            len(place.workers),
            room=self._room,
            post=courier.post,
            device=self._device,
            interrupted=courier.look,
        )

    def close(self, message: TaskMessage) -> None:
        """Forget an attempt; mail that comes for it later is thrown away."""
        self._room.close((message.task, message.attempt))
        self._members.pop((message.task, message.attempt), None)


class Courier:
    """Carries one member's letters to the others.

    A member that is gone is no error: the controller learns of it and stops the rest.

    Args:
        members: Handles of the actors by rank, None for one that is gone; each has a method `deliver`.
        names: Of the members by rank.
        interrupted: Called while it waits; raises to end that.
    """

    def __init__(
        self, members: list[Any | None], names: tuple[str, ...], interrupted: Callable[[], None]
    ) -> None:
        self._members = members
        self._names = names
        self._interrupted = interrupted
        self._gone: set[int] = set()
        self._away: deque[tuple[Any, int, int]] = deque()
        self._away_bytes = 0

    def post(self, letters: Mapping[int, Letter], content: Bytes) -> None:
        """Send the same content to several members; wait for room when much is on its way.

        Raises:
            FarmError: If an earlier letter was lost, though its recipient lives.
        """
        shared: Any = content
        if len(letters) > 1 and content.nbytes >= _SHARED_FROM_BYTES:
            shared = ray.put(content)
        for rank, letter in letters.items():
            member = self._members[rank]
            if member is None or rank in self._gone:
                self._note_gone(rank, "it was gone before this attempt began")
                continue
            while self._away_bytes + content.nbytes > _ON_ITS_WAY_BYTES or len(self._away) >= _ON_ITS_WAY:
                if not self._arrived(_ARRIVE_WITHIN_S):
                    self._interrupted()
            self._away.append((member.deliver.remote(letter, shared), rank, content.nbytes))
            self._away_bytes += content.nbytes

    def look(self) -> None:
        """Look what has become of letters, and whether to stop waiting.

        Raises:
            FarmError: If a letter was lost, though its recipient lives.
            Exception: What `interrupted` raises.
        """
        self._interrupted()
        while self._away and self._arrived(0):
            pass

    def _arrived(self, within_s: float) -> bool:
        """Return whether the oldest letter on its way has arrived, or never will."""
        answer, rank, size_bytes = self._away[0]
        if not ray.wait([answer], timeout=within_s)[0]:
            return False
        self._away.popleft()
        self._away_bytes -= size_bytes
        try:
            ray.get(answer)
        except ActorDiedError as error:
            self._note_gone(rank, str(error).partition("\n")[0])
        except RayError as error:
            reason = str(error).partition("\n")[0]
            lost = FarmError(
                f"a message to {self._names[rank]}, which runs this task too, was lost: {reason}"
            )
            lost.failure = Failure.WORKER_LOST
            raise lost from error
        return True

    def _note_gone(self, rank: int, reason: str) -> None:
        if rank not in self._gone:
            self._gone.add(rank)
            log.warning("%s cannot be written to any more: %s", self._names[rank], reason)
