"""The process that draws the figure of a run."""

import numpy as np
import pytest
import xarray as xr

from ips_components.report.drawing import Drawing


@pytest.fixture
def store(tmp_path):
    """A store with two results."""
    path = tmp_path / "results.zarr"
    dataset = xr.Dataset({"mean": (("y", "x"), np.ones((4, 3))), "loss": ("step", np.arange(5.0))})
    dataset.to_zarr(path, consolidated=False)
    return path


def test_stored_results_are_drawn_where_they_are_asked_for(store, tmp_path):
    elsewhere = tmp_path / "run" / "results.png"
    elsewhere.parent.mkdir()
    with Drawing() as drawing:
        drawing.begin(str(store), ["mean", "loss"], elsewhere)
        assert drawing.result() == ""
    assert elsewhere.read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in elsewhere.parent.iterdir()] == ["results.png"]


def test_what_cannot_be_drawn_is_said(tmp_path):
    with Drawing() as drawing:
        drawing.begin(str(tmp_path / "none.zarr"), [], tmp_path / "results.png")
        assert "none.zarr" in drawing.result()
    assert not (tmp_path / "results.png").exists()


def test_a_process_that_is_killed_is_no_figure(store, tmp_path):
    with Drawing() as drawing:
        drawing._process.kill()
        drawing._process.wait()
        drawing.begin(str(store), ["mean"], tmp_path / "results.png")
        assert "ended with status -9" in drawing.result()


def test_a_figure_that_takes_too_long_is_given_up(store, tmp_path):
    with Drawing() as drawing:
        drawing.begin(str(store), ["mean"], tmp_path / "results.png")
        assert drawing.result(time_out=0.0) == "it took longer than 0 s"
    assert drawing._process.returncode == -9


def test_the_process_ends_with_the_one_that_started_it():
    with Drawing() as drawing:
        drawing._process.stdin.close()  # as when that one is killed
        assert drawing._process.wait(60) == 0
