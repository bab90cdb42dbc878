"""How a running simulation shows itself in a notebook."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

from ips_components.model.spec import ArraySpec


def run_html(
    run: str,
    state: Mapping[str, Any],
    specs: Iterable[ArraySpec],
    newest: int,
    live_page: str,
    detached: str,
) -> str:
    """Return state, progress and arrays of a run as HTML.

    Parameters
    ----------
    run
        Run id.
    state
        Its progress.
    specs
        What it offers.
    newest
        Newest step that is known.
    live_page
        Address of its live page; empty for none.
    detached
        Why it is not attached any more; empty while it is.
    """
    total = state.get("n_steps")
    bar = ""
    if total:
        done = min(max(newest + 1, 0), total)
        bar = f'<progress value="{done}" max="{total}"></progress> {done} of {total} steps, '
    words = escape(detached or str(state.get("phase", "")))
    link = f' &middot; <a href="{escape(live_page)}" target="_blank">live page</a>'
    rows = "".join(
        f"<tr><td>{escape(spec.name)}</td><td>{escape(_shape(spec))}</td>"
        f"<td>{escape(spec.dtype)}</td><td>{escape(str(spec.attrs.get('units', '')))}</td>"
        f"<td>{escape(_steps(spec))}</td></tr>"
        for spec in specs
    )
    return (
        f"<div><b>LiveRun {escape(run)}</b>: {words}, {bar}step {newest}"
        f"{link if live_page else ''}"
        "<table><thead><tr><th>array</th><th>shape of a step</th><th>type</th><th>units</th>"
        f"<th>steps</th></tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _shape(spec: ArraySpec) -> str:
    sizes = ["rows" if spec.ragged and i == 0 else str(n) for i, n in enumerate(spec.shape)]
    return ", ".join(f"{dim}: {n}" for dim, n in zip(spec.dims[1:], sizes, strict=False)) or "-"


def _steps(spec: ArraySpec) -> str:
    axis = spec.steps
    count = "open-ended" if axis.count is None else str(axis.count)
    return f"{count}, every {axis.every}" if axis.every > 1 else count
