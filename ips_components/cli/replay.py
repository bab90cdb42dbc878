"""``ips-components replay``: an analysis of a stored field, on this machine and without IPS."""

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

from ips_components.config._types import ARGUMENTS
from ips_components.errors import ConfigError

_RUN = "replay"


def add_subcommands(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add ``replay``."""
    parser = subparsers.add_parser(
        "replay",
        help="run an analysis on a stored field instead of a simulation",
        description="Run the analysis function of a coupled run on a field that is stored as Zarr, "
        "NetCDF, HDF5 or npy, with time as its first dimension. The numbers are those of a live "
        "run. SOURCE = path in a config does the same under ips.py, on as many nodes as you like.",
        epilog="example: ips-components replay field.zarr --analysis my_analysis:mean "
        "--args threshold=0.8",
    )
    parser.set_defaults(function=replay)
    parser.add_argument("source", type=Path, metavar="SOURCE", help="the stored field")
    parser.add_argument(
        "--analysis", required=True, metavar="MODULE:FUNCTION", help="as ANALYSIS in a config"
    )
    parser.add_argument(
        "--args", default="", metavar="ARGS", help="as ANALYSIS_ARGS in a config: name=value pairs"
    )
    parser.add_argument(
        "--results",
        type=Path,
        default=Path("results.zarr"),
        metavar="PATH",
        help="where results go, .zarr or .nc (results.zarr)",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace results of an earlier run at PATH"
    )
    parser.add_argument("--workers", type=int, default=1, help="Dask workers to start (1)")


def replay(options: argparse.Namespace) -> int:
    """Run the analysis and print what came out."""
    import dask
    from distributed import Client

    from ips_components import analysis, coordination

    try:
        parameters = ARGUMENTS.read(options.args) if options.args else {}
    except ValueError as error:
        raise ConfigError(f"--args: expected {ARGUMENTS.expects}, got {options.args!r}") from error

    settings = coordination.RunSettings(
        run=_RUN,
        token=_RUN,
        analysis=options.analysis,
        n_receivers=options.workers,
        parameters=parameters,
        results=str(options.results.absolute()),
        overwrite=options.overwrite,
        results_format="netcdf" if options.results.suffix == ".nc" else "zarr",
    )
    sys.path.insert(0, str(Path.cwd()))  # an analysis beside the data, as in INPUT_DIR of a config
    with (
        tempfile.TemporaryDirectory(prefix="ips-components-replay-") as scratch,
        # Not ``local_directory``: that is for the workers, and the scheduler has files as well.
        dask.config.set({"temporary-directory": scratch}),
        Client(
            n_workers=options.workers,
            threads_per_worker=1,
            processes=options.workers > 1,
            dashboard_address=":0",
        ) as client,
    ):
        # A worker in a process of its own has another path.
        client.run(_look_in, sys.path[0])
        with client.as_current():
            summary = analysis.replay(settings.to_dict(), options.source)
    for name, variable in summary["variables"].items():
        print(f"{name}: {_in_words(variable)}")
    print(f"results: {summary['results']}")
    return 0


def _look_in(directory: str) -> None:
    if directory not in sys.path:
        sys.path.insert(0, directory)


def _in_words(variable: dict[str, Any]) -> str:
    if variable["shape"] == [] and "values" in variable:
        return f"{variable['values']:g} {variable.get('units', '')}".rstrip()
    shape = " x ".join(
        f"{dim} {n}" for dim, n in zip(variable["dims"], variable["shape"], strict=True)
    )
    span = f", {variable['min']:g} to {variable['max']:g}" if "min" in variable else ""
    return f"{shape}{span} {variable.get('units', '')}".rstrip()
