"""What a variable is to the eye: its roles, labels, colours and scales.

All settings are given to the objects they belong to. Nothing here touches matplotlib's global
state, so that a figure can be drawn in any thread of any process, with the same look everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from matplotlib import colormaps
from matplotlib.colors import Colormap, Normalize

from ips_components.report._numbers import printed_units

#: Names of dimensions that count published steps or batches, and of those that count components.
TIME_DIMS = frozenset({"time", "t", "step", "batch"})
COMPONENT_DIMS = frozenset({"component", "components", "mode", "n_components"})

#: Okabe and Ito's palette, which people with any colour vision can distinguish; the yellow is left
#: out, as it is too pale for lines on white.
LINE_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
#: Second cue beside the colour, for those who print in grey.
LINE_DASHES = ("solid", (0, (6, 1.5)), (0, (2, 1.2)), (0, (6, 1.5, 1.5, 1.5)), (0, (1, 1)))

INK = "#333333"
MISSING = "#D0D0D0"


@dataclass(frozen=True, slots=True)
class Roles:
    """Which dimension of a variable is time, which counts components, and which are space."""

    time: str | None
    component: str | None
    space: tuple[str, ...]

    @classmethod
    def of(cls, variable: xr.DataArray) -> Roles:
        dims = [str(dim) for dim in variable.dims]
        time = next((dim for dim in dims if dim.lower() in TIME_DIMS), None)
        component = next((dim for dim in dims if dim.lower() in COMPONENT_DIMS), None)
        return cls(time, component, tuple(dim for dim in dims if dim not in (time, component)))


def words(variable: xr.DataArray, fallback: str = "value") -> str:
    """Name of a variable as people say it."""
    name = variable.attrs.get("long_name") or variable.name or fallback
    return str(name).replace("_", " ").strip()


def units_of(variable: xr.DataArray) -> str:
    """Units of a variable as they are printed."""
    return printed_units(str(variable.attrs.get("units", "")))


def label(variable: xr.DataArray, fallback: str = "value") -> str:
    """Name and units: ``temperature (K)``."""
    units = units_of(variable)
    return f"{words(variable, fallback)} ({units})" if units else words(variable, fallback)


def axis_label(variable: xr.DataArray, dim: str) -> str:
    """Name of a dimension as the analysis has it, or its coordinate's ``long_name``, and units."""
    where = coordinate(variable, dim)
    name, units = str(where.attrs.get("long_name") or dim), units_of(where)
    return f"{name} ({units})" if units else name


def sequential(index: int, count: int) -> Any:
    """Colour of one of many lines in order; the palest colours are left out."""
    return colormaps["viridis"](0.92 * index / max(count - 1, 1))


def coordinate(variable: xr.DataArray, dim: str) -> xr.DataArray:
    """The coordinate of a dimension, or its indices where it has none."""
    if dim in variable.coords:
        return variable.coords[dim]
    return xr.DataArray(np.arange(variable.sizes[dim]), dims=dim, name=dim)


def place(variable: xr.DataArray, dim: str, index: int) -> str:
    """Where an index of a dimension is: ``t = 27.7 s`` or ``step 12``."""
    where = coordinate(variable, dim)
    value, units = where.values[index], units_of(where)
    if np.issubdtype(where.dtype, np.floating):
        text = f"{value:.4g}"
    else:
        text = str(value)[:19]
    return f"{dim} = {text} {units}" if units else f"{dim} {text}"


def extremes(values: np.ndarray) -> tuple[float, float]:
    """Least and largest finite value; (0, 1) where there is none."""
    finite = values[np.isfinite(values)]
    if finite.size == 0:
        return 0.0, 1.0
    return float(finite.min()), float(finite.max())


def colour_scale(values: np.ndarray, *, signed: bool = False) -> tuple[Colormap, Normalize]:
    """Colours for a field: sequential, or diverging about zero where both signs matter.

    Parameters
    ----------
    values : ndarray
        All that shares the scale.
    signed : bool
        Ask for the diverging scale whatever the values.
    """
    low, high = extremes(values)
    reach = max(abs(low), abs(high)) or 1.0
    if signed or (low < 0.0 < high and min(-low, high) > 0.25 * reach):
        cmap, norm = colormaps["RdBu_r"], Normalize(-reach, reach)
    else:
        if low == high:
            low, high = low - 0.5 * reach, high + 0.5 * reach
        cmap, norm = colormaps["viridis"], Normalize(low, high)
    return cmap.with_extremes(bad=MISSING), norm


def plain_axes(ax: Any, *, grid: bool = False) -> None:
    """Small quiet ticks and only the spines that carry a scale."""
    ax.tick_params(labelsize=8, colors=INK, length=3, width=0.6)
    for side, spine in ax.spines.items():
        spine.set(linewidth=0.6, color=INK, visible=not grid or side in ("left", "bottom"))
    if grid:
        ax.grid(color="#E4E4E4", linewidth=0.6)
        ax.set_axisbelow(True)
