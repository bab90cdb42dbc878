"""The state table, without Dask."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ips_components.external import state as _state
from ips_components.external.state import (
    LIVE,
    TRANSITIONS,
    Event,
    ImpossibleTransition,
    Instruction,
    State,
    transition,
)


def test_the_life_of_a_chunk():
    state = State.DECLARED
    for event, after, instruction in (
        (Event.WANT, State.WANTED, Instruction.NOTHING),
        (Event.ARRIVE, State.MEMORY, Instruction.TO_MEMORY),
        (Event.LOSE, State.LOST, Instruction.NOTHING),
        (Event.WANT, State.LOST, Instruction.NOTHING),
        (Event.ARRIVE, State.MEMORY, Instruction.TO_MEMORY),
        (Event.RELEASE, State.RELEASED, Instruction.NOTHING),
        (Event.ARRIVE, State.RELEASED, Instruction.DROP_REPLICA),
        (Event.WANT, State.WANTED, Instruction.NOTHING),
        (Event.FAIL, State.WANTED, Instruction.TO_ERRED),
        (Event.ERR, State.ERRED, Instruction.NOTHING),
        (Event.FORGET, State.FORGOTTEN, Instruction.NOTHING),
    ):
        state, got = transition("k", state, event)
        assert (state, got) == (after, instruction), event


@pytest.mark.parametrize("state", LIVE)
@pytest.mark.parametrize("event", [Event.ARRIVE, Event.FAIL, Event.FORGET])
def test_what_comes_from_outside_may_come_in_every_state(state, event):
    """Whatever happened before, an announcement, a failure or Dask's forgetting is no error."""
    assert (state, event) in TRANSITIONS


def test_every_row_can_be_reached_from_a_declaration():
    reached, states = set(), {State.DECLARED}
    while new := {row for row in TRANSITIONS if row[0] in states} - reached:
        reached |= new
        states |= {TRANSITIONS[row][0] for row in new}
    assert reached == set(TRANSITIONS)
    assert states == {*LIVE, State.FORGOTTEN}


def test_failing_never_touches_what_is_complete():
    for state in (State.MEMORY, State.RELEASED, State.ERRED):
        assert transition("k", state, Event.FAIL) == (state, Instruction.NOTHING)


def test_an_impossible_transition_says_what_and_where():
    with pytest.raises(ImpossibleTransition, match=r"'k' is 'wanted'; 'lose' cannot happen"):
        transition("k", State.WANTED, Event.LOSE)


@given(st.lists(st.sampled_from(list(Event)), max_size=30))
def test_memory_is_only_reached_through_an_arrival(events):
    state, arrived = State.DECLARED, False
    for event in events:
        try:
            state, _ = transition("k", state, event)
        except ImpossibleTransition:
            continue
        arrived |= event is Event.ARRIVE
        assert arrived or state is not State.MEMORY


def test_the_table_knows_no_dask():
    tree = ast.parse(Path(_state.__file__).read_text())
    imported = {
        name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in [getattr(node, "module", None) or node.names[0].name]
    }
    assert not [name for name in imported if name.split(".")[0] in ("dask", "distributed")]
