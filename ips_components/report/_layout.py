"""Where the axes of a row lie: side by side, as wide as their labels leave room for.

matplotlib's own layout engines measure all of a figure twice, which takes longer than drawing it.
Here the heights are given, and of all labels only those beside the axes are measured, once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from matplotlib.figure import SubFigure
from matplotlib.transforms import Bbox

# In inches.
_EDGE = 0.09  # beside labels
_OVERHANG = 0.14  # of the last label along x
_BAR = 0.1  # width of a colour bar, and its distance from the axes
_OFFSET = 0.15  # height of what all ticks have in common, above the axes and below their title
_NARROWEST = 0.3


@dataclass(frozen=True, slots=True)
class Cell:
    """Axes of a row, and the colour bar to their right, if any."""

    axes: Any
    bar: Any = None


def arrange(
    strip: SubFigure,
    cells: list[Cell],
    columns: int,
    *,
    top: float,
    bottom: float,
    alike: bool = False,
) -> None:
    """Place the axes of a row, all of them equally wide.

    Parameters
    ----------
    strip
        The row.
    cells
        What is in its first columns.
    columns
        How many columns it has.
    top, bottom
        Inches above and below the axes.
    alike
        Whether columns without axes are to have room for labels like the first one.
    """
    width, height = strip.bbox.width / strip.dpi, strip.bbox.height / strip.dpi
    low, high = bottom / height, 1.0 - top / height
    for cell in cells:  # what lies beside an axis depends on its height alone
        for axes in filter(None, (cell.axes, cell.bar)):
            axes.set_position(Bbox.from_extents(0.4, low, 0.6, high))
    left = [_EDGE + _labels(cell.axes, strip) for cell in cells]
    right = [
        _OVERHANG if cell.bar is None else 2 * _BAR + _labels(cell.bar, strip) + _EDGE
        for cell in cells
    ]
    rest = (columns - len(cells)) * (left[0] + right[0] if alike else _EDGE + _OVERHANG)
    each = max((width - sum(left) - sum(right) - rest) / columns, _NARROWEST)
    if any(cell.axes.yaxis.get_offset_text().get_text() for cell in cells):
        high -= _OFFSET / height
    start = 0.0
    for cell, before, after in zip(cells, left, right, strict=False):
        start += before
        stop = start + each
        cell.axes.set_position(Bbox.from_extents(start / width, low, stop / width, high))
        if cell.bar is not None:
            box = (stop + _BAR) / width, low, (stop + 2 * _BAR) / width, high
            cell.bar.set_position(Bbox.from_extents(*box))
        start = stop + after


def _labels(axes: Any, strip: SubFigure) -> float:
    """Inches that ticks and labels take beside the axes."""
    box = axes.yaxis.get_tightbbox(strip.canvas.get_renderer())
    beside = 0.0 if box is None else max(axes.bbox.x0 - box.x0, box.x1 - axes.bbox.x1)
    return float(beside / strip.dpi)
