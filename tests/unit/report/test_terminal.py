"""What the terminal shows: the summary at the end, the ledger, progress while a run is on."""

from __future__ import annotations

import argparse
import io
import threading

import pytest
import run_records
from rich.console import Console

from ips_components.errors import RecordError
from ips_components.model.array_contract import ArrayContract
from ips_components.model.contract import Contract
from ips_components.model.selection import Selection
from ips_components.model.spec import ArraySpec, StepAxis
from ips_components.report import (
    Progress,
    contract_table,
    make_record,
    summary_table,
    write_record,
)
from ips_components.report import _numbers as numbers
from ips_components.report._facts import Facts
from ips_components.report.commands import add_subcommands
from ips_components.report.ledger import ledger_table, print_summary
from ips_components.report.progress import _Bars, awaited, bars, describe
from ips_components.report.record import check_record


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def command(*arguments: str) -> int:
    parser = argparse.ArgumentParser()
    add_subcommands(parser.add_subparsers(required=True))
    parsed = parser.parse_args(arguments)
    return parsed.function(parsed)


# -- summary and ledger -----------------------------------------------------------------------


def test_summary_of_a_good_run():
    lines = summary_table(run_records.ok_record()).splitlines()
    assert lines[0] == "Run heat2d_ipca succeeded after 16.5 s"
    rows = dict(line.strip().split("  ", 1) for line in lines[1:])
    rows = {name: text.strip() for name, text in rows.items()}
    assert rows["steps"] == "100 of 100 in 13.4 s"
    assert rows["produced"] == "3.12 GiB"
    assert rows["skipped by contract"] == "2.34 GiB (75 %)"
    assert rows["delivered"].startswith("800 MiB (25 %), 59.")
    assert rows["simulation waited"] == "2.38 s (17.8 % of its time)"
    assert rows["explained variance"] == "84.1 %, 10.2 %, 2.1 % (together 96.4 %)"
    assert rows["results"] == "/scratch/ada/run_heat2d_ipca/results.zarr"
    assert len({line.index(text) for line, text in zip(lines[1:], rows.values(), strict=True)}) == 1


def test_summary_tells_apart_what_the_simulation_put_and_what_the_analysis_took():
    """Every second step is wanted, or the analysis has failed before there was a contract."""
    record = run_records.ok_record()
    record["step_counts"] = {**record["step_counts"], "complete": 100, "put": 199}
    record["n_steps"] = 200
    (steps,) = [line for line in summary_table(record).splitlines() if "  steps" in line]
    assert "  199 of 200; 100 of them went to the analysis in 13.4 s" in steps
    assert "put 199 steps; 100 of them went to the analysis in 13.4 s." in facts_of(record)

    counts = {"begun": 0, "complete": 0, "analysed": 0, "put": 40}
    record = make_record("r", status="failed", cause="no", step_counts=counts, n_steps=40)
    rows = summary_table(record).splitlines()[1:]
    assert [row.split(maxsplit=1)[1] for row in rows] == [
        "40 of 40; none of them went to the analysis",
        "not counted: there was no contract",
    ]
    assert "put 40 steps; none of them went to the analysis." in facts_of(record)


def test_what_a_rank_noted_is_said_though_the_run_has_succeeded():
    """A driver that also takes the start of [TIME_LOOP] launches once more, beyond the end."""
    record = run_records.ok_record()
    beyond = "it put array 'temperature' at steps beyond the last one of the run"
    record["faults"] = [
        {"t": run_records.START, "who": "rank 0", "what": "notes", "cause": beyond},
        {"t": run_records.START, "who": "rank 1", "what": "reports", "cause": "it is late"},
    ]
    (line,) = [each for each in summary_table(record).splitlines() if "noted" in each]
    assert line.split(maxsplit=1) == ["noted", f"rank 0: {beyond}"]


def test_a_total_that_was_exceeded_is_not_said():
    """[TIME_LOOP] has one step, say, and the program takes its own number of them."""
    counts = {"begun": 20, "complete": 20, "analysed": 20, "put": 20}
    record = make_record("r", status="ok", step_counts=counts, n_steps=1)
    (steps,) = [line for line in summary_table(record).splitlines() if "  steps" in line]
    assert steps.split() == ["steps", "20"]


def facts_of(record):
    return " ".join(Facts.of(check_record(record)).sentences())


def test_missing_values_are_said_once():
    """A field that has become NaN is in every result: one line names the first ones."""
    record = run_records.ok_record()
    whole = {"shape": [2, 3], "dims": ["y", "x"], "dtype": "float64", "missing": 4}
    variables = {f"result_{i}": whole for i in range(5)} | {
        "good": {**whole, "missing": None},
        "running": {**whole, "missing": 2},  # its first values are not defined
    }
    record["results"] = {"path": "/run/results.zarr", "variables": variables}
    (line,) = [each for each in summary_table(record).splitlines() if "not a number" in each]
    said = "4 of 6 in result_0, 4 of 6 in result_1, 4 of 6 in result_2, and 2 more results"
    assert line.strip() == f"not a number         {said}"


def test_summary_of_a_failed_run_begins_with_the_cause():
    first, *rest = summary_table(run_records.rank_death_record()).splitlines()
    assert first.startswith("Run heat2d_ipca FAILED after 8.34 s: rank 2 lost: connection reset")
    assert any("lost" in line and "8.00 MiB (0.7 %)" in line for line in rest)


def test_no_share_is_said_of_a_wait_that_began_before_the_first_step():
    """It was cut to "100 % of its time", which is that between the first put and the last."""
    record = run_records.ok_record()
    record["waited"]["per_rank"][0] = 2 * Facts.of(record).active
    assert Facts.of(record).waited_share is None
    assert "of its time" not in summary_table(record)


@pytest.mark.parametrize("name", run_records.RECORDS)
def test_every_record_has_a_summary_and_a_ledger(name):
    record = run_records.RECORDS[name]()
    assert "None" not in summary_table(record) + ledger_table(record)


def test_ledger_adds_up_for_the_eye():
    table = ledger_table(run_records.ok_record()).splitlines()
    assert table[0].split() == ["array", "produced", "skipped", "delivered", "dropped", "lost"]
    sizes = ["3.12", "GiB", "2.34", "GiB", "800", "MiB", "0", "B", "0", "B"]
    assert table[1].split() == ["temperature", "bytes", *sizes]
    assert table[2].split() == ["blocks", "400", "200", "200", "0", "0"]
    assert table[-1].startswith("The ledger closes")


def test_contract_is_a_table():
    spec = ArraySpec("temperature", "f8", (64, 64), StepAxis(0, 1, 200), dims=("y", "x"))
    part = Selection.from_key((slice(None, None, 10), slice(0, 8), slice(0, 8)), (200, 64, 64))
    array = ArrayContract.agree(spec, [part], run="r1")
    title, heads, row = contract_table(Contract("r1", (array,)).table()).splitlines()
    assert title == "The contract, what the analysis needs of each array:"
    each = ["steps", "each"]
    assert heads.split() == ["array", "steps", "region", "needed", "bytes", "chunks", *each]
    sizes = ["0.2", "%", "10.0", "KiB", "20", "1"]
    assert row.split() == ["temperature", ":191:10", "of", "200", "[:8,", ":8]", *sizes]


def test_contract_says_why_its_chunks_have_so_many_steps():
    array = ArrayContract.agree(ArraySpec("t", "f8", (8,), StepAxis()), run="r1")
    (row,) = Contract("r1", (array,)).table()
    table = contract_table([{**row, "chunk_reason": "the number of steps is not known"}])
    assert table.endswith("1 (the number of steps is not known)")


def test_open_ended_contract_has_no_sizes():
    array = ArrayContract.agree(ArraySpec("t", "f8", (8,), StepAxis()), run="r1")
    row = contract_table(Contract("r1", (array,)).table()).splitlines()[-1].split()
    assert row[-3:] == [numbers.NONE, numbers.NONE, "1"]


def test_empty_contract_says_so():
    assert "nothing leaves the ranks" in contract_table([])


def test_verdict_has_a_colour_on_a_terminal_only(tmp_path):
    record = run_records.rank_death_record()
    colourful, plain = io.StringIO(), io.StringIO()
    print_summary(record, None, Console(file=colourful, force_terminal=True))
    print_summary(record, None, Console(file=plain))
    assert "\x1b[1;31mRun heat2d_ipca FAILED" in colourful.getvalue()
    assert "\x1b" not in plain.getvalue()
    assert plain.getvalue().rstrip() == summary_table(record)


def test_command_report_writes_the_page_and_prints_where(tmp_path, capsys):
    write_record(run_records.ok_record(), tmp_path)
    assert command("report", str(tmp_path)) == 0
    assert (tmp_path / "report.html").stat().st_size > 10_000
    assert f"report               {tmp_path / 'report.html'}" in capsys.readouterr().out


def test_command_ledger_fails_when_the_account_does_not_close(tmp_path, capsys):
    record = run_records.ok_record()
    write_record(record, tmp_path)
    assert command("ledger", str(tmp_path)) == 0
    record["ledger"]["closed"] = False
    del record["byes"]["1"]
    write_record(record, tmp_path)
    assert command("ledger", str(tmp_path)) == 1
    assert "does NOT close: rank 1 did not close the bridge" in capsys.readouterr().out


def test_the_ledger_of_a_run_that_never_began_lacks_nothing():
    record = make_record("r", status="failed", cause="no pool", coordinator={})
    assert "ledger" not in summary_table(record)
    assert "No block is missing" in ledger_table(record)


def test_the_ledger_of_a_dead_rank_lacks_no_block():
    """What the rank cannot account for is lost, which has an entry of its own."""
    record = run_records.rank_death_record()
    record["ledger"]["closed"] = False
    record["byes"] = dict.fromkeys("013", "aborted")
    assert "does NOT close: rank 2 did not close the bridge" in summary_table(record)


def test_commands_without_a_run_say_what_to_give(tmp_path):
    with pytest.raises(RecordError, match="give the directory of a run"):
        command("report", str(tmp_path))


# -- progress ---------------------------------------------------------------------------------

STATE = {
    "run": "r1",
    "phase": "running",
    "steps": 42,
    "n_steps": 100,
    "tasks": {"done": 120, "total": 400},
    "delivered": 300 * 2**20,
    "waited": 0.4,
    "faults": 0,
    "workers": {"a": {"rss": 2**29}, "b": {"rss": 2**28}},
}


def test_a_line_tells_everything():
    assert describe({**STATE, "rate": 60 * 2**20}) == (
        "r1: step 42 of 100, 120 of 400 tasks, delivered 300 MiB (60.0 MiB/s), waited 400 ms, "
        "worker memory up to 512 MiB"
    )


def test_the_real_state_of_a_run_can_be_described():
    feed = run_records.Feed()
    feed.begin()
    feed.run(10)
    line = describe(feed.state.progress())
    assert line.startswith("heat2d_ipca: step 10, delivered 80.0 MiB, worker memory")


def test_plain_lines_come_at_intervals_and_only_when_something_moved():
    out = io.StringIO()
    times = iter([0.0, 1.0, 5.0, 11.0, 11.5])
    with Progress(stream=out, interval=5.0, clock=lambda: next(times)) as progress:
        progress.update({"steps": 1})
        progress.update({"steps": 2})
        progress.update({"steps": 3})
        progress.update({"steps": 3})
        progress.update({"steps": 3, "phase": "ended"})
    assert out.getvalue().splitlines() == [
        "run: step 1",
        "run: step 3",
        "run: step 3, simulation ended",
    ]


def test_a_note_stays_on_either_kind_of_output():
    for out in (io.StringIO(), Terminal()):
        with Progress(stream=out) as progress:
            progress.update(STATE)
            progress.note("live page: http://127.0.0.1:1/[token]/")
        assert "live page: http://127.0.0.1:1/[token]/" in out.getvalue()


def test_a_secret_is_shown_on_a_terminal_only():
    for out, shown in ((io.StringIO(), "see a file"), (Terminal(), "the address")):
        with Progress(stream=out) as progress:
            progress.note("see a file", terminal="the address")
        assert shown in out.getvalue()
        assert ("the address" in out.getvalue()) is isinstance(out, Terminal)


def test_quiet_shows_nothing():
    out = Terminal()
    with Progress(stream=out, quiet=True) as progress:
        progress.update(STATE)
        progress.note("nothing")
    assert out.getvalue() == ""


def test_a_terminal_gets_bars():
    out = Terminal()
    view = _Bars(out, Console(file=out, force_terminal=True, width=100))
    view.start()
    view.show({**STATE, "rate": 2.0**20})
    view.stop()
    shown = out.getvalue()
    assert "step 42 of 100, delivered 300 MiB (1.00 MiB/s)" in shown
    assert "120 of 400 tasks" in shown
    assert "waited 400 ms, worker memory up to 512 MiB" in shown
    assert shown.endswith("\x1b[1A\x1b[2K" * 3)  # nothing of them is left above the summary


def test_following_asks_until_the_block_ends():
    out, asked = io.StringIO(), threading.Event()

    def ask():
        asked.set()
        return STATE

    with Progress(stream=out).following(ask, interval=0.01):
        assert asked.wait(5)
    assert out.getvalue().startswith("r1: step 42 of 100")
    assert "ips-components-progress" not in {thread.name for thread in threading.enumerate()}


def test_a_scheduler_that_is_gone_ends_only_the_progress():
    failed = threading.Event()

    def ask():
        failed.set()
        raise OSError("gone")

    with Progress(stream=io.StringIO()).following(ask, interval=0.01):
        assert failed.wait(5)


# -- what a run waits for, and how long it takes --------------------------------------------------


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ({"phase": "open"}, "waiting for the simulation to connect"),
        ({"phase": "open", "ranks": 2}, "waiting for the contract: the analysis makes its graph"),
        ({"phase": "contracted", "ranks": 2}, "waiting for the first step"),
        ({"phase": "running"}, "running"),
        ({"phase": "ended", "tasks": {"done": 3, "total": 9}}, "finishing the analysis"),
        ({"phase": "ended", "tasks": {"done": 8, "total": 9}}, "writing results"),
        ({}, ""),
    ],
)
def test_what_is_awaited_is_said_in_words(state, words):
    assert awaited(state) == words


def test_the_bar_of_the_simulation_counts_steps_that_nobody_wants():
    """Every tenth step is wanted: three of them are complete, and step 27 was put last."""
    state = {"phase": "running", "steps": 3, "position": 28, "n_steps": 50}
    (simulation,) = bars(state)
    assert (simulation.done, simulation.total) == (28, 50)
    assert describe({"run": "r", **state}) == "r: step 28 of 50"


def test_the_time_left_is_said_when_it_is_known():
    state = {"run": "r", "steps": 60, "n_steps": 100}
    assert describe({**state, "left": 28.0}) == "r: step 60 of 100, about 28.0 s left"
    assert describe({**state, "left": 0.2}) == "r: step 60 of 100, about 1.00 s left"
    assert describe({**state, "left": 0.0}) == describe({**state, "left": None})


def test_words_of_another_process_are_shown_in_the_bars():
    stream = Terminal()
    with Progress(stream=stream) as progress:
        progress.show_known({"doing": "starting 2 Dask workers"})
        progress.show_known({"state": {"phase": "contracted", "ranks": 2, "steps": 0}})
    assert "waiting for the first step" in stream.getvalue()  # the newest words are drawn


def test_the_summary_leaves_the_cause_to_who_says_it_last():
    first = summary_table(run_records.rank_death_record(), cause=False).splitlines()[0]
    assert first == "Run heat2d_ipca FAILED after 8.34 s"
