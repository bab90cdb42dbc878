"""One picture of a run's results: snapshots, components, variances, curves.

It draws what it finds. A variable's dimensions say what it is: time (``time``, ``t``, ``step``,
``batch``), components (``component``, ``mode``), the rest is space. Its attributes ``long_name``
and ``units`` and its coordinates become the labels.

=====================  ==========================================================
dimensions             drawn as
=====================  ==========================================================
time and 2-D space     a row of snapshots on one colour scale
component and 2-D      a row of maps on one scale about zero
2-D space              a map
3-D space              the same, cut through the middle of the first dimension
time, component        a line per component
component              bars
time, or 1-D space     a line
time and 1-D space     a map of space against time
none                   a number
none or 1-D, many      one panel of results whose names differ by a number
=====================  ==========================================================

The groups of a store follow each other, each below its name.
"""

from __future__ import annotations

import logging
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from ips_components.report import _style as style
from ips_components.report._alike import NUMBER, prepare
from ips_components.report._style import Roles

logger = logging.getLogger(__name__)

WIDTH = 7.6  # inches: an A4 page within its margins
MAPS = 4  # of one series, in a row
PANELS = 3  # of different variables, in a row
MAP_CELLS = 600  # along an edge of a map; more would not show on paper
LINE_POINTS = 4000
LINES = 6
MAX_PANELS = 24  # maps and curves; the others are named below them
ROUNDING = 1e-9  # by which sums of shares may miss 0 and 1
LEGEND_SHARE = 0.55  # of the height of the lines, above them
TITLE_LETTERS = 28  # in a line above a panel
TEXT_LETTERS = 95  # in a line of the figure's width
DECADES = 6  # of a logarithmic scale; below is rounding


@dataclass(frozen=True, slots=True)
class Row:
    """A horizontal strip of the figure: its height in inches and what fills it."""

    height: float
    draw: Callable[[SubFigure], None]


#: What is drawn: one dataset, or those of several groups by path.
Results = xr.Dataset | Mapping[str, xr.Dataset]


def run_figure(results: Results, path: str | Path, title: str | None = None) -> Path:
    """Draw the results of a run into a PNG file.

    Parameters
    ----------
    results : xarray.Dataset, or mapping of str to xarray.Dataset
        A dataset, or the datasets of the groups of a store by path (``xarray.open_groups``); the
        path of the root is ``"/"``. May be lazy; only what is drawn gets loaded.
    path : path-like
        Where the picture goes. It appears there complete or not at all.
    title : str, optional
        Default: the attribute ``title`` of the dataset or of the root, if it has one.

    Returns
    -------
    pathlib.Path
        The path of the picture.
    """
    path = Path(path)
    figure = compose(results, title)
    partial = path.with_name(f".{path.name}.partial")
    try:
        figure.set(dpi=150, facecolor="white")
        # `savefig` would draw it once more beforehand, in vain, for its layout.
        FigureCanvasAgg(figure).print_png(partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def compose(results: Results, title: str | None = None) -> Figure:
    """The figure of :func:`run_figure` as an object of matplotlib, not yet drawn."""
    groups = {"/": results} if isinstance(results, xr.Dataset) else dict(results)
    root = groups.pop("/", xr.Dataset())
    groups = {path: group for path, group in groups.items() if group.data_vars}
    rows = _rows(root) if root.data_vars or not groups else []
    for path, group in groups.items():
        rows += [_text_row(path.strip("/")), *_rows(group)]
    title = title or root.attrs.get("title")
    figure = Figure(figsize=(WIDTH, sum(row.height for row in rows) + 0.4 * bool(title)))
    figure.set_layout_engine("constrained")
    if title:
        figure.suptitle(title, fontsize=12, color=style.INK)
    strips = figure.subfigures(
        len(rows), 1, height_ratios=[row.height for row in rows], squeeze=False
    )
    for strip, row in zip(strips[:, 0], rows, strict=True):
        row.draw(strip)
    return figure


def _rows(results: xr.Dataset) -> list[Row]:
    """Sort the variables into rows: fields first, then components, maps, curves, numbers."""
    snapshots, components, maps, curves, numbers = [], [], [], [], []
    for variable in prepare(results).values():
        roles = Roles.of(variable)
        n_space, other = len(roles.space), (roles.time is not None) + (roles.component is not None)
        if variable.dtype.kind not in "biuf" or variable.size == 0:
            logger.info("%s is not drawn: %s, shape %s", *_story(variable))
        elif NUMBER in variable.dims:
            curves.append(variable)
        elif variable.ndim == 0 or variable.size == 1:
            numbers.append(variable)
        elif n_space in (2, 3) and other == 0:
            maps.append(variable)
        elif n_space in (2, 3) and other == 1:
            (snapshots if roles.time else components).append(variable)
        elif n_space + other <= 2:
            (maps if _is_map(variable) else curves).append(variable)
        else:
            logger.info("%s is not drawn: %s, shape %s", *_story(variable))

    shares = _shares(results)
    rows = [_series(variable, signed=False, shares=None) for variable in snapshots]
    rows += [_series(variable, signed=True, shares=shares) for variable in components]
    panels = maps + curves
    panels, others = panels[:MAX_PANELS], panels[MAX_PANELS:]
    columns = min(PANELS, max(len(panels), 2 if any(map(_is_map, panels)) else 1))
    rows += [_panel_row(panels[i : i + PANELS], columns) for i in range(0, len(panels), PANELS)]
    if others:
        rows.append(_text_row(f"{len(others)} more: {', '.join(map(style.words, others))}"))
    if numbers or not rows:
        rows.append(_number_row(numbers))
    return rows


def _story(variable: xr.DataArray) -> tuple[object, object, tuple[int, ...]]:
    return variable.name, variable.dtype, variable.shape


def _panel_row(variables: Sequence[xr.DataArray], columns: int) -> Row:
    """Maps, curves and bars of different variables side by side."""
    panels = [(_is_map(variable), variable) for variable in variables]
    loaded = [_plane(variable) if is_map else _thinned(variable) for is_map, variable in panels]
    heights = [
        _map_height(data, WIDTH / columns - 1.1) + 0.7 if is_map else 2.3
        for (is_map, _), data in zip(panels, loaded, strict=True)
    ]

    def draw(strip: SubFigure) -> None:
        axes = strip.subplots(1, columns, squeeze=False)[0]
        for ax in axes[len(panels) :]:
            ax.set_visible(False)
        for ax, (is_map, variable), data in zip(axes, panels, loaded, strict=False):
            words = style.words(variable)
            if is_map and variable.ndim == 3:
                words += f", {variable.dims[0]} {variable.sizes[variable.dims[0]] // 2}"
            title = textwrap.fill(words, TITLE_LETTERS)
            ax.set_title(title, fontsize=9, color=style.INK)
            if is_map:
                image = _draw_map(ax, data, *style.colour_scale(data.values))
                _colour_bar(strip, image, [ax], style.units_of(variable))
            else:
                _draw_curves(ax, data)

    return Row(max(heights), draw)


# ---- maps ------------------------------------------------------------------------------------


def _series(variable: xr.DataArray, *, signed: bool, shares: np.ndarray | None) -> Row:
    """A row of maps along time or components, on one colour scale."""
    roles = Roles.of(variable)
    dim = roles.time or roles.component
    n = variable.sizes[dim]
    if roles.time:
        chosen = np.arange(1, min(n, MAPS) + 1) * n // min(n, MAPS) - 1  # the last is among them
    else:
        chosen = np.arange(min(n, MAPS))
    planes = [_plane(variable.isel({dim: int(i)})) for i in chosen]
    values = np.concatenate([plane.values.ravel() for plane in planes])
    titles = [_map_title(variable, roles, int(i), shares) for i in chosen]

    def draw(strip: SubFigure) -> None:
        axes = strip.subplots(1, MAPS, squeeze=False)[0]
        cmap, norm = style.colour_scale(values, signed=signed)
        for ax in axes[len(planes) :]:
            ax.set_visible(False)
        for ax, plane, title in zip(axes, planes, titles, strict=False):
            image = _draw_map(ax, plane, cmap, norm)
            ax.set_title(title, fontsize=8.5, color=style.INK)
            if ax is not axes[0]:
                ax.set_ylabel("")
                ax.tick_params(labelleft=False)
        _colour_bar(strip, image, list(axes[: len(planes)]), style.units_of(variable))
        strip.suptitle(style.words(variable), x=0.01, ha="left", fontsize=10, color=style.INK)

    return Row(_map_height(planes[0], WIDTH / MAPS - 0.45) + 0.95, draw)


def _map_title(variable: xr.DataArray, roles: Roles, i: int, shares: np.ndarray | None) -> str:
    if roles.time:
        return style.place(variable, roles.time, i)
    share = f" ({shares[i]:.1%})" if shares is not None and i < len(shares) else ""
    return f"{roles.component} {i + 1}{share}"


def _plane(variable: xr.DataArray) -> xr.DataArray:
    """Two dimensions, loaded, float, and not finer than paper shows."""
    if variable.ndim == 3:
        first = variable.dims[0]
        variable = variable.isel({first: variable.sizes[first] // 2})
    strides = {dim: slice(None, None, -(-n // MAP_CELLS)) for dim, n in variable.sizes.items()}
    roles = Roles.of(variable)
    if roles.time is not None and variable.ndim == 2:
        variable = variable.transpose(roles.space[0], roles.time)  # time runs to the right
    return variable.isel(strides).astype(float).load()


def _is_map(variable: xr.DataArray) -> bool:
    if NUMBER in variable.dims:
        return False
    roles = Roles.of(variable)
    return len(roles.space) >= 2 or (roles.time is not None and len(roles.space) == 1)


def _is_hovmoeller(plane: xr.DataArray) -> bool:
    return Roles.of(plane).time is not None


def _map_height(plane: xr.DataArray, width: float) -> float:
    if _is_hovmoeller(plane):
        return 0.7 * width
    x, y = _edges(plane, plane.dims[1]), _edges(plane, plane.dims[0])
    ratio = abs((y[-1] - y[0]) / ((x[-1] - x[0]) or 1.0))
    return width * float(np.clip(ratio, 0.3, 2.5))


def _edges(plane: xr.DataArray, dim: Any) -> np.ndarray:
    """Where the cells of a dimension begin and end, from their centres."""
    where = style.coordinate(plane, dim)
    if where.dtype.kind not in "biuf" or where.size < 2:
        return np.arange(plane.sizes[dim] + 1) - 0.5
    centres = where.values.astype(float)
    between = 0.5 * (centres[1:] + centres[:-1])
    first, last = 2 * centres[0] - between[0], 2 * centres[-1] - between[-1]
    return np.concatenate([[first], between, [last]])


def _draw_map(ax: Any, plane: xr.DataArray, cmap: Any, norm: Any) -> Any:
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
    ax.set_xlabel(style.axis_label(plane, columns), fontsize=8.5, color=style.INK)
    ax.set_ylabel(style.axis_label(plane, rows), fontsize=8.5, color=style.INK)
    return image


def _colour_bar(strip: SubFigure, image: Any, axes: list[Any], label: str) -> None:
    bar = strip.colorbar(image, ax=axes, fraction=0.05, pad=0.02, shrink=0.85)
    bar.set_label(label, fontsize=8.5, color=style.INK)
    bar.ax.tick_params(labelsize=8, colors=style.INK, length=3, width=0.6)
    bar.outline.set(linewidth=0.6, edgecolor=style.INK)


# ---- curves ----------------------------------------------------------------------------------


def _shares(results: xr.Dataset) -> np.ndarray | None:
    """The last explained variance ratio of each component, if the results have one."""
    for name, variable in results.data_vars.items():
        roles = Roles.of(variable)
        if "ratio" in str(name) and roles.component and not roles.space:
            return (variable.isel({roles.time: -1}) if roles.time else variable).values
    return None


def _thinned(variable: xr.DataArray) -> xr.DataArray:
    strides = {dim: slice(None, None, -(-n // LINE_POINTS)) for dim, n in variable.sizes.items()}
    return variable.isel(strides).load()


def _draw_curves(ax: Any, variable: xr.DataArray) -> None:
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
        along_label = style.axis_label(variable, along)
    ax.set_xlabel(along_label, fontsize=8.5, color=style.INK)
    ax.set_ylabel(style.units_of(variable), fontsize=8.5, color=style.INK)
    _scale_values(ax, variable)


def _draw_bars(ax: Any, variable: xr.DataArray) -> None:
    n = variable.size
    ax.bar(np.arange(1, n + 1), variable.values, color=style.LINE_COLOURS[0], width=0.7)
    ax.set_xticks(np.arange(1, n + 1, -(-n // 10)))
    ax.grid(visible=False, axis="x")


def _draw_lines(ax: Any, variable: xr.DataArray, along: str, component: str | None) -> None:
    where = style.coordinate(variable, along).values
    lines = variable.transpose(along, component).values if component else variable.values[:, None]
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


def _draw_numbered(ax: Any, variable: xr.DataArray, along: str | None) -> str:
    """Draw numbers over their number, or a line of each number's colour; the axis' label."""
    numbers = variable.coords[NUMBER].values
    if along is None:
        few = {"marker": "o", "markersize": 3} if len(numbers) <= 24 else {}
        ax.plot(numbers, variable.values, color=style.LINE_COLOURS[0], linewidth=1.4, **few)
        ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        return NUMBER
    where = style.coordinate(variable, along).values
    named = {0, len(numbers) // 2, len(numbers) - 1}
    for k, values in enumerate(variable.transpose(NUMBER, along).values):
        ax.plot(
            where,
            values,
            color=style.sequential(k, len(numbers)),
            linewidth=1.0,
            label=str(numbers[k]) if k in named else f"_{numbers[k]}",
        )
    legend = ax.legend(fontsize=8, loc="best")
    legend.get_frame().set(edgecolor="none", alpha=0.8)
    return style.axis_label(variable, along)


def _scale_values(ax: Any, variable: xr.DataArray) -> None:
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


# ---- numbers ---------------------------------------------------------------------------------


def _number_row(variables: Sequence[xr.DataArray]) -> Row:
    lines = []
    for variable in variables:
        units = style.units_of(variable)
        lines.append(f"{style.words(variable)} = {variable.values.item():.6g} {units}".rstrip())
    return _text_row("\n".join(lines) or "The results hold nothing that can be drawn.")


def _text_row(text: str) -> Row:
    lines = [part for line in text.split("\n") for part in textwrap.wrap(line, TEXT_LETTERS)]

    def draw(strip: SubFigure) -> None:
        strip.text(
            0.05, 0.5, "\n".join(lines), fontsize=10, color=style.INK, va="center", linespacing=1.5
        )

    return Row(0.5 + 0.24 * len(lines), draw)
