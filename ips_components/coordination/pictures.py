"""Pictures of the newest step of arrays, for the live page.

They are made outside of the scheduler's process, by an attached client that is asked for them over
a topic of Dask (`live.pictures`). It is asked as long as a browser asks here: without one there is
no attached client, and nothing is sent.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

#: Seconds between two requests for pictures of an array, however many browsers look at it.
ASK_EVERY = 1.0
#: Seconds without a browser after which the last picture is too old to be shown.
FORGET_AFTER = 5.0


class Pictures:
    """The newest picture of each array that a browser looks at; used by the event loop only.

    Parameters
    ----------
    ask : callable
        ``ask(name)`` asks for pictures of an array for the next few seconds.
    clock : callable
        Seconds from some origin.
    """

    def __init__(
        self, ask: Callable[[str], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._ask, self._clock = ask, clock
        self._asked: dict[str, float] = {}
        self._newest: dict[str, Mapping[str, Any]] = {}

    def look(self, name: str, *, goes_on: bool) -> dict[str, Any] | None:
        """Return the newest picture as plain values, and ask for the next one.

        Parameters
        ----------
        name
            An array that can be drawn.
        goes_on
            Whether further steps may come. The last picture stays when none will.
        """
        now = self._clock()
        since = now - self._asked.get(name, -FORGET_AFTER)
        if goes_on and since >= ASK_EVERY:
            if since > FORGET_AFTER:
                self._newest.pop(name, None)
            self._asked[name] = now
            self._ask(name)
        found = self._newest.get(name)
        if found is None:
            return None
        cells = found.get("cells", b"")
        return {**found, "cells": base64.b64encode(cells).decode()}

    def show(self, name: str, picture: Mapping[str, Any]) -> None:
        """Keep a picture, or the error that there is none, for the browsers that look."""
        if name in self._asked:
            self._newest[name] = picture


def drawable(described: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return name and unit of the described arrays of which a step is an array of real numbers.

    >>> drawable([{"name": "t", "dtype": "<f8", "shape": [4, 4], "attrs": {"units": "K"}}])
    [{'name': 't', 'units': 'K'}]
    """
    return [
        {"name": each["name"], "units": str((each.get("attrs") or {}).get("units", ""))}
        for each in described
        if not each.get("ragged") and np.dtype(each["dtype"]).kind in "biuf"
    ]
