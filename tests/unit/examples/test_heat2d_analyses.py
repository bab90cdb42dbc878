"""The ready-made analyses, on a field that is there already."""

import importlib
import sys

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr
from sklearn.decomposition import IncrementalPCA

from ips_components.analysis.arrays import external_arrays
from ips_components.analysis.contract import contract_from_graph
from ips_components.errors import ContractError
from ips_components.examples import heat2d as analyses
from ips_components.model.spec import ArraySpec, StepAxis


class Described(da.Array):
    """A dask array that carries a description, as an external array does."""

    __slots__ = ("spec",)


STEPS, NY, NX = 12, 10, 14


def described(x, attrs=None, every=5):
    lazy = da.from_array(x, (1, NY // 2, NX))
    array = Described(lazy.dask, lazy.name, lazy.chunks, lazy.dtype)
    array.spec = ArraySpec(
        "temperature",
        "f8",
        x.shape[1:],
        StepAxis(0, every, len(x)),
        ("y", "x"),
        {"units": "K"} if attrs is None else attrs,
    )
    return array


@pytest.fixture
def field():
    rng = np.random.default_rng(0)
    t = np.arange(STEPS)[:, None, None]
    return np.sin(0.3 * t + np.arange(NX)) * np.arange(1, NY + 1)[:, None] + rng.normal(
        size=(STEPS, NY, NX)
    )


@pytest.fixture
def arrays(field):
    return {"temperature": described(field)}


def computed(results):
    """Check that all is lazy and fits into one data set, then compute it."""
    results = {name: value for name, value in results.items() if name != "checkpoint"}
    assert all(dask.is_dask_collection(value) for value in results.values())
    data = xr.Dataset(results)
    for name, value in results.items():
        assert data[name].shape == value.shape
        assert value.attrs["long_name"]
    with dask.config.set(scheduler="synchronous"):
        return data.compute()


@pytest.mark.parametrize(
    ("options", "batches"),
    [
        ({}, lambda x: x),
        ({"features": "y", "samples": "x"}, lambda x: x.transpose(0, 2, 1)),
        ({"n_components": "3", "svd_solver": "randomized", "random_state": "1"}, lambda x: x),
    ],
)
def test_ipca(arrays, field, options, batches):
    results = computed(analyses.heat2d_ipca(arrays, interval="0.5", **options))
    theirs = IncrementalPCA(3)
    history = []
    for batch in batches(field):
        theirs.partial_fit(batch)
        history.append(theirs.explained_variance_)
    rtol = 0.02 if "svd_solver" in options else 1e-10
    np.testing.assert_allclose(results.explained_variance, history[-1], rtol=rtol)
    np.testing.assert_allclose(results.explained_variance_history, history, rtol=rtol)
    np.testing.assert_allclose(results.components, theirs.components_, atol=rtol * 10)
    assert results.components.dims == ("component", options.get("features", "x"))
    np.testing.assert_allclose(results["mean"], theirs.mean_)
    np.testing.assert_array_equal(results.time, np.arange(STEPS) * 2.5)
    assert results.time.units == "s"
    np.testing.assert_array_equal(results.snapshots, field[[2, 5, 8, 11]])
    np.testing.assert_array_equal(results.step, np.array([2, 5, 8, 11]) * 2.5)
    np.testing.assert_allclose(results.x, (np.arange(NX) + 0.5) / NX)
    assert results.explained_variance.units == "K2"


def test_ipca_of_snapshots_in_batches_of_several_steps(field):
    lazy = da.from_array(field, (4, NY, NX))
    results = computed(
        analyses.heat2d_ipca({"u": lazy}, field="u", features="y, x", samples="time", snapshots=0)
    )
    theirs = IncrementalPCA(3)
    for batch in np.split(field.reshape(STEPS, -1), 3):
        theirs.partial_fit(batch)
    assert results.components.dims == ("component", "y", "x")
    np.testing.assert_allclose(results.singular_values, theirs.singular_values_)
    assert results.explained_variance_history.shape == (3, 3)
    assert "snapshots" not in results


def test_derivative(arrays, field):
    results = computed(analyses.heat2d_derivative(arrays, order="2", interval=0.1))
    rate = np.gradient(field, 0.5, axis=0)[1:-1]
    np.testing.assert_allclose(results.rate_rms, np.sqrt((rate**2).mean(axis=(1, 2))))
    np.testing.assert_allclose(results.rate_max, np.abs(rate).max(axis=(1, 2)))
    np.testing.assert_allclose(results.rate, rate[[3, 5, 7, 9]])
    np.testing.assert_allclose(results.step, [2.0, 3.0, 4.0, 5.0])
    np.testing.assert_allclose(results.time, np.arange(1, 11) * 0.5)
    assert results.rate.units == "K/s"


def test_moments(arrays, field):
    results = computed(analyses.heat2d_moments(arrays))
    np.testing.assert_allclose(results["mean"], field.mean(axis=0), atol=1e-12)
    np.testing.assert_allclose(results["std"], field.std(axis=0))
    np.testing.assert_allclose(results.maximum, field.max(axis=0))
    np.testing.assert_allclose(results.std_over_space, field.std(axis=(1, 2)))
    np.testing.assert_array_equal(results.time, np.arange(STEPS) * 5)
    assert "units" not in results.skewness.attrs


def test_histogram(arrays, field):
    results = computed(analyses.heat2d_histogram(arrays, low="-5", high=5, bins="20"))
    counts, _ = np.histogram(field[3], 20, (-5, 5))
    np.testing.assert_array_equal(results["counts"][3], counts)
    assert float(results.density.sum()) * 0.5 == pytest.approx(1.0)
    assert int(results["counts"].sum() + results.outside.sum()) == field.size


def test_quantiles(arrays, field):
    pytest.importorskip("crick")
    results = computed(analyses.heat2d_quantiles(arrays, q="0.25, 0.5"))
    exact = np.quantile(field, [0.25, 0.5], axis=(1, 2)).T
    np.testing.assert_allclose(results.quantiles, exact, atol=0.5)
    np.testing.assert_allclose(results.quantiles_of_run, np.quantile(field, [0.25, 0.5]), atol=0.2)


def test_spectrum(arrays, field):
    results = computed(analyses.heat2d_spectrum(arrays, window="none", every="3"))
    width = float(results.wavenumber[1])
    variance = field[::3].var(axis=(1, 2))
    np.testing.assert_allclose(results.spectrum.sum("wavenumber") * width, variance)
    np.testing.assert_array_equal(results.time, [0, 15, 30, 45])
    np.testing.assert_allclose(results.mean_spectrum, results.spectrum.mean("time"))


def test_correlation(arrays, field):
    results = computed(analyses.heat2d_correlation(arrays, lags="1, 4", average="3"))
    expected = np.corrcoef(field[:-4, 2, 3], field[4:, 2, 3])[0, 1]
    assert float(results.correlation[1, 2, 3]) == pytest.approx(expected)
    mean = field.mean(axis=(1, 2))
    np.testing.assert_allclose(results.moving_average[0], mean[:3].mean())
    assert int(results.time[0]) == 10


@pytest.mark.parametrize("count", [1, 3, 4, 12, 50])
def test_snapshots_end_with_the_last_step(arrays, field, count):
    results = analyses.heat2d_ipca(arrays, snapshots=count)
    kept = results["snapshots"]
    assert kept.sizes["step"] == min(count, STEPS)
    np.testing.assert_array_equal(kept[-1], field[-1])


def test_a_field_needs_space():
    with pytest.raises(ContractError, match="time and space"):
        analyses.heat2d_moments({"temperature": da.zeros(5)})


def test_only_the_chosen_steps_of_an_external_array_are_asked_for():
    spec = ArraySpec("temperature", "f8", (64, 48), StepAxis(count=200), ("y", "x"))

    def contract(analysis, **options):
        arrays = external_arrays([spec], run="r", n_receivers=2)
        results = analysis(arrays, **options)
        results.pop("checkpoint", None)
        agreed = contract_from_graph(results, arrays, run="r")
        (row,) = agreed.table()
        return row["fraction"]

    assert contract(analyses.heat2d_spectrum, every=10) == pytest.approx(0.1)
    assert contract(analyses.heat2d_ipca) == 1.0
    assert contract(analyses.heat2d_derivative) == 1.0


def test_the_former_module_still_serves_with_a_warning():
    sys.modules.pop("ips_components.analyses", None)
    with pytest.warns(DeprecationWarning, match=r"ips_components\.examples\.heat2d"):
        former = importlib.import_module("ips_components.analyses")
    assert former.heat2d_ipca is analyses.heat2d_ipca
