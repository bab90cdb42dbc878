"""``ips-components check``: everything that can be known to be wrong before a launch."""

import argparse
import os
import sys
from pathlib import Path

from ips_components.config import explain, reference


def add_subcommands(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add ``check``, with the options of ``ips.py`` that name files."""
    parser = subparsers.add_parser(
        "check",
        help="check config and platform files without running",
        description="Find everything in config and platform files that can be known to be wrong "
        "before a launch. ips.py does the same when one of our components is in the run.",
        epilog="example: ips-components check --config heat.config --platform workstation.conf",
    )
    parser.set_defaults(function=check)
    parser.add_argument(
        "--config", "--simulation", "-i", "-j", help="config file, or several with commas between"
    )
    parser.add_argument(
        "--platform", "-p", default=os.environ.get("IPS_PLATFORM_FILE"), help="platform file"
    )
    parser.add_argument(
        "--reference", action="store_true", help="print the reference of all parameters instead"
    )


def check(options: argparse.Namespace) -> int:
    """Check the files; 0 when nothing is wrong."""
    if options.reference:
        print(reference(), end="")
        return 0
    if not options.config or not options.platform:
        print("ips-components check: give --config and --platform", file=sys.stderr)
        return 2
    configs = [Path(name) for name in options.config.split(",")]
    from ips_components.ips_compat.resources import check_files_and_resources

    found = check_files_and_resources(configs, Path(options.platform))
    for warning in found.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    if found.errors:
        print(explain(found.errors), file=sys.stderr)
        return 1
    for config in found.runs:
        parts = [f"{each.section} on {each.nproc} processes" for each in config.simulations]
        parts += [f"{each.section} on {each.n_receivers} Dask workers" for each in config.analytics]
        print(f"{config.file}: nothing wrong" + (f" ({', '.join(parts)})" if parts else ""))
    return 0
