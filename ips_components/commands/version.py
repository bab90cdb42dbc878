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


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """There are none."""


def run(options: argparse.Namespace) -> int:
    """Print one line for each package."""
    print(f"python {platform.python_version()} on {platform.platform()}")
    for name in _PACKAGES:
        try:
            print(name, metadata.version(name))
        except metadata.PackageNotFoundError:
            print(name, "is not installed")
    return 0
