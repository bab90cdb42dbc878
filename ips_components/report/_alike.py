"""Results that differ by a number in their name are drawn together: ``probe_0`` to ``probe_49``."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Hashable
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import xarray as xr

#: Dimension that counts results of one panel.
NUMBER = "number"
#: As few as these have a panel each.
FEW = 4

_DIGITS = re.compile(r"\d+")


def prepare(results: xr.Dataset) -> dict[str, xr.DataArray]:
    """Return what is to be drawn, by the title of its panel.

    Many numbers or curves that differ by one number in their names become one variable along the
    dimension `NUMBER`; variables are in the order of their names where the order of the dataset is
    that of a store, and a ``long_name`` that several results have inherited is no title.
    """
    names = Counter(v.attrs.get("long_name") for v in results.data_vars.values())
    prepared: dict[str, xr.DataArray] = {}
    merged: dict[Hashable, str] = {}
    for stem, members in _families(results).items():
        variable = _joined(stem, [(number, results[name]) for number, name in members])
        if variable is not None:
            merged |= dict.fromkeys([name for _, name in members], stem)
            prepared[stem] = variable
    drawn: dict[str, xr.DataArray] = {}
    for name, variable in results.data_vars.items():
        stem = merged.get(name, "")
        if stem:
            drawn.setdefault(stem, prepared[stem])
            continue
        if names[variable.attrs.get("long_name")] > 1:
            attrs = {k: v for k, v in variable.attrs.items() if k != "long_name"}
            variable = variable.copy(deep=False)
            variable.attrs = attrs
        drawn[str(name)] = variable
    return drawn


def _families(results: xr.Dataset) -> dict[str, list[tuple[int, Hashable]]]:
    """Return the names that differ by one number, sorted by it, of all families large enough."""
    families: dict[tuple[Any, ...], list[tuple[int, Hashable]]] = defaultdict(list)
    for name, variable in results.data_vars.items():
        if variable.ndim > 1 or variable.dtype.kind not in "biuf" or variable.size == 0:
            continue
        for found in _DIGITS.finditer(str(name)):
            pattern = str(name)[: found.start()], str(name)[found.end() :]
            kind = (variable.dims, variable.shape, variable.attrs.get("units"))
            families[(*pattern, *kind)].append((int(found[0]), name))
    stems: dict[str, list[tuple[int, Hashable]]] = {}
    taken: set[Hashable] = set()
    for (before, after, *_), members in sorted(
        families.items(), key=lambda family: -len(family[1])
    ):
        left = sorted(member for member in members if member[1] not in taken)
        if len(left) > FEW and len({number for number, _ in left}) == len(left):
            stem = f"{before.rstrip('_-. ')}{after}" or "values"
            stems[f"{stem} {left[0][0]} to {left[-1][0]}"] = left
            taken |= {name for _, name in left}
    return stems


def _joined(stem: str, members: list[tuple[int, xr.DataArray]]) -> xr.DataArray | None:
    """Return one variable of all members, None if their coordinates differ."""
    import xarray as xr

    arrays = [array.reset_coords(drop=True) for _, array in members]
    first = arrays[0]
    if any(not array.coords.to_dataset().equals(first.coords.to_dataset()) for array in arrays):
        return None
    numbers = np.asarray([number for number, _ in members])
    joined = xr.concat(arrays, dim=NUMBER, combine_attrs="drop_conflicts", join="exact")
    joined = joined.assign_coords({NUMBER: numbers}).rename(stem)
    joined.attrs.pop("long_name", None)
    return joined
