"""Analyses to name in a config, as in ``ANALYSIS = ips_components.examples.heat2d:heat2d_ipca``.

Each is a thin layer between the arrays of a run and `ips_components.algorithms`: it names axes and
units, and gives lazy results by name. Parameters come from the section of the config; numbers may
be written as strings there, and several names or numbers with commas between them. They are written
for a scalar field over time and space, such as the temperature of the example heat2d, and so serve
for any other such field: name it by `field`.

A function of your own has the same form. Copy one, and name yours in the config.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr

from ips_components.algorithms import (
    InSituIncrementalPCA,
    histogram,
    isotropic_spectrum,
    lag_correlation,
    moving_average,
    quantile_sketch,
    running_moments,
    time_derivative,
)
from ips_components.errors import ContractError

__all__ = [
    "heat2d_correlation",
    "heat2d_derivative",
    "heat2d_histogram",
    "heat2d_ipca",
    "heat2d_moments",
    "heat2d_quantiles",
    "heat2d_spectrum",
]


@dataclass(frozen=True, slots=True)
class _Field:
    """A field with what its axes mean; time is axis 0."""

    values: da.Array
    dims: tuple[str, ...]
    attrs: Mapping[str, Any]
    times: np.ndarray
    time_units: str
    coords: Mapping[str, np.ndarray]

    @property
    def units(self) -> str:
        return str(self.attrs.get("units", ""))

    @property
    def space(self) -> tuple[str, ...]:
        return self.dims[1:]

    @property
    def noun(self) -> str:
        return str(self.attrs.get("long_name", "field"))

    def wrap(
        self,
        values: Any,
        dims: Sequence[str],
        long_name: str,
        units: str = "",
        **coords: Any,
    ) -> xr.DataArray:
        """Give values their dimensions, coordinates and attributes."""
        known: dict[str, Any] = {
            dim: (dim, self.coords[dim], {"units": "m"}) for dim in dims if dim in self.coords
        }
        if "time" in dims and "time" not in coords:
            known["time"] = ("time", self.times, self._about_time())
        known |= {
            name: value if isinstance(value, tuple) else (name, value)
            for name, value in coords.items()
        }
        attrs = {"long_name": long_name} | ({"units": units} if units else {})
        return xr.DataArray(values, dims=tuple(dims), coords=known, attrs=attrs)

    def at(self, part: slice) -> tuple[str, np.ndarray, dict[str, str]]:
        """Give the coordinate of a part of the time axis."""
        return "time", self.times[part], self._about_time()

    def _about_time(self) -> dict[str, str]:
        if self.time_units:
            return {"long_name": "time", "units": self.time_units}
        return {"long_name": "step"}


def _field(
    arrays: Mapping[str, Any], name: str, interval: float | str | None, size: float | str | None
) -> _Field:
    """Find a field, and what is known of its axes."""
    values = arrays[name]
    spec = getattr(values, "spec", None)
    default = ("z", "y", "x")[-(values.ndim - 1) :] if values.ndim <= 4 else ()
    dims = tuple(spec.dims) if spec is not None else ("time", *default)
    if len(dims) != values.ndim or values.ndim < 2:
        raise ContractError(
            f"this analysis needs a field over time and space, got {name!r} of shape {values.shape}"
        )
    steps = np.arange(values.shape[0])
    if spec is not None:
        steps = spec.steps.start + steps * spec.steps.every
    times, units = (steps, "") if interval is None else (steps * float(interval), "s")
    coords = {}
    if size is not None:
        coords = {
            dim: (np.arange(cells) + 0.5) * (float(size) / cells)
            for dim, cells in zip(dims[1:], values.shape[1:], strict=True)
        }
    attrs = dict(spec.attrs) if spec is not None else {}
    return _Field(values, dims, {"long_name": name} | attrs, times, units, coords)


def heat2d_ipca(
    arrays: Mapping[str, Any],
    *,
    field: str = "temperature",
    n_components: int | str = 3,
    svd_solver: str = "full",
    random_state: int | str = 0,
    features: str | Sequence[str] | None = None,
    samples: str | Sequence[str] | None = None,
    snapshots: int | str = 4,
    interval: float | str | None = None,
    size: float | str | None = 1.0,
    checkpoint: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Incremental principal component analysis over all steps, each of which is one batch.

    Parameters
    ----------
    arrays : mapping of str to dask.array.Array
        Time is the first axis.
    field : str
        Name of the array.
    n_components, svd_solver, random_state
        See `InSituIncrementalPCA`.
    features, samples : str or sequence of str, optional
        Names of the axes. By default the last axis of space makes the features (x) and the other
        ones the samples (y): each line of the field is a sample.
    snapshots : int
        Number of steps of which the field itself is kept; 0 for none.
    interval : float, optional
        Seconds between two steps, for the axis of time.
    size : float, optional
        Edge of the domain in metres, for the axes of space.
    checkpoint : mapping, optional
        The entry ``checkpoint`` of an earlier run, computed: this one goes on from there.

    Returns
    -------
    dict of str to xarray.DataArray
        ``explained_variance``, ``explained_variance_ratio``, ``singular_values`` (component);
        ``explained_variance_history``, ``explained_variance_ratio_history`` (time, component): the
        same after every step; ``components`` (component, features), ``mean`` (features),
        ``noise_variance`` () and ``snapshots`` (step, space). Beside these ``checkpoint``, the
        state to go on from.
    """
    data = _field(arrays, field, interval, size)
    feature_dims = _names(features) or data.space[-1:]
    sample_dims = _names(samples) or tuple(dim for dim in data.space if dim not in feature_dims)
    options = {"svd_solver": svd_solver, "random_state": int(random_state)}
    if checkpoint:
        pca = InSituIncrementalPCA.from_state(checkpoint, **options)
        pca.partial_fit(data.values, data.dims, feature_dims, sample_dims or ("time",))
    else:
        pca = InSituIncrementalPCA(int(n_components), **options)
        pca.fit(data.values, data.dims, feature_dims, sample_dims or ("time",))
    state = pca.state()
    squared = f"{data.units}2" if data.units else ""
    component = np.arange(1, pca.n_components_ + 1)
    dims = ("component", *feature_dims)
    history = ("time", "component")
    per_batch = {}
    n_batches = pca.explained_variance_history_.shape[0]
    if n_batches != len(data.times):  # batches of several steps
        per_batch["time"] = ("time", np.arange(1, n_batches + 1), {"long_name": "batch"})
    results = {
        "explained_variance": data.wrap(
            pca.explained_variance_, dims[:1], "explained variance", squared, component=component
        ),
        "explained_variance_ratio": data.wrap(
            pca.explained_variance_ratio_, dims[:1], "explained variance ratio", component=component
        ),
        "singular_values": data.wrap(
            pca.singular_values_, dims[:1], "singular values", data.units, component=component
        ),
        "explained_variance_history": data.wrap(
            pca.explained_variance_history_,
            history,
            "explained variance over time",
            squared,
            component=component,
            **per_batch,
        ),
        "explained_variance_ratio_history": data.wrap(
            pca.explained_variance_ratio_history_,
            history,
            "explained variance ratio over time",
            component=component,
            **per_batch,
        ),
        "components": data.wrap(
            state["components"], dims, "principal components", component=component
        ),
        "mean": data.wrap(state["mean"], feature_dims, f"mean {data.noun}", data.units),
        "noise_variance": data.wrap(pca.noise_variance_, (), "noise variance", squared),
        "checkpoint": state,
    }
    return results | _snapshots(data, int(snapshots))


def heat2d_derivative(
    arrays: Mapping[str, Any],
    *,
    field: str = "temperature",
    order: int | str = 4,
    snapshots: int | str = 4,
    interval: float | str | None = None,
    size: float | str | None = 1.0,
) -> dict[str, xr.DataArray]:
    """How fast the field changes, by central differences over neighbouring steps.

    Parameters
    ----------
    order : {2, 4}
        Order of accuracy.
    snapshots : int
        Number of steps of which the whole derivative is kept.
    arrays, field, interval, size
        See `heat2d_ipca`.

    Returns
    -------
    dict of str to xarray.DataArray
        ``rate_rms`` and ``rate_max`` (time): root mean square and largest magnitude over space at
        every interior step; ``rate`` (step, space): the derivative itself at a few of them.
    """
    data = _field(arrays, field, interval, size)
    margin = int(order) // 2
    spacing = float(data.times[1] - data.times[0])
    rate = time_derivative(data.values, spacing, order=int(order))
    space = tuple(range(1, rate.ndim))
    units = f"{data.units or '1'}/{data.time_units or 'step'}"
    time = data.at(slice(margin, -margin))
    results = {
        "rate_rms": data.wrap(
            da.sqrt((rate**2).mean(axis=space)), ("time",), "rms rate of change", units, time=time
        ),
        "rate_max": data.wrap(
            abs(rate).max(axis=space), ("time",), "largest rate of change", units, time=time
        ),
    }
    if chosen := _every(rate.shape[0], int(snapshots)):
        results["rate"] = data.wrap(
            rate[chosen],
            ("step", *data.space),
            f"rate of change of {data.noun}",
            units,
            step=("step", time[1][chosen], time[2]),
        )
    return results


def heat2d_moments(
    arrays: Mapping[str, Any],
    *,
    field: str = "temperature",
    interval: float | str | None = None,
    size: float | str | None = 1.0,
) -> dict[str, xr.DataArray]:
    """Statistics over time at each point, and over space at each step.

    Parameters are those of `heat2d_ipca`.

    Returns
    -------
    dict of str to xarray.DataArray
        ``mean``, ``std``, ``skewness``, ``kurtosis``, ``minimum``, ``maximum`` (space) and
        ``mean_over_space``, ``std_over_space`` (time).
    """
    data = _field(arrays, field, interval, size)
    over_time = running_moments(data.values, 0)
    units = {"skewness": "", "kurtosis": ""}
    results = {
        name: data.wrap(
            getattr(over_time, name),
            data.space,
            f"{name} over time",
            units.get(name, data.units),
        )
        for name in ("mean", "std", "skewness", "kurtosis", "minimum", "maximum")
    }
    axes = tuple(range(1, data.values.ndim))
    for name in ("mean", "std"):
        values = getattr(data.values, name)(axis=axes)
        results[f"{name}_over_space"] = data.wrap(
            values, ("time",), f"{name} over space", data.units
        )
    return results


def heat2d_histogram(
    arrays: Mapping[str, Any],
    *,
    low: float | str,
    high: float | str,
    bins: int | str = 50,
    field: str = "temperature",
    interval: float | str | None = None,
) -> dict[str, xr.DataArray]:
    """Distribution of the values at every step.

    Parameters
    ----------
    low, high : float
        Range of the bins. The field does not exist yet, so its range cannot be found out.
    bins : int
        Number of bins.
    arrays, field, interval
        See `heat2d_ipca`.

    Returns
    -------
    dict of str to xarray.DataArray
        ``counts`` (time, value); ``density`` (value) over all steps; ``outside`` (time): values
        that are beyond the range or NaN.
    """
    data = _field(arrays, field, interval, None)
    space = tuple(range(1, data.values.ndim))
    found = histogram(data.values, int(bins), (float(low), float(high)), axis=space)
    value = ("value", found.centres, {"long_name": data.noun, "units": data.units})
    total = found.counts.sum(axis=1)
    density = total / total.sum() / np.diff(found.edges)
    outside = found.below + found.above + found.invalid
    per_unit = f"1/{data.units}" if data.units else ""
    return {
        "counts": data.wrap(found.counts.T, ("time", "value"), "cells in each bin", value=value),
        "density": data.wrap(density, ("value",), "probability density", per_unit, value=value),
        "outside": data.wrap(outside, ("time",), "cells outside of the bins"),
    }


def heat2d_quantiles(
    arrays: Mapping[str, Any],
    *,
    q: str | float | Sequence[float] = (0.05, 0.25, 0.5, 0.75, 0.95),
    compression: float | str = 200.0,
    field: str = "temperature",
    interval: float | str | None = None,
) -> dict[str, xr.DataArray]:
    """Quantiles over space at every step and over the whole run, from sketches of fixed size.

    Parameters
    ----------
    q : several floats
        Probabilities.
    compression : float
        Size of the sketches; see `ips_components.algorithms.quantile_sketch`.
    arrays, field, interval
        See `heat2d_ipca`.

    Returns
    -------
    dict of str to xarray.DataArray
        ``quantiles`` (time, quantile) and ``quantiles_of_run`` (quantile).
    """
    data = _field(arrays, field, interval, None)
    probabilities = [float(p) for p in _names(q)] if isinstance(q, str) else np.atleast_1d(q)
    space = tuple(range(1, data.values.ndim))
    each = quantile_sketch(data.values, probabilities, space, float(compression))
    whole = quantile_sketch(data.values, probabilities, None, float(compression))
    dim, about = "quantile", {"quantile": np.asarray(probabilities, dtype=float)}
    title = f"quantiles of {data.noun}"
    return {
        "quantiles": data.wrap(each.T, ("time", dim), title, data.units, **about),
        "quantiles_of_run": data.wrap(whole, (dim,), f"{title} over all", data.units, **about),
    }


def heat2d_spectrum(
    arrays: Mapping[str, Any],
    *,
    field: str = "temperature",
    window: str | None = "hann",
    every: int | str = 1,
    interval: float | str | None = None,
    size: float | str = 1.0,
) -> dict[str, xr.DataArray]:
    """Power over wave numbers, summed over all directions, at every n-th step.

    Parameters
    ----------
    window : {'hann', 'none'}
        Taper at the walls, where the field is not periodic.
    every : int
        Only each n-th step is transformed, and only these leave the simulation.
    arrays, field, interval, size
        See `heat2d_ipca`.

    Returns
    -------
    dict of str to xarray.DataArray
        ``spectrum`` (time, wavenumber) and ``mean_spectrum`` (wavenumber), in cycles per metre.
    """
    data = _field(arrays, field, interval, size)
    chosen = slice(None, None, int(every))
    selected = data.values[chosen]
    cells = selected.shape[1:]
    spacing = [float(size) / count for count in cells]
    taper = None if window in (None, "", "none") else window
    found = isotropic_spectrum(selected, range(1, selected.ndim), spacing, taper)
    about = {"long_name": "wave number", "units": "1/m"}
    wavenumber = ("wavenumber", found.frequencies, about)
    units = f"{data.units}2 m" if data.units else "m"
    return {
        "spectrum": data.wrap(
            found.power,
            ("time", "wavenumber"),
            "power spectrum",
            units,
            time=data.at(chosen),
            wavenumber=wavenumber,
        ),
        "mean_spectrum": data.wrap(
            found.power.mean(axis=0),
            ("wavenumber",),
            "mean power spectrum",
            units,
            wavenumber=wavenumber,
        ),
    }


def heat2d_correlation(
    arrays: Mapping[str, Any],
    *,
    lags: str | int | Sequence[int] = (1, 5, 10, 20),
    average: int | str = 10,
    field: str = "temperature",
    interval: float | str | None = None,
    size: float | str | None = 1.0,
) -> dict[str, xr.DataArray]:
    """How long the field remembers, and its smoothed mean.

    Parameters
    ----------
    lags : several ints
        Distances in published steps.
    average : int
        Number of steps in the moving average.
    arrays, field, interval, size
        See `heat2d_ipca`.

    Returns
    -------
    dict of str to xarray.DataArray
        ``correlation`` (lag, space): of the field with itself some steps later;
        ``moving_average`` (time): of the mean over space, at the last step of each window.
    """
    data = _field(arrays, field, interval, size)
    steps = [int(lag) for lag in _names(lags)] if isinstance(lags, str) else np.atleast_1d(lags)
    steps = [int(lag) for lag in steps]
    mean = data.values.mean(axis=tuple(range(1, data.values.ndim)))
    window = int(average)
    return {
        "correlation": data.wrap(
            lag_correlation(data.values, steps),
            ("lag", *data.space),
            "correlation over a lag",
            lag=("lag", np.asarray(steps), {"long_name": "lag", "units": "steps"}),
        ),
        "moving_average": data.wrap(
            moving_average(mean, window),
            ("time",),
            f"mean {data.noun} over space and {window} steps",
            data.units,
            time=data.at(slice(window - 1, None)),
        ),
    }


def _snapshots(data: _Field, count: int) -> dict[str, xr.DataArray]:
    """Keep the field itself at a few steps; the other steps of it are not asked for."""
    chosen = _every(len(data.times), count)
    if chosen is None:
        return {}
    # A dimension of its own: these are fewer steps than those of the other results.
    return {
        "snapshots": data.wrap(
            data.values[chosen],
            ("step", *data.space),
            data.noun,
            data.units,
            step=("step", *data.at(chosen)[1:]),
        )
    }


def _every(length: int, count: int) -> slice | None:
    """Choose `count` evenly spaced indices that end with the last one, as a slice."""
    if count < 1:
        return None
    stride = max(1, length // count)
    first = (length - 1) - stride * (min(count, length) - 1)
    return slice(first, None, stride)


def _names(value: str | Any) -> tuple[str, ...]:
    """Split what a config may write as ``a, b``, as a list, or as one value."""
    if value is None:
        return ()
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return tuple(str(part) for part in value)
