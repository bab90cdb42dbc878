"""What a variable is to the eye: its roles, its labels, and itself as plain NumPy arrays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ips_components.report._numbers import printed_units

#: Names of dimensions that count published steps or batches, and of those that count components.
TIME_DIMS = frozenset({"time", "t", "step", "batch"})
COMPONENT_DIMS = frozenset({"component", "components", "mode", "n_components"})


@dataclass(frozen=True, slots=True)
class Labelled:
    """An array with its labels: what is drawn of an `xarray.DataArray`, without xarray.

    The functions of this module take both.
    """

    name: str
    dims: tuple[str, ...]
    values: np.ndarray[Any, Any]
    attrs: Mapping[str, str] = field(default_factory=dict)
    coords: Mapping[str, Labelled] = field(default_factory=dict)

    @classmethod
    def of(cls, variable: Any) -> Labelled:
        """Load a variable, with the coordinates of its dimensions."""
        dims = tuple(map(str, variable.dims))
        known = {dim: variable.coords[dim].variable for dim in dims if dim in variable.coords}
        coords = {dim: cls(dim, (dim,), w.values, _texts(w.attrs)) for dim, w in known.items()}
        return cls(str(variable.name), dims, variable.values, _texts(variable.attrs), coords)

    @property
    def dtype(self) -> Any:
        return self.values.dtype

    @property
    def ndim(self) -> int:
        return self.values.ndim

    @property
    def size(self) -> int:
        return self.values.size

    @property
    def sizes(self) -> dict[str, int]:
        return dict(zip(self.dims, self.values.shape, strict=True))

    def along(self, *dims: str) -> np.ndarray[Any, Any]:
        """Values with the dimensions in this order."""
        return self.values.transpose([self.dims.index(dim) for dim in dims])


@dataclass(frozen=True, slots=True)
class Roles:
    """Which dimension of a variable is time, which counts components, and which are space."""

    time: str | None
    component: str | None
    space: tuple[str, ...]

    @classmethod
    def of(cls, variable: Any) -> Roles:
        dims = [str(dim) for dim in variable.dims]
        time = next((dim for dim in dims if dim.lower() in TIME_DIMS), None)
        component = next((dim for dim in dims if dim.lower() in COMPONENT_DIMS), None)
        return cls(time, component, tuple(dim for dim in dims if dim not in (time, component)))


def words(variable: Any, fallback: str = "value") -> str:
    """Name of a variable as people say it."""
    name = variable.attrs.get("long_name") or variable.name or fallback
    return str(name).replace("_", " ").strip()


def units_of(variable: Any) -> str:
    """Units of a variable as they are printed."""
    return printed_units(str(variable.attrs.get("units", "")))


def axis_label(variable: Any, dim: str) -> str:
    """Name of a dimension as the analysis has it, or its coordinate's ``long_name``, and units."""
    where = coordinate(variable, dim)
    name, units = str(where.attrs.get("long_name") or dim), units_of(where)
    return f"{name} ({units})" if units else name


def coordinate(variable: Any, dim: str) -> Any:
    """The coordinate of a dimension, or its indices where it has none."""
    if dim in variable.coords:
        return variable.coords[dim]
    return Labelled(dim, (dim,), np.arange(variable.sizes[dim]))


def place(variable: Any, dim: str, index: int) -> str:
    """Where an index of a dimension is: ``t = 27.7 s`` or ``step 12``."""
    where = coordinate(variable, dim)
    value, units = where.values[index], units_of(where)
    if np.issubdtype(where.dtype, np.floating):
        text = f"{value:.4g}"
    else:
        text = str(value)[:19]
    return f"{dim} = {text} {units}" if units else f"{dim} {text}"


def _texts(attrs: Mapping[Any, Any]) -> dict[str, str]:
    return {name: str(attrs[name]) for name in ("long_name", "units") if attrs.get(name)}
