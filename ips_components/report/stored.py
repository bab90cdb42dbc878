"""Stored results of a run, opened."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
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


def in_order(groups: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """Return the groups of a store with their variables in the order of the analysis.

    A store lists them as its files lie on the disk.

    Parameters
    ----------
    groups
        Datasets by path, see `open_groups`.
    names
        Of the results, those of a group with its path: ``"curve/loss"``.
    """
    order = {name: number for number, name in enumerate(names)}

    def number(path: str, variable: Any) -> int:
        return order.get(f"{path.strip('/')}/{variable}".lstrip("/"), len(order))

    return {
        path: group[sorted(group.data_vars, key=partial(number, path))]
        for path, group in groups.items()
    }
