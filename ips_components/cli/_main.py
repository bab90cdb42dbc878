"""The command ``ips-components``: what one does around a run, while ``ips.py`` runs it.

A module with ``add_subcommands(subparsers)`` that is named in `MODULES` adds subcommands; each sets
``function``, which is called with the parsed arguments and returns the exit status.
"""

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module

from ips_components import __version__
from ips_components.errors import IPSComponentsError

MODULES = (
    "ips_components.cli.attach",
    "ips_components.cli.check",
    "ips_components.cli.new",
    "ips_components.cli.replay",
    "ips_components.cli.version",
    "ips_components.report.commands",
)
"""Where subcommands come from."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand.

    Parameters
    ----------
    argv
        Arguments; those of the process by default.

    Returns
    -------
    int
        Exit status: 0 when all is well, 1 when something was found or went wrong, 2 when the
        command was not understood.
    """
    parser = argparse.ArgumentParser(
        prog="ips-components", description="Around coupled runs of IPS; ips.py runs them."
    )
    parser.add_argument("--version", action="version", version=__version__)
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for module in MODULES:
        import_module(module).add_subcommands(subparsers)
    arguments = parser.parse_args(argv)
    try:
        return int(arguments.function(arguments))
    except (IPSComponentsError, OSError) as error:
        print(f"ips-components {arguments.command}: {error}", file=sys.stderr)
        return 1
