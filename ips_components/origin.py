"""Where in a person's own code an error was raised: not in a library, and not in this package."""

from __future__ import annotations

import sysconfig
import traceback
from pathlib import Path
from types import FrameType

_PACKAGE = str(Path(__file__).parent)
_EXAMPLES = str(Path(_PACKAGE, "examples"))
_LIBRARIES = tuple(
    {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
)


def where_raised(error: BaseException) -> str:
    """Return ``file, line n, in function`` of the innermost frame of a person's own code."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}, line {error.lineno}"
    where = ""
    for frame, line in traceback.walk_tb(error.__traceback__):
        filename = file_of(frame)
        if filename and not is_library(filename):
            where = f"{filename}, line {line}, in {frame.f_code.co_name}"
    return where


def with_place(error: BaseException) -> str:
    """Return class and message of an error, and where it was raised if that is known."""
    where = where_raised(error)
    return f"{type(error).__name__}: {error}" + (f"; at {where}" if where else "")


def file_of(frame: FrameType) -> str:
    """Return the file of a frame; tracebacks that were pickled have it in the globals only."""
    filename = frame.f_code.co_filename
    return str(frame.f_globals.get("__file__", "")) if filename.startswith("<") else filename


def is_library(filename: str) -> bool:
    """Whether a file is of a library or of this package; its examples count as a person's own."""
    if filename.startswith(_EXAMPLES):
        return False
    return filename.startswith((_PACKAGE, "<", *_LIBRARIES))
