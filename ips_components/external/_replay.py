"""Post hoc replay: the same analysis on a stored field instead of a live simulation.

The arrays are ordinary dask arrays over the file, with time as dimension 0 and the chunks of
the store; an analysis that asks for the ``run`` gets one whose words to the simulation fall
on deaf ears.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dask
import dask.array as da

from ips_components.errors import ConfigError
from ips_components.external._analysis import Offered, load_analysis
from ips_components.external._results import ResultStore, lazy_parts, name_results

logger = logging.getLogger(__name__)


def replay(
    source: str | Path,
    analysis: str,
    parameters: Mapping[str, Any],
    store: ResultStore,
) -> dict[str, Any]:
    """Run an analysis on a stored field.

    Parameters
    ----------
    source : path-like
        A Zarr group or array, an HDF5 file, or a NetCDF file; variables have time as
        dimension 0.
    analysis : str
        ``package.module:function``.
    parameters : mapping
        Keyword arguments of the function.
    store : ResultStore
        Where results go.

    Returns
    -------
    dict
        ``{"results": path, "variables": {...}, "contract": []}``.

    Raises
    ------
    ConfigError
        If the source does not exist or is of no known kind.
    """
    function = load_analysis(analysis)
    arrays = stored_arrays(source)
    arguments = dict(parameters)
    if "run" in inspect.signature(function).parameters:
        arguments["run"] = _NobodyListens()
    named = name_results(function(Offered(arrays, offered_by=str(source)), **arguments))
    gathered, stored = store.plan(named)
    lazy = {**lazy_parts(gathered), **stored}
    computed = dict(zip(lazy, dask.compute(*lazy.values()), strict=True))
    values = {name: computed.get(name, value) for name, value in gathered.items()}
    if values:
        store.write(values)
    return {"results": str(store.path), "variables": store.summary(), "contract": []}


def stored_arrays(source: str | Path) -> dict[str, da.Array]:
    """Open a stored field as lazy arrays.

    Parameters
    ----------
    source : path-like
        Zarr folder, ``.h5``/``.hdf5`` or ``.nc`` file.

    Returns
    -------
    dict of str to dask.array.Array
        By variable name; a bare Zarr array is called like its folder without suffix.
    """
    path = Path(source)
    if not path.exists():
        raise ConfigError(f"SOURCE = {source}: no such file or folder")
    if path.is_dir():
        return _zarr_arrays(path)
    if path.suffix in (".h5", ".hdf5", ".hdf"):
        return _hdf5_arrays(path)
    if path.suffix in (".nc", ".nc4", ".cdf"):
        import xarray as xr

        with xr.open_dataset(path, chunks={}) as dataset:
            return {str(name): variable.data for name, variable in dataset.data_vars.items()}
    raise ConfigError(
        f"SOURCE = {source}: cannot tell its format; expected a Zarr folder, .h5, .hdf5 or .nc"
    )


def _zarr_arrays(path: Path) -> dict[str, da.Array]:
    import zarr

    node = zarr.open(path, mode="r")
    if isinstance(node, zarr.Array):
        return {path.stem: da.from_zarr(node)}
    return {name: da.from_zarr(array) for name, array in node.arrays() if array.ndim}


def _hdf5_arrays(path: Path) -> dict[str, da.Array]:
    try:
        import h5py
    except ModuleNotFoundError as error:
        raise ConfigError(f"SOURCE = {path}: reading HDF5 needs the package h5py") from error

    file = h5py.File(path, "r")
    found: dict[str, da.Array] = {}

    def visit(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and item.ndim:
            found[name] = da.from_array(item, chunks=item.chunks or "auto")

    file.visititems(visit)
    return found


class _NobodyListens:
    """The ``run`` of a replay: there is no simulation to talk to."""

    def send(self, name: str, value: Any, step: int | None = None) -> None:
        logger.info("Replay: feedback %r for step %s has no listener", name, step)

    def stop(self, reason: str = "converged") -> None:
        logger.info("Replay: nothing to stop (%s)", reason)
