"""Clients that attach to a run: real workers, receivers and bridges, ranks as processes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import xarray as xr
from attached_runs import EARLY, MANY, SteppingRun, attached_client, whole
from coupled_processes import Peer, fork_server, series

import ips_components
from ips_components.deadlines import Deadline, poll_until
from ips_components.errors import (
    ContactError,
    ContractError,
    SelectionError,
    SimulationLost,
    StepPassed,
)
from ips_components.wire import contact as contacts


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
    assert record["attached"][0]["n_contracts"] >= 5


def test_windows_of_steps_to_come(run):
    with ips_components.attach(run.directory) as live:
        seen = []
        for found in live.watch(lambda arrays: arrays["t"].sum(), every=3, window=2):
            assert found.value == sum(whole(step).sum() for step in found.steps)
            seen.append(found.steps.start)
            if len(seen) == 12:
                break
        assert seen == sorted(set(seen))
        assert {(step - seen[0]) % 3 for step in seen} == {0}
        called = []
        with live.watch(
            lambda arrays: {"max": arrays["t"].max()}, call=lambda w: called.append(w)
        ) as watch:
            assert poll_until(lambda: len(called) >= 4, Deadline(60), pause=0.05)
        assert watch.join(20)
        assert watch.error is None
        for each in called:
            assert each.value == {"max": whole(each.steps.start).max()}
    ended_well(run)


def test_two_clients_at_once_and_futures(run):
    with ips_components.attach(run.directory) as one, ips_components.attach(run.contact) as two:
        future = one.submit(lambda arrays: arrays["t"][:, 0, 0].sum(), steps=3)
        newest = two.latest("t")
        np.testing.assert_array_equal(newest, whole(int(newest["time"])))
        assert future.result(60) % 1000 == 0
        assert len(run.record()["attached"]) == 2
    record = ended_well(run)
    assert [each["why"] for each in record["attached"]] == ["detached", "detached"]


def test_a_client_that_is_killed_is_noted_and_the_run_goes_on(run):
    log = str(run.directory / "client.log")
    client = Peer("client", attached_client, log, str(run.directory), ["watching"])
    try:
        client.reached("watching", 60)
        client.kill()
        record = run.until(
            lambda r: r.get("attached") and r["attached"][0]["until"], "the client to be missed"
        )
        assert "connection" in record["attached"][0]["why"]
        with ips_components.attach(run.directory) as live:
            assert int(live.latest("t")["time"]) > 0
        record = ended_well(run)
        assert record["attached"][0]["why"].startswith("lost: ")
        assert not record["faults"]  # the run has none of it
    finally:
        client.close()


def test_an_open_ended_run(tmp_path):
    run = SteppingRun(tmp_path, analysis="endless", described=None)
    try:
        with ips_components.attach(run.directory) as live:
            (spec,) = live.specs
            assert spec.steps.open_ended
            newest = live.latest("t")
            np.testing.assert_array_equal(newest, whole(int(newest["time"])))
            found = live.compute(lambda arrays: arrays["t"].to_xarray().sum(("dim_1", "dim_2")), 5)
            expected = [whole(int(step)).sum() for step in found["time"]]
            np.testing.assert_array_equal(found, expected)
            with pytest.raises(SelectionError, match="no number of steps"):
                live.compute(lambda arrays: arrays["t"].sum())
            for window in live.watch(lambda arrays: arrays["t"].sum(), every=2):
                assert window.value == whole(window.steps.start).sum()
                if window.index == 3:
                    break
        assert run.stop() == [("done", None)] * run.n_ranks
        record = run.end()
        assert record["phase"] == "ended", record["faults"]
        run.future.result(30)
        sums = run.dataset()["sums"]
        steps = [whole(step).sum() for step in range(len(sums) + 1)]
        np.testing.assert_array_equal(sums, np.add(steps[1:], steps[:-1]))
        (client,) = run.record()["attached"]
        assert all(each["ledger"]["closed"] for each in client["contracts"])
    finally:
        print(run.logs())
        run.close()


def test_a_figure_follows_the_run(run, tmp_path):
    with ips_components.attach(run.directory) as live:
        figure = live.plot("t", every=2)
        line = live.plot("t", 0)
        number = live.plot("t", 0, 0)
        with pytest.raises(ContractError, match="'other' cannot be drawn"):
            live.plot("other")
        seen: list[int] = []

        def followed():
            seen.append(figure.step)
            return min(seen) >= 0 and figure.step > seen[0] if seen[0] >= 0 else seen.clear()

        assert poll_until(followed, Deadline(90), pause=0.05)
        assert poll_until(lambda: min(line.step, number.step) >= 0, Deadline(90), pause=0.05)
        figure.stop()
        (drawn,) = figure.figure.axes[0].images
        np.testing.assert_array_equal(drawn.get_array(), whole(figure.step))
        assert figure.figure.axes[0].get_title() == f"step {figure.step}"
        assert figure._repr_png_().startswith(b"\x89PNG")
        figure.save(tmp_path / "t.png")
        assert (tmp_path / "t.png").stat().st_size > 1000
        for each in (line, number):
            each.stop()
            assert each.watch.error is None
    ended_well(run)


def test_it_shows_itself(run):
    """In a notebook; and tab completion has the public names, and those of the arrays."""
    from IPython.core.completer import IPCompleter, provisionalcompleter

    with ips_components.attach(run.directory) as live:
        live.wait(1, timeout=30)
        page = live._repr_html_()
        for text in (live.id, "<td>t</td>", "running", "<td>&lt;f8</td>", f"{MANY}"):
            assert text in page, page
        assert "latest" in dir(live)
        assert not [name for name in dir(live) if name.startswith("_")]
        completer = IPCompleter(namespace={"live": live, "arrays": live.arrays})
        completer.use_jedi = False

        def completed(text):
            with provisionalcompleter():
                return {each.text for each in completer.completions(text, len(text))}

        assert completed("live.la") == {".latest"}
        assert completed("arrays['") == {"t"}
        assert repr(live).startswith(f"<LiveRun {live.id}: running, step ")
    assert "detached" in live._repr_html_()
    ended_well(run)


@pytest.mark.parametrize("when", ["at once", "in a task", "in its code"])
def test_the_analysis_has_failed_and_the_simulation_goes_on(tmp_path, when):
    run = SteppingRun(tmp_path, analysis="giving_up", parameters={"when": when})
    try:
        with pytest.raises(ArithmeticError, match="gave up"):
            run.future.result(60)
        with ips_components.attach(run.directory) as live:
            assert live.status == "alone"
            newest = live.latest("t")
            np.testing.assert_array_equal(newest, whole(int(newest["time"])))
            assert live.wait(int(newest["time"]) + 40, timeout=60) > 0
            found = live.compute(lambda arrays: arrays["t"].to_xarray().sum(("dim_1", "dim_2")), 5)
            expected = [whole(int(step)).sum() for step in found["time"]]
            np.testing.assert_array_equal(found, expected)
            said = run.stop()
            assert all(word == "done" and "gave up" in lost for word, lost in said), said
            with pytest.raises(SimulationLost, match="has failed at step"):
                live.wait(MANY, timeout=60)
        with pytest.raises(SimulationLost, match="nothing to attach to"):
            ips_components.attach(run.directory)
        record = run.record()
        assert (record["phase"], record["fatal"]["who"]) == ("failed", "analysis")
        assert "the analysis gave up" in record["fatal"]["cause"]
        assert record["ledger"]["closed"]
        assert len(record["faults"]) == 1  # attached clients add none
        (client,) = record["attached"]
        assert all(each["ledger"]["closed"] for each in client["contracts"])
    finally:
        print(run.logs())
        run.close()


def test_who_may_not(run, tmp_path):
    contact = contacts.read(run.contact)
    other = tmp_path / "other.json"
    contacts.write(other, replace(contact, token="ab" * 32))
    with pytest.raises(ContractError, match="the token is not that of the run"):
        ips_components.attach(other)
    contacts.write(other, replace(contact, scheduler=""))
    with pytest.raises(ContactError, match="ATTACH = False"):
        ips_components.attach(other)
    with pytest.raises(ContactError, match="no run is under way"):
        (tmp_path / "empty").mkdir()
        ips_components.attach(tmp_path / "empty")
    other.chmod(0o644)
    with pytest.raises(ContactError, match="mode 0644"):
        ips_components.attach(other)
