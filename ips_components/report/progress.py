"""Progress on the terminal while a run is on.

On a terminal a few lines that stay in place; elsewhere (a log file, a batch job) one plain line
every now and then, and only when something has moved.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self, TextIO

from ips_components.report import _numbers as numbers
from ips_components.report.progress_file import ProgressFile

if TYPE_CHECKING:
    from rich.console import Console

logger = logging.getLogger(__name__)

#: Seconds between two plain lines.
LINE_INTERVAL = 5.0
#: Seconds between two questions to the scheduler.
POLL_INTERVAL = 0.5

#: Last phases of a run; the analysis may go on after the simulation.
_FINAL = {"ended": "simulation ended", "failed": "failed"}
_ALONE = "the analysis has failed, the simulation goes on alone"


class Progress:
    """Shows how far a run is.

    Use as a context manager; feed it with :meth:`update`, or let :meth:`following` ask.

    Parameters
    ----------
    quiet : bool
        Show nothing at all.
    stream : file, optional
        Standard error if left out, so that results on standard output stay clean.
    interval : float
        Seconds between two plain lines when `stream` is no terminal.
    clock : callable
        Seconds from some origin, never going back.

    Examples
    --------
    >>> import sys
    >>> with Progress(stream=sys.stdout, clock=iter([0.0, 9.0]).__next__) as progress:
    ...     progress.update({"run": "r1", "steps": 3, "n_steps": 10, "delivered": 2**20})
    r1: step 3 of 10, delivered 1.00 MiB
    """

    def __init__(
        self,
        *,
        quiet: bool = False,
        stream: TextIO | None = None,
        interval: float = LINE_INTERVAL,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._interval = interval
        self._clock = clock
        self._file = ProgressFile.wanted()
        self._stream = sys.stderr if stream is None else stream
        self._view: _Lines | _Bars | None = None
        if not quiet:
            self._view = _Bars(self._stream) if self._stream.isatty() else _Lines(self._stream)
        self._shown = -interval
        self._last = ""
        self._phase: Any = None
        self._doing = ""

    def __enter__(self) -> Self:
        if isinstance(self._view, _Bars):
            self._view.start()
        return self

    def __exit__(self, *exc: object) -> None:
        if isinstance(self._view, _Bars):
            self._view.stop()

    def update(self, state: Mapping[str, Any]) -> None:
        """Show a new state.

        Parameters
        ----------
        state : mapping
            ``RunCoordinator.progress()``; every entry may be missing.
        """
        self._file.update(state)
        if words := awaited(state):
            self.doing(words)
        if self._view is None:
            return
        if isinstance(self._view, _Bars):
            self._view.show(state)
            return
        now = self._clock()
        phase = state.get("phase")
        due = now - self._shown >= self._interval or (phase in _FINAL and phase != self._phase)
        line = describe(state)
        if due and line != self._last:
            self._view.show(line)
            self._shown, self._last, self._phase = now, line, phase

    def show_known(self, known: Mapping[str, Any]) -> None:
        """Show what another process has written to its progress file."""
        if doing := known.get("doing"):
            self.doing(doing)
        if state := known.get("state"):
            self.update(state)

    def doing(self, text: str, **facts: Any) -> None:
        """Show in words what the run is doing.

        Parameters
        ----------
        text
            For example "starting 2 Dask workers".
        **facts
            What else is known by now, for the progress file: ``run``, ``run_dir``, ...
        """
        if text == self._doing:
            return
        self._doing = text
        self._file.note(doing=text, **facts)
        if self._view is not None:
            self._view.doing(text)

    def note(self, text: str, *, terminal: str = "") -> None:
        """Show one line that stays.

        Parameters
        ----------
        text
            The line.
        terminal
            What a terminal shows instead, which no other user can read.
        """
        if self._view is not None:
            self._view.note(terminal if terminal and isinstance(self._view, _Bars) else text)

    @contextmanager
    def following(
        self, ask: Callable[[], Mapping[str, Any]], interval: float = POLL_INTERVAL
    ) -> Iterator[Self]:
        """Ask for the state and show it, from a thread of its own, while the block runs.

        Parameters
        ----------
        ask : callable
            Returns a state for :meth:`update`. When it raises, the asking ends: progress is a
            courtesy and must never be the reason why a run fails.
        interval : float
            Seconds between two questions.
        """
        ended = threading.Event()

        def follow() -> None:
            try:
                while not ended.wait(interval):
                    self.update(ask())
            except Exception as error:
                logger.debug("No more progress: %s", error)

        thread = threading.Thread(target=follow, name="ips-components-progress", daemon=True)
        with self:
            thread.start()
            try:
                yield self
            finally:
                ended.set()
                thread.join(timeout=10 * interval)


@dataclass(frozen=True, slots=True)
class Bar:
    """How far one side of a run is.

    Attributes
    ----------
    name
        Of the side.
    done, total
        In steps or tasks; `total` is None where it is not known, or was exceeded.
    words
        The same for people, with what goes with it.
    """

    name: str
    done: int
    total: int | None
    words: str


def bars(state: Mapping[str, Any]) -> list[Bar]:
    """The bars of a state: the simulation's, and the analysis' once it has tasks."""
    steps, n_steps = _position(state), state.get("n_steps")
    total = None if n_steps is not None and steps > n_steps else n_steps
    words = ", ".join([_of("step", steps, n_steps), *_traffic(state)])
    found = [Bar("simulation", steps, total, words)]
    tasks = state.get("tasks") or {}
    if tasks.get("total"):
        done, total = tasks["done"], tasks["total"]
        words = f"{numbers.count(done)} of {numbers.count(total)} tasks"
        found.append(Bar("analysis", done, total, words))
    return found


def awaited(state: Mapping[str, Any]) -> str:
    """What a run waits for in this state, in words; empty when it is not known."""
    phase = state.get("phase")
    if phase == "open":
        if not state.get("ranks"):
            return "waiting for the simulation to connect"
        return "waiting for the contract: the analysis makes its graph"
    if phase == "contracted":
        return "waiting for the first step"
    if phase == "running":
        return "running"
    if state.get("alone"):
        return _ALONE
    if phase == "ended":
        tasks = state.get("tasks") or {}
        left = (tasks.get("total") or 0) - (tasks.get("done") or 0)
        return "finishing the analysis" if left > 1 else "writing results"
    return ""


def describe(state: Mapping[str, Any]) -> str:
    """One line of plain text about a state.

    Examples
    --------
    >>> describe({"run": "r1", "steps": 4, "waited": 0.25, "tasks": {"done": 7, "total": 20}})
    'r1: step 4, 7 of 20 tasks, waited 250 ms'
    """
    parts = [_of("step", _position(state), state.get("n_steps"))]
    tasks = state.get("tasks") or {}
    if tasks.get("total"):
        parts.append(f"{numbers.count(tasks['done'])} of {numbers.count(tasks['total'])} tasks")
    parts += _traffic(state)
    parts += _cost(state)
    parts += _left(state)
    if state.get("alone"):
        parts.append(_ALONE)
    elif state.get("phase") in _FINAL:
        parts.append(_FINAL[state["phase"]])
    return f"{state.get('run', 'run')}: {', '.join(parts)}"


def _position(state: Mapping[str, Any]) -> int:
    """Steps that the simulation has put, whether the analysis needs them or not."""
    return max(state.get("steps") or 0, state.get("position") or 0)


def tunnel(address: str, host: str) -> str:
    """How an address of the loopback interface is reached from another machine.

    Examples
    --------
    >>> tunnel("http://127.0.0.1:36713/secret/", "node17")
    'from another machine: ssh -N -L 36713:127.0.0.1:36713 node17'
    """
    place = address.split("/")[2]
    port = place.rpartition(":")[2]
    return f"from another machine: ssh -N -L {port}:{place} {host}"


def _of(noun: str, done: int | None, total: int | None) -> str:
    return f"{noun} {numbers.count(done or 0)} {numbers.of_total(done, total or None)}".rstrip()


def _traffic(state: Mapping[str, Any]) -> list[str]:
    delivered = state.get("delivered")
    if delivered is None:
        return []
    rate = state.get("rate")
    speed = f" ({numbers.rate(rate)})" if rate else ""
    return [f"delivered {numbers.size(delivered)}{speed}"]


def _left(state: Mapping[str, Any]) -> list[str]:
    seconds = state.get("left")
    return [f"about {numbers.duration(max(seconds, 1.0))} left"] if seconds else []


def _cost(state: Mapping[str, Any]) -> list[str]:
    parts = []
    if state.get("waited"):
        parts.append(f"waited {numbers.duration(state['waited'])}")
    memory = [w.get("rss") for w in (state.get("workers") or {}).values() if w.get("rss")]
    if memory:
        parts.append(f"worker memory up to {numbers.size(max(memory))}")
    if state.get("faults"):
        parts.append(numbers.plural(state["faults"], "fault"))
    return parts


class _Lines:
    """Plain lines."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def show(self, line: str) -> None:
        self._stream.write(line + "\n")
        self._stream.flush()

    note = show

    def doing(self, text: str) -> None:
        """What a run waits for, where no line about its steps would say so."""
        if text.startswith("starting"):
            self.show(text)


class _Bars:
    """Two bars and a line that stay in place until they are stopped."""

    def __init__(self, stream: TextIO, console: Console | None = None) -> None:
        from rich.console import Console, Group
        from rich.live import Live
        from rich.progress import BarColumn, Progress, TextColumn
        from rich.text import Text

        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=32, complete_style="blue", finished_style="green"),
            TextColumn("{task.fields[words]}"),
        )
        self._simulation = self._bars.add_task("simulation", total=None, words="starting")
        self._analysis = self._bars.add_task("analysis  ", total=None, words="starting")
        self._line = Text(style="dim", no_wrap=True, overflow="ellipsis")
        self._doing = ""
        self._costs: list[str] = []
        self._live = Live(
            Group(self._bars, self._line),
            console=console or Console(file=stream),
            refresh_per_second=4,
            transient=True,  # a later block, or the summary, takes their place
        )

    def start(self) -> None:
        self._live.start()

    def stop(self) -> None:
        self._live.stop()

    def note(self, text: str) -> None:
        self._live.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def doing(self, text: str) -> None:
        self._doing = text
        self._line.plain = ", ".join([text, *self._costs])

    def show(self, state: Mapping[str, Any]) -> None:
        ids = {"simulation": self._simulation, "analysis": self._analysis}
        for bar in bars(state):
            self._bars.update(ids[bar.name], total=bar.total, completed=bar.done, words=bar.words)
        self._costs = [*_left(state), *_cost(state)]
        self.doing(self._doing)
