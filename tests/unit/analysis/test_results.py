"""Naming, planning and writing results."""

from __future__ import annotations

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr

from ips_components.analysis import results as _results
from ips_components.analysis.results import ResultStore, lazy_parts, name_results
from ips_components.errors import ConfigError, ContractError


def test_results_get_names():
    assert list(name_results({"a": 1})) == ["a"]
    assert list(name_results((1, 2))) == ["result_0", "result_1"]
    assert list(name_results(da.ones(3))) == ["result"]
    assert list(name_results(xr.Dataset({"u": ("x", [1.0])}))) == ["u"]


@pytest.mark.parametrize("nothing", [None, {}, ()])
def test_an_analysis_that_returns_nothing_is_told_what_to_return(nothing):
    with pytest.raises(ContractError, match="returned nothing"):
        name_results(nothing)


def test_names_must_be_strings():
    with pytest.raises(ContractError, match="names must be strings"):
        name_results({1: 2})


def test_lazy_parts_leaves_constants_out():
    assert list(lazy_parts({"a": da.ones(2), "b": 3.0})) == ["a"]


@pytest.mark.parametrize(("format", "name"), [("zarr", "r.zarr"), ("netcdf", "r.nc")])
def test_coordinates_and_attributes_survive(tmp_path, format, name):
    store = ResultStore(tmp_path / "deep" / name, format, {"run": "r1"})
    field = xr.DataArray(
        np.arange(6.0).reshape(2, 3), dims=("y", "x"), coords={"x": [0, 1, 2]}, attrs={"units": "K"}
    )
    store.write({"field": field, "number": 3.5, "plain": np.arange(4)})
    with store.open() as dataset:
        assert dataset.attrs["run"] == "r1"
        assert dataset.field.attrs["units"] == "K"
        xr.testing.assert_equal(dataset.field.load(), field)
    assert store.summary()["number"]["max"] == 3.5
    assert store.summary()["plain"]["dims"] == ["plain_0"]


def test_large_results_are_written_by_their_own_graph(tmp_path, monkeypatch):
    monkeypatch.setattr(_results, "GATHER_LIMIT", 64)
    store = ResultStore(tmp_path / "r.zarr")
    big = xr.DataArray(da.arange(100, chunks=10), dims="x")
    gathered, stored = store.plan({"big": big, "small": da.ones(2)})
    assert list(gathered) == ["small"]
    dask.compute(*stored.values())
    store.write({"small": np.ones(2)})
    with store.open() as dataset:
        np.testing.assert_array_equal(dataset.big, np.arange(100))
        assert set(dataset.data_vars) == {"big", "small"}


def test_an_unknown_format_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="RESULTS_FORMAT"):
        ResultStore(tmp_path, "hdf5")


def test_what_cannot_be_stored_is_named(tmp_path):
    with pytest.raises(ContractError, match="'model' is a"):
        ResultStore(tmp_path / "r.zarr").write({"model": object()})
