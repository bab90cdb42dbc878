"""The command ``ips-components``: what one does around a run, while ``ips.py`` runs it.

A subcommand is a module with ``add_arguments(parser)`` and ``run(options) -> int``, named in one
line of `COMMANDS` and imported only when it is called.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module

from ips_components import __version__
from ips_components.errors import IPSComponentsError

COMMANDS: Mapping[str, tuple[str, str]] = {
    "check": ("ips_components.commands.check", "check config and platform files without running"),
    "new": ("ips_components.commands.new", "write a starting point that runs"),
    "version": ("ips_components.commands.version", "tell versions, for a report of a problem"),
}
"""Modules of the subcommands, and what each does in a few words."""


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
    argv = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(
        prog="ips-components", description="Around coupled runs of IPS; ips.py runs them."
    )
    parser.add_argument("--version", action="version", version=__version__)
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    chosen = next((word for word in argv if word in COMMANDS), None)
    for name, (module, about) in COMMANDS.items():
        subparser = subparsers.add_parser(name, help=about, description=about)
        if name == chosen:
            command = import_module(module)
            command.add_arguments(subparser)
            subparser.set_defaults(run=command.run)
    options = parser.parse_args(argv)
    try:
        return int(options.run(options))
    except (IPSComponentsError, OSError) as error:
        print(f"ips-components {options.command}: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
