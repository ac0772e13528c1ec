"""Which task goes where, and what is tried again: values in, values out."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.errors import Failure
from jobs.scheduler import (
    AFFINITY_WAIT_S,
    BUDGETS,
    CREDITS,
    TIERS,
    FreeWorker,
    RunnableJob,
    WaitingTask,
    decayed,
    decide,
    retry_delay_s,
    too_many_failed,
    wanted_workers,
)


def job(name, count=4, *, user="ann", tier="default", priority=50, model="", order=0, first=0, **task):
    tasks = [WaitingTask(first + n, name, model, **task) for n in range(count)]
    return RunnableJob(name, user, tier, priority, tasks, order=order)


def jobs_of(assignments):
    return [assignment.job for assignment in assignments]


def workers_of(assignments):
    return [worker for assignment in assignments for worker in assignment.workers]


def test_idle_workers_are_filled_before_any_gets_a_second_chunk():
    chosen = decide(0, [job("a")], [FreeWorker("w1"), FreeWorker("w2"), FreeWorker("w3", load=1)], {})
    assert [a.workers for a in chosen[:2]] == [("w1",), ("w2",)]
    assert len(chosen) == 4


def test_no_worker_gets_more_than_its_credits():
    chosen = decide(
        0, [job("a", 50)], [FreeWorker("w1"), FreeWorker("w2", load=1), FreeWorker("w3", load=CREDITS)], {}
    )
    assert Counter(workers_of(chosen)) == {"w1": 2, "w2": 1}


def test_a_higher_tier_takes_everything_it_can_use():
    chosen = decide(
        0,
        [job("slow", tier="batch", priority=100), job("now", 9, tier="rush", priority=0, first=10)],
        [FreeWorker("w1")],
        {},
    )
    assert jobs_of(chosen) == ["now", "now"]


def test_inside_a_tier_the_user_who_used_least_goes_first():
    jobs = [job("a", user="ann", priority=100), job("b", user="bob", priority=0, first=10)]
    assert jobs_of(decide(0, jobs, [FreeWorker("w1", load=1)], {"ann": 5.0, "bob": 4.0})) == ["b"]
    assert jobs_of(decide(0, jobs, [FreeWorker("w1", load=1)], {"ann": 4.0, "bob": 5.0})) == ["a"]


def test_tasks_just_handed_out_count_as_use_so_that_two_users_share():
    jobs = [job("a", 9, user="ann"), job("b", 9, user="bob", first=10)]
    chosen = decide(0, jobs, [FreeWorker(f"w{n}") for n in range(3)], {})
    assert Counter(jobs_of(chosen)) == {"a": 3, "b": 3}


def test_inside_a_user_higher_priority_is_strict():
    jobs = [job("low", priority=10), job("high", 9, priority=11, first=10)]
    assert set(jobs_of(decide(0, jobs, [FreeWorker("w1"), FreeWorker("w2")], {}))) == {"high"}


def test_equal_priorities_take_turns():
    jobs = [job("a", order=1), job("b", order=2, first=10)]
    assert jobs_of(decide(0, jobs, [FreeWorker("w1"), FreeWorker("w2")], {})) == ["a", "b", "a", "b"]


def test_a_job_that_waits_for_its_back_off_does_not_hold_up_the_next():
    jobs = [job("first", priority=90, not_before=5.0), job("second", first=10)]
    assert set(jobs_of(decide(4.9, jobs, [FreeWorker("w1")], {}))) == {"second"}
    assert set(jobs_of(decide(5.0, jobs, [FreeWorker("w1")], {}))) == {"first"}


def test_a_worker_that_holds_the_model_is_preferred():
    workers = [FreeWorker("cold"), FreeWorker("warm", frozenset({"m"}))]
    assert decide(0, [job("a", 1, model="m")], workers, {})[0].workers == ("warm",)


def test_a_model_that_nobody_holds_is_loaded_at_once():
    assert len(decide(0, [job("a", 1, model="m")], [FreeWorker("w1", frozenset({"x"}))], {})) == 1


def test_a_task_waits_for_the_warm_worker_only_for_a_bounded_time():
    workers = [FreeWorker("cold"), FreeWorker("warm", frozenset({"m"}), CREDITS)]
    waiting = [job("a", 1, model="m", since=10.0)]
    assert decide(10.0 + AFFINITY_WAIT_S / 2, waiting, workers, {}) == []
    assert decide(10.0 + AFFINITY_WAIT_S, waiting, workers, {})[0].workers == ("cold",)


def test_several_models_spread_over_workers_instead_of_being_loaded_everywhere():
    tasks = [WaitingTask(n, "a", f"m{n % 2}") for n in range(8)]
    chosen = decide(
        0, [RunnableJob("a", "ann", "default", 50, tasks)], [FreeWorker("w1"), FreeWorker("w2")], {}
    )
    by_worker = {w: {tasks[a.task].affinity for a in chosen if a.workers == (w,)} for w in ("w1", "w2")}
    assert by_worker == {"w1": {"m0"}, "w2": {"m1"}}


def test_a_failed_task_goes_to_another_worker_first_where_there_is_one():
    again = [job("a", 1, avoid=frozenset({"w1"}))]
    assert decide(0, again, [FreeWorker("w1"), FreeWorker("w2", load=1)], {})[0].workers == ("w2",)
    assert decide(0, again, [FreeWorker("w1"), FreeWorker("w2", load=CREDITS)], {}) == []
    assert decide(0, again, [FreeWorker("w1")], {})[0].workers == ("w1",)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(TIERS),
            st.sampled_from("uvw"),
            st.integers(0, 2),
            st.integers(0, 6),
            st.sampled_from(["", "m", "n"]),
        ),
        max_size=5,
    ),
    st.lists(st.tuples(st.sets(st.sampled_from("mn")), st.integers(0, CREDITS)), max_size=4),
)
def test_each_task_is_given_once_within_credits_and_all_credits_are_used_when_nothing_must_wait(specs, pool):
    jobs = [
        job(
            f"j{n}",
            count,
            user=user,
            tier=tier,
            priority=priority,
            model=model,
            first=100 * n,
            since=-AFFINITY_WAIT_S,
        )
        for n, (tier, user, priority, count, model) in enumerate(specs)
    ]
    workers = [FreeWorker(f"w{n}", frozenset(holds), load) for n, (holds, load) in enumerate(pool)]
    chosen = decide(0, jobs, workers, {})
    given_out = [a.task for a in chosen]
    assert len(given_out) == len(set(given_out))
    loads = Counter({w.id: w.load for w in workers})
    loads.update(workers_of(chosen))
    assert all(load <= CREDITS for load in loads.values())
    credits_left = sum(CREDITS - w.load for w in workers)
    assert len(chosen) == min(credits_left, sum(len(j.tasks) for j in jobs))


@pytest.mark.parametrize("failure", Failure)
def test_each_class_of_failure_is_tried_again_as_often_as_its_budget_says(failure):
    budget = BUDGETS[failure]
    times = 1
    while times <= min(budget, 50):
        assert retry_delay_s(failure, times, 0.5) is not None
        times += 1
    if budget < 50:
        assert retry_delay_s(failure, times, 0.5) is None


def test_a_store_that_fails_is_asked_again_later_and_later_with_jitter():
    delays = [retry_delay_s(Failure.STORAGE, n, 1.0) or 0.0 for n in (1, 2, 3)]
    assert delays == sorted(delays)
    assert delays[2] > 2 * delays[0]
    assert retry_delay_s(Failure.STORAGE, 2, 0.0) == delays[1] / 2


def test_recent_use_is_half_forgotten_after_a_half_life():
    assert decayed(8.0, 600.0) == pytest.approx(4.0)


@pytest.mark.parametrize(
    ("limit", "failed", "total", "stops"),
    [
        (None, 99, 100, False),
        (2, 2, 9, False),
        (2, 3, 9, True),
        ("5%", 5, 100, False),
        ("5%", 6, 100, True),
        (0, 1, 9, True),
        ("0%", 1, 9, True),
    ],
)
def test_a_job_stops_when_more_items_failed_than_it_allows(limit, failed, total, stops):
    assert too_many_failed(limit, failed, total) is stops


@pytest.mark.parametrize(
    ("backlog_s", "busy", "wanted"),
    [(0.0, 0, 1), (0.0, 3, 3), (61.0, 0, 2), (60.0, 0, 1), (1e6, 0, 8), (130.0, 5, 5)],
)
def test_a_farm_grows_with_what_waits_within_its_bounds_and_keeps_the_busy(backlog_s, busy, wanted):
    assert wanted_workers(backlog_s, busy, least=1, most=8) == wanted
