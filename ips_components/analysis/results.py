"""Where the results of a run go: a Zarr group or a NetCDF file, written with xarray.

Small results travel to the analysis task and are written at the end; large ones are written by the
workers, chunk by chunk, as part of the very graph that is submitted before step 0, so that a field
as long as the run never has to fit into memory. Every variable is written on its own: one that
cannot be written does not take the others with it.
"""

from __future__ import annotations

import logging
import math
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
import xarray as xr

from ips_components.analysis.result_encoding import plain_attrs, storable
from ips_components.analysis.result_layout import GroupLayout, as_array
from ips_components.analysis.result_values import (
    NamedResults,
    expand,
    group_of,
    name_results,
    path_in,
)
from ips_components.analysis.time_axes import TimeAxis, TimesOf, with_steps, with_times
from ips_components.errors import ConfigError, ContractError, IPSComponentsError

__all__ = ["ResultStore", "ResultsUnwritten", "lazy_parts", "name_results"]

logger = logging.getLogger(__name__)

#: Results of up to this many numbers are in the run record itself.
QUOTE_LIMIT = 32

#: Results up to this many bytes are gathered; larger ones are written by the workers.
GATHER_LIMIT = 256 * 2**20

FORMATS = ("zarr", "netcdf")
_OWNER = "run"
_NETCDF_BACKENDS = ("netCDF4", "h5netcdf", "scipy")


class ResultsUnwritten(ContractError):
    """Some results could not be written; the others are.

    Attributes
    ----------
    results : list of str
        Their names.
    """

    def __init__(self, message: str, results: Iterable[str] = ()) -> None:
        super().__init__(message)
        self.results = list(results)


class ResultStore:
    """Where the results of one run go.

    Parameters
    ----------
    path : path-like
        A Zarr group (a folder) or a NetCDF file.
    format : {"zarr", "netcdf"}
    attrs : mapping, optional
        Attributes of the whole file: run id, analysis, versions.
    overwrite : bool
        Whether results of an earlier run may be replaced.
    """

    def __init__(
        self,
        path: str | Path,
        format: str = "zarr",
        attrs: Mapping[str, Any] | None = None,
        overwrite: bool = False,
    ) -> None:
        if format not in FORMATS:
            raise ConfigError(f"RESULTS_FORMAT must be one of {', '.join(FORMATS)}, got {format!r}")
        self.path = Path(path)
        self.format = format
        self.attrs = dict(attrs or {})
        self.overwrite = overwrite
        self._groups: dict[str, dict[Any, Any]] = {"": {}}
        self._layouts: dict[str, GroupLayout] = {}
        self._renamed: dict[str, dict[str, str]] = {}
        self._dims: dict[str, tuple[tuple[str, ...], str, TimeAxis | None]] = {}
        self._times: TimesOf | None = None
        self._order: dict[str, int] = {}

    def read_libraries(self) -> None:
        """Import what writing needs, while the results are still being computed."""
        if self.format == "zarr":
            import_module("zarr")

    # -- before step 0 -----------------------------------------------------------------

    def prepare(self) -> None:
        """Check that the store can be written, and remove what may be overwritten.

        An analysis that was started again after its worker died finds the store of its run.

        Raises
        ------
        ConfigError
            If there are results already and `overwrite` is not set, the path cannot be written,
            or no package for its format is installed.
        """
        if self.format == "netcdf":
            _check_netcdf()
        if self.path.exists() and self._owner() != self.attrs.get(_OWNER, ""):
            if not self.overwrite:
                raise ConfigError(
                    f"RESULTS = {self.path} exists already; remove it, give another path, or set "
                    "OVERWRITE = True"
                )
            self._remove()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.path.parent):
                pass
        except OSError as error:
            raise ConfigError(
                f"RESULTS = {self.path}: nothing can be written there ({error.strerror}); give a "
                "path that can be written from the Dask workers"
            ) from error

    def plan(self, named: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Split results into what to compute and what the workers write.

        Returns
        -------
        gathered : dict of str to collection or value
            To be computed and passed to :meth:`write`.
        stored : dict of str to dask.delayed.Delayed
            Writing tasks; their value means nothing, their success everything.

        Raises
        ------
        ContractError
            If the format cannot hold a result, or the disk has no room for it.
        """
        if isinstance(named, NamedResults):
            self._groups.update(named.attrs)
        self._check_types(named)
        self._check_room(named)
        for path, value in named.items():
            group, name = group_of(path)
            self._layout(group).expect(name, value.dims if isinstance(value, xr.DataArray) else ())
        gathered: dict[str, Any] = {}
        stored: dict[str, Any] = {}
        self._order = {path: number for number, path in enumerate(named)}
        for path, value in named.items():
            if self.format == "zarr" and _nbytes(value) > GATHER_LIMIT:
                stored[path] = self._write_by_workers(path, value)
            else:
                gathered[path] = value
        return gathered, stored

    def name_dims(
        self, path: str, dims: tuple[str, ...], units: str = "", time: TimeAxis | None = None
    ) -> None:
        """Set names of the dimensions, units and steps of a result that is a plain array."""
        self._dims[path] = (dims, units, time)
        self._layout(group_of(path)[0]).expect(group_of(path)[1], filter(None, dims))

    # -- after it ----------------------------------------------------------------------

    def write(
        self,
        values: Mapping[str, Any],
        times: TimesOf | None = None,
        before: Callable[[Callable[[], dict[str, xr.Dataset]]], None] | None = None,
    ) -> None:
        """Write computed values beside what the workers have stored, each on its own.

        Parameters
        ----------
        values
            By name.
        times
            Physical times of steps, which become the coordinates along time.
        before
            Is called before anything is written, with a function that returns what will be: see
            `opened`.

        Raises
        ------
        ResultsUnwritten
            If some could not be written; the others are.
        """
        failed: dict[str, Exception] = {}
        arrays: dict[str, xr.DataArray] = {}
        self._times = times
        self._set_times_of_stored()
        for path, value in values.items():
            try:
                for name, array in self._expand(path, value).items():
                    arrays[name] = self._placed(name, array)
            except Exception as error:
                failed[path] = error
        if before is not None:
            before(partial(self._grouped, arrays))
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with _quiet():
            failed |= self._write_zarr(arrays) if self.format == "zarr" else self._write_nc(arrays)
        if failed:
            raise _unwritten(failed, self.path)

    def discard(self, path: str) -> None:
        """Remove a variable that its workers have not written completely."""
        if self.format == "zarr":
            shutil.rmtree(self.path / path, ignore_errors=True)

    def finish(self) -> None:
        """Collect the metadata, so that the store opens with one read."""
        if self.format == "zarr" and self.path.exists():
            import zarr

            with _quiet():
                zarr.consolidate_metadata(self.path)

    def open(self, group: str = "") -> xr.Dataset:
        """Open the results of a group, which are read where they are used, and not by workers."""
        if self.format == "zarr":
            return xr.open_zarr(self.path, group=group or None, consolidated=False, chunks=None)
        return xr.open_dataset(self.path, group=group or None)

    @contextmanager
    def opened(self) -> Iterator[dict[str, xr.Dataset]]:
        """Open all groups by their paths, their variables in the order of the analysis.

        A store lists them as its files lie on the disk.
        """
        with ExitStack() as stack:
            groups = {each: stack.enter_context(self.open(each)) for each in self._written_groups()}
            yield {group: self._in_order(group, dataset) for group, dataset in groups.items()}

    def _in_order(self, group: str, dataset: xr.Dataset) -> xr.Dataset:
        def place(name: Any) -> Any:
            return self._place(path_in(group, str(name)))

        return dataset[sorted(dataset.data_vars, key=place)]

    def summary(self, groups: Mapping[str, xr.Dataset]) -> dict[str, dict[str, Any]]:
        """Shape, dtype, dims and range of every variable on disk, for the run record."""
        described = {
            path_in(group, str(name)): _describe(variable)
            for group, dataset in groups.items()
            for name, variable in dataset.data_vars.items()
        }
        for path in described.keys() & self._renamed.keys():
            described[path]["renamed"] = self._renamed[path]
        return dict(sorted(described.items(), key=lambda each: self._place(each[0])))

    # -- internals ---------------------------------------------------------------------

    def _layout(self, group: str) -> GroupLayout:
        if group not in self._layouts:
            layout = GroupLayout(group=group)
            layout.relate(self._layouts.values())
            self._layouts[group] = layout
        return self._layouts[group]

    def _place(self, path: str) -> tuple[int, str]:
        """Return a key that sorts variables as the analysis has returned them."""
        above = [path[:end] for end in range(len(path), 0, -1) if path[:end] in self._order]
        return (self._order[above[0]] if above else len(self._order)), path

    def _written_groups(self) -> list[str]:
        return [
            group
            for group in dict.fromkeys(["", *self._groups, *self._layouts])
            if not group or self.format == "netcdf" or (self.path / group).exists()
        ]

    def _owner(self) -> Any:
        """Return the run that has written the store, None if it is no store."""
        try:
            with self.open() as dataset:
                return dataset.attrs.get(_OWNER)
        except Exception:
            return None

    def _remove(self) -> None:
        if not self.path.is_dir():
            self.path.unlink()
        elif any((self.path / each).exists() for each in ("zarr.json", ".zgroup")):
            shutil.rmtree(self.path)
        else:
            raise ConfigError(
                f"RESULTS = {self.path} is a folder with other files; OVERWRITE replaces Zarr "
                "groups and NetCDF files only"
            )

    def _check_types(self, named: Mapping[str, Any]) -> None:
        for path, value in named.items():
            dtype = getattr(value, "dtype", None)
            if not isinstance(dtype, np.dtype):
                continue
            if dtype.kind == "O" and isinstance(value, xr.DataArray | da.Array):
                raise ContractError(
                    f"result {path!r} has dtype object, which cannot be stored; convert it to "
                    "numbers or text, for example with .astype(float)"
                )
            if self.format == "netcdf" and (dtype.kind == "c" or dtype == np.float16):
                remedy = "astype('float32')" if dtype.kind == "f" else "its real and imag parts"
                raise ContractError(
                    f"result {path!r} has dtype {dtype}, which NetCDF cannot hold; return {remedy},"
                    " or set RESULTS_FORMAT = zarr"
                )

    def _check_room(self, named: Mapping[str, Any]) -> None:
        needed = sum(_nbytes(value) for value in named.values())
        parent = next(each for each in self.path.absolute().parents if each.exists())
        free = shutil.disk_usage(parent).free
        if needed > free:
            text = (
                f"results of {needed / 2**20:.0f} MiB are to be written to {self.path}, where "
                f"{free / 2**20:.0f} MiB are free"
            )
            if self.format == "netcdf":
                raise ContractError(f"{text}; set RESULTS to a larger disk")
            logger.warning("%s; they fit only if they can be compressed", text)

    def _expand(self, path: str, value: Any) -> dict[str, Any]:
        expanded = expand(path, value)
        self._groups.update(expanded.attrs)
        return expanded

    def _set_times_of_stored(self) -> None:
        """Write the times of what the workers have stored with steps as coordinates."""
        if self._times is None or self.format != "zarr" or not self.path.exists():
            return
        for group, layout in self._layouts.items():
            coords = layout.set_times(self._times)
            for name in coords:  # of another dtype than the steps
                self.discard(path_in(group, name))
            if coords:
                with _quiet():
                    self._to_zarr(xr.Dataset(coords=coords), group)

    def _placed(self, path: str, value: Any) -> xr.DataArray:
        """Return an array that can be written into its group."""
        group, name = group_of(path)
        dims, units, time = self._dims.get(path, ((), "", None))
        array = with_steps(as_array(name, value, dims, units), time)
        if self._times is not None:
            array = with_times(array, self._times)
        array = storable(array)
        array, renamed = self._layout(group).place(name, array)
        if renamed:
            self._renamed[path] = renamed
            changes = ", ".join(f"{old!r} is {new!r}" for old, new in renamed.items())
            logger.warning("Result %r shares no dimensions with others: %s", path, changes)
        return array.rename(name)

    def _grouped(self, arrays: Mapping[str, xr.DataArray]) -> dict[str, xr.Dataset]:
        groups: dict[str, dict[str, xr.DataArray]] = {"": {}}
        for path in sorted(arrays, key=self._place):
            group, name = group_of(path)
            groups.setdefault(group, {})[name] = arrays[path]
        return {g: xr.Dataset(each, attrs=self._attrs_of(g)) for g, each in groups.items()}

    def _write_by_workers(self, path: str, value: Any) -> Any:
        group, name = group_of(path)
        array = self._placed(path, value)
        if any(len(set(sizes[:-1])) > 1 or sizes[-1] > sizes[0] for sizes in array.chunks or ()):
            array = array.chunk({d: max(s) for d, s in array.chunksizes.items()})
        with _quiet():
            return self._to_zarr(array.to_dataset(name=name), group, compute=False)

    def _to_zarr(self, dataset: xr.Dataset, group: str, **options: Any) -> Any:
        dataset.attrs = self._attrs_of(group)
        return dataset.to_zarr(
            self.path, group=group or None, mode="a", consolidated=False, **options
        )

    def _attrs_of(self, group: str) -> dict[Any, Any]:
        attrs = plain_attrs(self._groups.get(group, {}))
        return attrs if group else {**attrs, **self.attrs}

    def _write_zarr(self, arrays: Mapping[str, xr.DataArray]) -> dict[str, Exception]:
        failed: dict[str, Exception] = {}
        if not arrays:
            self._to_zarr(xr.Dataset(), "")
        for path, array in arrays.items():
            group, name = group_of(path)
            try:
                self._to_zarr(array.to_dataset(name=name), group)
            except Exception as error:
                failed[path] = error
                self.discard(path)
        return failed

    def _write_nc(self, arrays: Mapping[str, xr.DataArray]) -> dict[str, Exception]:
        """Write a file in place of another; anew without each variable that cannot be written."""
        failed: dict[str, Exception] = {}
        draft = self.path.with_name(self.path.name + ".partial")
        while True:
            good = {path: array for path, array in arrays.items() if path not in failed}
            draft.unlink(missing_ok=True)
            path = ""
            try:
                xr.Dataset(attrs=self._attrs_of("")).to_netcdf(draft)
                for path, array in good.items():
                    group, name = group_of(path)
                    dataset = array.to_dataset(name=name).assign_attrs(self._attrs_of(group))
                    dataset.to_netcdf(draft, mode="a", group=group or None)
            except Exception as error:
                failed[path or "the file"] = error
                if path:
                    continue
                draft.unlink(missing_ok=True)
                return failed
            draft.replace(self.path)
            return failed


def lazy_parts(named: Mapping[str, Any]) -> dict[str, Any]:
    """Return those results that are dask collections (the others are constants)."""
    return {name: value for name, value in named.items() if dask.is_dask_collection(value)}


def _unwritten(failed: Mapping[str, Exception], path: Path) -> ResultsUnwritten:
    """Return one error for the results that could not be written."""
    name, error = next(iter(failed.items()))
    others = f" (nor {', '.join(list(failed)[1:])})" if len(failed) > 1 else ""
    if isinstance(error, IPSComponentsError):
        text = str(error) + others
    else:
        text = f"result {name!r} could not be written to {path}{others}: {error}"
    unwritten = ResultsUnwritten(text, list(failed))
    unwritten.__cause__ = error
    return unwritten


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence what zarr 3 says about parts of its format that other programs may not read."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*(onsolidated metadata|Zarr V3|Zarr format 3)")
        yield


def _nbytes(value: Any) -> float:
    """Return the size of an array in bytes; 0 where it is not known before computing."""
    if not isinstance(value, xr.DataArray | da.Array | np.ndarray):
        return 0
    return 0 if math.isnan(value.nbytes) else value.nbytes


def _check_netcdf() -> None:
    """Raise unless the package that xarray takes for NetCDF is there, and can be imported."""
    needs = "RESULTS_FORMAT = netcdf needs"
    remedy = "pip install netCDF4 where the analysis runs, or RESULTS_FORMAT = zarr"
    package = next(filter(find_spec, _NETCDF_BACKENDS), None)
    if package is None:
        names = ", ".join(_NETCDF_BACKENDS)
        raise ConfigError(f"{needs} one of the packages {names}, and none is installed; {remedy}")
    try:
        import_module(package)
    except Exception as error:  # a library that it was built for is not there, say
        raise ConfigError(
            f"{needs} the package {package}, which cannot be imported: {type(error).__name__}: "
            f"{error}; {remedy}"
        ) from None


def _describe(variable: xr.DataArray) -> dict[str, Any]:
    summary: dict[str, Any] = {
        "shape": list(variable.shape),
        "dtype": str(variable.dtype),
        "dims": [str(dim) for dim in variable.dims],
    }
    if variable.size and variable.dtype.kind in "iuf" and variable.nbytes <= GATHER_LIMIT:
        values = variable.values
        missing = int(np.isnan(values).sum()) if values.dtype.kind == "f" else 0
        if missing < values.size:
            summary["min"] = float(np.nanmin(values))
            summary["max"] = float(np.nanmax(values))
        if missing:
            summary["missing"] = missing
        if variable.size <= QUOTE_LIMIT:
            summary["values"] = values.tolist()
    if "units" in variable.attrs:
        summary["units"] = str(variable.attrs["units"])
    return summary
