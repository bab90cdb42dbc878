"""How runs look in a notebook: HTML without scripts, in the colours of the notebook."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import TYPE_CHECKING, Any

from ips_components.report import _numbers as numbers
from ips_components.report.progress import bars

if TYPE_CHECKING:
    from ips_components.runs.result import RunResult

_BADGES = {"succeeded": "#1a7f37", "failed": "#cf222e", "running": "#0969da"}
_BAR = (
    '<div style="display: grid; grid-template-columns: 6em minmax(6em, 18em) auto; gap: 0 1em; '
    'align-items: center"><span>{name}</span>'
    '<span style="background: #8883; border-radius: 4px; height: 8px; overflow: hidden">'
    '<span style="display: block; height: 8px; width: {width:.1f}%; background: {color}"></span>'
    "</span><span>{words}</span></div>"
)


def progress_html(title: str, status: str, known: Mapping[str, Any], cause: str) -> str:
    """A run while it is on, and how it ended.

    Parameters
    ----------
    title
        What runs.
    status
        ``running``, ``succeeded`` or ``failed``.
    known
        Content of its progress file.
    cause
        Why it failed, empty when it did not.
    """
    rows = [_head(title, status, "" if status != "running" else str(known.get("doing") or ""))]
    state = known.get("state") or {}
    for bar in bars(state):
        width = 100 * bar.done / bar.total if bar.total else 0
        color = _BADGES["succeeded" if bar.total and bar.done >= bar.total else "running"]
        rows.append(_BAR.format(name=bar.name, width=width, color=color, words=escape(bar.words)))
    for key, name in (("live_page", "live page"), ("dashboard", "Dask dashboard")):
        if status == "running" and known.get(key):
            page = escape(str(known[key]))
            rows.append(f'<div>{name}: <a href="{page}" target="_blank">{page}</a></div>')
    if cause:
        rows.append(_cause(cause))
    return _frame(rows)


def result_html(result: RunResult) -> str:
    """A finished run: its verdict, its numbers, and where its report is."""
    from ips_components.report.ledger import summary_rows

    status = "succeeded" if result.ok else "failed"
    took = ""
    if None not in (result.record["started"], result.record["ended"]):
        took = f"after {numbers.duration(result.record['ended'] - result.record['started'])}"
    rows = [_head(str(result.record["config"].get("SIM_NAME") or result.run), status, took)]
    if result.cause:
        rows.append(_cause(result.cause))
    cells = "".join(
        f'<tr><td style="text-align: left; padding-right: 1em">{escape(name)}</td>'
        f'<td style="text-align: left">{escape(text)}</td></tr>'
        for name, text in summary_rows(result.record, result.directory)
        if name != "report"
    )
    rows.append(f"<table>{cells}</table>")
    if (result.directory / "report.html").is_file():
        rows.append(f"<div>report: {result.report._repr_html_()}</div>")
    return _frame(rows)


def _head(title: str, status: str, remark: str) -> str:
    badge = (
        f'<span style="background: {_BADGES[status]}; color: white; border-radius: 4px; '
        f'padding: 1px 6px">{status}</span>'
    )
    return f"<div><strong>{escape(title)}</strong> {badge} {escape(remark)}</div>"


def _cause(cause: str) -> str:
    return f'<pre style="white-space: pre-wrap; margin: 4px 0">{escape(cause)}</pre>'


def _frame(rows: list[str]) -> str:
    return f'<div style="font-family: sans-serif; line-height: 1.6">{"".join(rows)}</div>'
