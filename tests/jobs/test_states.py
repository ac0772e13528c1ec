"""States change only as the tables say."""

from itertools import product

import pytest

from jobs.states import (
    ITEM_MOVES,
    JOB_MOVES,
    STEP_MOVES,
    TASK_MOVES,
    ItemState,
    JobState,
    StepState,
    TaskState,
    move,
)

TABLES = [(JobState, JOB_MOVES), (StepState, STEP_MOVES), (TaskState, TASK_MOVES), (ItemState, ITEM_MOVES)]


@pytest.mark.parametrize(("states", "table"), TABLES)
def test_every_pair_of_states_moves_as_its_table_says_and_no_other(states, table):
    assert set(table) == set(states)
    for old, new in product(states, states):
        if new in table[old]:
            assert move(old, new) is new
        else:
            with pytest.raises(ValueError, match="cannot become"):
                move(old, new)


@pytest.mark.parametrize(("states", "table"), TABLES)
def test_no_state_may_become_itself(states, table):
    """A second move to the same state is a message counted twice."""
    assert all(state not in table[state] for state in states)


def test_what_is_finished_stays_finished():
    for state in (ItemState.DONE, ItemState.SKIPPED):
        assert not ITEM_MOVES[state]
    assert not JOB_MOVES[JobState.CANCELED]
