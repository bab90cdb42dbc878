"""Drawing in SVG: a canvas, linear axes and a frame for plots.

The charts of the report are drawn here and not by matplotlib. Tried side by side, matplotlib's SVG
has fixed colours and fonts, so that a dark page or a narrow window cannot change it, and took 60 ms
for one chart where these four take 10 ms for three widths each.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

LETTER = 6.0  # px, mean width of a letter of the labels (12 px)


@dataclass(frozen=True, slots=True)
class Axis:
    """A linear map from ``low .. high`` to the pixels ``start .. stop``."""

    low: float
    high: float
    start: float
    stop: float

    def at(self, value: float) -> float:
        span = (self.high - self.low) or 1.0
        return self.start + (value - self.low) / span * (self.stop - self.start)

    def ticks(self, about: int, *, whole: bool = False) -> list[float]:
        """Round values inside the axis, roughly `about` of them."""
        span = self.high - self.low
        if span <= 0 or about < 1:
            return [self.low]
        raw = span / about
        power = 10.0 ** math.floor(math.log10(raw))
        step = min((power * m for m in (1, 2, 5, 10)), key=lambda s: abs(math.log(s / raw)))
        if whole:
            step = max(1.0, float(round(step)))
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [i * step for i in range(first, last + 1)]


@dataclass(slots=True)
class Canvas:
    """Collects the elements of one SVG drawing."""

    width: float
    height: float
    label: str
    parts: list[str] = field(default_factory=list)

    def add(self, tag: str, text: str | None = None, **attributes: Any) -> None:
        given = " ".join(
            f'{name.rstrip("_").replace("_", "-")}="{escape(_px(value))}"'
            for name, value in attributes.items()
            if value is not None
        )
        content = "/>" if text is None else f">{escape(text)}</{tag}>"
        self.parts.append(f"<{tag} {given}{content}")

    def line(self, x1: float, y1: float, x2: float, y2: float, cls: str) -> None:
        self.add("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=cls)

    def rect(self, x: float, y: float, w: float, h: float, cls: str, **more: Any) -> None:
        if w > 0 and h > 0:
            self.add("rect", x=x, y=y, width=w, height=h, class_=cls, **more)

    def text(self, x: float, y: float, text: str, cls: str = "", anchor: str | None = None) -> None:
        self.add("text", text, x=x, y=y, class_=cls or None, text_anchor=anchor)

    def polyline(self, points: Iterable[tuple[float, float]], cls: str, style: Any = None) -> None:
        self.add("polyline", points=_points(points), class_=cls, style=style)

    def polygon(self, points: Iterable[tuple[float, float]], cls: str) -> None:
        self.add("polygon", points=_points(points), class_=cls)

    def legend(self, x: float, y: float, entries: Sequence[tuple[str, str]]) -> float:
        """Keys in a row, ``(class, words)``, wrapped at the right edge; y of the last row."""
        left = x
        for cls, words in entries:
            width = 22 + len(words) * LETTER
            if x > left and x + width > self.width:
                x, y = left, y + 17
            self.rect(x, y - 8, 12, 8, cls, rx=1.5)
            self.text(x + 17, y, words)
            x += width + 12
        return y

    def svg(self, cls: str) -> str:
        body = "".join(self.parts)
        return (
            f'<svg class="{cls}" viewBox="0 0 {_px(self.width)} {_px(self.height)}" role="img" '
            f'aria-label="{escape(self.label)}" xmlns="http://www.w3.org/2000/svg">{body}</svg>'
        )


def frame(
    canvas: Canvas,
    x: Axis,
    y: Axis,
    *,
    x_label: str | None,
    y_label: str,
    whole: bool = False,
    gridlines: int = 5,
) -> None:
    """Quiet grid, tick labels, and the names of both axes with their units."""
    for value in y.ticks(gridlines, whole=whole):
        py = y.at(value)
        canvas.line(x.start, py, x.stop, py, "grid")
        canvas.text(x.start - 6, py + 4, tick(value), "tick", "end")
    canvas.text(x.start, y.stop - 9, y_label, "axis")
    canvas.line(x.start, y.start, x.stop, y.start, "base")
    for value in x.ticks(max(2, int((x.stop - x.start) / 90))) if x_label is not None else ():
        px = x.at(value)
        canvas.line(px, y.start, px, y.start + 4, "base")
        canvas.text(px, y.start + 17, tick(value), "tick", "middle")
    if x_label:
        canvas.text(x.stop, y.start + 34, x_label, "axis", "end")


def thin(points: Sequence[tuple[float, float]], at_most: int) -> list[tuple[float, float]]:
    """At most about `at_most` of `points`, the first and the last among them."""
    if len(points) <= at_most:
        return list(points)
    every = math.ceil(len(points) / at_most)
    return [*points[:-1:every], points[-1]]


def tick(value: float) -> str:
    text = f"{value:.6g}"
    if "e" in text or abs(value) < 10000:
        return text.replace("-", "\N{MINUS SIGN}")
    return f"{value:,.0f}"


def _points(points: Iterable[tuple[float, float]]) -> str:
    return " ".join(f"{_px(x)},{_px(y)}" for x, y in points)


def _px(value: Any) -> str:
    return f"{value:.1f}".removesuffix(".0") if isinstance(value, float) else str(value)
