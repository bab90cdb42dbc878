"""A figure of an array that follows the simulation."""

from __future__ import annotations

import contextlib
import io
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from ips_components.errors import ContractError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ips_components.analysis.windows import Window
    from ips_components.live.watch import Watch

#: Dimensions of space that are drawn; of others the middle is taken.
DRAWN = 2


def middle(shape: tuple[int, ...], region: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return a region of two dimensions at most: the middle of the first ones.

    >>> middle((8, 16, 32), ())
    (4, slice(None, None, None), slice(None, None, None))
    >>> middle((8, 16, 32), (0,))
    (0, slice(None, None, None), slice(None, None, None))
    """
    whole = (*region, *(slice(None) for _ in shape[len(region) :]))
    left = sum(isinstance(each, slice) for each in whole) - DRAWN
    found = []
    for n, each in zip(shape, whole, strict=True):
        if left > 0 and isinstance(each, slice):
            start, stop, step = each.indices(n)
            found.append(start + (max(0, stop - start) // (2 * step)) * step)
            left -= 1
        else:
            found.append(each)
    return tuple(found)


class LiveFigure:
    """A figure that is drawn anew with each window of a watch; made by `LiveRun.plot`.

    In a notebook it is shown at once, and changes in its place while other cells run. All drawing
    is done by the thread of the watch, with a canvas of its own.

    Parameters
    ----------
    name, unit
        Of the array.
    dims
        Names of the dimensions that are drawn.

    Attributes
    ----------
    figure : matplotlib.figure.Figure
    step : int
        That is drawn; -1 before the first.
    watch : Watch
        What it follows; `stop` ends it.
    """

    watch: Watch

    def __init__(self, name: str, unit: str, dims: tuple[str, ...]) -> None:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        self.name, self.unit, self.dims = name, unit, dims
        self.figure: Figure = Figure(figsize=(6, 4), layout="constrained")
        FigureCanvasAgg(self.figure)
        self.step = -1
        self._lock = threading.Lock()
        self._stopped = False
        self._png = b""
        self._series: list[tuple[int, float]] = []
        self._update: Callable[[], None] | None = None

    def show(self) -> None:
        """Show it in a notebook, if this is one."""
        with contextlib.suppress(ImportError, NameError):
            from IPython import get_ipython
            from IPython.display import display

            if get_ipython() is not None:
                handle = display(self, display_id=True)
                self._update = None if handle is None else lambda: handle.update(self)

    def draw(self, window: Window) -> None:
        """Draw the newest step of a window."""
        values, label = np.asarray(window.value), f"{self.name}{self.unit and f' [{self.unit}]'}"
        step = window.steps[-1]
        with self._lock:
            if self._stopped:
                return
            self.figure.clear()
            axes = self.figure.add_subplot()
            if values.ndim == 0:
                self._series.append((step, float(values)))
                axes.plot(*zip(*self._series, strict=True))
                axes.set(xlabel="step", ylabel=label)
            elif values.ndim == 1:
                axes.plot(values)
                axes.set(xlabel=self.dims[-1], ylabel=label)
            elif values.ndim == DRAWN:
                image = axes.imshow(values, origin="lower", aspect="auto")
                axes.set(xlabel=self.dims[-1], ylabel=self.dims[-2])
                self.figure.colorbar(image, label=label)
            else:
                raise ContractError(f"{values.ndim} dimensions cannot be drawn")
            axes.set_title(f"step {step}")
            buffer = io.BytesIO()
            self.figure.savefig(buffer, format="png", dpi=100)
            self._png = buffer.getvalue()
            self.step = step
        if self._update is not None:
            self._update()

    def stop(self) -> None:
        """Follow no longer; the last step stays."""
        self.watch.stop()
        with self._lock:  # what is being drawn is drawn whole
            self._stopped = True

    def save(self, path: Any) -> None:
        """Save what is drawn, as matplotlib's ``savefig``."""
        with self._lock:
            self.figure.savefig(path)

    def _repr_png_(self) -> bytes | None:
        return self._png or None

    def __repr__(self) -> str:
        return f"<LiveFigure of {self.name!r} at step {self.step}>"
