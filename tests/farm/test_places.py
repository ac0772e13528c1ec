"""Places for workers: those that come later find one, and no GPU waits for a core."""

from __future__ import annotations

from typing import Any

import pytest

from farm.places import Node, Places

EIGHT: Node = {"CPU": 8.0}
TWO: Node = {"CPU": 2.0}
FOUR_GPUS: Node = {"CPU": 8.0, "GPU": 4.0}
CROWDED: Node = {"CPU": 2.0, "GPU": 8.0}


def places(*nodes: Node, **options: Any) -> Places:
    return Places(
        nodes, **{"workers": None, "max_workers": None, "threads": None, "device": "auto"} | options
    )


@pytest.mark.parametrize(
    ("nodes", "options", "least", "capacity"),
    [
        ([TWO], {}, 1, 2),
        ([TWO], {"workers": 5}, 5, 5),
        ([TWO], {"max_workers": 4}, 1, 4),
        ([EIGHT, TWO], {}, 1, 10),
        ([EIGHT], {"max_workers": 3}, 1, 3),
        ([EIGHT], {"workers": 4, "max_workers": 2}, 4, 4),
        ([FOUR_GPUS, EIGHT], {}, 4, 4),
        ([FOUR_GPUS], {"device": "cpu"}, 1, 8),
        ([FOUR_GPUS], {"workers": 2}, 2, 4),
        ([CROWDED], {}, 8, 8),
        ([{"CPU": 0.5}], {}, 1, 1),
        ([], {}, 1, 1),
        ([TWO], {"device": "cuda"}, 1, 1),
        ([TWO], {"workers": 0}, 0, 2),
        ([{"CPU": 8.0, "GPU": 1.0}], {"share": 0.5}, 2, 2),
        ([FOUR_GPUS], {"share": 0.5}, 8, 8),
        ([FOUR_GPUS], {"share": 0.4}, 8, 8),
        ([FOUR_GPUS], {"share": 1 / 3}, 12, 12),
        ([FOUR_GPUS], {"share": 0.6}, 4, 4),
        ([FOUR_GPUS], {"share": 0.5, "max_workers": 6}, 8, 8),
        ([FOUR_GPUS], {"share": 0.5, "workers": 3, "max_workers": 6}, 3, 6),
        ([TWO], {"share": 0.5}, 1, 2),
    ],
)
def test_there_are_as_many_places_as_cores_or_gpus_and_never_fewer_than_workers_at_first(
    nodes, options, least, capacity
):
    there = places(*nodes, **options)
    assert (there.least, there.capacity()) == (least, capacity)


@pytest.mark.parametrize(
    ("nodes", "options"),
    [
        ([TWO], {"workers": 5}),
        ([TWO], {"workers": 3, "max_workers": 7}),
        ([CROWDED], {}),
        ([EIGHT], {"threads": 8}),
        ([EIGHT], {"workers": 8}),
        ([FOUR_GPUS], {"share": 0.25}),
        ([CROWDED], {"share": 0.3}),
    ],
)
def test_all_that_are_allowed_find_a_place(nodes, options):
    there = places(*nodes, **options)
    count = max(there.least, options.get("max_workers") or 0)
    for name, asked in there.request.items():
        assert asked * count <= sum(node[name] for node in nodes)


def test_a_worker_asks_for_a_core_at_most_and_computes_with_its_share():
    there = places(EIGHT)
    assert there.request == {"CPU": 0.99}
    assert [there.threads(count) for count in (0, 1, 2, 3, 20)] == [8, 8, 4, 2, 1]


def test_a_worker_asks_for_its_share_of_a_gpu_where_there_is_one():
    assert places(FOUR_GPUS, share=0.5).request == {"CPU": 0.99, "GPU": 0.5}
    assert places(EIGHT, share=0.5).request == {"CPU": 0.99}


def test_threads_that_the_user_chose_stay():
    assert [places(EIGHT, threads=3).threads(count) for count in (1, 8)] == [3, 3]


def test_a_share_counts_those_that_may_come_and_no_more_cores_than_a_node_has():
    assert places(EIGHT, max_workers=4).threads(1) == 2
    assert places(EIGHT, EIGHT).threads(1) == 8
    assert places(EIGHT, EIGHT).threads(4) == 4


def test_nodes_that_come_later_count():
    there = places(TWO)
    there.nodes = [TWO, EIGHT]
    assert there.capacity() == 10
