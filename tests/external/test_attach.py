"""Clients that attach to a run: real workers, receivers and bridges, ranks as processes."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from attached_runs import EARLY, SteppingRun, whole
from coupled_processes import fork_server, series

import ips_components
from ips_components.errors import ContractError, SelectionError, StepPassed


@pytest.fixture(scope="module", autouse=True)
def server():
    with fork_server():
        yield


@pytest.fixture
def run(tmp_path):
    running = SteppingRun(tmp_path)
    try:
        yield running
    finally:
        running.close()


def ended_well(run: SteppingRun) -> dict:
    """Stop the run; it has its own results, and the account of each contract closes."""
    assert run.stop() == [("done", None)] * run.n_ranks
    record = run.end()
    assert record["phase"] == "ended"
    run.future.result(20)
    np.testing.assert_array_equal(run.dataset()["early"], series(EARLY).sum(axis=(1, 2)))
    record = run.record()
    assert record["ledger"]["closed"]
    for client in record["attached"]:
        for contract in client["contracts"]:
            assert contract["ledger"]["closed"], contract
    return record


def soon(live, make, ahead=30):
    """Compute of a step some steps ahead, further ahead while it has passed; with that step."""
    while True:
        step = live.step + ahead
        try:
            return live.compute(make(live.arrays["t"], step)), step
        except (SelectionError, StepPassed):
            ahead *= 2
            assert ahead < 3000


def test_results_of_steps_to_come(run):
    with ips_components.attach(run.directory) as live:
        assert live.wait(3, timeout=20) >= 3
        assert live.status == "running"
        first = live.latest("t")
        assert isinstance(first, xr.DataArray)
        step = int(first["time"])
        np.testing.assert_array_equal(first, whole(step))
        cut = live.latest("t", slice(1, 3), slice(None, None, 2))
        assert int(cut["time"]) > step
        np.testing.assert_array_equal(cut, whole(int(cut["time"]))[1:3, ::2])

        def sums(arrays):
            t = arrays["t"].to_xarray()
            return {"sums": t.sum(t.dims[1:]), "mean": arrays["t"].mean(axis=0)}

        found = live.compute(sums, steps=4)
        steps = found["sums"]["time"].values
        assert len(steps) == 4
        expected = np.stack([whole(step) for step in steps])
        np.testing.assert_array_equal(found["sums"], expected.sum(axis=(1, 2)))
        np.testing.assert_array_equal(found["mean"], expected.mean(axis=0))
        found, later = soon(live, lambda t, step: t[step : step + 6 : 2, 0].sum())
        expected = np.stack([whole(step)[0] for step in range(later, later + 6, 2)]).sum()
        assert found == expected
        with pytest.raises(SelectionError, match=r"step 1 of array .t. has passed.*first that can"):
            live.compute(live.arrays["t"][1].sum())
    with pytest.raises(ContractError, match="not attached any more"):
        live.latest("t")
    record = ended_well(run)
    assert [client["why"] for client in record["attached"]] == ["detached"]
    assert record["attached"][0]["n_contracts"] == 5
