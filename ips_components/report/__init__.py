"""What people see of a run: progress, the summary at its end, the report, the record."""

from ips_components.report.html import write_report
from ips_components.report.ledger import contract_table, summary_table
from ips_components.report.progress import Progress
from ips_components.report.record import make_record, read_record, write_record

__all__ = [
    "Progress",
    "contract_table",
    "make_record",
    "read_record",
    "summary_table",
    "write_record",
    "write_report",
]
