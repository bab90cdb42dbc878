"""The state table, without Dask."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ips_components.external import state as _state
from ips_components.external.state import (
    TRANSITIONS,
    Event,
    ImpossibleTransition,
    Instruction,
    State,
    transition,
)


def test_the_life_of_a_chunk():
    state = State.UNKNOWN
    for event, after, instruction in (
        (Event.DECLARE, State.DECLARED, Instruction.CREATE),
        (Event.WANT, State.WANTED, Instruction.NOTHING),
        (Event.ARRIVE, State.ARRIVED, Instruction.TO_MEMORY),
        (Event.IN_MEMORY, State.MEMORY, Instruction.NOTHING),
        (Event.LOSE, State.LOST, Instruction.NOTHING),
        (Event.WANT, State.LOST, Instruction.NOTHING),
        (Event.ARRIVE, State.ARRIVED, Instruction.TO_MEMORY),
        (Event.IN_MEMORY, State.MEMORY, Instruction.NOTHING),
        (Event.RELEASE, State.RELEASED, Instruction.NOTHING),
        (Event.ARRIVE, State.RELEASED, Instruction.DROP_REPLICA),
        (Event.WANT, State.WANTED, Instruction.NOTHING),
        (Event.FAIL, State.WANTED, Instruction.TO_ERRED),
        (Event.ERR, State.ERRED, Instruction.NOTHING),
        (Event.FORGET, State.FORGOTTEN, Instruction.NOTHING),
    ):
        state, got = transition("k", state, event)
        assert (state, got) == (after, instruction), event


def test_data_before_declaration():
    state, instruction = transition("k", State.UNKNOWN, Event.ARRIVE)
    assert (state, instruction) == (State.ARRIVED, Instruction.KEEP)
    assert transition("k", state, Event.DECLARE) == (State.ARRIVED, Instruction.CREATE)
    assert transition("k", state, Event.DISCARD) == (State.UNKNOWN, Instruction.NOTHING)


@pytest.mark.parametrize("state", State)
def test_data_may_arrive_in_every_state(state):
    """Whatever happened before, an announcement must never be an error."""
    assert (state, Event.ARRIVE) in TRANSITIONS


@pytest.mark.parametrize("state", [state for state in State if state is not State.UNKNOWN])
def test_dask_may_forget_in_every_state(state):
    assert transition("k", state, Event.FORGET)[0] is State.FORGOTTEN


def test_failing_never_touches_what_is_complete():
    for state in (State.MEMORY, State.ARRIVED, State.RELEASED, State.ERRED):
        assert transition("k", state, Event.FAIL) == (state, Instruction.NOTHING)


def test_an_impossible_transition_says_what_and_where():
    with pytest.raises(ImpossibleTransition, match=r"'k' is 'unknown'; 'in-memory' cannot happen"):
        transition("k", State.UNKNOWN, Event.IN_MEMORY)


@given(st.lists(st.sampled_from(list(Event)), max_size=30))
def test_memory_is_only_reached_through_an_arrival(events):
    state, arrived = State.UNKNOWN, False
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
