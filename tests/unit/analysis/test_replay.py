"""Replaying a stored field: every format, the arrays of a live run, and what an analysis may do."""

from __future__ import annotations

import sys

import h5py
import numpy as np
import pytest
import xarray as xr
import zarr
from distributed import Client

from ips_components.analysis import replay
from ips_components.analysis import stores as _stores
from ips_components.analysis.stores import stored_arrays
from ips_components.cli import main
from ips_components.coordination import RunSettings
from ips_components.errors import ConfigError, ContractError

STEPS, NY, NX = 9, 6, 4
FIELD = np.random.default_rng(4).random((STEPS, NY, NX))


@pytest.fixture(scope="module")
def client():
    with Client(
        processes=False, n_workers=2, threads_per_worker=1, dashboard_address=":0"
    ) as client:
        yield client


def dataset() -> xr.Dataset:
    return xr.Dataset(
        {
            "temperature": (("time", "y", "x"), FIELD, {"units": "K", "long_name": "warmth"}),
            "total": (("time",), FIELD.sum(axis=(1, 2))),
            "scale": ((), 1.0),
        },
        coords={"time": np.arange(10, 10 + 5 * STEPS, 5)},
    )


def store_zarr(path):
    dataset().to_zarr(path, consolidated=False)


def store_netcdf(path):
    dataset().to_netcdf(path)


def store_packed(path):
    packing = {"dtype": "i4", "scale_factor": 1e-9, "_FillValue": -1}
    dataset().to_netcdf(path, encoding={"temperature": packing})


def store_hdf5(path):
    with h5py.File(path, "w") as file:
        file["temperature"] = FIELD
        file["temperature"].attrs["units"] = "K"
        file["temperature"].dims[0].label = "time"
        file["temperature"].dims[1].label = "y"
        file["temperature"].dims[2].label = "x"
        file["steps"] = np.arange(10, 10 + 5 * STEPS, 5)
        file["steps"].make_scale("time")
        file["temperature"].dims[0].attach_scale(file["steps"])
        file["some/where"] = FIELD[:, 0, 0]


def store_bare_zarr(path):
    zarr.create_array(path, shape=FIELD.shape, dtype="f8", chunks=(4, 3, 3))[:] = FIELD


def store_group_without_names(path):
    group = zarr.open_group(path, mode="w")
    group.create_array("temperature", shape=FIELD.shape, dtype="f8")[:] = FIELD


def store_npy(path):
    np.save(path, FIELD)


STORES = {
    "field.zarr": store_zarr,
    "field.nc": store_netcdf,
    "packed.nc": store_packed,
    "field.h5": store_hdf5,
    "temperature.zarr": store_bare_zarr,
    "group.zarr": store_group_without_names,
    "temperature.npy": store_npy,
}


@pytest.fixture(params=STORES)
def store(request, tmp_path):
    path = tmp_path / request.param
    STORES[request.param](path)
    return path


# -- what is in a store --------------------------------------------------------------------


def test_a_stored_array_is_what_a_simulation_would_offer(store):
    spec = stored_arrays(store)["temperature"].spec
    assert (spec.shape, spec.dims, spec.dtype) == ((NY, NX), ("time", "y", "x"), "<f8")
    assert spec.steps.count == STEPS
    if store.suffix in (".nc", ".h5") or store.name == "field.zarr":
        assert (spec.steps.start, spec.steps.every) == (10, 5)
        assert spec.attrs["units"] == "K"


def test_a_box_is_read_as_numpy_would_cut_it(store):
    box = (slice(1, 8, 3), slice(0, 6, 2), slice(1, 4))
    found = stored_arrays(store)["temperature"].read(box)
    np.testing.assert_allclose(found, FIELD[box], atol=1e-9)


def test_groups_of_hdf5_become_prefixes(tmp_path):
    store_hdf5(tmp_path / "field.h5")
    assert set(stored_arrays(tmp_path / "field.h5")) == {"temperature", "some.where"}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("absent.nc", "no such file"),
        ("field.txt", "unknown format"),
        ("folder", "no Zarr store"),
        ("numbers.npy", "no array of numbers with a time dimension"),
    ],
)
def test_what_is_no_store_is_refused(tmp_path, name, message):
    (tmp_path / "field.txt").write_text("1 2 3")
    (tmp_path / "folder").mkdir()
    np.save(tmp_path / "numbers.npy", np.float64(3.0))
    with pytest.raises(ConfigError, match=message):
        stored_arrays(tmp_path / name)


# -- analyses of stored fields ---------------------------------------------------------------


def settings(tmp_path, analysis, **changes):
    return RunSettings(
        run="replayed",
        token="none",
        analysis=f"{__name__}:{analysis.__name__}",
        n_receivers=2,
        results=str(tmp_path / "results.zarr"),
        **changes,
    ).to_dict()


def run(client, tmp_path, analysis, source, **changes):
    with client.as_current():
        summary = replay(settings(tmp_path, analysis, **changes), source)
    with xr.open_zarr(summary["results"], consolidated=False) as results:
        return summary, results.load()


def reductions(arrays, factor=1.0):
    t = arrays["temperature"]
    return {
        "mean": factor * t.mean(axis=0),
        "cut": t[::2, 1:5:3, -1],
        "table": t[2:].to_xarray().std("time"),
        "last": t[-1].sum(),
    }


def test_results_are_those_of_numpy(client, store, tmp_path):
    summary, found = run(client, tmp_path, reductions, store, parameters={"factor": 2.0})
    np.testing.assert_allclose(found["mean"], 2 * FIELD.mean(axis=0), atol=1e-8)
    np.testing.assert_allclose(found["cut"], FIELD[::2, 1:5:3, -1], atol=1e-8)
    np.testing.assert_allclose(found["table"], FIELD[2:].std(axis=0), atol=1e-8)
    np.testing.assert_allclose(found["last"], FIELD[-1].sum(), atol=1e-7)
    (row,) = summary["contract"]
    assert row["name"] == "temperature"


def corner(arrays):
    return {"corner": arrays["temperature"][3, :2, :2]}


def test_only_what_the_graph_needs_is_read(client, tmp_path, monkeypatch):
    store_zarr(tmp_path / "field.zarr")
    boxes = []
    read = _stores._READERS["xarray"]
    monkeypatch.setitem(
        _stores._READERS,
        "xarray",
        lambda path, name, box: boxes.append(box) or read(path, name, box),
    )
    _, found = run(client, tmp_path, corner, tmp_path / "field.zarr")
    np.testing.assert_array_equal(found["corner"], FIELD[3, :2, :2])
    assert {FIELD[box].size for box in boxes} <= {2, 4}
    assert sum(FIELD[box].size for box in boxes) == 4


def steering(arrays, run):
    t = arrays["temperature"]
    run.commit({f"mean_{k}": t[k].mean() for k in range(STEPS)})
    seen = 0.0
    for name, value in run.completed():
        run.send("gain", float(value), step=int(name.split("_")[1]))
        seen += float(value)
    run.stop("seen it all")
    return {"seen": np.float64(seen)}


def test_an_analysis_that_talks_to_the_simulation_talks_to_nobody(client, tmp_path):
    store_zarr(tmp_path / "field.zarr")
    _, found = run(client, tmp_path, steering, tmp_path / "field.zarr")
    np.testing.assert_allclose(found["seen"], FIELD.mean(axis=(1, 2)).sum())


def windows(arrays, run):
    rolling = run.rolling(arrays["temperature"], 3, region=(slice(None, None, 2),), ahead=2)
    means = [
        float(window.value)
        for window in rolling.scan(lambda total, x: (total + x.sum(), x.mean()), 0.0)
    ]
    return {"means": np.array(means), "total": rolling.state}


def test_windows_roll_over_a_stored_field(client, tmp_path):
    store_zarr(tmp_path / "field.zarr")
    _, found = run(client, tmp_path, windows, tmp_path / "field.zarr")
    parts = [FIELD[k : k + 3, ::2] for k in range(STEPS - 2)]
    np.testing.assert_allclose(found["means"], [part.mean() for part in parts])
    np.testing.assert_allclose(found["total"], sum(part.sum() for part in parts))


def misspelt(arrays):
    return {"mean": arrays["temprature"].mean()}


def test_an_array_that_is_not_stored_is_an_error_that_says_what_is(client, tmp_path):
    store_zarr(tmp_path / "field.zarr")
    with pytest.raises(ContractError, match=r"field\.zarr.*did you mean 'temperature'"):
        run(client, tmp_path, misspelt, tmp_path / "field.zarr")


def about(arrays):
    t = arrays["temperature"]
    assert t.spec.attrs == {"units": "degC", "long_name": "warmth"}
    return {"first": t[0, 0, 0]}


def test_the_config_may_add_to_what_the_store_says(client, tmp_path):
    store_zarr(tmp_path / "field.zarr")
    described = (
        {"name": "temperature", "dtype": "f8", "shape": [1], "attrs": {"units": "degC"}},
        {"name": "absent", "dtype": "f8", "shape": [1]},
    )
    changes = {"arrays": described, "chunks": {"absent": (1, 1)}, "policies": {"absent": "drop"}}
    _, found = run(client, tmp_path, about, tmp_path / "field.zarr", **changes)
    assert float(found["first"]) == FIELD[0, 0, 0]


# -- the command line ------------------------------------------------------------------------


@pytest.mark.parametrize("workers", ["1", "2"])
def test_the_command_replays_an_analysis_beside_the_data(tmp_path, monkeypatch, capsys, workers):
    store_zarr(tmp_path / "field.zarr")
    (tmp_path / "beside.py").write_text(
        "def hottest(arrays, first=0):\n"
        "    t = arrays['temperature'][first:]\n"
        "    return {'hottest': t.max(), 'map': t.to_xarray().max('time')}\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    command = ["replay", "field.zarr", "--analysis", "beside:hottest", "--args", "first=2"]
    assert main([*command, "--results", "out.nc", "--workers", workers]) == 0
    said = capsys.readouterr().out
    assert f"hottest: {FIELD[2:].max():g}" in said
    assert "map: y 6 x x 4" in said
    with xr.open_dataset(tmp_path / "out.nc") as found:
        np.testing.assert_array_equal(found["map"], FIELD[2:].max(axis=0))


def test_the_command_says_what_is_wrong(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert main(["replay", "absent.zarr", "--analysis", f"{__name__}:corner"]) == 1
    assert "absent.zarr: no such file or folder" in capsys.readouterr().err
    command = ["replay", "absent.zarr", "--analysis", f"{__name__}:corner", "--args", "3"]
    assert main(command) == 1
    assert "name=value" in capsys.readouterr().err
