"""The run report: one HTML file that needs nothing else, neither a network nor a script."""

from __future__ import annotations

import base64
import mimetypes
import re
from collections import Counter
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy

from ips_components._version import __version__
from ips_components.report import _numbers as numbers
from ips_components.report._attached import visits
from ips_components.report._charts import charts
from ips_components.report._facts import Facts
from ips_components.report._schema import LEDGER_ENTRIES
from ips_components.report.record import check_record, last_line, read_record, write_text

FILE_NAME = "report.html"

#: What the states of external tasks mean, for readers who do not know the code.
STATES = {
    "declared": "known to Dask; nothing needed it yet",
    "wanted": "awaited, has not arrived",
    "arrived": "arrived, not yet taken in by the scheduler",
    "memory": "arrived and is held for its consumers",
    "released": "arrived, was used up and freed",
    "forgotten": "arrived, was used up and freed",
    "lost": "its only copy is gone; asked for again",
    "erred": "will never arrive; its consumers failed",
}

_EMBEDDABLE = {"image/png", "image/jpeg", "image/svg+xml", "image/gif", "image/webp"}


def write_report(run_dir: str | Path, record: Mapping[str, Any] | None = None) -> Path:
    """Write ``report.html`` into the directory of a run.

    Parameters
    ----------
    run_dir : path-like
        Figures named in the record are looked for here when their paths are relative.
    record : mapping, optional
        Read from ``run.json`` if left out.

    Returns
    -------
    pathlib.Path
        Of the report.

    Raises
    ------
    RecordError
        If there is no record, or it breaks its schema.
    """
    run_dir = Path(run_dir)
    if record is None:
        record = read_record(run_dir)
    return write_text(run_dir / FILE_NAME, render(record, run_dir))


def render(record: Mapping[str, Any], run_dir: str | Path = ".") -> str:
    """The report as text; see :func:`write_report`."""
    checked = check_record(record)
    facts = Facts.of(checked)
    return template().render(
        record=checked,
        facts=facts,
        n=numbers,
        charts=charts(checked),
        tiles=_tiles(facts),
        ledger=_ledger(checked),
        open_account=facts.open_account,
        entries=LEDGER_ENTRIES,
        hosts=_hosts(checked),
        states=[(name, k, STATES.get(name, "")) for name, k in checked["states"].items() if k],
        faults=_faults(checked),
        visits=visits(checked),
        title=_title(checked),
        figures=[_figure(name, Path(run_dir)) for name in checked["figures"]],
        css=_resource("report.css"),
        made_by=__version__,
        show=_show,
        sizes=_sizes,
        kind=_kind,
        breakable=_breakable,
        values_of=_values_of,
    )


def _title(record: Mapping[str, Any]) -> str:
    """What ran: the name of the simulation in the config, else the run id."""
    return str(record["config"].get("SIM_NAME") or record["run"])


def _faults(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Each fault once, in order, with a count and all that it happened to."""
    merged: dict[tuple[str, str], dict[str, Any]] = {}
    for number, fault in enumerate(record["faults"], 1):
        short = last_line(fault["cause"])
        # Names of ranks and chunks differ where one cause has many consequences.
        # An analysis that fails is reported by its run and by its component.
        analysis = fault["who"] == "analysis"
        same = "" if analysis else re.sub(r"\d+", "#", short), fault["what"]
        entry = merged.setdefault(
            same,
            {
                **fault,
                "after": _after(record, fault["t"]),
                "short": short,
                "numbers": [],
                "parties": [],
            },
        )
        entry["numbers"].append(number)
        if fault["who"] not in entry["parties"]:
            entry["parties"].append(fault["who"])
        if "\n" in fault["cause"] and "\n" not in entry["cause"]:
            entry["cause"] = fault["cause"]  # with the traceback
    return list(merged.values())


@cache
def template() -> Any:
    """The template of the report, read once."""
    import jinja2

    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    return environment.from_string(_resource("report.html"))


@cache
def _resource(name: str) -> str:
    return (files("ips_components.report") / name).read_text(encoding="utf-8")


def _tiles(facts: Facts) -> list[tuple[str, str, str]]:
    """Name, value and remark of the key numbers."""
    if facts.source:
        return [
            ("Duration", numbers.duration(facts.duration), "of the whole run"),
            ("Peak memory", numbers.size(facts.peak_memory), "of one worker"),
        ]
    of = numbers.of_total(facts.put, facts.n_steps)
    taken = [f"{numbers.count(facts.steps)} to the analysis"] if facts.steps < facts.put else []
    waited = facts.waited_share
    tiles = [
        ("Steps", numbers.count(facts.put), ", ".join(filter(None, [of, *taken]))),
        ("Produced", numbers.size(facts.bytes["produced"]), "by the simulation"),
        (
            "Delivered",
            numbers.size(facts.bytes["delivered"]),
            numbers.percent(facts.share("delivered")),
        ),
        (
            "Skipped",
            numbers.size(facts.bytes["skipped"]),
            f"{numbers.percent(facts.share('skipped'))}, by contract",
        ),
        (
            "Waited",
            numbers.duration(facts.waited),
            "slowest rank" if waited is None else f"slowest rank, {numbers.percent(waited)}",
        ),
        ("Throughput", numbers.rate(facts.rate), "delivered, mean"),
        ("Peak memory", numbers.size(facts.peak_memory), "of one worker"),
        ("Duration", numbers.duration(facts.duration), "of the whole run"),
    ]
    return [
        (name, value, "" if remark.startswith(numbers.NONE) else remark)
        for name, value, remark in tiles
    ]


def _ledger(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row per array, with the widths of its bar in percent."""
    rows = []
    for name, account in record["ledger"]["arrays"].items():
        produced = account["bytes"]["produced"]
        parts = {e: account["bytes"][e] for e in LEDGER_ENTRIES[1:]}
        widths = {e: 100 * v / produced for e, v in parts.items() if v > 0} if produced else {}
        rows.append({"name": name, **account, "widths": widths})
    return rows


def _hosts(record: Mapping[str, Any]) -> list[tuple[str, int, str, int]]:
    """Host, number of ranks on it, how their data travel, number of workers on it."""
    ranks = Counter(rank["host"] or "unknown" for rank in record["ranks"])
    workers = Counter(
        worker["hostname"] or worker["host"] or "unknown" for worker in record["workers"]
    )
    named = [host for host in record["simulation"]["hosts"] if host]
    lanes: dict[str, set[str]] = {}
    for rank in record["ranks"]:
        if rank["lane"]:
            lanes.setdefault(rank["host"] or "unknown", set()).add(rank["lane"])
    return [
        (host, ranks[host], ", ".join(sorted(lanes.get(host, ()))) or numbers.NONE, workers[host])
        for host in dict.fromkeys([*named, *ranks, *workers])
    ]


def _after(record: Mapping[str, Any], t: float | None) -> str:
    if t is None or record["started"] is None:
        return numbers.NONE
    return numbers.duration(max(t - record["started"], 0.0))


def _figure(name: str, run_dir: Path) -> dict[str, str | None]:
    """A figure as a data URI, or why it is not here."""
    path = run_dir / name
    title = path.stem.replace("_", " ").strip().capitalize()
    kind = mimetypes.guess_type(path.name)[0]
    if kind not in _EMBEDDABLE:
        return {"title": title, "uri": None, "why": f"{name} is no picture that a browser shows"}
    try:
        data = path.read_bytes()
    except OSError as error:
        return {"title": title, "uri": None, "why": f"{name}: {error.strerror or error}"}
    return {
        "title": title,
        "uri": f"data:{kind};base64,{base64.b64encode(data).decode()}",
        "why": None,
    }


def _show(value: Any) -> str:
    """A value of the config, contract or results for people."""
    match value:
        case None | "":
            return numbers.NONE
        case bool():
            return "yes" if value else "no"
        case float():
            return numbers.digits(value)
        case list():
            return ", ".join(_show(item) for item in value)
        case dict():
            return ", ".join(f"{key}: {_show(item)}" for key, item in value.items())
    return str(value)


def _values_of(variable: Mapping[str, Any]) -> str:
    """All values of a small result, the range of a large one; how many are missing."""
    if missing := variable["missing"]:
        return f"{_present_values_of(variable)}, {numbers.count(missing)} missing"
    return _present_values_of(variable)


def _present_values_of(variable: Mapping[str, Any]) -> str:
    values = variable["values"]
    if not isinstance(values, list) and values is not None:
        return _show(values)
    if values and len(values) <= 8 and not isinstance(values[0], list):
        return _show(values)
    if variable["min"] is None:
        return numbers.NONE
    return f"{numbers.digits(variable['min'])} to {numbers.digits(variable['max'])}"


def _sizes(entry: Mapping[str, Any]) -> str:
    """``y 64, x 64``; names may include time, which the shape of an offered array does not."""
    shape, dims = entry["shape"], entry["dims"]
    if not shape:
        return "one number"
    names = dims[-len(shape) :] if len(dims) >= len(shape) else [""] * len(shape)
    named = [
        f"{name}\N{NO-BREAK SPACE}{'varies' if n is None or n < 0 else n}".strip()
        for name, n in zip(names, shape, strict=True)
    ]
    return ", ".join(named)


def _kind(dtype: str | None) -> str:
    """NumPy's name of a type, ``float64`` for ``<f8``."""
    try:
        return numpy.dtype(dtype).name if dtype else numbers.NONE
    except TypeError:
        return str(dtype)


def _breakable(name: str) -> Any:
    """A long name that may be broken after each of its words."""
    from markupsafe import Markup, escape

    return Markup(re.sub(r"([._])", r"\1<wbr>", str(escape(name))))
