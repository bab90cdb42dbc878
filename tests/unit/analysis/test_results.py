"""Naming, planning and writing results."""

from __future__ import annotations

import dask
import dask.array as da
import numpy as np
import pandas as pd
import pytest
import xarray as xr

from ips_components.analysis import results as _results
from ips_components.analysis import time_axes
from ips_components.analysis.results import ResultStore, lazy_parts, name_results
from ips_components.errors import ConfigError, ContractError


def summary_of(store):
    with store.opened() as groups:
        return store.summary(groups)


def test_results_get_names():
    assert list(name_results({"a": 1})) == ["a"]
    assert list(name_results((1, 2))) == ["result_0", "result_1"]
    assert list(name_results(da.ones(3))) == ["result"]
    assert list(name_results(xr.Dataset({"u": ("x", [1.0])}))) == ["u"]


@pytest.mark.parametrize("nothing", [None, {}, ()])
def test_an_analysis_that_returns_nothing_gets_an_example(nothing):
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
    assert summary_of(store)["number"]["max"] == 3.5
    assert summary_of(store)["plain"]["dims"] == ["plain_0"]


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


# -- what meets in one store ---------------------------------------------------------------


def written(tmp_path, returned, format="zarr", **options):
    """Write what an analysis returned, as a run does; the store and its root."""
    store = ResultStore(tmp_path / f"r.{format}", format, {"run": "r1"}, **options)
    store.prepare()
    gathered, stored = store.plan(name_results(returned))
    lazy = lazy_parts(gathered)
    computed = {name: value.compute(scheduler="sync") for name, value in lazy.items()}
    dask.compute(*stored.values())
    store.write({**gathered, **computed})
    store.finish()
    return store


FORMATS = pytest.mark.parametrize("format", ["zarr", "netcdf"])


def over_time(values, first=0):
    return xr.DataArray(
        np.asarray(values), dims="time", coords={"time": np.arange(first, first + len(values))}
    )


@FORMATS
def test_dims_that_clash_are_renamed_and_values_stay(tmp_path, format):
    early, late = over_time(np.arange(2, dtype="i4")), over_time(np.arange(10.0), first=5)
    store = written(tmp_path, {"early": early, "late": late, "again": early + 1}, format)
    with store.open() as found:
        assert found["early"].dtype == np.int32
        np.testing.assert_array_equal(found["early"], early)
        np.testing.assert_array_equal(found["late"], late)
        np.testing.assert_array_equal(found["late_time"], np.arange(5, 15))
        assert found["again"].dims == found["early"].dims == ("time",)
        assert found["late"].dims == ("late_time",)
    assert summary_of(store)["late"]["renamed"] == {"time": "late_time"}


@FORMATS
def test_scalar_coordinates_of_results_may_differ(tmp_path, format):
    t = over_time(np.arange(4.0))
    returned = {"first": t.isel(time=0), "last": t.isel(time=-1), "all": t}
    with written(tmp_path, returned, format).open() as found:
        assert float(found["first"]) == 0.0 and float(found["last"]) == 3.0
        assert int(found["first_time"]) == 0 and int(found["last_time"]) == 3
        np.testing.assert_array_equal(found["time"], np.arange(4))


def test_two_quantiles_are_kept(tmp_path):
    t = over_time(np.arange(5.0))
    returned = {f"q{q}": t.quantile(q / 100) for q in (10, 90)}
    with written(tmp_path, returned).open() as found:
        assert float(found["quantile"]) == 0.1
        assert float(found["q90_quantile"]) == 0.9
        assert float(found["q90"]) == pytest.approx(3.6)


@FORMATS
def test_a_result_named_like_a_dimension_is_a_result(tmp_path, format):
    field = xr.DataArray(np.ones((2, 3)), dims=("y", "x"), coords={"y": [5, 6]})
    store = written(tmp_path, {"field": field, "y": field.mean("x"), "x": field.sum()}, format)
    assert {"field", "y", "x"} == set(summary_of(store))
    with store.open() as found:
        assert found["field"].dims == ("y_dim", "x_dim")
        np.testing.assert_array_equal(found["y_dim"], [5, 6])
        np.testing.assert_array_equal(found["y"], [1.0, 1.0])


@pytest.mark.parametrize("name", ["a/b", "", " a", "..", "zarr.json", "__x", "a\nb", "a" * 300])
def test_names_that_no_store_holds_are_refused(name):
    with pytest.raises(ContractError, match="cannot be stored"):
        name_results({name: da.ones(2)})


@FORMATS
def test_datasets_in_a_mapping_are_groups_with_their_attributes(tmp_path, format):
    inner = xr.Dataset({"m": over_time([1.0, 2.0])}, attrs={"source": "a", "flag": True})
    store = written(tmp_path, {"stats": inner, "n": da.ones(())}, format)
    with store.open("stats") as found:
        np.testing.assert_array_equal(found["m"], [1.0, 2.0])
        assert (found.attrs["source"], found.attrs["flag"]) == ("a", 1)
    assert set(summary_of(store)) == {"stats/m", "n"}


def test_a_dataset_keeps_its_attributes_and_a_tree_its_groups(tmp_path):
    dataset = xr.Dataset({"m": over_time([1.0, 2.0])}, attrs={"title": "T"})
    with written(tmp_path / "a", dataset).open() as found:
        assert found.attrs == {"title": "T", "run": "r1"}
    tree = xr.DataTree.from_dict({"/": dataset, "/fine.r/inner": dataset * 2})
    store = written(tmp_path / "b", tree)
    assert set(summary_of(store)) == {"m", "fine.r/inner/m"}
    with store.open("fine.r/inner") as found:
        np.testing.assert_array_equal(found["m"], [2.0, 4.0])


def test_a_single_array_has_its_own_name(tmp_path):
    assert list(name_results(over_time([1.0]).rename("warmth"))) == ["warmth"]
    assert list(name_results(over_time([1.0]))) == ["result"]
    a, b = over_time([1.0]).rename("a"), over_time([1.0]).rename("b")
    assert list(name_results([a, b])) == ["a", "b"]
    assert list(name_results([a, a])) == ["result_0", "result_1"]


# -- kinds of results ----------------------------------------------------------------------


def test_a_tuple_of_arrays_is_a_result_each(tmp_path):
    x = da.arange(100, chunks=10)
    counts, edges = da.histogram(x, bins=4, range=(0, 100))
    with written(tmp_path, {"histogram": (counts, edges), "f": da.fft.rfftfreq(8)}).open() as found:
        np.testing.assert_array_equal(found["histogram_0"], [25] * 4)
        np.testing.assert_array_equal(found["histogram_1"], [0, 25, 50, 75, 100])
        np.testing.assert_array_equal(found["f"], np.fft.rfftfreq(8))


@dask.delayed
def gives(value):
    return value


def test_delayed_values_are_stored_by_what_they_are(tmp_path):
    returned = {
        "number": gives(3),
        "pair": gives((np.arange(3), np.arange(2.0))),
        "field": gives(over_time([1.0, 2.0])),
        "numbers": gives({"a": 1.5, "b": [1, 2]}),
        "nothing": gives(None),
        "words": gives(["x", "yy"]),
    }
    store = written(tmp_path, returned)
    with store.open() as found:
        assert int(found["number"]) == 3
        np.testing.assert_array_equal(found["pair_1"], [0, 1])
        np.testing.assert_array_equal(found["field"], [1.0, 2.0])
        assert found["words"].values.tolist() == ["x", "yy"]
    with store.open("numbers") as found:
        assert float(found["a"]) == 1.5
    assert "nothing" not in summary_of(store)


def test_tables_series_and_bags_are_stored(tmp_path):
    import dask.bag as db
    import dask.dataframe as dd
    import pandas as pd

    frame = pd.DataFrame({"e": [1.0, 2.0], "kind": ["a", "b"], "n": [1, 2]}, index=[10, 20])
    lazy = dd.from_pandas(frame, npartitions=2)
    bag = db.from_sequence(["a", "b", "a"], npartitions=2)
    returned = {
        "table": lazy,
        "mean": lazy.groupby("kind").e.mean(),
        "total": lazy.e.sum(),
        "squares": db.range(4, 2).map(lambda n: n * n),
        "counts": bag.frequencies(),
    }
    store = written(tmp_path, returned)
    with store.open("table") as found:
        np.testing.assert_array_equal(found["index"], [10, 20])
        assert found["kind"].values.tolist() == ["a", "b"]
        assert found["n"].dtype == np.int64
    with store.open() as found:
        assert dict(zip(found["kind"].values, found["mean"].values, strict=True)) == {
            "a": 1.0,
            "b": 2.0,
        }
        assert float(found["total"]) == 3.0
        np.testing.assert_array_equal(found["squares"], [0, 1, 4, 9])
        assert sorted(found["counts_0"].values) == ["a", "b"]
        assert sorted(found["counts_1"].values) == [1, 2]


@FORMATS
def test_a_store_with_groups_that_disagree_with_others_opens_as_a_tree(tmp_path, format):
    """A group inherits the dimensions of those above, which must agree with its own."""
    table = pd.DataFrame({"a": [1.0, 2.0, 3.0], "b": [4, 5, 6]}, index=["u", "v", "w"])
    values = {
        "series": pd.Series([1.0, 2.0], name="s"),  # its own index
        "table": table,
        "field": xr.DataArray(np.arange(4.0), dims="y", coords={"y": [0, 1, 2, 3]}),
        "inner": xr.Dataset({"v": ("y", np.arange(3.0))}, coords={"y": [0.0, 0.5, 1.0]}),
        "profile": xr.DataArray(np.arange(4.0), dims="y", coords={"y": [0, 1, 2, 3]}),
        "late": xr.DataArray(np.arange(5.0), dims="index"),
    }
    store = ResultStore(tmp_path / "r", format)
    store.write(values)
    store.finish()
    engine = {"engine": "zarr", "consolidated": False} if format == "zarr" else {}
    with xr.open_datatree(store.path, **engine) as tree:
        np.testing.assert_array_equal(tree["table/a"], table["a"])
        np.testing.assert_array_equal(tree["table/b"], table["b"])
        assert tree["table/a"].dims == tree["table/b"].dims
        assert [*tree["table"][tree["table/a"].dims[0]].values] == ["u", "v", "w"]
        np.testing.assert_array_equal(tree["inner/v"], np.arange(3.0))
        assert [*tree["inner"][tree["inner/v"].dims[0]].values] == [0.0, 0.5, 1.0]
        assert tree["field"].dims == tree["profile"].dims
        np.testing.assert_array_equal(tree["late"], np.arange(5.0))


@FORMATS
def test_masked_cells_are_missing_in_the_store(tmp_path, format, monkeypatch):
    x = da.ma.masked_greater(da.arange(6, chunks=2), 3)
    returned = {
        "whole": x,
        "real": x * 1.0,
        "flags": x > 2,
        "none": da.ma.masked_greater(da.ones(3), 0).mean(),
        "inside": xr.DataArray(x, dims="cell"),
    }
    with written(tmp_path, returned, format).open() as found:
        for name in ("whole", "real", "inside"):
            np.testing.assert_array_equal(found[name], [0, 1, 2, 3, np.nan, np.nan])
        assert np.isnan(found["none"])
    monkeypatch.setattr(_results, "GATHER_LIMIT", 8)
    with written(tmp_path / "large", {"whole": x}, format).open() as found:
        np.testing.assert_array_equal(found["whole"], [0, 1, 2, 3, np.nan, np.nan])


@FORMATS
def test_levels_of_a_multiindex_become_coordinates(tmp_path, format):
    field = xr.DataArray(
        np.arange(4.0).reshape(2, 2), dims=("y", "x"), coords={"y": [0, 1], "x": [5, 6]}
    )
    with written(tmp_path, {"flat": field.stack(cell=("y", "x"))}, format).open() as found:
        np.testing.assert_array_equal(found["flat"], np.arange(4.0))
        np.testing.assert_array_equal(found["y"], [0, 0, 1, 1])
        np.testing.assert_array_equal(found["x"], [5, 6, 5, 6])


def test_attributes_that_no_file_holds_cost_no_others(tmp_path):
    field = over_time([1.0]).assign_attrs(
        units="K", ok=True, nothing=None, table={"a": 1}, n=np.int64(3), v=np.arange(2)
    )
    with written(tmp_path, {"field": field}, "netcdf").open() as found:
        attrs = found["field"].attrs
        assert (attrs["units"], attrs["ok"], attrs["table"], attrs["n"]) == ("K", 1, "{'a': 1}", 3)
        assert "nothing" not in attrs


# -- the store itself ----------------------------------------------------------------------


@FORMATS
def test_results_of_an_earlier_run_are_refused_or_replaced(tmp_path, format):
    path = tmp_path / f"r.{format}"
    ResultStore(path, format, {"run": "r0"}).write({"old": np.ones(2)})
    with pytest.raises(ConfigError, match="OVERWRITE = True"):
        written(tmp_path, {"new": da.ones(3)}, format)
    with written(tmp_path, {"new": da.ones(3)}, format, overwrite=True).open() as found:
        assert set(found.data_vars) == {"new"}
    written(tmp_path, {"new": da.ones(3)}, format)  # the same run, started again


def test_overwrite_spares_folders_that_are_no_results(tmp_path):
    (tmp_path / "r.zarr").mkdir()
    (tmp_path / "r.zarr" / "thesis.tex").touch()
    with pytest.raises(ConfigError, match="other files"):
        written(tmp_path, {"new": da.ones(3)}, overwrite=True)
    assert (tmp_path / "r.zarr" / "thesis.tex").exists()


def test_a_path_that_cannot_be_written_is_refused_before_step_0(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="nothing can be written"):
        ResultStore(tmp_path / "file" / "r.zarr").prepare()


@pytest.mark.parametrize("dtype", ["complex128", "float16"])
def test_netcdf_refuses_types_that_it_lacks_before_step_0(tmp_path, dtype):
    with pytest.raises(ContractError, match=f"'bad' has dtype {dtype}"):
        ResultStore(tmp_path / "r.nc", "netcdf").plan({"bad": da.ones(2, dtype=dtype)})
    with written(tmp_path, {"good": da.ones(2, dtype=dtype)}).open() as found:
        assert found["good"].dtype == dtype


def test_netcdf_without_a_package_for_it_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(_results, "_NETCDF_BACKENDS", ("no_such_package",))
    with pytest.raises(ConfigError, match="pip install netCDF4"):
        ResultStore(tmp_path / "r.nc", "netcdf").prepare()


def test_netcdf_whose_package_is_broken_is_refused_before_step_0(tmp_path, monkeypatch):
    (tmp_path / "broken_netcdf.py").write_text("raise ImportError('libhdf5.so.7: not found')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(_results, "_NETCDF_BACKENDS", ("no_such_package", "broken_netcdf"))
    with pytest.raises(ConfigError, match=r"ImportError: libhdf5\.so\.7: not found"):
        ResultStore(tmp_path / "r.nc", "netcdf").prepare()


def test_results_larger_than_the_disk_are_refused_before_step_0(tmp_path):
    with pytest.raises(ContractError, match="are free"):
        ResultStore(tmp_path / "r.nc", "netcdf").plan({"big": da.ones(10**15, chunks=10**9)})


@FORMATS
def test_a_result_that_cannot_be_written_leaves_the_others(tmp_path, format):
    store = ResultStore(tmp_path / "r", format)
    with pytest.raises(ContractError, match="'model' is a object") as caught:
        store.write({"a": np.ones(2), "model": object(), "b": np.zeros(3)})
    assert caught.value.results == ["model"]
    with store.open() as found:
        assert set(found.data_vars) == {"a", "b"}


def test_the_store_opens_without_a_warning(tmp_path, recwarn):
    store = written(tmp_path, {"a": da.ones(3), "words": gives(["x"])})
    with xr.open_zarr(store.path) as found:
        assert set(found.data_vars) == {"a", "words"}
    assert not [str(w.message) for w in recwarn]


def test_large_results_with_uneven_chunks_are_written_by_workers(tmp_path, monkeypatch):
    monkeypatch.setattr(_results, "GATHER_LIMIT", 64)
    uneven = da.arange(100, chunks=((7, 50, 43),))
    with written(tmp_path, {"big": uneven}).open() as found:
        np.testing.assert_array_equal(found["big"], np.arange(100))


def test_a_large_result_that_failed_is_not_left_half_written(tmp_path, monkeypatch):
    monkeypatch.setattr(_results, "GATHER_LIMIT", 64)
    store = ResultStore(tmp_path / "r.zarr", attrs={"run": "r1"})
    store.plan({"big": da.arange(100, chunks=10)})
    store.discard("big")
    store.write({"small": np.ones(2)})
    assert set(summary_of(store)) == {"small"}


# -- steps and physical times ----------------------------------------------------------------


def times_of(run, steps):
    """Two simulations, one of which is ten times as slow."""
    return np.array([*steps]) * {"fast": 0.5, "slow": 5.0, "timeless": np.nan}[run]


def with_steps(steps, run="fast", dim="time"):
    values = np.arange(len(steps)) + 0.5
    coords = {dim: time_axes.step_coordinate(dim, run, steps)}
    return xr.DataArray(values, dims=dim, coords=coords)


@FORMATS
def test_steps_of_results_become_physical_times(tmp_path, format):
    """Also where a result is a plain array, a part, or what was computed of parts."""
    store = ResultStore(tmp_path / f"r.{format}", format)
    whole = with_steps(range(6))
    values = {
        "whole": whole,
        "part": whole[::2] * 2,
        "plain": np.arange(6.0),
        "slow": with_steps(range(6), "slow"),
        "unknown": with_steps(range(6), "timeless"),
        "own": whole.assign_coords(time=whole.time * 7),
    }
    store.name_dims("plain", ("time",), "K", time_axes.TimeAxis("time", "fast", range(6)))
    store.write(values, times_of)
    with store.open() as found:
        for name in ("whole", "plain"):
            np.testing.assert_array_equal(found[name]["time"], 0.5 * np.arange(6))
            np.testing.assert_array_equal(found[name]["step"], np.arange(6))
        assert found["time"].attrs == {"long_name": "time"}
        assert found["step"].attrs == {"long_name": "simulation step"}
        for name, times in (
            ("part", [0.0, 1.0, 2.0]),
            ("slow", 5.0 * np.arange(6)),
            ("unknown", np.arange(6)),
            ("own", 7 * np.arange(6)),
        ):
            (dim,) = found[name].dims
            np.testing.assert_array_equal(found[name][dim], times, err_msg=name)
        (dim,) = found["part"].dims
        np.testing.assert_array_equal(found["part_step"], [0, 2, 4])


def test_steps_of_large_results_become_physical_times(tmp_path, monkeypatch):
    """Their workers have written them when the times were not known yet."""
    monkeypatch.setattr(_results, "GATHER_LIMIT", 64)
    store = ResultStore(tmp_path / "r.zarr")
    big = with_steps(range(100)).chunk({"time": 10})
    named = {"big": big, "small": with_steps(range(100)).isel(time=slice(2))}
    gathered, stored = store.plan(named)
    assert list(stored) == ["big"]
    dask.compute(*stored.values())
    store.write(gathered | {"curve": with_steps(range(100))}, times_of)
    with store.open() as found:
        np.testing.assert_array_equal(found["big"]["time"], 0.5 * np.arange(100))
        np.testing.assert_array_equal(found["big"], np.arange(100) + 0.5)
        np.testing.assert_array_equal(found["step"], np.arange(100))
        assert found["curve"].dims == ("time",)


@pytest.mark.parametrize("format", ["zarr", "netcdf"])
def test_stored_variables_come_in_the_order_of_the_analysis(tmp_path, format):
    store = ResultStore(tmp_path / "r", format)
    curve = xr.Dataset({"validation": ("step", [1.0, 2.0]), "loss": ("step", [3.0, 4.0])})
    named = name_results({"b": da.ones(2), "curve": curve, "a": da.ones(2)})
    store.plan(named)
    store.write(dict(zip(named, dask.compute(*named.values()), strict=True)))
    with store.opened() as groups:
        assert {path: list(group.data_vars) for path, group in groups.items()} == {
            "": ["b", "a"],
            "curve": ["validation", "loss"],
        }
        assert list(store.summary(groups)) == ["b", "curve/validation", "curve/loss", "a"]
