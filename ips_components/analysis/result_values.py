"""From what an analysis returns to named values that a file can hold.

An analysis returns dask collections, xarray objects, tables, numbers, or nestings of them. Here
each gets a name; a Dataset, a table or a mapping within the mapping becomes a group, whose members
are named ``group/member``. Lazy values of unknown content (``dask.delayed``, bags, dataframes) are
named once before they are computed and expanded by the same rules afterwards.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import dask
import numpy as np
import xarray as xr

from ips_components.errors import ContractError

#: Separates a group from its members.
SEPARATOR = "/"
#: Longest name of a result: file systems allow 255 bytes.
MAX_NAME = 200

_RETURN = "return lazy results, for example {'mean': arrays['temperature'].mean()}"


class NamedResults(dict[str, Any]):
    """Results by name, and the attributes of the groups that they belong to.

    Attributes
    ----------
    attrs : dict of str to dict
        Attributes of each group; ``""`` is the root.
    """

    def __init__(self) -> None:
        super().__init__()
        self.attrs: dict[str, dict[Any, Any]] = {}

    def add(self, path: str, value: Any) -> None:
        """Add one value.

        Raises
        ------
        ContractError
            If the name is taken.
        """
        if path in self:
            raise ContractError(f"the analysis returned two results named {path!r}; rename one")
        self[path] = value


def name_results(returned: Any) -> NamedResults:
    """Return the results of an analysis by name.

    Parameters
    ----------
    returned : mapping, xarray object, sequence or one result
        What the analysis function returned.

    Returns
    -------
    NamedResults
        A mapping's own names, the data variables of a Dataset, a DataArray's own name,
        ``result_0``, ``result_1``, ... of a sequence, ``result`` for a single value without a name.

    Raises
    ------
    ContractError
        If there is no result, a value is not a result, or a name cannot be stored.
    """
    named = NamedResults()
    if returned is None:
        raise ContractError(f"the analysis returned nothing; {_RETURN}")
    if isinstance(returned, str | bytes):
        raise ContractError(
            f"the analysis returned a {type(returned).__name__} ({returned[:40]!r}), which is no "
            f"result; {_RETURN}"
        )
    if isinstance(returned, xr.Dataset | xr.DataTree | Mapping):
        _expand(named, "", returned)
    elif isinstance(returned, list | tuple):
        for name, value in zip(_names_of_items(returned), returned, strict=True):
            _expand(named, _checked(name), value)
    else:
        _expand(named, _checked(_own_name(returned) or "result"), returned)
    if not named:
        raise ContractError(f"the analysis returned nothing; {_RETURN}")
    return named


def merge_returned(returned: Mapping[Callable[..., Any], Any]) -> Any:
    """Return one set of results for what several analyses returned.

    A single analysis keeps its names; of several, each result is named after its function, too.

    Raises
    ------
    ContractError
        If two functions have the same name, or one of several returned no mapping.
    """
    if len(returned) == 1:
        return next(iter(returned.values()))
    if len({function.__name__ for function in returned}) < len(returned):
        raise ContractError("several analyses of one run need functions of different names")
    results: dict[str, Any] = {}
    for function, of_function in returned.items():
        if not isinstance(of_function, Mapping):
            raise ContractError(
                f"the analysis {function.__name__!r} returned a {type(of_function).__name__}; "
                "where a run has several analyses, each returns a mapping of names to results"
            )
        for name, value in of_function.items():
            results[f"{function.__name__}_{name}"] = value
    return results


def expand(path: str, value: Any) -> NamedResults:
    """Return a computed value by the names that it has in the store.

    A number or an array keeps its name; a table, a Dataset or a mapping becomes a group; None,
    the value of a task that has written something itself, is left out.

    Raises
    ------
    ContractError
        If the value cannot be stored.
    """
    named = NamedResults()
    if value is not None:
        _expand(named, path, value)
    return named


def group_of(path: str) -> tuple[str, str]:
    """Return the group (``""``: the root) and the name of a variable."""
    group, _, name = path.rpartition(SEPARATOR)
    return group, name


# -- one value -----------------------------------------------------------------------------


def _expand(named: NamedResults, path: str, value: Any) -> None:
    if isinstance(value, xr.Dataset):
        _expand_dataset(named, path, value)
    elif isinstance(value, xr.DataTree):
        for node in value.subtree:
            below = path
            for part in node.relative_to(value).split(SEPARATOR):
                below = below if part == "." else path_in(below, _checked(part))
            if node.has_data or node.attrs:
                _expand_dataset(named, below, node.to_dataset())
    elif isinstance(value, Mapping):
        for name, member in value.items():
            _expand(named, path_in(path, _checked(name)), member)
    elif dask.is_dask_collection(value) or isinstance(value, xr.DataArray | np.ndarray):
        named.add(path, value)
    elif isinstance(value, list | tuple):
        _expand_sequence(named, path, value)
    elif (table := _from_pandas(value)) is not None:
        _expand(named, path, table)
    else:
        named.add(path, _plain(path, value))


def _expand_dataset(named: NamedResults, group: str, dataset: xr.Dataset) -> None:
    named.attrs[group] = dict(dataset.attrs)
    for name, variable in dataset.data_vars.items():
        named.add(path_in(group, _checked(name)), variable)


def _expand_sequence(named: NamedResults, path: str, values: list[Any] | tuple[Any, ...]) -> None:
    """Add equal plain items as one array, and others each with a name of its own."""
    if not any(map(_is_structured, values)):
        if columns := _mixed_columns(values):
            for number, column in enumerate(columns):
                named.add(f"{path}_{number}", _plain(path, column))
            return
        kinds = {type(item) for item in values}
        if str not in kinds or len(kinds) == 1:
            named.add(path, _plain(path, list(values)))
            return
    for name, value in zip(_names_of_items(values, path + "_"), values, strict=True):
        _expand(named, name, value)


def _mixed_columns(values: Sequence[Any]) -> list[list[Any]]:
    """Return the columns of equally long tuples where some are text and others not, else none."""
    if {type(item) for item in values} == {tuple} and len({len(item) for item in values}) == 1:
        columns = [list(column) for column in zip(*values, strict=True)]
        if len({isinstance(column[0], str) for column in columns}) == 2:
            return columns
    return []


def _is_structured(value: Any) -> bool:
    return (
        dask.is_dask_collection(value)
        or isinstance(value, xr.DataArray | xr.Dataset | np.ndarray)
        or _from_pandas(value) is not None
    )


def _plain(path: str, value: Any) -> Any:
    """Return numbers, dates and text as an array; other nestings of plain values as JSON."""
    try:
        array = np.asarray(value)
    except ValueError:  # lists of different lengths
        array = np.empty((), dtype=object)
    if array.dtype != object:
        return array
    if isinstance(value, list):
        try:
            return np.asarray([json.dumps(item) for item in value])
        except (TypeError, ValueError):
            pass
    raise ContractError(
        f"result {path!r} is a {type(value).__name__}, which cannot be stored; return numbers, "
        "arrays, tables or xarray objects"
    )


def _from_pandas(value: Any) -> xr.Dataset | xr.DataArray | None:
    """Return a pandas object as an xarray object, None for everything else."""
    if type(value).__module__.partition(".")[0] != "pandas":
        return None
    import pandas as pd

    if isinstance(value, pd.DataFrame):
        frame = value.rename(columns=str)
        if not frame.columns.is_unique:
            raise ContractError("a table among the results has two columns of one name; rename one")
        return xr.Dataset(
            {name: _from_series(frame[name]) for name in frame.columns}, attrs=dict(value.attrs)
        )
    if isinstance(value, pd.Series):
        return _from_series(value)
    if isinstance(value, pd.Index):
        return _from_series(value.to_series(index=range(len(value))))
    return None


def _from_series(series: Any) -> xr.DataArray:
    """Return a column of a table; text, categories and nullable numbers become NumPy types."""
    import pandas as pd

    values = series
    if isinstance(series.dtype, pd.CategoricalDtype):
        values = series.astype(series.cat.categories.dtype)
    if pd.api.types.is_extension_array_dtype(values.dtype):
        if pd.api.types.is_numeric_dtype(values.dtype) and values.isna().any():
            values = values.astype("float64")
        elif pd.api.types.is_numeric_dtype(values.dtype):
            values = values.astype(values.dtype.numpy_dtype)
    array = values.to_numpy()
    if array.dtype == object:
        array = np.asarray(["" if item is None or item is pd.NA else str(item) for item in array])
    index = series.index
    if isinstance(index, pd.MultiIndex):
        dim = "row"
        coords: Any = {
            str(name or f"level_{number}"): (dim, _numpy_index(index.get_level_values(number)))
            for number, name in enumerate(index.names)
        }
    else:
        dim = str(index.name or "index")
        coords = {dim: _numpy_index(index)}
    name = None if series.name is None else str(series.name)
    return xr.DataArray(array, dims=[dim], coords=coords, name=name)


def _numpy_index(index: Any) -> np.ndarray[Any, Any]:
    values = index.to_numpy()
    return np.asarray([str(item) for item in values]) if values.dtype == object else values


# -- names ---------------------------------------------------------------------------------


def _own_name(value: Any) -> str:
    """Return the name that a value has itself."""
    if isinstance(value, xr.DataArray) or type(value).__name__ == "Series":
        return "" if value.name is None else str(value.name)
    return ""


def _names_of_items(values: list[Any] | tuple[Any, ...], prefix: str = "result_") -> list[str]:
    """Return the fields of a named tuple, the items' own names if all differ, or numbers."""
    if fields := getattr(values, "_fields", None):
        return [str(name) if prefix == "result_" else f"{prefix}{name}" for name in fields]
    if prefix == "result_":
        own = [_own_name(value) for value in values]
        if all(own) and len(set(own)) == len(own):
            return own
    return [f"{prefix}{number}" for number in range(len(values))]


def path_in(group: str, name: str) -> str:
    """Return the path of a result in a group; `group_of` takes it apart."""
    return f"{group}{SEPARATOR}{name}" if group and name else group or name


def _checked(name: Any) -> str:
    """Return a name that a store can hold.

    Raises
    ------
    ContractError
        If it cannot.
    """
    if not isinstance(name, str):
        raise ContractError(f"the analysis returned a result named {name!r}; names must be strings")
    why = ""
    if not name or name != name.strip():
        why = "is empty, or begins or ends with a space"
    elif bad := sorted({c for c in name if c in "/\\" or not c.isprintable()}):
        why = f"has {', '.join(map(repr, bad))} in it, which separates groups or files"
    elif name.startswith((".", "__")) or name == "zarr.json":
        why = "is reserved by the format of the store"
    elif len(name.encode()) > MAX_NAME:
        why = f"has more than {MAX_NAME} bytes"
    if why:
        raise ContractError(
            f"the analysis returned a result named {name[:MAX_NAME]!r}, which cannot be stored: "
            f"the name {why}; use letters, digits, '_', '-', '.'"
        )
    return name
