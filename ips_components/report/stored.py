"""Stored results of a run, opened."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def open_groups(path: Path) -> dict[str, Any]:
    """Open all groups of a store of results, lazily and without Dask.

    Parameters
    ----------
    path : pathlib.Path
        A Zarr store (``.zarr``) or a NetCDF file.

    Returns
    -------
    dict of str to xarray.Dataset
        By path of the group; that of the root is ``"/"``.
    """
    import xarray

    if path.suffix == ".zarr":
        return dict(xarray.open_groups(path, engine="zarr", chunks=None, consolidated=False))
    try:
        return dict(xarray.open_groups(path))
    except NotImplementedError:  # SciPy reads files without groups
        return {"/": xarray.open_dataset(path)}
