"""Names of dimensions and coordinates of results that share a group.

A file gives each dimension of a group one size and one coordinate. Results that agree share
dimensions and coordinates; where one disagrees, its dimension or coordinate gets a name of its own.
Values are never aligned, filled or dropped.

A group inherits the dimensions of the groups above it when a file is opened as a tree, so that
groups one of which is inside the other agree on their dimensions, too.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from typing import Any

import dask
import numpy as np
import pandas as pd
import xarray as xr

from ips_components.analysis.time_axes import TimesOf, is_marked, timed


class GroupLayout:
    """The dimensions and coordinates of one group, as results are added to it.

    Parameters
    ----------
    names : iterable of str
        Names of all results of the group; none of them is a dimension or coordinate.
    dims : iterable of str
        Dimensions that any of the results has; no scalar coordinate gets such a name.
    group : str
        Path of the group, empty for that of the file.
    """

    def __init__(
        self, names: Iterable[str] = (), dims: Iterable[str] = (), group: str = ""
    ) -> None:
        self.group = group
        self._relatives: list[GroupLayout] = []  # groups above and below
        self._names = set(names)
        self._dims = set(dims)
        self._sizes: dict[str, int] = {}
        self._coords: dict[str, xr.Variable] = {}

    def relate(self, others: Iterable[GroupLayout]) -> None:
        """Agree on dimensions with those of these groups that are above or below this one."""
        for other in others:
            upper, lower = sorted((self.group, other.group), key=len)
            if not upper or lower.startswith(f"{upper}/"):
                self._relatives.append(other)
                other._relatives.append(self)

    def expect(self, name: str, dims: Iterable[Hashable] = ()) -> None:
        """Reserve the name of a result and of its dimensions before it is placed."""
        self._names.add(name)
        self._dims.update(map(str, dims))

    def place(self, name: str, array: xr.DataArray) -> tuple[xr.DataArray, dict[str, str]]:
        """Return an array that fits into the group.

        Parameters
        ----------
        name
            Of the result.
        array
            The result.

        Returns
        -------
        array : xarray.DataArray
            With the same values.
        renamed : dict of str to str
            Dimensions and coordinates that have another name now.
        """
        array, renamed = _without_multiindex(array)
        for dim in list(array.dims):
            fitting = (c for c in self._candidates(dim, name) if self._fits_dim(array, dim, c))
            if (new := next(fitting)) != dim:
                array = array.rename({dim: new})
                renamed[str(dim)] = new
        for coord in [c for c in array.coords if c not in array.dims]:
            fitting = (
                c for c in self._candidates(coord, name) if self._fits_other(array, coord, c)
            )
            if (new := next(fitting)) != coord:
                array = array.rename({coord: new})
                renamed[str(coord)] = new
        self._keep(array)
        return array, renamed

    def set_times(self, times: TimesOf) -> dict[str, xr.Variable]:
        """Give dimensions that have steps as coordinates their physical times; return what changed.

        Parameters
        ----------
        times
            Of the steps of a run.
        """
        changed: dict[str, xr.Variable] = {}
        for name, known in [(n, c) for n, c in self._coords.items() if is_marked(c)]:
            new = timed(known, times)
            changed[name] = self._coords[name] = new["time"]
            if "step" in new and "step" not in {*self._names, *self._dims, *self._coords}:
                changed["step"] = self._coords["step"] = new["step"]
        return changed

    def _candidates(self, old: Hashable, result: str) -> Iterator[str]:
        """Yield names for a dimension or coordinate that no result has, the best one first."""
        name = str(old).replace("/", "_")
        if name in self._names:
            yield f"{name}_dim"
        else:
            yield name
        if self.group:  # the results of a group, such as the columns of a table, stay together
            yield f"{self.group.replace('/', '_')}_{name}"
        yield from (
            each
            for each in (f"{result}_{name}", *(f"{result}_{name}_{n}" for n in range(1, 1000)))
            if each not in self._names
        )

    def _fits_dim(self, array: xr.DataArray, dim: Hashable, taken: str) -> bool:
        size = array.sizes[dim]
        if taken != dim and (taken in array.dims or taken in array.coords):
            return False
        if self._sizes.get(taken, size) != size:
            return False
        if taken in self._coords and self._coords[taken].dims != (taken,):
            return False  # a scalar coordinate of another result
        coord = None
        if dim in array.coords:
            variable = array.coords[dim].variable.to_base_variable()
            coord = variable.copy(deep=False)._replace(dims=(taken,))
        if not all(each._agrees(taken, size, coord) for each in self._relatives):
            return False
        return coord is None or self._fits_coord(coord, taken)

    def _agrees(self, dim: str, size: int, coord: xr.Variable | None) -> bool:
        """Return whether a dimension of a group above or below can be the same as one here."""
        if self._sizes.get(dim, size) != size:
            return False
        known = self._coords.get(dim)
        if coord is None or known is None or known.dims != (dim,):
            return True
        return self._fits_coord(coord, dim)

    def _fits_other(self, array: xr.DataArray, coord: Hashable, taken: str) -> bool:
        if taken in self._dims or (taken != coord and taken in array.coords):
            return False
        return self._fits_coord(array.coords[coord].variable, taken)

    def _fits_coord(self, coord: xr.Variable, taken: str) -> bool:
        known = self._coords.get(taken)
        if known is None:
            return taken not in self._sizes or coord.dims == (taken,)
        if known.dims != coord.dims or known.dtype != coord.dtype:
            return False
        if dask.is_dask_collection(known.data) or dask.is_dask_collection(coord.data):
            same: bool = getattr(known.data, "name", 0) == getattr(coord.data, "name", 1)
            return same
        return bool(known.equals(coord))

    def _keep(self, array: xr.DataArray) -> None:
        for dim, size in array.sizes.items():
            self._sizes[str(dim)] = size
        self._dims.update(self._sizes)
        for name, coord in array.coords.items():
            self._coords.setdefault(str(name), coord.variable.to_base_variable())


def as_array(name: str, value: Any, dims: Iterable[Any] = (), units: str = "") -> xr.DataArray:
    """Return a result as an xarray array; unknown dimensions are ``name_0``, ``name_1``, ..."""
    if isinstance(value, xr.DataArray):
        return value
    known = [*dims]
    names = [
        known[i] if i < len(known) and known[i] else f"{name}_{i}" for i in range(np.ndim(value))
    ]
    return xr.DataArray(value, dims=names, attrs={"units": units} if units else {})


def _without_multiindex(array: xr.DataArray) -> tuple[xr.DataArray, dict[str, str]]:
    """Turn the levels of a MultiIndex, which no file holds, into coordinates of their own."""
    replaced: dict[str, str] = {}
    for dim in list(array.dims):
        index = array.indexes.get(dim)
        if isinstance(index, pd.MultiIndex):
            array = array.reset_index(dim)
            replaced[str(dim)] = ", ".join(map(str, index.names))
    return array, replaced
