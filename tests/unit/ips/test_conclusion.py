"""What is written at the end of a run."""

import numpy as np
import pytest
import xarray as xr

from ips_components.analysis.results import ResultStore, name_results
from ips_components.ips.conclusion import _fault_of, in_short
from ips_components.report.figure import compose, png_of
from ips_components.report.stored import open_groups

SHORT = xr.DataArray([1.0, 2.0], {"time": [0.0, 1.0]}, "time")
LONG = xr.Dataset({"spread": ("time", [1.0, 2.0, 3.0])}, {"time": [0.0, 1.0, 2.0]})


@pytest.mark.parametrize(("name", "format"), [("r.zarr", "zarr"), ("r.nc", "netcdf")])
def test_the_figure_shows_all_groups_of_the_results(tmp_path, name, format):
    """Groups may have other coordinates than those above them."""
    store = ResultStore(tmp_path / name, format, {"run": "r1"})
    store.write(name_results({"mean": SHORT, "inner": LONG}))
    groups = open_groups(store.path)
    assert not any(group.chunks for group in groups.values())
    titles = {ax.get_title() for ax in compose(groups).get_axes()}
    assert titles >= {"mean", "spread"}
    for group in groups.values():
        group.close()


@pytest.mark.parametrize(("name", "format"), [("r.zarr", "zarr"), ("r.nc", "netcdf")])
def test_the_figure_is_the_same_before_results_are_written_and_after(tmp_path, name, format):
    days = np.array(["2026-01-01", "2026-06-01"], dtype="datetime64[ns]")
    values = {
        "short": SHORT,
        "inner": LONG,
        "other": SHORT.assign_coords(time=[2.0, 3.0]),
        "flags": xr.DataArray([True, False], {"day": days}, "day", attrs={"long_name": "is it"}),
        "field": xr.DataArray(np.arange(6.0).reshape(2, 3), {"x": [1, 2, 4]}, ("y", "x")),
        "plain": np.arange(3),
        "number": 2.5,
        "word": "none",
    }
    store, before = ResultStore(tmp_path / name, format, {"run": "r1"}), []
    named = name_results(values)
    store.plan(named)
    store.write(named, before=lambda groups: before.append(png_of(compose(groups()))))
    with store.opened() as groups:
        assert png_of(compose(groups)) == before[0]


def test_a_file_of_scipy_has_no_groups(tmp_path):
    SHORT.to_dataset(name="mean").to_netcdf(tmp_path / "r.nc", engine="scipy")
    with open_groups(tmp_path / "r.nc")["/"] as found:
        assert list(found.data_vars) == ["mean"]


def test_why_a_run_without_an_error_has_failed():
    assert "no rank ever joined" in _fault_of({}, {})
    ranks = [{"rank": 0}, {"rank": 1}]
    joined = {"ranks": ranks, "ledger": {"closed": False}}
    assert _fault_of({**joined, "byes": {"0": "ok"}}, {}).startswith("rank 1 ended without closing")
    closed = {**joined, "ledger": {"closed": True}}
    assert _fault_of(closed, {}) == ""
    left_out = {**closed, "left_out": [{"simulation": "A", "cause": "no memory"}]}
    assert _fault_of(left_out, {}, 2) == ""
    assert _fault_of(left_out, {}, 1) == "every simulation has failed: no memory"


def test_a_rank_that_is_lost_while_its_program_ends_well_may_lack_a_close():
    lost = {"fatal": {"who": "rank 0", "what": "lost", "cause": "connection broken"}}
    assert _fault_of(lost, {"SIM": {"ok": False}}) == "rank 0 lost: connection broken"
    said = _fault_of(lost, {"SIM": {"ok": True}})
    assert said.startswith("rank 0 lost: connection broken; its program ended well")
    assert "ips_bridge_close" in said


def test_ranks_that_failed_with_the_same_cause_are_counted():
    causes = [
        f"put of array 'T' on rank {rank}: no such array; at a.py, line 3, in f" for rank in "012"
    ]
    causes.append("out of memory")
    faults = [
        {"who": f"rank {rank}", "what": "ended with an error", "cause": cause}
        for rank, cause in enumerate(causes)
    ]
    said = _fault_of({"fatal": faults[0], "faults": [*faults, faults[1]]}, {})
    assert said == (
        "rank 0 ended with an error: put of array 'T' on rank 0: no such array "
        "(the same on 2 other ranks); at a.py, line 3, in f"
    )
    alone = _fault_of({"fatal": faults[3], "faults": faults}, {})
    assert alone == "rank 3 ended with an error: out of memory"


@pytest.mark.parametrize(
    ("text", "short"),
    [
        ("one line", "one line"),
        ("the task failed:\n  Fatal: no input\n", "the task failed: Fatal: no input"),
        (
            "inference failed in `map_blocks`.\n\nOriginal error is below:\n----------\n"
            "NameError(\"name 'missing' is not defined\")\n\nTraceback:\n"
            "  lambda t: t / len(missing)\n          ^^^^^^^; at a b.py, line 2, in analyse",
            "inference failed in `map_blocks`. NameError(\"name 'missing' is not defined\")"
            "; at a b.py, line 2, in analyse",
        ),
        ("", ""),
    ],
)
def test_a_cause_in_short_names_the_error_and_where_it_was_raised(text, short):
    assert in_short(text) == short
