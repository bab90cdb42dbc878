"""The process that draws the figure of a run."""

import json
import subprocess
import sys

import numpy as np
import pytest
import xarray as xr

from ips_components.report import drawing as _drawing
from ips_components.report.drawing import Drawing
from ips_components.report.figure import run_figure
from ips_components.report.panels import write_panels


@pytest.fixture
def panels(tmp_path):
    """Where what is drawn will be."""
    return tmp_path / "panels"


def results(value=1.0):
    return xr.Dataset(
        {"mean": (("y", "x"), np.full((4, 3), value)), "loss": ("step", np.arange(5.0) * value)}
    )


@pytest.mark.parametrize("late", [False, True])
def test_a_figure_is_drawn_where_it_is_asked_for(panels, tmp_path, late):
    elsewhere = tmp_path / "run" / "results.png"
    elsewhere.parent.mkdir()
    if not late:
        write_panels(results(), panels)
    with Drawing(panels) as drawing:
        if late:
            write_panels(results(), panels)
        drawing.begin(elsewhere)
        assert drawing.result() == ""
    assert elsewhere.read_bytes() == run_figure(results(), tmp_path / "same.png").read_bytes()
    assert [path.name for path in elsewhere.parent.iterdir()] == ["results.png"]


def test_what_was_drawn_before_the_panels_were_written_again_is_not_the_figure(
    panels, tmp_path, monkeypatch
):
    """As when a worker dies while it writes results, and the analysis is called again."""
    drawn, written = [], []

    def ask(parent):
        if drawn:
            write_panels(results(2.0), panels)
        return json.dumps(str(tmp_path / "results.png"))

    def draw(path):
        drawn.append(path.read_bytes())
        return b"picture %d" % len(drawn)

    write_panels(results(), panels)
    monkeypatch.setattr(_drawing, "_request", ask)
    monkeypatch.setattr(_drawing, "_draw", draw)
    monkeypatch.setattr(_drawing, "_read_libraries", lambda: None)
    monkeypatch.setattr(_drawing.os, "_exit", written.append)
    monkeypatch.setattr(_drawing.sys, "argv", ["", str(panels)])
    _drawing.main()
    assert written == [0]
    assert (tmp_path / "results.png").read_bytes() == b"picture 2"
    assert drawn[0] != drawn[1]


def test_what_cannot_be_drawn_is_said(panels, tmp_path):
    with Drawing(panels) as drawing:
        drawing.begin(tmp_path / "results.png")
        assert str(panels) in drawing.result()
    panels.write_bytes(b"no panels")
    with Drawing(panels) as drawing:
        drawing.begin(tmp_path / "results.png")
        assert "UnpicklingError" in drawing.result()
    assert not (tmp_path / "results.png").exists()


def test_a_process_that_is_killed_is_no_figure(panels, tmp_path):
    write_panels(results(), panels)
    with Drawing(panels) as drawing:
        drawing._process.kill()
        drawing._process.wait()
        drawing.begin(tmp_path / "results.png")
        assert "ended with status -9" in drawing.result()


def test_a_figure_that_takes_too_long_is_given_up(panels, tmp_path):
    write_panels(results(), panels)
    with Drawing(panels) as drawing:
        drawing.begin(tmp_path / "results.png")
        assert drawing.result(time_out=0.0) == "it took longer than 0 s"
    assert drawing._process.returncode == -9
    assert not (tmp_path / "results.png").exists()


@pytest.mark.parametrize("there", [False, True])
def test_the_process_ends_with_the_one_that_started_it(panels, there):
    if there:
        write_panels(results(), panels)
    with Drawing(panels) as drawing:
        drawing._process.stdin.close()  # as when that one is killed
        assert drawing._process.wait(60) == 0


def test_the_process_reads_no_library_of_the_analysis():
    """They took a third of its time, which every run waits for."""
    program = (
        "import sys; import ips_components.report.drawing as d; d._read_libraries();"
        "print({'xarray', 'pandas', 'zarr', 'dask'} & set(sys.modules))"
    )
    command = [sys.executable, "-c", program]
    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout == "set()\n"
