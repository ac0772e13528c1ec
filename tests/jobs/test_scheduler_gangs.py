"""Tasks that need workers for themselves: all they ask for or none, and nobody waits for ever."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.scheduler import CREDITS, TIERS, FreeWorker, RunnableJob, WaitingTask, decide


def job(name: str, first: int = 0, count: int = 1, *, order: int = 0, **more: Any) -> RunnableJob:
    of_job = {key: more.pop(key) for key in ("user", "tier", "priority", "leased") if key in more}
    tasks = [WaitingTask(first + n, name, **more) for n in range(count)]
    return RunnableJob(
        name, **{"user": "ann", "tier": "default", "priority": 50, **of_job}, tasks=tasks, order=order
    )


def workers(*loads: int, **held: int) -> list[FreeWorker]:
    return [
        FreeWorker(f"w{n}", load=load, held_by=held.get(f"w{n}")) for n, load in enumerate(loads, start=1)
    ]


def given_out(
    jobs: list[RunnableJob], to: list[FreeWorker], **usage: float
) -> list[tuple[str, tuple[str, ...]]]:
    return [(a.job, a.workers) for a in decide(0.0, jobs, to, usage)]


# --- who gets what ----------------------------------------------------------------------------------


def test_a_gang_gets_as_many_idle_workers_as_there_are_up_to_its_most():
    assert given_out([job("g", workers=(2, 3))], workers(0, 0, 0, 0)) == [("g", ("w1", "w2", "w3"))]
    assert given_out([job("g", workers=(2, 3))], workers(0, 1, 0)) == [("g", ("w1", "w3"))]


def test_a_gang_gets_no_fewer_than_its_least():
    assert given_out([job("g", workers=(2, 3))], workers(0, 1)) == []
    assert given_out([job("g", workers=(2, 2))], workers(0)) == []


def test_nothing_is_put_beside_a_task_that_has_its_worker_for_itself():
    jobs = [job("x", alone=True, priority=90), job("chunks", 10, 9)]
    assert given_out(jobs, workers(0, 2)) == [("x", ("w1",))]
    assert given_out([job("chunks", 10, 9)], workers(1, w1=7)) == []


def test_workers_that_hold_the_network_come_first_in_a_gang():
    warm = [FreeWorker("w1"), FreeWorker("w2", frozenset({"net"})), FreeWorker("w3", frozenset({"net"}))]
    assert given_out([job("g", workers=(2, 2), affinity="net")], warm) == [("g", ("w2", "w3"))]


def test_a_gang_does_not_wait_for_warm_workers():
    warm = [FreeWorker("w1"), FreeWorker("w2", frozenset({"net"}), 1, 7)]
    assert given_out([job("x", alone=True, affinity="net")], warm) == [("x", ("w1",))]


def test_workers_that_a_gang_failed_on_are_left_out_where_there_are_others_and_taken_where_not():
    again = [job("g", workers=(2, 3), avoid=frozenset({"w1"}))]
    assert given_out(again, workers(0, 0, 0)) == [("g", ("w2", "w3"))]
    assert given_out(again, workers(0, 0)) == [("g", ("w2", "w1"))]
    assert given_out(again, workers(0, 0, 1)) == []
    assert given_out(again, workers(0, 0, 1, w3=7)) == [("g", ("w2", "w1"))]


def test_a_chunk_goes_back_to_the_worker_it_failed_on_when_the_others_are_taken_for_long():
    again = [job("a", avoid=frozenset({"w1"}))]
    assert given_out(again, workers(0, 1, w2=7)) == [("a", ("w1",))]


# --- keeping workers free ---------------------------------------------------------------------------


def test_workers_with_the_fewest_chunks_are_kept_free_for_a_gang_that_comes_first():
    jobs = [job("g", workers=(2, 2), priority=60), job("chunks", 10, 9)]
    assert given_out(jobs, workers(1, 1, 1)) == [("chunks", ("w3",))]
    assert given_out(jobs, workers(2, 1, 0)) == []
    assert given_out(jobs, workers(0, 2, 1)) == []


def test_who_comes_before_a_gang_still_gets_every_credit():
    jobs = [job("g", workers=(2, 2)), job("chunks", 10, 9, priority=60)]
    assert given_out(jobs, workers(1, 1, 0)) == [
        ("chunks", ("w3",)),
        *[("chunks", (f"w{n}",)) for n in (1, 2, 3)],
    ]
    assert given_out([job("g", tier="batch", workers=(2, 2)), job("c", 10, 9)], workers(1, 1)) == [
        ("c", ("w1",)),
        ("c", ("w2",)),
    ]


def test_chunks_go_on_where_a_gang_waits_for_workers_that_are_taken_for_long():
    jobs = [job("g", workers=(2, 2), priority=60), job("chunks", 10, 9)]
    assert given_out(jobs, workers(1, 1, 0, w1=7, w2=7)) == [("chunks", ("w3",)), ("chunks", ("w3",))]


def test_long_tasks_that_come_after_a_waiting_gang_do_not_keep_it_waiting_in_turns():
    """One of two workers is free, the other by a single long task: the next one must not take the first."""
    jobs = [job("g", workers=(2, 2), priority=60), job("long", 10, 9, alone=True)]
    assert given_out(jobs, workers(0, 1, w2=7)) == []
    assert given_out(jobs, workers(0, 0)) == [("g", ("w1", "w2"))]


def test_long_tasks_use_workers_that_a_waiting_gang_cannot_need():
    """When the gang that has two of three ends, the waiting one has enough."""
    jobs = [job("g", workers=(2, 2), priority=60), job("long", 10, 9, alone=True)]
    assert given_out(jobs, workers(1, 1, 0, w1=7, w2=7)) == [("long", ("w3",))]


def test_a_gang_that_is_too_large_for_the_workers_there_are_keeps_nobody_from_anything():
    jobs = [
        job("g", workers=(3, 3), priority=60),
        job("long", 10, 1, alone=True),
        job("chunks", 20, 9, order=1),
    ]
    assert Counter(name for name, _ in given_out(jobs, workers(0, 0))) == {"long": 1, "chunks": 2}


def test_a_suspect_gets_an_idle_worker_even_while_chunks_stream():
    jobs = [job("suspect", alone=True), job("chunks", 10, 9, leased=4)]
    assert given_out(jobs, workers(1, 2)) == []
    assert given_out(jobs, workers(0, 2))[0] == ("suspect", ("w1",))


def test_a_back_off_keeps_nothing_free():
    jobs = [job("g", workers=(2, 2), priority=60, not_before=5.0), job("chunks", 10, 9)]
    assert len(given_out(jobs, workers(1, 1))) == 2


# --- over time --------------------------------------------------------------------------------------


@dataclass
class Running:
    """A task at work: `behind` another one it has not begun."""

    job: str
    task: WaitingTask
    workers: tuple[str, ...]
    left_s: int


class Farm:
    """Plays time: workers do their tasks one after the other; chunks take 2 s, long tasks what they say."""

    def __init__(self, jobs: list[RunnableJob], count: int, takes_s: dict[str, int]) -> None:
        self.jobs = {each.id: each for each in jobs}
        self.names = [f"w{n}" for n in range(1, count + 1)]
        self.takes_s = takes_s
        self.running: list[Running] = []
        self.began_at: dict[int, int] = {}
        self.usage: Counter[str] = Counter()
        self.now_s = 0
        self.served = 0

    def second(self) -> None:
        """Hand out, check what must hold, and let a second pass."""
        for one in decide(self.now_s, list(self.jobs.values()), self._workers(), self.usage):
            of = self.jobs[one.job]
            task = next(t for t in of.tasks if t.id == one.task)
            self.served += 1
            left = [t for t in of.tasks if t.id != one.task]
            self.jobs[of.id] = replace(of, tasks=left, leased=of.leased + 1, served=self.served)
            self.running.append(Running(of.id, task, one.workers, self.takes_s.get(of.id, 2)))
            self.began_at[task.id] = self.now_s
            least, most = task.workers
            assert least <= len(one.workers) == len(set(one.workers)) <= most
        self._check()
        self.now_s += 1
        seen: set[str] = set()
        for run in list(self.running):
            if not seen & set(run.workers):
                run.left_s -= 1
            seen |= set(run.workers)
            if run.left_s <= 0:
                self.running.remove(run)
                of = self.jobs[run.job]
                self.jobs[run.job] = replace(of, leased=of.leased - 1)
                self.usage[of.user] += self.takes_s.get(run.job, 2) * len(run.workers)

    def _workers(self) -> list[FreeWorker]:
        mine = {name: [run for run in self.running if name in run.workers] for name in self.names}
        held = {n: next((r.task.id for r in runs if r.task.for_itself), None) for n, runs in mine.items()}
        return [FreeWorker(name, load=len(runs), held_by=held[name]) for name, runs in mine.items()]

    def _check(self) -> None:
        for worker in self._workers():
            assert worker.load <= (CREDITS if worker.held_by is None else 1)

    def until(self, task: int, patience_s: int) -> int:
        """Return after how many seconds a task began."""
        since = self.now_s
        while task not in self.began_at:
            self.second()
            assert self.now_s - since <= patience_s, f"task {task} has not begun"
        return self.now_s - since


def stream(name: str = "chunks", first: int = 1000, **more: Any) -> RunnableJob:
    return job(name, first, 500, **more)


@pytest.mark.parametrize("count", [2, 3, 5])
def test_a_gang_starts_within_the_time_of_the_chunks_that_run_in_an_endless_stream(count):
    farm = Farm([stream()], count, {})
    for _ in range(5):
        farm.second()
    farm.jobs["g"] = job("g", workers=(2, 2), order=1)
    assert farm.until(0, 10) <= 2 * CREDITS + 1


def test_a_gang_starts_soon_in_an_endless_stream_of_another_user():
    farm = Farm([stream(user="bob")], 3, {})
    for _ in range(5):
        farm.second()
    farm.jobs["g"] = job("g", workers=(2, 2), order=1)
    assert farm.until(0, 10) <= 2 * CREDITS + 1


def test_two_gangs_of_two_on_three_workers_block_neither_each_other_nor_a_folder_job():
    jobs = [job("g1", 1, workers=(2, 2)), job("g2", 2, workers=(2, 2), order=1), stream(order=2)]
    farm = Farm(jobs, 3, {"g1": 30, "g2": 30})
    assert farm.until(1, 10) <= 1
    chunks_before = len(farm.began_at)
    assert farm.until(2, 40) <= 31 + 2 * CREDITS
    assert len(farm.began_at) - chunks_before > 10


def test_a_gang_starts_in_endless_streams_of_single_long_tasks_that_never_end_together():
    takes_s = {"long1": 5, "long2": 7, "long3": 8}
    streams = [stream(name, 1000 * n, alone=True, order=n) for n, name in enumerate(takes_s, start=1)]
    farm = Farm(streams, 3, takes_s)
    for _ in range(6):
        farm.second()
    farm.jobs["g"] = job("g", workers=(3, 3), order=9)
    assert farm.until(0, 40) <= 2 * 8


def test_a_stream_of_small_gangs_does_not_keep_a_large_one_waiting():
    small = [stream(f"small{n}", 1000 * n, workers=(2, 2), order=n) for n in (1, 2)]
    farm = Farm(small, 4, {"small1": 5, "small2": 8})
    for _ in range(6):
        farm.second()
    farm.jobs["g"] = job("g", workers=(3, 4), order=9)
    assert farm.until(0, 40) <= 8 + 8


def test_a_lower_priority_starts_nothing_long_while_a_gang_of_a_higher_one_waits_for_its_last_worker():
    farm = Farm([job("now", 1, alone=True)], 2, {"now": 9})
    farm.second()
    farm.jobs["g"] = job("g", 2, workers=(2, 2), priority=90)
    farm.jobs["later"] = job("later", 3, 5, alone=True, priority=10)
    farm.until(2, 20)
    assert not {3, 4, 5, 6, 7} & farm.began_at.keys()


TASKS = st.builds(
    lambda least, more, alone, avoid: {
        "workers": (least, least + more),
        "alone": alone,
        "avoid": frozenset(avoid),
    },
    st.integers(1, 3),
    st.integers(0, 2),
    st.booleans(),
    st.sets(st.sampled_from(["w1", "w2"])),
)
JOBS = st.lists(
    st.tuples(st.sampled_from(TIERS), st.sampled_from("ab"), st.integers(0, 1), st.lists(TASKS, max_size=4)),
    max_size=5,
)
FARM = st.lists(st.tuples(st.integers(0, CREDITS), st.booleans()), max_size=6)


@given(JOBS, FARM)
def test_whatever_waits_no_worker_is_given_twice_and_no_task_too_few(specs, pool):
    jobs = []
    for n, (tier, user, priority, tasks) in enumerate(specs):
        waiting = [WaitingTask(10 * n + k, f"j{n}", since=-9.0, **task) for k, task in enumerate(tasks)]
        jobs.append(RunnableJob(f"j{n}", user, tier, priority, waiting, order=n))
    known = {task.id: task for each in jobs for task in each.tasks}
    farm = [
        FreeWorker(f"w{n}", load=max(load, held), held_by=99 if held else None)
        for n, (load, held) in enumerate(pool, start=1)
    ]
    chosen = decide(0.0, jobs, farm, {})
    assert len({a.task for a in chosen}) == len(chosen)
    loads = Counter({worker.id: worker.load for worker in farm})
    alone = {worker.id for worker in farm if worker.held_by is not None}
    for given_task in chosen:
        task = known[given_task.task]
        members = given_task.workers
        assert task.workers[0] <= len(members) == len(set(members)) <= task.workers[1]
        assert not alone & set(members)
        for worker in members:
            assert not (task.for_itself and loads[worker])
            loads[worker] += 1
            if task.for_itself:
                alone.add(worker)
    assert all(load <= CREDITS for load in loads.values())


@given(JOBS, st.integers(1, 5))
def test_on_an_idle_farm_something_starts_whenever_something_fits(specs, count):
    jobs = []
    for n, (tier, user, priority, tasks) in enumerate(specs):
        waiting = [WaitingTask(10 * n + k, f"j{n}", since=-9.0, **task) for k, task in enumerate(tasks)]
        jobs.append(RunnableJob(f"j{n}", user, tier, priority, waiting, order=n))
    fits = any(task.workers[0] <= count for each in jobs for task in each.tasks)
    assert bool(decide(0.0, jobs, workers(*[0] * count), {})) is fits
