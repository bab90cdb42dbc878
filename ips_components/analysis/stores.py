"""Stored fields as a simulation would offer them: what is in the file, and reading boxes of it.

A file is opened anew for each box, by whichever worker reads it: nothing open ever travels.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ips_components.errors import ConfigError
from ips_components.model.spec import ArraySpec, StepAxis

#: Attributes that say how a file stores an array, not what it means.
_STORAGE = {"_ARRAY_DIMENSIONS", "_FillValue", "DIMENSION_LIST", "REFERENCE_LIST", "CLASS", "NAME"}
Box = tuple[slice, ...]


@dataclass(frozen=True, slots=True)
class StoredArray:
    """One array of a stored field.

    Parameters
    ----------
    path
        Absolute path of the file or folder.
    kind
        ``"xarray"`` (NetCDF, and Zarr with named dimensions), ``"zarr"``, ``"hdf5"`` or ``"npy"``.
    name
        Name of the array in the file.
    spec
        What a simulation with this array would offer.
    """

    path: str
    kind: str
    name: str
    spec: ArraySpec

    def read(self, box: Box) -> np.ndarray[Any, Any]:
        """Return the cells of a box, time first; slices may have steps >= 1."""
        return np.ascontiguousarray(_READERS[self.kind](self.path, self.name, box))


def stored_arrays(source: str | Path) -> dict[str, StoredArray]:
    """Find the arrays of a stored field; dimension 0 of each is time.

    Parameters
    ----------
    source : path-like
        Folder of a Zarr group or array, or a file that ends in ``.nc``, ``.nc4`` or ``.cdf``,
        ``.h5``, ``.hdf5`` or ``.hdf``, or ``.npy``.

    Returns
    -------
    dict of str to StoredArray
        By name. A bare array is called like its file without the suffix; groups within an HDF5
        file become prefixes with a dot.

    Raises
    ------
    ConfigError
        If the source does not exist, is of no known kind, or has no array.
    """
    path = Path(source).absolute()
    if not path.exists():
        raise ConfigError(f"SOURCE = {source}: no such file or folder")
    found = {each.spec.name: each for each in _finder(path)(path)}
    if not found:
        raise ConfigError(f"SOURCE = {source}: there is no array of numbers with a time dimension")
    return found


def _finder(path: Path) -> Callable[[Path], Iterator[StoredArray]]:
    if path.is_dir():
        return _of_zarr
    for suffixes, finder in (
        ((".nc", ".nc4", ".cdf"), _of_netcdf),
        ((".h5", ".hdf5", ".hdf"), _of_hdf5),
        ((".npy",), _of_npy),
    ):
        if path.suffix in suffixes:
            return finder
    raise ConfigError(
        f"SOURCE = {path}: unknown format; expected the folder of a Zarr store, or a file "
        "that ends in .nc, .h5 or .npy"
    )


# -- what is in a file ---------------------------------------------------------------------


def _of_zarr(path: Path) -> Iterator[StoredArray]:
    import zarr

    try:
        node: Any = zarr.open(path, mode="r")
    except (FileNotFoundError, ValueError, KeyError) as error:
        raise ConfigError(f"SOURCE = {path}: the folder is no Zarr store ({error})") from error
    if isinstance(node, zarr.Array):
        yield from _stored(path, "zarr", "", path.stem, node.shape, node.dtype, node.attrs)
        return
    members = [array for _, array in node.arrays()]
    if all(_zarr_dims(array) for array in members):
        yield from _of_xarray(path)
        return
    for array in members:
        yield from _stored(
            path, "zarr", array.basename, array.basename, array.shape, array.dtype, array.attrs
        )


def _zarr_dims(array: Any) -> Any:
    named = getattr(array.metadata, "dimension_names", None)
    return named or array.attrs.get("_ARRAY_DIMENSIONS") or not array.ndim


def _of_netcdf(path: Path) -> Iterator[StoredArray]:
    yield from _of_xarray(path)


def _of_xarray(path: Path) -> Iterator[StoredArray]:
    found: list[StoredArray] = []  # the file is closed before the first one is yielded
    with _open_xarray(path) as dataset:
        for name, variable in dataset.data_vars.items():
            time = dataset.coords.get(variable.dims[0]) if variable.dims else None
            found += _stored(
                path,
                "xarray",
                str(name),
                str(name),
                variable.shape,
                variable.dtype,
                variable.attrs,
                tuple(str(dim) for dim in variable.dims),
                None if time is None else time.values,
            )
    yield from found


def _of_hdf5(path: Path) -> Iterator[StoredArray]:
    with _open_hdf5(path) as file:
        found: list[StoredArray] = []

        def visit(name: str, item: Any) -> None:
            if hasattr(item, "shape") and not item.is_scale:
                dims = tuple(
                    each.label or (each[0].name if len(each) else "") for each in item.dims
                )
                dims = tuple(dim.rpartition("/")[2] for dim in dims)
                steps = item.dims[0][0][()] if item.ndim and len(item.dims[0]) else None
                found.extend(
                    _stored(
                        path,
                        "hdf5",
                        name,
                        name.replace("/", "."),
                        item.shape,
                        item.dtype,
                        item.attrs,
                        dims if all(dims) else (),
                        steps,
                    )
                )

        file.visititems(visit)
    yield from found


def _of_npy(path: Path) -> Iterator[StoredArray]:
    array = np.load(path, mmap_mode="r")
    yield from _stored(path, "npy", "", path.stem, array.shape, array.dtype, {})


def _stored(
    path: Path,
    kind: str,
    inside: str,
    name: str,
    shape: tuple[int, ...],
    dtype: Any,
    attrs: Mapping[str, Any],
    dims: tuple[str, ...] = (),
    steps: Any = None,
) -> Iterator[StoredArray]:
    """Yield the array, if it can be a field over time at all."""
    if not shape or 0 in shape or np.dtype(dtype).kind not in "biufc":
        return
    if not dims and len(shape) <= 4:
        dims = ("time", *("z", "y", "x")[4 - len(shape) :])
    spec = ArraySpec(
        name, np.dtype(dtype).str, shape[1:], _axis(shape[0], steps), dims, _plain(attrs)
    )
    yield StoredArray(str(path), kind, inside, spec)


def _axis(count: int, steps: Any) -> StepAxis:
    """Return the axis of simulation steps that a coordinate of whole numbers describes."""
    if steps is not None and steps.dtype.kind in "iu" and len(steps) == count and steps[0] >= 0:
        distances = np.unique(np.diff(steps))
        if len(distances) <= 1 and (distances > 0).all():
            return StepAxis(int(steps[0]), int(distances[0]) if len(distances) else 1, count)
    return StepAxis(count=count)


def _plain(attrs: Mapping[str, Any]) -> dict[str, Any]:
    """Return those attributes that can travel with an array: plain text and numbers."""
    plain = {}
    for name, value in attrs.items():
        value = value.item() if isinstance(value, np.generic) else value
        if name in _STORAGE or not isinstance(value, str | int | float | list):
            continue
        try:
            plain[str(name)] = json.loads(json.dumps(value, allow_nan=False))
        except (TypeError, ValueError):
            continue
    return plain


# -- reading -------------------------------------------------------------------------------


#: The C libraries below NetCDF are not safe in several threads, and xarray guards reading alone.
_NETCDF = threading.Lock()


@contextlib.contextmanager
def _open_xarray(path: str | Path) -> Iterator[Any]:
    """Open a store; a file of NetCDF from opening to closing by one thread at a time."""
    import xarray as xr

    if Path(path).is_dir():
        with xr.open_zarr(path, chunks=None, consolidated=False, decode_times=False) as dataset:
            yield dataset
        return
    with _NETCDF, xr.open_dataset(path, decode_times=False) as dataset:
        yield dataset


def _open_hdf5(path: str | Path) -> Any:
    try:
        import h5py
    except ModuleNotFoundError as error:
        raise ConfigError(f"SOURCE = {path}: reading HDF5 needs the package h5py") from error
    return h5py.File(path, "r")


def _read_xarray(path: str, name: str, box: Box) -> Any:
    with _open_xarray(path) as dataset:
        return dataset[name][box].values


def _read_zarr(path: str, name: str, box: Box) -> Any:
    import zarr

    store: Any = zarr.open(path, mode="r")
    array = store[name] if name else store
    return array[box]


def _read_hdf5(path: str, name: str, box: Box) -> Any:
    with _open_hdf5(path) as file:
        return file[name][box]


def _read_npy(path: str, name: str, box: Box) -> Any:
    return np.load(path, mmap_mode="r")[box]


_READERS: dict[str, Callable[[str, str, Box], Any]] = {
    "xarray": _read_xarray,
    "zarr": _read_zarr,
    "hdf5": _read_hdf5,
    "npy": _read_npy,
}
