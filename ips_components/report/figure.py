"""One picture of a run's results, drawn from what `panels` has taken of them."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from ips_components.report import _style as style
from ips_components.report._alike import NUMBER
from ips_components.report._labels import Labelled, Roles, axis_label, coordinate, units_of
from ips_components.report._layout import Cell, arrange
from ips_components.report.panels import MAPS, PanelRow, Results, Row, Series, panels_of

WIDTH = 7.6  # inches: an A4 page within its margins
HEAD = 0.4  # inches for the title
BELOW = 0.44  # inches below axes, for ticks and label
DPI = 150
LINES = 6
ROUNDING = 1e-9  # by which sums of shares may miss 0 and 1
LEGEND_SHARE = 0.55  # of the height of the lines, above them
TITLE_LETTERS = 28  # in a line above a panel
TEXT_LETTERS = 95  # in a line of the figure's width
DECADES = 6  # of a logarithmic scale; below is rounding


@dataclass(frozen=True, slots=True)
class Strip:
    """A horizontal strip of the figure: its height in inches and what fills it."""

    height: float
    draw: Callable[[SubFigure], None]


def run_figure(results: Results, path: str | Path, title: str | None = None) -> Path:
    """Draw the results of a run into a PNG file.

    Parameters
    ----------
    results : xarray.Dataset, or mapping of str to xarray.Dataset
        See `panels_of`.
    path : path-like
        Where the picture goes. It appears there complete or not at all.
    title : str, optional
        Default: the attribute ``title`` of the dataset or of the root, if it has one.

    Returns
    -------
    pathlib.Path
        The path of the picture.
    """
    return write_picture(png_of(compose(results, title)), path)


def png_of(figure: Figure) -> bytes:
    """Draw a figure; a PNG file."""
    file = BytesIO()
    # `savefig` would draw it once more beforehand, in vain, for a layout.
    FigureCanvasAgg.print_png(figure.canvas, file)
    return file.getvalue()


def write_picture(picture: bytes, path: str | Path) -> Path:
    """Write a file, which appears complete or not at all."""
    path = Path(path)
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_bytes(picture)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def compose(results: Results, title: str | None = None) -> Figure:
    """The figure of :func:`run_figure` as an object of matplotlib, not yet drawn."""
    default, rows = panels_of(results)
    return figure_of(title or default, rows)


def figure_of(title: str, rows: list[Row]) -> Figure:
    """The figure of the rows of `panels_of`, not yet drawn."""
    strips = [_strip(row) for row in rows]
    heights = [HEAD] * bool(title) + [each.height for each in strips]
    height = sum(heights)
    figure = Figure(figsize=(WIDTH, height), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    if title:
        figure.suptitle(title, y=1.0 - 0.08 / height, fontsize=12, color=style.INK)
    places = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    for place, strip in zip(places[-len(strips) :], strips, strict=True):
        strip.draw(place)
    return figure


def _strip(row: Row) -> Strip:
    if isinstance(row, PanelRow):
        return _panels(row)
    return _series(row) if isinstance(row, Series) else _text(row.text)


def _panels(row: PanelRow) -> Strip:
    """Maps, curves and bars of different variables side by side."""
    width = WIDTH / row.columns - 1.1
    heights = [_map_height(p.data, width) + 0.75 if p.is_map else 2.3 for p in row.panels]

    def draw(strip: SubFigure) -> None:
        cells, lines = [], 1
        for i, panel in enumerate(row.panels):
            ax, bar = strip.add_subplot(1, row.columns, i + 1), None
            title = textwrap.wrap(panel.title, TITLE_LETTERS)
            lines = max(lines, len(title))
            ax.set_title("\n".join(title), fontsize=9, color=style.INK)
            if panel.is_map:
                image = _draw_map(ax, panel.data, *style.colour_scale(panel.data.values))
                bar = _colour_bar(strip, image, units_of(panel.data))
            else:
                _draw_curves(ax, panel.data)
            cells.append(Cell(ax, bar))
        arrange(strip, cells, row.columns, top=0.14 + 0.15 * lines, bottom=BELOW, alike=True)

    return Strip(max(heights), draw)


def _text(text: str) -> Strip:
    lines = [part for line in text.split("\n") for part in textwrap.wrap(line, TEXT_LETTERS)]

    def draw(strip: SubFigure) -> None:
        strip.text(
            0.05, 0.5, "\n".join(lines), fontsize=10, color=style.INK, va="center", linespacing=1.5
        )

    return Strip(0.5 + 0.24 * len(lines), draw)


# ---- maps ------------------------------------------------------------------------------------


def _series(row: Series) -> Strip:
    """A row of maps along time or components, on one colour scale."""
    first = row.maps[0].data
    values = np.concatenate([each.data.values.ravel() for each in row.maps])

    def draw(strip: SubFigure) -> None:
        cmap, norm = style.colour_scale(values, signed=row.signed)
        cells, bar = [], None
        for i, each in enumerate(row.maps):
            ax = strip.add_subplot(1, MAPS, i + 1)
            image = _draw_map(ax, each.data, cmap, norm)
            ax.set_title(each.title, fontsize=8.5, color=style.INK)
            if i > 0:
                ax.set_ylabel("")
                ax.tick_params(labelleft=False)
            if i == len(row.maps) - 1:
                bar = _colour_bar(strip, image, units_of(first))
            cells.append(Cell(ax, bar))
        strip.suptitle(row.title, x=0.01, ha="left", fontsize=10, color=style.INK)
        arrange(strip, cells, MAPS, top=0.52, bottom=BELOW)

    return Strip(_map_height(first, WIDTH / MAPS - 0.45) + 0.95, draw)


def _is_hovmoeller(plane: Labelled) -> bool:
    return Roles.of(plane).time is not None


def _map_height(plane: Labelled, width: float) -> float:
    if _is_hovmoeller(plane):
        return 0.7 * width
    x, y = _edges(plane, plane.dims[1]), _edges(plane, plane.dims[0])
    ratio = abs((y[-1] - y[0]) / ((x[-1] - x[0]) or 1.0))
    return width * float(np.clip(ratio, 0.3, 2.5))


def _edges(plane: Labelled, dim: Any) -> np.ndarray:
    """Where the cells of a dimension begin and end, from their centres."""
    where = coordinate(plane, dim)
    if where.dtype.kind not in "biuf" or where.size < 2:
        return np.arange(plane.sizes[dim] + 1) - 0.5
    centres = where.values.astype(float)
    between = 0.5 * (centres[1:] + centres[:-1])
    first, last = 2 * centres[0] - between[0], 2 * centres[-1] - between[-1]
    return np.concatenate([[first], between, [last]])


def _draw_map(ax: Any, plane: Labelled, cmap: Any, norm: Any) -> Any:
    rows, columns = plane.dims
    image = ax.pcolormesh(
        _edges(plane, columns),
        _edges(plane, rows),
        np.ma.masked_invalid(plane.values),
        cmap=cmap,
        norm=norm,
        rasterized=True,
    )
    if not _is_hovmoeller(plane):
        ratio = _map_height(plane, 1.0)
        ax.set_box_aspect(ratio)
    style.plain_axes(ax)
    ax.xaxis.set_major_locator(MaxNLocator(3, steps=[1, 2, 5, 10]))
    ax.yaxis.set_major_locator(MaxNLocator(3, steps=[1, 2, 5, 10]))
    ax.set_xlabel(axis_label(plane, columns), fontsize=8.5, color=style.INK)
    ax.set_ylabel(axis_label(plane, rows), fontsize=8.5, color=style.INK)
    return image


def _colour_bar(strip: SubFigure, image: Any, label: str) -> Any:
    """Draw a colour bar; its axes, which have no place yet."""
    bar = strip.colorbar(image, cax=strip.add_axes((0.9, 0.1, 0.05, 0.8), label="<colorbar>"))
    bar.set_label(label, fontsize=8.5, color=style.INK)
    bar.ax.tick_params(labelsize=8, colors=style.INK, length=3, width=0.6)
    bar.outline.set(linewidth=0.6, edgecolor=style.INK)
    return bar.ax


# ---- curves ----------------------------------------------------------------------------------


def _draw_curves(ax: Any, variable: Labelled) -> None:
    roles = Roles.of(variable)
    style.plain_axes(ax, grid=True)
    along = roles.time or next((dim for dim in roles.space if dim != NUMBER), None)
    if NUMBER in variable.dims:
        along_label = _draw_numbered(ax, variable, along or roles.component)
    elif along is None:
        _draw_bars(ax, variable)
        along_label = str(roles.component)
    else:
        _draw_lines(ax, variable, along, roles.component)
        along_label = axis_label(variable, along)
    ax.set_xlabel(along_label, fontsize=8.5, color=style.INK)
    ax.set_ylabel(units_of(variable), fontsize=8.5, color=style.INK)
    _scale_values(ax, variable)


def _draw_bars(ax: Any, variable: Labelled) -> None:
    n = variable.size
    ax.bar(np.arange(1, n + 1), variable.values, color=style.LINE_COLOURS[0], width=0.7)
    ax.set_xticks(np.arange(1, n + 1, -(-n // 10)))
    ax.grid(visible=False, axis="x")


def _draw_lines(ax: Any, variable: Labelled, along: str, component: str | None) -> None:
    where = coordinate(variable, along).values
    lines = variable.along(along, component) if component else variable.values[:, None]
    few = {"marker": "o", "markersize": 3} if len(where) <= 24 else {}
    for k, values in enumerate(lines.T[:LINES]):
        ax.plot(
            where,
            values,
            color=style.LINE_COLOURS[k % len(style.LINE_COLOURS)],
            linestyle=style.LINE_DASHES[k % len(style.LINE_DASHES)],
            linewidth=1.4,
            label=str(k + 1),
            **few,
        )
    if component:
        if Roles.of(variable).space:  # lines that swing everywhere leave no corner free
            low, high = style.extremes(np.asarray(lines[:, :LINES], dtype=float))
            ax.set_ylim(top=high + LEGEND_SHARE * (high - low or 1.0))
        legend = ax.legend(title=component, fontsize=8, title_fontsize=8, ncols=2, loc="best")
        legend.get_title().set_color(style.INK)
        legend.get_frame().set(edgecolor="none", alpha=0.8)
    if np.issubdtype(where.dtype, np.integer):
        ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))


def _draw_numbered(ax: Any, variable: Labelled, along: str | None) -> str:
    """Draw numbers over their number, or a line of each number's colour; the axis' label."""
    numbers = variable.coords[NUMBER].values
    if along is None:
        few = {"marker": "o", "markersize": 3} if len(numbers) <= 24 else {}
        ax.plot(numbers, variable.values, color=style.LINE_COLOURS[0], linewidth=1.4, **few)
        ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        return NUMBER
    where = coordinate(variable, along).values
    named = {0, len(numbers) // 2, len(numbers) - 1}
    for k, values in enumerate(variable.along(NUMBER, along)):
        ax.plot(
            where,
            values,
            color=style.sequential(k, len(numbers)),
            linewidth=1.0,
            label=str(numbers[k]) if k in named else f"_{numbers[k]}",
        )
    legend = ax.legend(fontsize=8, loc="best")
    legend.get_frame().set(edgecolor="none", alpha=0.8)
    return axis_label(variable, along)


def _scale_values(ax: Any, variable: Labelled) -> None:
    """Shares from 0 %, a logarithm for positive values over many decades."""
    low, high = style.extremes(np.asarray(variable.values, dtype=float))
    if "ratio" in str(variable.name) and low >= -ROUNDING and high <= 1.0 + ROUNDING:
        top = min(1.0, 1.1 * high) if high > 0.0 else 1.0
        ax.set_ylim(0.0, top)
        # As many decimals as it takes to distinguish the ticks.
        decimals = 0 if top >= 0.05 else 1 if top >= 0.005 else None
        ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=decimals))
    elif low > 0.0 and high > 1000.0 * low:
        ax.set_yscale("log")
        ax.set_ylim(bottom=max(0.5 * low, high * 10.0**-DECADES))
    elif low >= 0.0 and Roles.of(variable).component:
        ax.set_ylim(bottom=0.0)
