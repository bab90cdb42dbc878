"""Exceptions and logs as text for messages."""

import contextlib
import os
import re
from pathlib import Path

from ips_components.errors import IPSComponentsError

_WHERE = re.compile(r"; at ([^\n]+, line \d+, in [^\n;]+)\Z")


def split_where(text: str) -> tuple[str, str]:
    """Split a message that ends with a place in a file from that place, "" where there is none.

    Examples
    --------
    >>> split_where("ValueError: too hot; at a.py, line 3, in heat")
    ('ValueError: too hot', 'a.py, line 3, in heat')
    """
    found = _WHERE.search(text.strip())
    return (text, "") if found is None else (text.strip()[: found.start()], found[1])


def describe(error: object) -> str:
    """Return an exception as text: its type unless the message suffices, and its cause."""
    message = str(error).strip()
    text = message or type(error).__name__
    if isinstance(error, BaseException):
        if (
            message
            and type(error) not in (Exception, RuntimeError)
            and not isinstance(error, IPSComponentsError)
        ):
            text = f"{type(error).__name__}: {text}"
        notes = [note for note in getattr(error, "__notes__", ()) if "\n" not in note]
        text = "; ".join([text, *(note for note in notes if note not in text)])
        if error.__cause__ is not None and str(error.__cause__) not in text:
            text, where = split_where(text)
            origin, place = split_where(describe(error.__cause__))
            at = f"; at {place or where}" if place or where else ""
            text = f"{text} (from {origin}){at}"
    return text


def tail(path: Path, lines: int = 8) -> str:
    """Return the last lines of a log file, for an error message; "" when there are none."""
    with contextlib.suppress(OSError), path.open("rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - 8192))
        text = file.read().decode(errors="replace").strip()
        return "\n".join(text.splitlines()[-lines:])
    return ""
