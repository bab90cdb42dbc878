"""``ips-components check``: everything that can be known to be wrong before a launch."""

import argparse
import os
import sys
from pathlib import Path

from ips_components.config import check_files, explain, reference


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``ips.py`` that name files."""
    parser.add_argument(
        "--config", "--simulation", "-i", "-j", help="config file, or several with commas between"
    )
    parser.add_argument(
        "--platform", "-p", default=os.environ.get("IPS_PLATFORM_FILE"), help="platform file"
    )
    parser.add_argument(
        "--reference", action="store_true", help="print the reference of all parameters instead"
    )


def run(options: argparse.Namespace) -> int:
    """Check the files; 0 when nothing is wrong."""
    if options.reference:
        print(reference(), end="")
        return 0
    if not options.config or not options.platform:
        print("ips-components check: give --config and --platform", file=sys.stderr)
        return 2
    configs = [Path(name) for name in options.config.split(",")]
    problems, runs = check_files(configs, Path(options.platform))
    if problems:
        print(explain(problems), file=sys.stderr)
        return 1
    for config in runs:
        parts = [f"{each.section} on {each.nproc} processes" for each in config.simulations]
        parts += [f"{each.section} on {each.n_receivers} Dask workers" for each in config.analytics]
        print(f"{config.file}: nothing wrong" + (f" ({', '.join(parts)})" if parts else ""))
    return 0
