"""What people see of a run: progress, the summary at its end, the report, the record.

Public names are loaded when they are first used: workers, and the process that draws the figure,
need few of the modules.
"""

from importlib import import_module
from typing import Any

_HOMES = {
    "Progress": "progress",
    "contract_table": "ledger",
    "make_record": "record",
    "read_record": "record",
    "summary_table": "ledger",
    "write_record": "record",
    "write_report": "html",
}

__all__ = [
    "Progress",
    "contract_table",
    "make_record",
    "read_record",
    "summary_table",
    "write_record",
    "write_report",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
