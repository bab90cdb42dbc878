"""Makes pictures of the newest step of an array, for the live page, as long as a browser asks.

The scheduler's process, which serves the page, asks over a topic of Dask. Then a client attaches,
has every few cells of a step sent, which are cut out in the ranks, and detaches when no browser
has asked for some seconds.
"""

from __future__ import annotations

import math
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ips_components.analysis.coordinator_client import call
from ips_components.coordination.messages import PICTURE_TOPIC
from ips_components.live.figure import middle

if TYPE_CHECKING:
    from distributed import Client

    from ips_components.analysis.windows import Window
    from ips_components.live.live_run import LiveRun
    from ips_components.model.spec import ArraySpec
    from ips_components.wire.contact import Contact

#: Cells of a picture in each dimension, at most.
SIDE = 256
#: Value of cells that are no number; all others are below it.
NO_NUMBER = 255
#: Seconds without a browser after which the client detaches.
LEASE = 5.0
#: Seconds between two pictures, at least; windows by which they are measured.
PERIOD, MEASURED = 1.0, 6
#: Seconds from an error to the next attempt.
RETRY = 10.0
_LOOK = 0.25
_ANSWER = 10.0


class PictureMaker:
    """Waits for browsers that look at an array; one for each run with a live page.

    Parameters
    ----------
    client
        Of the run's scheduler.
    contact, directory
        Of the run.
    """

    def __init__(self, client: Client, contact: Contact, directory: Path) -> None:
        self._client, self._contact, self._directory = client, contact, directory
        self._until: dict[str, float] = {}  # by array: until when a browser looks
        self._lock = threading.Lock()  # guards it: the client's event loop and the threads
        client.subscribe_topic(PICTURE_TOPIC + contact.run, self._asked)  # type: ignore[no-untyped-call]

    def _asked(self, event: tuple[float, dict[str, Any]]) -> None:
        """A browser looks at an array, for some seconds; in the client's event loop."""
        name = event[1]["array"]
        with self._lock:
            known = name in self._until
            self._until[name] = time.monotonic() + LEASE
        if not known:
            threading.Thread(
                target=self._make, args=(name,), name="live picture", daemon=True
            ).start()

    def _is_wanted(self, name: str) -> bool:
        """Whether a browser still looks; if none does, the thread of the array ends."""
        with self._lock:
            if self._until[name] > time.monotonic():
                return True
            del self._until[name]
            return False

    def _has_expired(self, name: str) -> bool:
        with self._lock:
            return self._until[name] <= time.monotonic()

    def _make(self, name: str) -> None:
        """Show pictures as long as they are wanted; in a thread of the array's own."""
        from ips_components.live.live_run import LiveRun  # with Dask's arrays: when it is shown

        wanted = True
        while wanted:
            wrong = ""
            try:
                with LiveRun(
                    self._client, self._contact, self._directory, label="live page"
                ) as live:
                    every = 1
                    while every and (wanted := self._is_wanted(name)):
                        every = self._watch(live, name, every)
            except Exception as error:  # the page says it
                wrong = f"{type(error).__name__}: {error}"
            again = time.monotonic() + RETRY
            if wrong:
                self._show(name, {"error": wrong})
            while wanted and time.monotonic() < again and (wanted := self._is_wanted(name)):
                time.sleep(_LOOK)

    def _watch(self, live: LiveRun, name: str, every: int) -> int:
        """Show every so many steps; return a better number, or 0 at the end of the simulation."""
        spec = next(each for each in live.specs if each.name == name)
        region = picture_region(spec.shape)
        came: list[int] = []

        def show(window: Window) -> None:
            came.append(window.steps[-1])
            self._show(name, make_picture(spec, region, came[-1], window.value))

        began = time.monotonic()
        with live.watch(
            lambda arrays: arrays[name][(-1, *region)], every=every, call=show
        ) as watch:
            while not watch.join(_LOOK):
                if self._has_expired(name):
                    return every
                pace = (time.monotonic() - began) / max(1, len(came))
                if len(came) >= MEASURED and pace < PERIOD / 2:
                    return math.ceil(every * PERIOD / pace)
                if every > 1 and pace > 4 * PERIOD:
                    return max(1, every // 4)
        if watch.error is not None:
            raise watch.error
        return 0

    def _show(self, name: str, picture: dict[str, Any]) -> None:
        run = self._contact.run
        call(self._client, "picture", run, array=name, picture=picture, within=_ANSWER)


def picture_region(shape: tuple[int, ...]) -> tuple[int | slice, ...]:
    """Return what a picture shows of a step: the middle of the first dimensions, and few cells.

    >>> picture_region((9, 100, 1000))
    (4, slice(0, 100, 1), slice(0, 1000, 4))
    """
    return tuple(
        slice(0, n, -(-n // SIDE)) if isinstance(each, slice) else each
        for n, each in zip(shape, middle(shape, ()), strict=True)
    )


def make_picture(
    spec: ArraySpec, region: tuple[int | slice, ...], step: int, value: Any
) -> dict[str, Any]:
    """Return a picture as plain values: a byte for each cell, from the lowest to the highest.

    Parameters
    ----------
    spec
        Of the array.
    region
        That was cut out.
    step
        Of the simulation.
    value
        The cells, of two dimensions at most.
    """
    cells = np.atleast_2d(np.asarray(value, dtype=float))
    is_number = np.isfinite(cells)
    low, high = (float(f(cells[is_number])) if is_number.any() else None for f in (np.min, np.max))
    grey = np.full(cells.shape, NO_NUMBER, np.uint8)
    if low is not None and high is not None:
        # Halves: the difference of two numbers may be none.
        width = high / 2 - low / 2
        part = (cells[is_number] / 2 - low / 2) / (width or 1.0)
        grey[is_number] = np.round((NO_NUMBER - 1) * part)
    parts = list(zip(spec.dims[1:], region, strict=True))
    return {
        "step": step,
        "shape": list(cells.shape),
        "cells": grey.tobytes(),
        "low": low,
        "high": high,
        "dims": [dim for dim, part in parts if isinstance(part, slice)],
        "every": [part.step for _, part in parts if isinstance(part, slice)],
        "at": {dim: part for dim, part in parts if not isinstance(part, slice)},
    }
