"""The launches of a run: a lane for each simulation, with a bar for each launch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ips_components.report._numbers import duration
from ips_components.report._svg import Axis, Canvas, tick

LANE = 24.0
GAP = 20.0
_LETTER = 6.5


def lanes_of(record: Mapping[str, Any]) -> list[tuple[str, list[Mapping[str, Any]]]]:
    """Return the name of each simulation that was launched more than once, with its launches."""
    parts = record["simulations"] or [record["simulation"]]
    lanes = [(part.get("port") or "simulation", _drawn(part)) for part in parts]
    return lanes if any(len(launches) > 1 for _, launches in lanes) else []


def _drawn(part: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [launch for launch in part["launches"] if launch["started"] is not None]


def draw_lanes(
    canvas: Canvas,
    lanes: Sequence[tuple[str, Sequence[Mapping[str, Any]]]],
    x: Axis,
    top: float,
    to_axis: Any,
    ended: float,
) -> float:
    """Draw a bar for each launch, with the time of the loop below; return the lower edge.

    Parameters
    ----------
    canvas
        Where to draw.
    lanes
        As `lanes_of` returns them.
    x
        Axis of the wall time.
    top
        Upper edge.
    to_axis
        From seconds since the epoch to the units of the axis.
    ended
        When a launch ends that has no end of its own.
    """
    y = top
    for name, launches in lanes:
        canvas.text(x.start, y + 10, name)
        lane, free = y + 16, x.start - 1
        canvas.rect(x.start, lane, x.stop - x.start, LANE, "idle")
        for launch in launches:
            a, b = (x.at(to_axis(t)) for t in (launch["started"], launch["ended"] or ended))
            a, b = max(a, x.start), min(b, x.stop)
            if b < a:
                continue
            cls = "sim" if launch["ok"] or launch["ended"] is None else "bad"
            canvas.rect(a, lane, max(b - a - 1.0, 1.0), LANE, cls)
            label = _label(launch)
            if a > free and a + len(label) * _LETTER < x.stop:
                canvas.text(a, lane + LANE + 14, label, "tick")
                free = a + len(label) * _LETTER + 8
        y = lane + LANE + GAP + 6
    return y


def _label(launch: Mapping[str, Any]) -> str:
    """Time of the driver's call, or the number of the launch where it has none."""
    time = launch["time"]
    if isinstance(time, int | float):
        return f"t = {tick(float(time))}"
    return f"launch {launch['launch']}"


def caption(lanes: Sequence[tuple[str, Sequence[Mapping[str, Any]]]]) -> str:
    """Say how many there were and how long they took."""
    launches = [launch for _, each in lanes for launch in each]
    failed = sum(launch["ended"] is not None and not launch["ok"] for launch in launches)
    seconds = [launch["ended"] - launch["started"] for launch in launches if launch["ended"]]
    text = f"{len(launches)} launches, each from the start of its program to the end"
    if seconds:
        text += f", {duration(min(seconds))} to {duration(max(seconds))} long"
    text += ". Below each bar is the time of the workflow's loop."
    if failed:
        text += f" {failed} of them failed (red)."
    return text
