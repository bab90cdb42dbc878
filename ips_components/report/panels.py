"""What a figure shows of results: chosen, cut, thinned and loaded, as plain NumPy arrays.

It takes what it finds. A variable's dimensions say what it is: time (``time``, ``t``, ``step``,
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

It is made where xarray and zarr are read already, and travels as a file to the process that draws.
"""

from __future__ import annotations

import logging
import pickle
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ips_components.report._alike import NUMBER, prepare
from ips_components.report._labels import Labelled, Roles, place, units_of, words

logger = logging.getLogger(__name__)

FILE_NAME = ".panels"
MAPS = 4  # of one series, in a row
PANELS = 3  # of different variables, in a row
MAP_CELLS = 600  # along an edge of a map; more would not show on paper
LINE_POINTS = 4000
MAX_PANELS = 24  # maps and curves; the others are named below them

#: What is drawn: an `xarray.Dataset`, or those of several groups by path.
Results = Any


@dataclass(frozen=True, slots=True)
class Text:
    """Lines of text across the figure."""

    text: str


@dataclass(frozen=True, slots=True)
class Panel:
    """A map, a curve or bars of one variable."""

    title: str
    data: Labelled
    is_map: bool


@dataclass(frozen=True, slots=True)
class PanelRow:
    """Panels of different variables side by side."""

    panels: list[Panel]
    columns: int


@dataclass(frozen=True, slots=True)
class Series:
    """Maps of one variable on one colour scale, signed or not."""

    title: str
    maps: list[Panel]
    signed: bool


#: A horizontal strip of the figure.
Row = Text | PanelRow | Series


def write_panels(results: Results, path: Path) -> None:
    """Write what a figure shows of results into a file, row by row; see `panels_of`.

    It appears complete or not at all.
    """
    draft = path.with_name(f"{path.name}.partial")
    try:
        with draft.open("wb") as file:
            for part in _parts(results):
                pickle.dump(part, file, protocol=pickle.HIGHEST_PROTOCOL)
            pickle.dump(None, file)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def read_panels(path: Path) -> tuple[str, list[Row]]:
    """Read title and rows of a figure from a file of `write_panels`, of this run itself."""
    with path.open("rb") as file:
        title, *rows = iter(lambda: pickle.load(file), None)
    return title, rows


def panels_of(results: Results) -> tuple[str, list[Row]]:
    """Return title (empty for none) and rows of the figure of results.

    Parameters
    ----------
    results : xarray.Dataset, or mapping of str to xarray.Dataset
        A dataset, or the datasets of the groups of a store by path (``xarray.open_groups``); the
        path of the root is ``"/"`` or empty. May be lazy; only what is drawn gets loaded.
    """
    title, *rows = _parts(results)
    return title, rows


def _parts(results: Results) -> Iterator[Any]:
    """Yield the title, then the rows one by one, so that not all of them need to be in memory."""
    groups = {"": results} if hasattr(results, "data_vars") else dict(results)
    groups = {path.strip("/"): group for path, group in groups.items()}
    root = groups.pop("", None)
    groups = {path: group for path, group in groups.items() if group.data_vars}
    yield str("" if root is None else root.attrs.get("title") or "")
    if root is not None and (root.data_vars or not groups):
        yield from _rows(root)
    for path, group in groups.items():
        yield Text(path)
        yield from _rows(group)


def _rows(results: Any) -> Iterator[Row]:
    """Sort the variables into rows: fields first, then components, maps, curves, numbers."""
    snapshots: list[tuple[Any, str]] = []
    components: list[tuple[Any, str]] = []
    maps: list[Any] = []
    curves: list[Any] = []
    numbers: list[Any] = []
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
        elif n_space in (2, 3) and roles.time and not roles.component:
            snapshots.append((variable, roles.time))
        elif n_space in (2, 3) and roles.component and not roles.time:
            components.append((variable, roles.component))
        elif n_space + other <= 2:
            (maps if _is_map(variable) else curves).append(variable)
        else:
            logger.info("%s is not drawn: %s, shape %s", *_story(variable))

    yield from (_snapshots(*each) for each in snapshots)
    shares = _shares(results) if components else ()
    yield from (_components(*each, shares) for each in components)
    panels, others = (maps + curves)[:MAX_PANELS], (maps + curves)[MAX_PANELS:]
    columns = min(PANELS, max(len(panels), 2 if any(map(_is_map, panels)) else 1))
    for i in range(0, len(panels), PANELS):
        yield PanelRow([_panel(variable) for variable in panels[i : i + PANELS]], columns)
    if others:
        yield Text(f"{len(others)} more: {', '.join(map(words, others))}")
    if numbers or not (snapshots or components or panels):
        lines = [f"{words(v)} = {v.values.item():.6g} {units_of(v)}".rstrip() for v in numbers]
        yield Text("\n".join(lines) or "The results hold nothing that can be drawn.")


def _story(variable: Any) -> tuple[object, object, tuple[int, ...]]:
    return variable.name, variable.dtype, variable.shape


def _snapshots(variable: Any, time: str) -> Series:
    n, shown = variable.sizes[time], min(variable.sizes[time], MAPS)
    chosen = [(i + 1) * n // shown - 1 for i in range(shown)]  # the last is among them
    maps = [Panel(place(variable, time, i), _plane(variable.isel({time: i})), True) for i in chosen]
    return Series(words(variable), maps, signed=False)


def _components(variable: Any, component: str, shares: Sequence[float]) -> Series:
    maps = []
    for i in range(min(variable.sizes[component], MAPS)):
        share = f" ({shares[i]:.1%})" if i < len(shares) else ""
        plane = _plane(variable.isel({component: i}))
        maps.append(Panel(f"{component} {i + 1}{share}", plane, True))
    return Series(words(variable), maps, signed=True)


def _shares(results: Any) -> Sequence[float]:
    """The last explained variance ratio of each component, if the results have one."""
    for name, variable in results.data_vars.items():
        roles = Roles.of(variable)
        if "ratio" in str(name) and roles.component and not roles.space:
            found = variable.isel({roles.time: -1}) if roles.time else variable
            return list(found.values)
    return ()


def _panel(variable: Any) -> Panel:
    if not _is_map(variable):
        return Panel(words(variable), Labelled.of(_thinned(variable, LINE_POINTS)), False)
    title = words(variable)
    if variable.ndim == 3:
        title += f", {variable.dims[0]} {variable.sizes[variable.dims[0]] // 2}"
    return Panel(title, _plane(variable), True)


def _is_map(variable: Any) -> bool:
    if NUMBER in variable.dims:
        return False
    roles = Roles.of(variable)
    return len(roles.space) >= 2 or (roles.time is not None and len(roles.space) == 1)


def _plane(variable: Any) -> Labelled:
    """Two dimensions, loaded, float, and not finer than paper shows."""
    if variable.ndim == 3:
        first = variable.dims[0]
        variable = variable.isel({first: variable.sizes[first] // 2})
    roles = Roles.of(variable)
    if roles.time is not None and variable.ndim == 2:
        variable = variable.transpose(roles.space[0], roles.time)  # time runs to the right
    return Labelled.of(_thinned(variable, MAP_CELLS).astype(float))


def _thinned(variable: Any, most: int) -> Any:
    return variable.isel(
        {dim: slice(None, None, -(-n // most)) for dim, n in variable.sizes.items()}
    )
