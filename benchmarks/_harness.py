"""What all benchmarks share: facts of the machine, turns, medians with their spread, results."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).parent / "results"
KIB, MIB = 1 << 10, 1 << 20

PACKAGES = ("dask", "distributed", "numpy", "zarr", "mpi4py", "mpich", "adios2", "h5py")


def machine() -> dict[str, Any]:
    """Facts without which a figure means nothing; the load is that of the whole machine."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {
        "cpus": len(os.sched_getaffinity(0)),
        "memory GiB": round(memory / 2**30, 1),
        "system": f"{platform.system()} {'.'.join(platform.release().split('.')[:2])}",
        "python": platform.python_version(),
        **versions,
    }


class Load:
    """Load of the machine before and after, for the reader to judge the figures by."""

    def __init__(self) -> None:
        self.before = os.getloadavg()[0]
        self.start = time.monotonic()

    def facts(self) -> dict[str, float]:
        """Return the loads and the seconds between."""
        return {
            "before": round(self.before, 1),
            "after": round(os.getloadavg()[0], 1),
            "seconds": round(time.monotonic() - self.start),
        }


def interleave(
    names: Iterable[str],
    repeat: int,
    turn: Callable[[str], Any],
    say: Callable[[str], None] = print,
    keep: Callable[[dict[str, list[Any]]], Any] | None = None,
) -> dict[str, list[Any]]:
    """Let every name have its turn, `repeat` times over, in an order that is reversed each time.

    A noisy neighbour then disturbs all alike, and none always runs in the wake of the same other.
    A turn that fails is reported and left out; it does not end the others. A method that ran out of
    time once has no further turn. `keep` gets what has been measured so far after each turn, so
    that nothing is lost when the rest does not come.
    """
    names, late = list(names), set()
    results: dict[str, list[Any]] = {name: [] for name in names}
    for round_ in range(repeat):
        for name in names if round_ % 2 == 0 else reversed(names):
            if name in late:
                continue
            begin = time.monotonic()
            try:
                results[name].append(turn(name))
            except Exception as error:
                say(f"  {name}, turn {round_}: {type(error).__name__}: {str(error)[-600:]}")
                if isinstance(error, (TimeoutError, subprocess.TimeoutExpired)):
                    late.add(name)
            else:
                say(f"  {name}, turn {round_}: {time.monotonic() - begin:.1f} s")
                if keep is not None:
                    keep(results)
    return results


def spread(values: Iterable[float], digits: int = 4) -> dict[str, float]:
    """Return median, 10th and 90th percentile."""
    low, median, high = np.quantile(np.asarray(list(values), float), [0.1, 0.5, 0.9])
    return {
        "median": _round(median, digits),
        "p10": _round(low, digits),
        "p90": _round(high, digits),
    }


def ratio(ours: list[float], theirs: list[float]) -> dict[str, float]:
    """Return how many times larger `theirs` is, turn by turn: median, smallest and largest."""
    each = [b / a for a, b in zip(ours, theirs, strict=False) if a > 0]
    return {
        "median": _round(statistics.median(each), 3),
        "least": _round(min(each), 3),
        "most": _round(max(each), 3),
    }


def _round(value: float, digits: int) -> float:
    return float(f"{value:.{digits}g}")


def write(name: str, document: Mapping[str, Any], folder: Path = RESULTS) -> Path:
    """Write results as JSON; the documentation makes tables of them."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    path.write_text(json.dumps(document, indent=1) + "\n")
    return path


def figure(name: str, draw: Callable[[Any], None], folder: Path = RESULTS, **options: Any) -> Path:
    """Draw a plot into an SVG file that is the same for the same figures."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams.update({"svg.hashsalt": name, "font.size": 9, "axes.grid": True})
    from matplotlib import pyplot

    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.svg"
    drawn, axes = pyplot.subplots(layout="constrained", **{"figsize": (7, 3.6), **options})
    try:
        draw(axes)
        drawn.savefig(path, metadata={"Date": None})
    finally:
        pyplot.close(drawn)
    return path
