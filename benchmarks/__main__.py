"""Run benchmarks: ``python -m benchmarks [--quick] [NAME ...]``."""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path

DEFAULT = (
    "peers", "put_blocking", "attach", "contract", "scheduler", "external_tasks", "step_reports",
    "launches", "startup", "faults", "ipca", "whole_run", "heat_pca",
)  # fmt: skip
NAMES = (*DEFAULT, "security", "scaling", "hotspots", "soak")
#: Those that take sizes.
SIZED = ("peers", "put_blocking", "scheduler", "scaling", "external_tasks")


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure; write JSON and plots into benchmarks/results.",
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"some of {', '.join(NAMES)}")
    parser.add_argument("--quick", action="store_true", help="small sizes: minutes, not hours")
    parser.add_argument("--repeat", type=int, default=5, help="turns of each method (default 5)")
    parser.add_argument(
        "--sizes",
        type=int,
        nargs="+",
        help="bytes of a block (peers, put_blocking), numbers of ranks (scheduler, scaling), "
        "of tasks (external_tasks)",
    )
    parser.add_argument("--folder", type=Path, help="of the results (default benchmarks/results)")
    parser.add_argument("--hours", type=float, default=1.0, help="of the soak (default 1)")
    options = parser.parse_args()
    unknown = set(options.names) - set(NAMES)
    if unknown:
        parser.error(f"no benchmark {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    common = {"quick": options.quick, "repeat": options.repeat, "folder": options.folder}
    for name in options.names or DEFAULT:
        module = importlib.import_module(f"benchmarks.{name}")
        print(f"== {name}: {module.__doc__.splitlines()[0]}", flush=True)
        if name == "soak":
            module.run(hours=options.hours, folder=options.folder)
        elif name in SIZED:
            module.run(**common, sizes=options.sizes)
        else:
            module.run(**common)


if __name__ == "__main__":
    main()
