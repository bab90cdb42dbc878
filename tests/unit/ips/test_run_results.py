"""A finished run, opened from its directory."""

import numpy as np
import pytest
import xarray as xr

import ips_components
from ips_components import RunResult
from ips_components.errors import RecordError
from ips_components.report import make_record, write_record, write_report
from ips_components.report.figure import run_figure
from ips_components.runs.html import progress_html


@pytest.fixture
def directory(tmp_path):
    """Directory of a run that succeeded, with results in two groups."""
    store = tmp_path / "results.zarr"
    mean = xr.Dataset({"mean": (("y", "x"), np.ones((4, 3)))})
    mean.to_zarr(store, consolidated=False)
    xr.Dataset({"low": ("x", np.zeros(3))}).to_zarr(store, group="extremes", consolidated=False)
    run_figure(mean, tmp_path / "results.png")
    record = make_record(
        "r1",
        status="ok",
        config={"SIM_NAME": "plate"},
        results={"path": str(store), "variables": {}},
        figures=["results.png"],
    )
    write_record(record, tmp_path)
    write_report(tmp_path, record)
    return tmp_path


def test_results_figure_and_report_of_a_finished_run(directory):
    result = RunResult(directory)
    assert result.ok
    assert result.cause is None
    assert result.run == "r1"
    np.testing.assert_array_equal(result.results["mean"], np.ones((4, 3)))
    np.testing.assert_array_equal(result.tree["extremes/low"], np.zeros(3))
    assert result.figure._repr_png_().startswith(b"\x89PNG")
    assert str(directory / "report.html") in result.report._repr_html_()
    assert "<iframe srcdoc" in result.report.show()._repr_html_()
    assert "Run r1 succeeded" in str(result)
    shown = result._repr_html_()
    assert "plate" in shown
    assert "succeeded" in shown


def test_the_record_itself_opens_the_run(directory):
    assert RunResult(directory / "run.json").directory == directory


def test_what_a_failed_run_does_not_have_is_named(tmp_path):
    write_record(make_record("r2", status="failed", cause="rank 3 died <here>"), tmp_path)
    result = RunResult(tmp_path)
    assert result.cause == "rank 3 died <here>"
    with pytest.raises(RecordError, match="run r2 has no results: rank 3 died"):
        _ = result.results
    with pytest.raises(RecordError, match="has no figure"):
        _ = result.figure
    with pytest.raises(RecordError, match="ips-components report"):
        _ = result.report
    assert "rank 3 died &lt;here&gt;" in result._repr_html_()


def test_a_directory_without_a_run_is_refused(tmp_path):
    with pytest.raises(RecordError, match=r"run\.json"):
        RunResult(tmp_path)


def test_progress_is_shown_as_bars_and_words():
    known = {
        "doing": "running",
        "live_page": "http://127.0.0.1:1/x?a&b",
        "state": {"steps": 5, "n_steps": 20, "tasks": {"done": 1, "total": 4}},
    }
    shown = progress_html("plate", "running", known, "")
    assert "width: 25.0%" in shown
    assert "step 5 of 20" in shown
    assert "1 of 4 tasks" in shown
    assert 'href="http://127.0.0.1:1/x?a&amp;b"' in shown
    assert "<script" not in progress_html("<script>", "failed", known, "<script>")


def test_what_is_public_is_there():
    assert set(ips_components.__all__) <= set(dir(ips_components))
    assert ips_components.run.__module__ == "ips_components.runs.handle"
    with pytest.raises(AttributeError, match="has no attribute 'ruun'"):
        _ = ips_components.ruun
