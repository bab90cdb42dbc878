"""Dask inside a container, IPS outside: both must speak the same language.

With ``USE_SHIFTER = True`` the scheduler and the workers come from the container's image, while the
client that sends them functions and plugins belongs to the component outside. What is pickled on
one side is unpickled on the other, so the packages that matter must be the same on both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ips_components.errors import UnsupportedVersion

if TYPE_CHECKING:
    from distributed import Client

__all__ = ["PACKAGES", "check_versions", "mismatches"]

#: Packages whose versions must be equal on all sides. Of Python the first two numbers count.
PACKAGES = ("python", "dask", "distributed", "ips_components")


def check_versions(client: Client, packages: Sequence[str] = PACKAGES) -> None:
    """Refuse a pool whose scheduler or workers differ from this process in what they must share.

    Parameters
    ----------
    client : distributed.Client
        A connected, synchronous client; the process that calls is the reference.
    packages : sequence of str
        What must be equal; a pool that runs none of this package's code need not have it inside.

    Raises
    ------
    UnsupportedVersion
        Naming each package that differs, both versions, and what to install where.
    """
    versions: Any = client.get_versions(packages=["ips_components"])
    peers = {"scheduler": versions["scheduler"]}
    peers |= {f"worker {address}": info for address, info in versions["workers"].items()}
    found = mismatches(versions["client"], peers, packages)
    if found:
        raise UnsupportedVersion(
            "the Dask pool does not match this process: "
            + "; ".join(found)
            + ". Make the container's image (inside) and the environment of IPS (outside) agree."
        )


def mismatches(
    here: Mapping[str, Any],
    peers: Mapping[str, Mapping[str, Any]],
    packages: Sequence[str] = PACKAGES,
) -> list[str]:
    """Compare version reports; one sentence per package that differs, none when all agree.

    Parameters
    ----------
    here : mapping
        Report of the client, as in ``Client.get_versions()["client"]``.
    peers : mapping of str to mapping
        Reports of the others, by the name under which a sentence speaks of them.
    packages : sequence of str
        What to compare; of Python the first two numbers.

    Returns
    -------
    list of str
        For example ``"dask is 2026.8.0 outside, but 2026.7.1 inside (scheduler)"``.

    Examples
    --------
    >>> here = {"packages": {"python": "3.11.7.final.0", "dask": "2026.8.0"}}
    >>> there = {"packages": {"python": "3.11.2.final.0", "dask": "2026.7.1"}}
    >>> mismatches(here, {"scheduler": there})
    ['dask is 2026.8.0 outside, but 2026.7.1 inside (scheduler)']
    """
    found = []
    for package in packages:
        expected = _version(here, package)
        by_version: dict[str, list[str]] = {}
        for peer, report in peers.items():
            by_version.setdefault(_version(report, package), []).append(peer)
        by_version.pop(expected, None)
        found += [
            f"{package} is {expected} outside, but {version} inside ({_some(names)})"
            for version, names in by_version.items()
        ]
    return found


def _version(report: Mapping[str, Any], package: str) -> str:
    version = report["packages"].get(package)
    if version is None:
        return "not installed"
    if package == "python":
        return ".".join(str(version).split(".")[:2])
    return str(version)


def _some(names: list[str], most: int = 3) -> str:
    """First few of `names`, since a pool may have hundreds of workers."""
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest} more" if rest > 0 else "")
