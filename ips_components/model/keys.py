"""From (run, array, chunk) to the Dask key of an external chunk, computed alike everywhere."""

from __future__ import annotations

from collections.abc import Iterable

PREFIX = "external-"
"""How the names of all external arrays begin."""


def array_name(array: str, run: str) -> str:
    """Return the Dask name of an external array in one run.

    Eight hex digits name the run, so that a restart never meets keys of an older run, and Dask's
    own ``key_split`` still groups the tasks of an array under ``external-<array>``.

    Examples
    --------
    >>> array_name("temperature", "heat2d_1")
    'external-temperature-3d150c42'
    """
    from hashlib import sha256  # 3 ms that no rank has to pay at import

    return f"{PREFIX}{array}-{sha256(run.encode()).hexdigest()[:8]}"


def chunk_key(name: str, index: Iterable[int]) -> tuple[str | int, ...]:
    """Return the key of the chunk at ``index`` (time first) of the array called ``name``.

    Examples
    --------
    >>> chunk_key("external-temperature-3d150c42", (7, 0, 1))
    ('external-temperature-3d150c42', 7, 0, 1)
    """
    return (name, *index)
