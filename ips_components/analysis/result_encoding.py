"""Values and attributes in a form that Zarr and NetCDF can hold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import dask
import dask.array as da
import numpy as np
import xarray as xr

from ips_components.errors import ContractError


def storable(array: xr.DataArray) -> xr.DataArray:
    """Return an array without masks, and with attributes that a file can hold."""
    array = _without_mask(array).drop_encoding()
    array.attrs = plain_attrs(array.attrs)
    if array.dtype.kind == "O":
        raise ContractError(
            f"result {array.name!r} holds objects, which cannot be stored; return numbers or text"
        )
    for coord in array.coords.values():
        coord.attrs = plain_attrs(coord.attrs)
    return array


def _without_mask(array: xr.DataArray) -> xr.DataArray:
    """Return an array with missing values in place of a mask: NaN, or ``_FillValue``."""
    data: Any = array.variable._data
    lazy = dask.is_dask_collection(data)
    if not isinstance(data._meta if lazy else data, np.ma.MaskedArray):
        return array
    fill = _fill_value(data)
    if array.dtype.kind == "b":
        data = data.astype("int8")
    filled = da.ma.filled(data, fill) if lazy else np.ma.filled(data, fill)
    array = array.copy(data=filled)
    if array.dtype.kind in "iu":
        array.attrs["_FillValue"] = array.dtype.type(fill)
    return array


def _fill_value(data: Any) -> Any:
    """Return a value for masked cells that no other cell has."""
    if data.dtype.kind in "fc":
        return np.nan
    if data.dtype.kind in "mM":
        return data.dtype.type("NaT")
    if data.dtype.kind == "b":
        return -1
    limits = np.iinfo(data.dtype)
    candidates = [limits.max, limits.min] if data.dtype.kind == "u" else [limits.min, limits.max]
    if not dask.is_dask_collection(data):
        values = data.compressed()
        candidates = [each for each in candidates if not (values == each).any()] or candidates
    return candidates[0]


def plain_attrs(attrs: Mapping[Any, Any]) -> dict[Any, Any]:
    """Return attributes as text and numbers; what is neither becomes text, None is left out."""
    plain: dict[Any, Any] = {}
    for name, value in attrs.items():
        if isinstance(value, bool | np.bool_):
            value = int(value)
        elif isinstance(value, np.generic) and name != "_FillValue":
            value = value.item()
        elif isinstance(value, np.ndarray):
            value = value.tolist()
        if value is None:
            continue
        flat = value if isinstance(value, list | tuple) else [value]
        if not all(isinstance(item, str | int | float | np.generic) for item in flat):
            value = str(value)
        plain[str(name)] = value
    return plain
