"""The models that a worker keeps loaded: the least recently used ones go when there are too many bytes."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

ModelKey = tuple[str, str]
"""Content hash of the file, and what it was loaded as (precision and device)."""


class ModelCache:
    """Loaded models within a limit of bytes; any thread may ask.

    Args:
        limit_bytes: What the models may hold together. One that is larger by itself is loaded and used, and
            is the only one kept until another is asked for.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.loads = 0
        self._lock = threading.Lock()
        self._loading: dict[ModelKey, threading.Lock] = {}
        self._models: OrderedDict[ModelKey, tuple[Any, int]] = OrderedDict()

    @property
    def held_bytes(self) -> int:
        """What the models hold together."""
        with self._lock:
            return self._held_bytes()

    def holds(self) -> tuple[str, ...]:
        """Return the content hashes of the models, least recently used first, each once."""
        with self._lock:
            latest_first = dict.fromkeys(sha256 for sha256, _ in reversed(self._models))
            return tuple(reversed(latest_first))

    def get(self, key: ModelKey, load: Callable[[], tuple[Any, int]]) -> Any:
        """Return the model of this key.

        Args:
            key: What it is.
            load: Returns the model and its bytes. It is called only if the model is not here, by one thread
                at a time for a key; while it runs, other models can be had. What it raises is raised here,
                and the next to ask tries again.
        """
        with self._lock:
            loading = self._loading.setdefault(key, threading.Lock())
        with loading:
            with self._lock:
                if key in self._models:
                    self._models.move_to_end(key)
                    return self._models[key][0]
            model, size_bytes = load()
            with self._lock:
                self.loads += 1
                self._models[key] = model, size_bytes
                while self._held_bytes() > self.limit_bytes and len(self._models) > 1:
                    self._models.popitem(last=False)
            return model

    def _held_bytes(self) -> int:
        return sum(size_bytes for _, size_bytes in self._models.values())
