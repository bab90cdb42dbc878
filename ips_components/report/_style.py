"""Colours, scales and axes.

All settings are given to the objects they belong to. Nothing here touches matplotlib's global
state, so that a figure can be drawn in any thread of any process, with the same look everywhere.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import Colormap, Normalize

#: Okabe and Ito's palette, which people with any colour vision can distinguish; the yellow is left
#: out, as it is too pale for lines on white.
LINE_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
#: Second cue beside the colour, for those who print in grey.
LINE_DASHES = ("solid", (0, (6, 1.5)), (0, (2, 1.2)), (0, (6, 1.5, 1.5, 1.5)), (0, (1, 1)))

INK = "#333333"
MISSING = "#D0D0D0"


def sequential(index: int, count: int) -> Any:
    """Colour of one of many lines in order; the palest colours are left out."""
    return colormaps["viridis"](0.92 * index / max(count - 1, 1))


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
