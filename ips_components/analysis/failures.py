"""Errors of an analysis in a form that every process can read.

The analysis runs in a Dask worker; the IPS components cannot import its module, so that an
exception of a class of its own could not be unpickled there.
"""

from __future__ import annotations

import builtins
import pickle
import traceback
from collections.abc import Iterator

from ips_components.errors import AnalysisFailed, IPSComponentsError
from ips_components.origin import file_of, where_raised


def portable(error: BaseException) -> BaseException:
    """Return an error that can be unpickled anywhere and says where it was raised.

    Parameters
    ----------
    error
        What an analysis, or a task of its graph, has raised.

    Returns
    -------
    BaseException
        The error itself if its class is Python's or this package's and survives pickling, else an
        `AnalysisFailed` with its class and message. File, line and function are in its notes.
    """
    where = where_raised(error)
    # What it came from is in the traceback of the log; its class may be unknown elsewhere.
    cause, error.__context__ = error.__cause__, None
    if cause is not None:
        error.__cause__ = portable(cause)
    if isinstance(error, SystemExit):
        text = f"the analysis ended its process by sys.exit({error.code!r}); raise an exception"
        return _noted(AnalysisFailed(text), where)
    if _survives(error):
        return _noted(error, where)
    return _noted(AnalysisFailed(f"{type(error).__name__}: {message(error)}"), where, error)


def message(error: BaseException) -> str:
    """Return the text of an error, also of one that lost its attributes on the way here."""
    try:
        return str(error)
    except Exception:
        return ", ".join(map(str, error.args)) or "no message"


def details(error: BaseException) -> str:
    """Return the traceback; its last line has the class and the message."""
    described = traceback.TracebackException(type(error), error, error.__traceback__)
    for number, (frame, line) in enumerate(traceback.walk_tb(error.__traceback__)):
        if number < len(described.stack) and (filename := file_of(frame)):
            described.stack[number] = traceback.FrameSummary(filename, line, frame.f_code.co_name)
    text = "".join(described.format()).rstrip()
    last = f"{type(error).__name__}: {message(error)}"
    return text if text.endswith(message(error)) else f"{text}\n{last}"


def _survives(error: BaseException) -> bool:
    known = isinstance(error, IPSComponentsError) or type(error).__module__ == builtins.__name__
    if not known or isinstance(error, SyntaxError):
        return False
    try:
        return str(pickle.loads(pickle.dumps(error))) == str(error)
    except Exception:
        return False


def _noted(
    error: BaseException, where: str, original: BaseException | None = None
) -> BaseException:
    notes = set(getattr(error, "__notes__", ()))
    for note in (*_notes_of(original), f"at {where}" if where else ""):
        if note and note not in notes:
            error.add_note(note)
    return error


def _notes_of(error: BaseException | None) -> Iterator[str]:
    yield from getattr(error, "__notes__", ())
