"""The figures that the report draws from a run record."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ips_components.report._launches import caption, draw_lanes, lanes_of
from ips_components.report._numbers import byte_scale, duration, size, time_scale
from ips_components.report._series import (
    Interval,
    by_worker,
    covered,
    end_of,
    everything_up_to,
    rates,
    usual_gap,
)
from ips_components.report._svg import Axis, Canvas, frame, thin, tick

#: Drawn width in px of each version; the style sheet shows the one that fits the window.
WIDTHS = {"wide": 1000, "medium": 660, "narrow": 350}

#: So many workers or ranks are drawn one by one; more as a band or a sorted curve.
MAX_LINES = 6
MAX_BARS = 128

LEFT, RIGHT = 52.0, 10.0
LANE = 24.0


@dataclass(frozen=True, slots=True)
class Chart:
    """One figure of the report, drawn for every window width."""

    name: str
    title: str
    caption: str
    svg: str


@dataclass(frozen=True, slots=True)
class Times:
    """What of the run the time axes show, and in which unit."""

    origin: float
    low: float
    high: float
    divisor: float
    unit: str

    def axis(self, width: float) -> Axis:
        ends = ((t - self.origin) / self.divisor for t in (self.low, self.high))
        return Axis(*ends, LEFT, width - RIGHT)

    def of(self, t: float) -> float:
        return (t - self.origin) / self.divisor

    @property
    def label(self) -> str:
        return f"time since the start of the run, {self.unit}"


def charts(record: Mapping[str, Any]) -> list[Chart]:
    """Every figure that the record has data for, in the order of the report."""
    times = _times(record)
    drawn = [
        _phases(record),
        _launches(record),
        _timeline(record, times),
        _throughput(record, times),
        _memory(record, _times(record, whole=True)),
        _waiting(record),
    ]
    return [chart for chart in drawn if chart is not None]


# -- the figures ----------------------------------------------------------------------------


def _phases(record: Mapping[str, Any]) -> Chart | None:
    """The whole run from its start to its end, as one bar of three parts."""
    steps = [step for step in record["steps"] if step["complete"] is not None]
    started, ended = record["started"], record["ended"]
    if not steps or started is None or ended is None:
        return None
    first = min(max(min(s["first_put"] or end_of(s) for s in steps), started), ended)
    last = min(max(max(end_of(step) for step in steps), first), ended)
    parts = [("skipped", "start-up", started, first), ("sim", "steps", first, last)]
    parts.append(("ana", "end", last, ended))
    times = Times(started, started, max(ended, started + 1e-3), *time_scale(ended - started))

    def draw(width: float) -> Canvas:
        canvas = Canvas(width, 0, "Start-up, steps and end of the run")
        entries = [(cls, f"{name} {duration(b - a)}") for cls, name, a, b in parts]
        x = times.axis(width)
        lane = canvas.legend(LEFT, 14, entries) + 18
        for cls, _, begin, end in parts:
            a, b = x.at(times.of(begin)), x.at(times.of(end))
            canvas.rect(a, lane, max(b - a, 1.0), LANE, cls)
        for value in x.ticks(int(width / 90)):
            canvas.text(x.at(value), lane + LANE + 17, tick(value), "tick", "middle")
        canvas.text(x.stop, lane + LANE + 34, times.label, "axis", "end")
        canvas.height = lane + LANE + 42
        return canvas

    caption = (
        "Start-up: the Dask pool and the ranks are started, the contract is made. Steps: from the "
        "first put to the last complete step. End: what is left of the analysis, results, figure."
    )
    return _chart("phases", "The whole run", caption, draw)


def _launches(record: Mapping[str, Any]) -> Chart | None:
    """One lane for each simulation that was launched again and again, one bar for each launch."""
    lanes, times = lanes_of(record), _times(record, whole=True)
    if not lanes or times is None:
        return None

    def draw(width: float) -> Canvas:
        canvas = Canvas(width, 0, "Launches of the simulations over time")
        x = times.axis(width)
        entries = [("sim", "launch")]
        if any(each["ended"] is not None and not each["ok"] for _, all_ in lanes for each in all_):
            entries.append(("bad", "launch that failed"))
        top = canvas.legend(LEFT, 14, entries) + 14
        bottom = draw_lanes(canvas, lanes, x, top, times.of, times.high)
        for value in x.ticks(int(width / 90)):
            canvas.text(x.at(value), bottom + 12, tick(value), "tick", "middle")
        canvas.text(x.stop, bottom + 29, times.label, "axis", "end")
        canvas.height = bottom + 37
        return canvas

    return _chart("launches", "Launches", caption(lanes), draw)


def _timeline(record: Mapping[str, Any], times: Times | None) -> Chart | None:
    steps = [step for step in record["steps"] if step["complete"] is not None]
    if times is None or len(steps) < 2:
        return None
    ends = {step["step"]: end_of(step) for step in steps}
    first = min(step["first_put"] or end_of(step) for step in steps)
    last = max(ends.values())
    waits = [(end_of(s) - s["waited"]["max"], end_of(s)) for s in steps]
    used = {s["step"]: s["analysed"] for s in steps if s["analysed"] is not None}
    busy = [(ends[step], t) for step, t in used.items()]
    put, analysed = everything_up_to(ends), everything_up_to(used)

    def draw(width: float) -> Canvas:
        canvas = Canvas(width, 0, "Timeline of the simulation against the analytics")
        entries = [("sim", "simulation computes"), ("wait", "it waits for the analytics")]
        entries += [("ana", "analytics busy with a step")]
        if record["faults"]:
            entries.append(("bad", "fault, numbered as in the list"))
        x = times.axis(width)
        y = canvas.legend(LEFT, 14, entries) + 26
        canvas.text(LEFT, y, "simulation")
        lane = y + 6
        canvas.rect(x.start, lane, x.stop - x.start, LANE, "idle")
        a, b = x.at(times.of(first)), x.at(times.of(last))
        canvas.rect(a, lane, max(b - a, 1.0), LANE, "sim")
        _share(canvas, waits, times, x, lane, "wait")
        y = lane + LANE + 20
        canvas.text(LEFT, y, "analytics")
        lane = y + 6
        canvas.rect(x.start, lane, x.stop - x.start, LANE, "idle")
        _share(canvas, busy, times, x, lane, "ana")
        top, bottom = lane + LANE + 44, lane + LANE + 44 + min(220, 0.5 * width)
        y_axis = Axis(put[0][1], max(put[-1][1], 1), bottom, top)
        frame(canvas, x, y_axis, x_label=times.label, y_label="simulation step", whole=True)
        at_most = int(width)
        curve = thin([(x.at(times.of(t)), y_axis.at(step)) for t, step in put], at_most)
        behind = thin([(x.at(times.of(t)), y_axis.at(step)) for t, step in analysed], at_most)
        if behind:
            canvas.polygon([*curve, *reversed(behind)], "between")
            canvas.polyline(behind, "line ana")
        canvas.polyline(curve, "line sim")
        for cx, cy in curve if len(curve) <= 40 else ():
            canvas.add("circle", cx=cx, cy=cy, r=2.5, class_="sim")
        for cx, cy in behind if len(behind) <= 40 else ():
            canvas.add("circle", cx=cx, cy=cy, r=2.5, class_="ana")
        _faults(canvas, record["faults"], times, x, top - 4, bottom)
        canvas.height = bottom + 40
        return canvas

    caption = (
        "Above: what each side was doing. The orange part of the height is the share of time in "
        "which the slowest rank waited for the analytics to take its data. Below: up to which step "
        "all ranks have put everything (blue) and the analytics have used it up (green); the wider "
        "the shaded band, the further the analytics are behind."
    )
    return _chart("timeline", "Timeline", caption, draw)


def _throughput(record: Mapping[str, Any], times: Times | None) -> Chart | None:
    steps = [s for s in record["steps"] if None not in (s["complete"], s["delivered"])]
    if times is None or not steps:
        return None
    first = min(s["first_put"] or s["complete"] for s in record["steps"])
    points = [(first, 0.0), *sorted((s["complete"], s["delivered"]) for s in steps)]
    if points[-1][1] <= 0 or points[-1][0] <= first:
        return None

    def draw(width: float) -> Canvas:
        # Reports come in bursts: a bin is wide enough for several of them.
        bursts = (points[-1][0] - first) / usual_gap(points)
        bins = max(6, min(int(width / 12), len(steps) // 3, int(bursts / 4)))
        edges = [first + (points[-1][0] - first) * i / bins for i in range(bins + 1)]
        values = rates(points, edges)
        divisor, unit = byte_scale(max(values))
        canvas = Canvas(width, 246, "Data delivered to the analytics over time")
        x = times.axis(width)
        y = Axis(0, max(values) / divisor * 1.05, 200, 34)
        frame(canvas, x, y, x_label=times.label, y_label=f"delivered to the analytics, {unit}/s")
        outline = [
            (x.at(times.of(t)), y.at(value / divisor))
            for start, stop, value in zip(edges, edges[1:], values, strict=False)
            for t in (start, stop)
        ]
        canvas.polygon([(outline[0][0], y.start), *outline, (outline[-1][0], y.start)], "area")
        canvas.polyline(outline, "line ana")
        return canvas

    caption = (
        "What passed from the ranks to the Dask workers, as counted at the end of each step. "
        "Steps and cells outside the contract never leave a rank and are not in this figure."
    )
    return _chart("throughput", "Throughput", caption, draw)


def _memory(record: Mapping[str, Any], times: Times | None) -> Chart | None:
    series = by_worker(record)
    if times is None or max(map(len, series.values()), default=0) < 2:
        return None
    names = {w["address"]: f"worker {w['receiver']}" for w in record["workers"] if w["address"]}
    peak = max(s["rss"] or 0 for samples in series.values() for s in samples)
    divisor, unit = byte_scale(peak)
    limits = [w["memory_limit"] for w in record["workers"] if w["memory_limit"]]
    limit = min(limits) if limits and min(limits) < 2.5 * peak else None

    def draw(width: float) -> Canvas:
        canvas = Canvas(width, 0, "Memory of the Dask workers over time")
        one_by_one = len(series) <= MAX_LINES
        if one_by_one:
            entries = [(f"w{i}", names.get(a, a)) for i, a in enumerate(series)]
        else:
            entries = [("band", f"lowest to highest of {len(series)} workers"), ("w0", "median")]
        if limit:
            entries.append(("limit", "memory limit"))
        top = canvas.legend(LEFT, 14, entries) + 30
        x = times.axis(width)
        y = Axis(0, max(peak, limit or 0) / divisor * 1.05, top + 170, top)
        frame(canvas, x, y, x_label=times.label, y_label=f"resident memory, {unit}")
        if limit:
            canvas.line(x.start, y.at(limit / divisor), x.stop, y.at(limit / divisor), "line limit")
        curves = [
            [(x.at(times.of(s["t"])), y.at((s["rss"] or 0) / divisor)) for s in samples]
            for samples in series.values()
        ]
        if one_by_one:
            for i, curve in enumerate(curves):
                canvas.polyline(thin(curve, int(width / 2)), f"line w{i}")
        else:
            _band(canvas, curves, x)
        canvas.height = y.start + 46
        return canvas

    held = max((s["held"] or 0 for samples in series.values() for s in samples), default=0)
    caption = "Resident memory of each Dask worker, all of it: data, libraries, results."
    if limits and limit is None:
        caption += " The memory limit lies far above and is not drawn."
    if held:
        caption += f" One worker's receiver held {size(held)} at most."
    return _chart("memory", "Memory of the workers", caption, draw)


def _waiting(record: Mapping[str, Any]) -> Chart | None:
    waits = record["waited"]["per_rank"]
    if not waits or max(waits) <= 0:
        return None
    divisor, unit = time_scale(max(waits))

    def draw(width: float) -> Canvas:
        canvas = Canvas(width, 226, "Time that each rank waited for the analytics")
        n = len(waits)
        x = Axis(-0.5, n - 0.5, LEFT, width - RIGHT)
        y = Axis(0, max(waits) / divisor * 1.05, 180, 34)
        frame(canvas, x, y, x_label=None, y_label=f"waited for the analytics, {unit}")
        if n <= MAX_BARS:
            bar = min(0.72 * (x.stop - x.start) / n, 46.0)
            for rank, wait in enumerate(waits):
                top = y.at(wait / divisor)
                canvas.rect(x.at(rank) - bar / 2, top, bar, y.start - top, "wait")
            label = "rank"
        else:
            curve = [(x.at(i), y.at(w / divisor)) for i, w in enumerate(sorted(waits))]
            canvas.polygon(
                [(x.start, y.start), *thin(curve, int(width)), (x.stop, y.start)], "wait"
            )
            label = "ranks, sorted by how long they waited"
        for value in Axis(0, n - 1, x.at(0), x.at(n - 1)).ticks(int(width / 60), whole=True):
            canvas.text(x.at(value), y.start + 17, f"{value:.0f}", "tick", "middle")
        canvas.text(x.stop, y.start + 34, label, "axis", "end")
        return canvas

    caption = (
        "Time that each rank spent blocked in put because the analytics had not yet taken earlier "
        f"data: {duration(max(waits))} at most, {duration(sum(waits) / len(waits))} on average."
    )
    return _chart("waiting", "Waiting of the ranks", caption, draw)


# -- parts of figures -----------------------------------------------------------------------


def _chart(name: str, title: str, caption: str, draw: Callable[[float], Canvas]) -> Chart:
    return Chart(name, title, caption, "".join(draw(w).svg(cls) for cls, w in WIDTHS.items()))


def _share(
    canvas: Canvas, intervals: list[Interval], times: Times, x: Axis, lane: float, cls: str
) -> None:
    """Fill a lane from below by the share of time that the intervals cover."""
    bins = max(1, int((x.stop - x.start) / 3))
    shares = covered(intervals, times.low, times.high, bins)
    if not any(shares):
        return
    width = (x.stop - x.start) / bins
    outline = [(x.start, lane + LANE)]
    for i, share in enumerate(shares):
        height = lane + LANE * (1 - share)
        outline += [(x.start + i * width, height), (x.start + (i + 1) * width, height)]
    canvas.polygon([*outline, (x.stop, lane + LANE)], cls)


def _faults(
    canvas: Canvas,
    faults: Sequence[Mapping[str, Any]],
    times: Times,
    x: Axis,
    top: float,
    bottom: float,
) -> None:
    """A dashed line per fault with its number; numbers of neighbours share a label."""
    labels: list[tuple[float, str]] = []
    for number, fault in enumerate(faults[:20], 1):
        if fault["t"] is None or not times.low <= fault["t"] <= times.high:
            continue
        px = x.at(times.of(fault["t"]))
        canvas.line(px, top, px, bottom, "line bad")
        if labels and px - labels[-1][0] < 14:
            labels[-1] = (labels[-1][0], f"{labels[-1][1]}, {number}")
        else:
            labels.append((px, str(number)))
    for px, label in labels:
        canvas.text(px - 4, top + 9, label, "mark", "end")


def _band(canvas: Canvas, curves: list[list[tuple[float, float]]], x: Axis) -> None:
    """Range and median of many curves, in equal parts of the axis."""
    bins = 80
    columns: list[list[float]] = [[] for _ in range(bins)]
    for curve in curves:
        for px, py in curve:
            share = (px - x.start) / ((x.stop - x.start) or 1.0)
            columns[min(max(int(share * bins), 0), bins - 1)].append(py)
    filled = [
        (x.start + (i + 0.5) / bins * (x.stop - x.start), sorted(column))
        for i, column in enumerate(columns)
        if column
    ]
    lowest = [(px, column[-1]) for px, column in filled]
    highest = [(px, column[0]) for px, column in filled]
    canvas.polygon([*lowest, *reversed(highest)], "band")
    canvas.polyline([(px, column[len(column) // 2]) for px, column in filled], "line w0")


def _times(record: Mapping[str, Any], *, whole: bool = False) -> Times | None:
    """The time axis: the whole run, or only its active part where that would be a sliver."""
    moments = [
        t
        for step in record["steps"]
        for t in (step["first_put"], step["complete"], step["analysed"])
        if t is not None
    ]
    samples = [sample["t"] for sample in record["samples"] if sample["t"] is not None]
    ends = [t for t in (record["started"], record["ended"]) if t is not None]
    everything = moments + samples + ends
    if not everything:
        return None
    origin = record["started"] if record["started"] is not None else min(everything)
    low, high = min(everything), max(everything)
    if not whole and moments and max(moments) - min(moments) < 0.4 * (high - low):
        low, high = min(moments), max(moments)
        margin = 0.04 * (high - low) or 0.01
        low, high = low - margin, high + margin
    if high - low <= 0:
        high = low + 1.0
    return Times(origin, low, high, *time_scale(high - low))
