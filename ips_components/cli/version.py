"""``ips-components version``: versions of everything that takes part in a run."""

import argparse
import platform
from importlib import metadata

_PACKAGES = (
    "ips_components",
    "ipsframework",
    "dask",
    "distributed",
    "numpy",
    "xarray",
    "zarr",
    "mpi4py",
    "mpich",
)


def add_subcommands(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add ``version``."""
    parser = subparsers.add_parser(
        "version",
        help="print all versions, for the report of a problem",
        description="Print the versions of everything that takes part in a run.",
    )
    parser.set_defaults(function=version)


def version(options: argparse.Namespace) -> int:
    """Print one line for each package."""
    print(f"python {platform.python_version()} on {platform.platform()}")
    for name in _PACKAGES:
        try:
            print(name, metadata.version(name))
        except metadata.PackageNotFoundError:
            print(name, "is not installed")
    return 0
