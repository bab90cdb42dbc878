"""Accounts of several simulations, put together as those of one run."""

import pytest

from ips_components.ips.multi_simulation import contact_file, one_record, runs_of, together


def record(rank_count, t, **changes):
    """The coordinator's record of a run of one step."""
    account = {"blocks": {"produced": 1}, "bytes": {"produced": 8}}
    step = {
        "step": 0,
        "first_put": t,
        "complete": t + 1,
        "analysed": t + 2,
        "delivered": 8,
        "waited": {"max": t, "mean": t},
    }
    return {
        "ranks": [{"rank": rank, "host": "n1"} for rank in range(rank_count)],
        "byes": {str(rank): "ok" for rank in range(rank_count)},
        "faults": [],
        "fatal": None,
        "samples": [{"t": t}],
        "states": {"memory": 2},
        "waited": {"per_rank": [t] * rank_count},
        "ledger": {"closed": True, "arrays": {f"array_{rank_count}": account}},
        "contract": {"arrays": [{"name": f"array_{rank_count}"}]},
        "steps": [step],
        "step_counts": {"begun": 1, "complete": 1, "analysed": 1},
        "faults_left_out": 0,
        "left_out": [],
        "stop_reason": None,
        **changes,
    }


def test_runs_and_their_contact_files():
    runs = runs_of("20260101", ["HOT", "COLD"])
    assert runs == {"HOT": "20260101", "COLD": "20260101+COLD"}
    assert [contact_file(run) for run in runs.values()] == ["contact.json", "contact_COLD.json"]
    assert runs_of("r", []) == {}


def test_one_simulation_is_told_as_it_is():
    mine = record(1, 3.0)
    assert one_record({"HOT": mine}) == mine
    assert together([{"phase": "running", "steps": 3}]) == {"phase": "running", "steps": 3}
    assert together([{}]) == {}


def test_ranks_are_numbered_through():
    whole = one_record({"HOT": record(2, 1.0), "COLD": record(1, 5.0, byes={"0": "aborted"})})
    assert [(each["rank"], each["simulation"]) for each in whole["ranks"]] == [
        (0, "HOT"),
        (1, "HOT"),
        (2, "COLD"),
    ]
    assert whole["byes"] == {"0": "ok", "1": "ok", "2": "aborted"}
    assert whole["waited"]["per_rank"] == [1.0, 1.0, 5.0]
    assert whole["states"] == {"memory": 4}
    assert list(whole["ledger"]["arrays"]) == ["array_2", "array_1"]
    (step,) = whole["steps"]
    assert (step["first_put"], step["complete"], step["delivered"]) == (1.0, 6.0, 16)
    assert step["waited"] == {"max": 5.0, "mean": 3.0}


def test_a_ledger_that_does_not_close_stays_open():
    broken = record(1, 0.0, ledger={"closed": False, "arrays": {}})
    assert not one_record({"HOT": record(2, 0.0), "COLD": broken})["ledger"]["closed"]
    assert not one_record({"COLD": broken, "HOT": record(2, 0.0)})["ledger"]["closed"]


def test_the_first_fault_is_fatal_and_tells_whose_it_is():
    early = {"t": 2.0, "who": "rank 0", "what": "lost", "cause": "killed"}
    late = {"t": 3.0, "who": "analysis", "what": "failed", "cause": "no data"}
    whole = one_record(
        {
            "HOT": record(1, 0.0, faults=[late], fatal=late),
            "COLD": record(1, 0.0, faults=[early], fatal=early),
        }
    )
    assert whole["fatal"] == {**early, "simulation": "COLD", "cause": "COLD: killed"}
    assert [fault["t"] for fault in whole["faults"]] == [2.0, 3.0]


@pytest.mark.parametrize(
    ("phases", "expected"),
    [
        (("ended", "running"), "running"),
        (("ended", "ended"), "ended"),
        (("running", "failed"), "failed"),
        (("contracted", "running"), "contracted"),
    ],
)
def test_progress_is_that_of_the_slowest(phases, expected):
    states = [
        {"phase": phase, "steps": steps, "ranks": 2, "waited": 0.5, "states": {"memory": 1}}
        for phase, steps in zip(phases, (4, 7), strict=True)
    ]
    state = together(states)
    assert state["phase"] == expected
    assert (state["steps"], state["ranks"], state["states"]) == (4, 4, {"memory": 2})


def test_steps_that_one_simulation_has_left_out_are_left_out():
    def steps(*numbers):
        return [{**record(1, 1.0)["steps"][0], "step": number} for number in numbers]

    counts = {"begun": 6, "complete": 6, "analysed": 5}
    every = record(1, 1.0, steps=steps(*range(6)), step_counts=counts)
    some = record(1, 1.0, steps=steps(0, 4, 5), step_counts=counts)
    longer = record(1, 1.0, steps=steps(0, 4, 5, 7), step_counts={**counts, "begun": 7})
    for others in (some, longer):
        whole = one_record({"HOT": every, "COLD": others})
        told = [step["step"] for step in whole["steps"]]
        assert told == sorted({0, 4, 5} | {step["step"] for step in others["steps"]})
        assert whole["step_counts"]["complete"] == 6
