"""Files of what an analysis has published, for the other components of a workflow."""

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ips_components.errors import ContractError


def to_dataset(published: Sequence[tuple[int, bytes, float]], timestamp: Any, run: str) -> Any:
    """Return published values as an `xarray.Dataset` with the dimension ``time``.

    Parameters
    ----------
    published
        Step, pickled ``(time, values)``, and the step's own physical time (nan: unknown), in the
        order of publication.
    timestamp
        Time of the driver's call.
    run
        Run id.

    Raises
    ------
    ContractError
        When a value has another shape at one step than at another, or two have a dimension of
        one name and of different lengths.
    """
    import numpy as np
    import xarray as xr

    entries: dict[tuple[int, float], dict[str, Any]] = {}
    for step, packed, known in published:
        time, values = pickle.loads(packed)
        if time is None:
            time = step if np.isnan(known) else known
        entries.setdefault((step, float(time)), {}).update(values)
    names = list(dict.fromkeys(name for values in entries.values() for name in values))
    variables = {}
    for name in names:
        arrays = [(key, _array(name, v[name])) for key, v in entries.items() if name in v]
        first = arrays[0][1]
        for (step, _), array in arrays:
            if array.shape != first.shape or array.dims != first.dims:
                raise ContractError(
                    f"run.publish: {name!r} has shape {array.shape} at step {step} and "
                    f"{first.shape} at step {arrays[0][0][0]}; one name has one shape"
                )
        known = dict(arrays)
        missing = np.full(first.shape, np.nan)
        stacked = np.stack([np.asarray(known.get(key, missing)) for key in entries])
        variables[name] = xr.DataArray(
            stacked,
            dims=("time", *first.dims),
            coords={c: first.coords[c] for c in first.dims if c in first.coords},
            attrs=first.attrs,
        )
    try:
        return xr.Dataset(
            variables,
            coords={
                "time": ("time", [time for _, time in entries]),
                "step": ("time", [step for step, _ in entries]),
            },
            attrs={"run": run, "timestamp": str(timestamp)},
        )
    except ValueError as error:
        raise ContractError(
            f"run.publish: the values do not fit into one file: {error}; rename dimensions that "
            "are not the same"
        ) from error


def _array(name: str, value: Any) -> Any:
    import numpy as np
    import xarray as xr

    if isinstance(value, xr.DataArray):
        return value.reset_coords(drop=True)
    array = np.asarray(value)
    return xr.DataArray(array, dims=[f"{name}_{i}" for i in range(array.ndim)])


def write_files(dataset: Any, directory: Path, files: Sequence[str]) -> None:
    """Write a dataset as NetCDF under one name or several; readers see old files or new ones."""
    for file in files:
        path = directory / file
        draft = path.with_name(f".{path.name}.draft")
        dataset.to_netcdf(draft)
        draft.replace(path)
