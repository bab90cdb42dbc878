"""Which parameter matters where and when: Sobol' indices per cell and step."""

import xarray as xr
from design import PARAMETERS

from ips_components.algorithms import ensemble_statistics, sobol_indices


def analyse(arrays):
    """Reduce the ensemble row by row; no member is stored."""
    t = arrays["temperature"]  # (time, row, member, x)
    rows = [[t[:, row, member] for member in range(t.shape[2])] for row in range(t.shape[1])]
    indices = sobol_indices(rows)
    independent = ensemble_statistics([member for row in rows for member in row[:2]])
    results = {}
    for i, name in enumerate(PARAMETERS):
        for kind, found in (("first", indices.first), ("total", indices.total)):
            results[f"{kind} of {name}"] = xr.DataArray(found[i], dims=("time", "x"))
    results["mean"] = xr.DataArray(independent.mean, dims=("time", "x"), attrs={"units": "K"})
    results["std"] = xr.DataArray(independent.std, dims=("time", "x"), attrs={"units": "K"})
    return results
