"""From lazy results to files: naming, computing plan, writing with xarray.

Small results travel to the analysis task and are written in one go; large ones are written
by the workers, chunk by chunk, as part of the very graph that is submitted before step 0,
so that a field as long as the run never has to fit into memory.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dask
import numpy as np
import xarray as xr

from ips_components.errors import ConfigError, ContractError

#: Results of up to this many numbers are in the run record itself.
QUOTE_LIMIT = 32

#: Results up to this many bytes are gathered; larger ones are written by the workers.
GATHER_LIMIT = 256 * 2**20

FORMATS = ("zarr", "netcdf")


def name_results(returned: Any) -> dict[str, Any]:
    """Give every result of an analysis a name.

    Parameters
    ----------
    returned : mapping, xarray.Dataset, sequence or one result
        What the analysis function returned.

    Returns
    -------
    dict of str to result
        A mapping's own names, the data variables of a Dataset, ``result_0``, ``result_1``, ...
        of a sequence, ``result`` for a single one.

    Raises
    ------
    ContractError
        If there is no result, or a name is not a string.
    """
    if isinstance(returned, xr.Dataset):
        named = {str(name): variable for name, variable in returned.data_vars.items()}
    elif isinstance(returned, Mapping):
        named = {}
        for name, value in returned.items():
            if not isinstance(name, str):
                raise ContractError(
                    f"the analysis returned a result named {name!r}; names must be strings"
                )
            named[name] = value
    elif isinstance(returned, (list, tuple)):
        named = {f"result_{i}": value for i, value in enumerate(returned)}
    elif returned is None:
        named = {}
    else:
        named = {"result": returned}
    if not named:
        raise ContractError(
            "the analysis returned nothing; return lazy results, for example "
            "{'mean': arrays['temperature'].mean()}"
        )
    return named


class ResultStore:
    """Where the results of one run go.

    Parameters
    ----------
    path : path-like
        A Zarr group (a folder) or a NetCDF file.
    format : {"zarr", "netcdf"}
    attrs : mapping, optional
        Attributes of the whole file: run id, analysis, versions.
    """

    def __init__(
        self, path: str | Path, format: str = "zarr", attrs: Mapping[str, Any] | None = None
    ) -> None:
        if format not in FORMATS:
            raise ConfigError(f"RESULTS_FORMAT must be one of {', '.join(FORMATS)}, got {format!r}")
        self.path = Path(path)
        self.format = format
        self.attrs = dict(attrs or {})

    def plan(self, named: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Split results into what to compute and what the workers write.

        Returns
        -------
        gathered : dict of str to collection or value
            To be computed and passed to :meth:`write`.
        stored : dict of str to dask.delayed.Delayed
            Writing tasks; their value means nothing, their success everything.
        """
        gathered: dict[str, Any] = {}
        stored: dict[str, Any] = {}
        for name, value in named.items():
            if self.format == "zarr" and _nbytes(value) > GATHER_LIMIT:
                dataset = self._dataset({name: value})
                stored[name] = dataset.to_zarr(
                    self.path, mode="a", compute=False, consolidated=False
                )
            else:
                gathered[name] = value
        return gathered, stored

    def write(self, values: Mapping[str, Any]) -> None:
        """Write computed values beside what the workers have stored."""
        dataset = self._dataset(values)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self.format == "zarr":
            dataset.to_zarr(self.path, mode="a", consolidated=False)
        else:
            partial = self.path.with_name(self.path.name + ".partial")
            dataset.to_netcdf(partial)
            partial.replace(self.path)

    def open(self) -> xr.Dataset:
        """Read the results back, lazily."""
        if self.format == "zarr":
            return xr.open_zarr(self.path, consolidated=False)
        return xr.open_dataset(self.path)

    def summary(self) -> dict[str, dict[str, Any]]:
        """Shape, dtype, dims and range of every variable on disk, for the run record."""
        with self.open() as dataset:
            return {str(name): _describe(variable) for name, variable in dataset.data_vars.items()}

    def _dataset(self, values: Mapping[str, Any]) -> xr.Dataset:
        return xr.Dataset(
            {name: _as_variable(name, value) for name, value in values.items()}, attrs=self.attrs
        )


def lazy_parts(named: Mapping[str, Any]) -> dict[str, Any]:
    """Those results that are dask collections (the others are constants)."""
    return {name: value for name, value in named.items() if dask.is_dask_collection(value)}


def _as_variable(name: str, value: Any) -> xr.DataArray:
    if isinstance(value, xr.DataArray):
        return value.drop_attrs() if _unserialisable(value.attrs) else value
    if not dask.is_dask_collection(value):
        value = np.asarray(value)
        if value.dtype == object:
            raise ContractError(
                f"result {name!r} is a {type(value.item() if value.ndim == 0 else value).__name__}"
                ", which cannot be stored; return numbers, arrays or xarray objects"
            )
    return xr.DataArray(value, dims=[f"{name}_{i}" for i in range(value.ndim)])


def _unserialisable(attrs: Mapping[Any, Any]) -> bool:
    return not all(
        isinstance(v, (str, int, float, list, tuple, np.ndarray)) for v in attrs.values()
    )


def _nbytes(value: Any) -> float:
    nbytes = getattr(value, "nbytes", 0)
    return 0 if isinstance(nbytes, float) and math.isnan(nbytes) else nbytes


def _describe(variable: xr.DataArray) -> dict[str, Any]:
    summary: dict[str, Any] = {
        "shape": list(variable.shape),
        "dtype": str(variable.dtype),
        "dims": [str(dim) for dim in variable.dims],
    }
    if variable.size and variable.dtype.kind in "iuf" and variable.nbytes <= GATHER_LIMIT:
        summary["min"] = float(variable.min())
        summary["max"] = float(variable.max())
        if variable.size <= QUOTE_LIMIT:
            summary["values"] = variable.values.tolist()
    if "units" in variable.attrs:
        summary["units"] = str(variable.attrs["units"])
    return summary
