"""Numbers as people read them: three digits that matter, and always a unit."""

from __future__ import annotations

import math
import re
from datetime import datetime

_BYTES = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")
NONE = "\N{EN DASH}"
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_EXPONENT = re.compile(r"(?<![0-9.][eE])(?<=[A-Za-zµΩ])(?:\*\*|\^)?(-?\d+)(?![\w.])")


def digits(value: float | None) -> str:
    """Three significant digits, with no exponent as long as the number is a usual one."""
    if value is None or not math.isfinite(value):
        return NONE
    if value == 0:
        return "0"
    magnitude = abs(value)
    if magnitude >= 1e6 or magnitude < 1e-3:
        return f"{value:.3g}"
    if magnitude >= 100:
        return f"{value:,.0f}"
    return f"{value:.{2 - math.floor(math.log10(magnitude))}f}"


def printed_units(units: str) -> str:
    """``K2`` and ``m s-1`` of the CF conventions as K² and m s⁻¹."""
    return _EXPONENT.sub(lambda found: found[1].translate(_SUPERSCRIPTS), units)


def count(value: float | None) -> str:
    return NONE if value is None else f"{value:,.0f}"


def of_total(done: float | None, total: float | None) -> str:
    """``of 40``, or nothing where the total is not known, or is exceeded and hence wrong."""
    return "" if total is None or (done or 0) > total else f"of {count(total)}"


def percent(fraction: float | None) -> str:
    """One that is not zero never reads 0 %, one that is not the whole never 100 %."""
    if fraction is None or not math.isfinite(fraction):
        return NONE
    value = 100 * fraction
    if 0 < value < 0.1:
        return "< 0.1 %"
    if 99.95 <= value < 100:
        return "> 99.9 %"
    if value in (0, 100) or (value >= 10 and abs(value - round(value)) < 0.05):
        return f"{value:.0f} %"
    return f"{value:.1f} %"


def byte_scale(largest: float) -> tuple[float, str]:
    """Divisor and unit in which `largest` is a number between 1 and 1024."""
    power = 0
    while largest >= 1024 ** (power + 1) and power < len(_BYTES) - 1:
        power += 1
    return 1024.0**power, _BYTES[power]


def size(nbytes: float | None) -> str:
    if nbytes is None:
        return NONE
    divisor, unit = byte_scale(abs(nbytes))
    return f"{count(nbytes) if divisor == 1 else digits(nbytes / divisor)} {unit}"


def rate(bytes_per_second: float | None) -> str:
    return NONE if bytes_per_second is None else f"{size(bytes_per_second)}/s"


def duration(seconds: float | None) -> str:
    if seconds is None:
        return NONE
    if seconds < 0.0005:
        return "0 s" if seconds == 0 else f"{digits(seconds * 1e6)} µs"
    if seconds < 1:
        return f"{digits(seconds * 1e3)} ms"
    if seconds < 60:
        return f"{digits(seconds)} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min"


def time_scale(seconds: float) -> tuple[float, str]:
    """Divisor and unit for the axis of a plot that is `seconds` long."""
    if seconds > 6 * 3600:
        return 3600.0, "h"
    if seconds > 600:
        return 60.0, "min"
    return (1.0, "s") if seconds >= 0.5 else (1e-3, "ms")


def moment(t: float | None) -> str:
    """Local date and time with its offset from UTC."""
    if t is None:
        return NONE
    return datetime.fromtimestamp(t).astimezone().strftime("%Y-%m-%d %H:%M:%S %z")


def plural(n: float | None, noun: str) -> str:
    return f"{count(n)} {noun}" + ("" if n == 1 else "s")
