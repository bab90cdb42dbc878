"""Text tables for the terminal: the short summary at the end of a run, and the ledger."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ips_components.report import _numbers as numbers
from ips_components.report._attached import in_short, visits
from ips_components.report._facts import Facts, open_account
from ips_components.report._schema import LEDGER_ENTRIES
from ips_components.report.html import FILE_NAME as REPORT
from ips_components.report.record import check_record, last_line

if TYPE_CHECKING:
    from rich.console import Console

#: Results with missing values that the summary names.
_NAMED = 3
HEADINGS = ("produced", "skipped", "delivered", "dropped", "lost")


def summary_table(
    record: Mapping[str, Any], run_dir: str | Path | None = None, cause: bool = True
) -> str:
    """What a run did and what it cost, in about ten lines.

    Parameters
    ----------
    record : mapping
        A run record; fields that are missing get their defaults.
    run_dir : path-like, optional
        Where the files of the run are. With it, the figures and the report are named by path.
    cause : bool
        Whether to say why a run has failed.

    Returns
    -------
    str
        Plain text without a trailing newline.

    Raises
    ------
    RecordError
        If the record breaks its schema.
    """
    record = check_record(record)
    facts = Facts.of(record)
    rows = summary_rows(record, run_dir)
    width = max(len(name) for name, _ in rows)
    lines = [_headline(record, facts, cause)]
    lines += [f"  {name:<{width}}  {text}" for name, text in rows]
    return "\n".join(lines)


def contract_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """What the analysis needs of each array, as it is agreed before step 0.

    Parameters
    ----------
    rows : sequence of mapping
        ``Contract.table()``.

    Returns
    -------
    str
        Plain text without a trailing newline.
    """
    if not rows:
        return "The contract names no array: nothing leaves the ranks."
    cells: list[Sequence[str]] = [
        ("array", "steps", "region", "needed", "bytes", "chunks", "steps each")
    ]
    for row in rows:
        share, nbytes = numbers.percent(row["fraction"]), numbers.size(row["bytes"])
        chunks, each = numbers.count(row["chunks"]), str(row.get("steps_per_chunk") or "")
        cells.append((row["name"], row["steps"], row["region"], share, nbytes, chunks, each))
    reasons = [
        "",
        *(f" ({row['chunk_reason']})" if row.get("chunk_reason") else "" for row in rows),
    ]
    lines = [f"  {a}{b}" for a, b in zip(_aligned(cells, left=3), reasons, strict=True)]
    for row in rows:
        if (times := row.get("times_used") or 1) > 1:
            functions = ", ".join(row.get("widened_by") or ())
            lines.append(
                f"  {row['name']}: {times:.2g} times the cells that results use, for the sake of "
                f"{functions}, which may need whole blocks: select before calling it"
            )
    return "\n".join(["The contract, what the analysis needs of each array:", *lines])


def ledger_table(record: Mapping[str, Any]) -> str:
    """The account of every block, by array, in bytes and in blocks.

    Parameters
    ----------
    record : mapping
        A run record.

    Returns
    -------
    str
        Plain text; its last line says whether the account closes.
    """
    record = check_record(record)
    arrays = record["ledger"]["arrays"]
    if not arrays:
        return "The ledger is empty: no rank has reported anything. No block is missing."
    rows: list[Sequence[str]] = [("array", "", *HEADINGS)]
    for name, account in arrays.items():
        for unit, show in (("bytes", numbers.size), ("blocks", numbers.count)):
            values = [show(account[unit][entry]) for entry in LEDGER_ENTRIES]
            rows.append((name if unit == "bytes" else "", unit, *values))
    why = open_account(record)
    closing = (
        f"The ledger does NOT close: {why}."
        if why
        else "The ledger closes: produced = skipped + delivered + dropped + lost."
    )
    return "\n".join([*_aligned(rows), "", closing])


def print_summary(
    record: Mapping[str, Any],
    run_dir: str | Path | None = None,
    console: Console | None = None,
    cause: bool = True,
) -> None:
    """Print :func:`summary_table`, with the verdict in colour when the terminal has colours."""
    from rich.console import Console
    from rich.text import Text

    headline, *rest = summary_table(record, run_dir, cause).splitlines()
    console = console or Console()
    style = "bold green" if record.get("status") == "ok" else "bold red"
    console.print(Text(headline, style=style), soft_wrap=True)
    console.print(Text("\n".join(rest)), soft_wrap=True)


def _headline(record: Mapping[str, Any], facts: Facts, cause: bool) -> str:
    took = "" if facts.duration is None else f" after {numbers.duration(facts.duration)}"
    if facts.ok:
        return f"Run {record['run']} succeeded{took}"
    return f"Run {record['run']} FAILED{took}{f': {facts.short_cause()}' if cause else ''}"


def summary_rows(
    record: Mapping[str, Any], run_dir: str | Path | None = None
) -> list[tuple[str, str]]:
    """Names and texts of :func:`summary_table`, without its headline."""
    record, run_dir = check_record(record), None if run_dir is None else Path(run_dir)
    facts = Facts.of(record)
    rows = [("replay of", facts.source)] if facts.source else _coupled_rows(record, facts)
    if found := visits(record):
        rows.append(("attached", in_short(found)))
    if facts.explained_variance:
        ratios = ", ".join(map(numbers.percent, facts.explained_variance))
        together = numbers.percent(sum(facts.explained_variance))
        rows.append(("explained variance", f"{ratios} (together {together})"))
    if record["results"]["path"]:
        rows.append(("results", record["results"]["path"]))
    if text := missing_values(record["results"]["variables"]):
        rows.append(("not a number", text))
    if "none" in (v for name, v in record["config"].items() if name.endswith(".SECURITY")):
        rows.append(("security", "SECURITY = none: Dask accepted every connection to its ports"))
    if run_dir is not None:
        rows += [("figure", str(run_dir / name)) for name in record["figures"]]
        if (run_dir / REPORT).exists():
            rows.append(("report", str(run_dir / REPORT)))
    return rows


def missing_values(variables: Mapping[str, Mapping[str, Any]]) -> str:
    """Return in which results half of the values or more are missing (NaN); empty if in none.

    The first ones are named. What is missing of others, such as the first step of a running
    statistic, is in the report.

    Examples
    --------
    >>> missing_values({"mean": {"shape": [4, 5], "missing": 12}, "max": {"shape": []}})
    '12 of 20 in mean'
    """
    parts = [
        f"{numbers.count(each['missing'])} of {numbers.count(math.prod(each['shape']))} in {name}"
        for name, each in variables.items()
        if 2 * (each.get("missing") or 0) >= max(math.prod(each["shape"]), 1)
    ]
    more = len(parts) - _NAMED
    rest = [f"and {numbers.plural(more, 'more result')}"] if more > 0 else []
    return ", ".join([*parts[:_NAMED], *rest])


def _coupled_rows(record: Mapping[str, Any], facts: Facts) -> list[tuple[str, str]]:
    """What went from the simulation to the analytics."""
    of = f" {numbers.of_total(facts.put, facts.n_steps)}".rstrip()
    taken = f"; {facts.taken_steps()}" if facts.steps < facts.put else ""
    within = "" if not facts.active else f" in {numbers.duration(facts.active)}"
    rows = [("steps", f"{numbers.count(facts.put)}{of}{taken}{within}")]
    if record["stop_reason"]:
        rows.append(("ended early", record["stop_reason"]))
    rows += [
        (
            "left out",
            f"{each['simulation']}: {each['who']} {each['what']}: {last_line(each['cause'])}",
        )
        for each in record["left_out"]
    ]
    rows += [
        ("noted", f"{each['who']}: {each['cause']}")
        for each in record["faults"]
        if each["what"] == "notes"
    ][:_NAMED]
    if facts.put and not record["ledger"]["arrays"]:
        return [*rows, ("produced", "not counted: there was no contract")]
    rows.append(("produced", numbers.size(facts.bytes["produced"])))
    rows.append(("skipped by contract", _part(facts, "skipped")))
    rate = "" if facts.rate is None else f", {numbers.rate(facts.rate)}"
    rows.append(("delivered", _part(facts, "delivered") + rate))
    rows += [
        (name, _part(facts, entry))
        for entry, name in (("dropped", "dropped by policy"), ("lost", "lost"))
        if facts.bytes[entry] or facts.blocks[entry]
    ]
    if facts.open_account:
        rows.append(("ledger", f"does NOT close: {facts.open_account}"))
    if facts.waited is not None:
        share = facts.waited_share
        of_it = "" if share is None else f" ({numbers.percent(share)} of its time)"
        rows.append(("simulation waited", f"{numbers.duration(facts.waited)}{of_it}"))
    return rows


def _part(facts: Facts, entry: str) -> str:
    share = facts.share(entry)
    of = "" if share is None else f" ({numbers.percent(share)})"
    return f"{numbers.size(facts.bytes[entry])}{of}"


def _aligned(rows: Sequence[Sequence[str]], left: int = 2) -> list[str]:
    """Columns as wide as their widest entry, the first ones to the left, numbers to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(
            f"{cell:<{width}}" if i < left else f"{cell:>{width}}"
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
