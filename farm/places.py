"""Where workers find a place on the nodes of a cluster: how many, and what each asks for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

Node = Mapping[str, float]
"""What a node offers by the names that Ray gives it: `CPU` (cores), `GPU`."""


class Places:
    """The room for workers on the nodes there are; `nodes` may be replaced when others come.

    Args:
        nodes: There are now.
        workers: How many are wanted at first; None for one per GPU, or one where there is no GPU.
        max_workers: How many the user allows, or None for as many as find a place.
        threads: Compute threads of each, or None to share the cores among them.
        device: `cpu`, `cuda`, or `auto` for a GPU where a node has one.
        share: Part of a GPU that each takes, above 0 and up to 1.
    """

    def __init__(
        self,
        nodes: Sequence[Node],
        *,
        workers: int | None,
        max_workers: int | None,
        threads: int | None,
        device: str,
        share: float = 1.0,
    ) -> None:
        self.nodes = nodes
        self._most = max_workers
        self._own_threads = threads
        self.share = share
        gpus, cores = self._total("GPU"), self._total("CPU")
        self.on_gpu = device == "cuda" or (device == "auto" and gpus > 0)
        on_gpus = sum(map(self._on_gpus, nodes)) if self.on_gpu else 0
        self.least = workers if workers is not None else max(1, on_gpus)
        places = max(self.least, max_workers or 1, on_gpus)
        # A core at most, whatever its threads: else those that come later, for a gang, would find no place.
        # And a little less than its share, so that rounding never leaves the last one without.
        self.request = {"CPU": round(min(1.0, cores / places) * 0.99, 3)} | (
            {"GPU": share} if self.on_gpu else {}
        )

    def threads(self, count: int) -> int:
        """Return the compute threads of one of so many workers: its share, and no more than a node has."""
        share = self._total("CPU") / max(1, count, self._most or 1)
        cores = max((node.get("CPU", 0.0) for node in self.nodes), default=0.0)
        return self._own_threads or max(1, int(min(share, cores)))

    def capacity(self) -> int:
        """Return how many workers find a place, of those the user allows; never fewer than at first."""
        places = sum(map(self._on_node, self.nodes))
        return max(self.least, min(places, self._most or places))

    def _on_node(self, node: Node) -> int:
        asked = self.request["CPU"]
        by_cores = int(node.get("CPU", 0.0) / asked) if asked else None
        if not self.on_gpu:
            return by_cores or 0
        return min(self._on_gpus(node), self._on_gpus(node) if by_cores is None else by_cores)

    def _on_gpus(self, node: Node) -> int:
        """Return how many workers the GPUs of a node have a place for: none has its share of two of them."""
        return int(node.get("GPU", 0.0)) * int(1 / self.share + 1e-6)

    def _total(self, name: str) -> float:
        return sum(node.get(name, 0.0) for node in self.nodes)
