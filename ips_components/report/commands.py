"""Command-line commands about runs that are over: ``report`` and ``ledger``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ips_components.report.html import write_report
from ips_components.report.ledger import ledger_table, print_summary, summary_table
from ips_components.report.record import read_record

_RUN_DIR = "directory of the run, SIM_ROOT/run_<run id>, which holds run.json"


def add_subcommands(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``report`` and ``ledger`` to the subcommands of a parser.

    Each sets ``function``, to be called with the parsed arguments; it returns the exit status.
    """
    report = subparsers.add_parser(
        "report",
        help="write the report of a run again and print its summary",
        description="Write report.html from the run.json of a run, and print a summary. The page "
        "needs neither a network nor a server: open it in any browser.",
        epilog="example: ips-components report simulation/run_heat2d_ipca",
    )
    report.add_argument("run_dir", type=Path, metavar="RUN_DIR", help=_RUN_DIR)
    report.set_defaults(function=report_command)

    ledger = subparsers.add_parser(
        "ledger",
        help="print the account of every block of a run",
        description="Print where every block of a run went: produced = skipped + delivered + "
        "dropped + lost. The exit status is 1 when the account does not close.",
        epilog="example: ips-components ledger simulation/run_heat2d_ipca",
    )
    ledger.add_argument("run_dir", type=Path, metavar="RUN_DIR", help=_RUN_DIR)
    ledger.set_defaults(function=ledger_command)


def report_command(arguments: argparse.Namespace) -> int:
    """``ips-components report RUN_DIR``.

    Raises
    ------
    RecordError
        If there is no readable record.
    """
    record = read_record(arguments.run_dir)
    run_dir = arguments.run_dir if arguments.run_dir.is_dir() else arguments.run_dir.parent
    write_report(run_dir, record)
    if sys.stdout.isatty():
        print_summary(record, run_dir)
    else:
        sys.stdout.write(summary_table(record, run_dir) + "\n")
    return 0


def ledger_command(arguments: argparse.Namespace) -> int:
    """``ips-components ledger RUN_DIR``.

    Raises
    ------
    RecordError
        If there is no readable record.
    """
    record = read_record(arguments.run_dir)
    sys.stdout.write(ledger_table(record) + "\n")
    return 0 if record["ledger"]["closed"] else 1
