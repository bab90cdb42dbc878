"""The process that draws the figure of a run."""

import subprocess
import sys

import numpy as np
import pytest
import xarray as xr

from ips_components.report.drawing import Drawing
from ips_components.report.panels import write_panels


@pytest.fixture
def panels(tmp_path):
    """What is drawn of two results."""
    path = tmp_path / "panels"
    dataset = xr.Dataset({"mean": (("y", "x"), np.ones((4, 3))), "loss": ("step", np.arange(5.0))})
    write_panels(dataset, path)
    return str(path)


def test_a_figure_is_drawn_where_it_is_asked_for(panels, tmp_path):
    elsewhere = tmp_path / "run" / "results.png"
    elsewhere.parent.mkdir()
    with Drawing() as drawing:
        drawing.begin(panels, elsewhere)
        assert drawing.result() == ""
    assert elsewhere.read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in elsewhere.parent.iterdir()] == ["results.png"]


def test_what_cannot_be_drawn_is_said(tmp_path):
    with Drawing() as drawing:
        drawing.begin(str(tmp_path / "none"), tmp_path / "results.png")
        assert str(tmp_path / "none") in drawing.result()
    assert not (tmp_path / "results.png").exists()


def test_a_process_that_is_killed_is_no_figure(panels, tmp_path):
    with Drawing() as drawing:
        drawing._process.kill()
        drawing._process.wait()
        drawing.begin(panels, tmp_path / "results.png")
        assert "ended with status -9" in drawing.result()


def test_a_figure_that_takes_too_long_is_given_up(panels, tmp_path):
    with Drawing() as drawing:
        drawing.begin(panels, tmp_path / "results.png")
        assert drawing.result(time_out=0.0) == "it took longer than 0 s"
    assert drawing._process.returncode == -9


def test_the_process_ends_with_the_one_that_started_it():
    with Drawing() as drawing:
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
