"""Live state of one coupled run, without any Dask: ranks, workers, progress, faults.

The scheduler plugin feeds events in (:mod:`._coordinator`); everything that people read
afterwards (progress, live page, report, ledger) comes out of :meth:`RunState.record`.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ips_components.coordination.ledger import Ledger
from ips_components.coordination.pace import Growth
from ips_components.coordination.step_report import StepReport
from ips_components.coordination.steps import Steps, grown
from ips_components.external.groups import BoundedDict

#: Phases of a run, in order.  ``failed`` and ``ended`` are final.
PHASES = ("open", "contracted", "running", "ended", "failed")

#: Samples kept for the report; older ones are thinned out by a factor of two.
MAX_SAMPLES = 4096
#: Steps of which the physical time is kept, the newest ones.
MAX_TIMES = 1 << 20
#: Faults kept: the first half of them, and the newest.
MAX_FAULTS = 1000
#: Seconds between two looks at how far the ranks are, of which rates are computed.
NOTE_EVERY = 0.05


@dataclass(slots=True)
class Fault:
    """Something that went wrong: when, who, what and why."""

    t: float
    who: str
    what: str
    cause: str

    @property
    def text(self) -> str:
        return f"{self.who} {self.what}: {self.cause}"

    def to_json(self) -> dict[str, Any]:
        return {"t": self.t, "who": self.who, "what": self.what, "cause": self.cause}


class RunState:
    """What the coordinator knows of one run.

    Parameters
    ----------
    run : str
        The run id.
    clock : callable, optional
        Seconds since the epoch; tests pass their own.
    """

    def __init__(self, run: str, clock: Any = time.time) -> None:
        self.run = run
        self.clock = clock
        self.phase = "open"
        self.started = clock()
        self.ended: float | None = None
        self.attempts = 0
        self.endpoints: dict[int, dict[str, Any]] = {}
        self.n_ranks: int | None = None
        self.first_hello: float | None = None
        self.ranks: dict[int, dict[str, Any]] = {}
        self.joined: set[int] = set()  # ranks that have the contract
        self.awaits_all = True  # else only those that have joined: no other will
        self.without_cells: set[int] = set()  # ranks that put nothing
        self.byes: dict[int, str] = {}
        self._last_steps: dict[int, int] = {}
        self.lost_ranks: dict[int, str] = {}
        self.described: list[dict[str, Any]] | None = None
        self.ledger = Ledger()
        self.steps = Steps()
        self.times: dict[int, float] = BoundedDict(MAX_TIMES)  # physical, as ranks have said them
        self.newest_step: int | None = None
        self.position = 0  # steps behind the rank that is furthest, as ranks say it now and then
        self.signs = 0  # reports of ranks that go on, but put what is not wanted
        self._waited = np.zeros(0)  # seconds by rank, in the newest launch
        self._waited_before = np.zeros(0)  # in earlier launches
        self.last_put: int | None = None  # newest step that ranks of this launch have put
        self.bytes_delivered, self.steps_put, self.tasks_done = Growth(), Growth(), Growth()
        self._noted = 0.0  # when the first two were
        self.samples: deque[dict[str, Any]] = deque()
        self.faults: list[Fault] = []  # the first and the last ones
        self.faults_left_out = 0
        self.fatal: Fault | None = None  # the one that made the run fail
        self._beyond: set[str] = set()  # arrays that were put beyond their steps, as is noted
        self.left_out: Fault | None = None  # for which the run goes on without its simulation
        self.stop_reason: str | None = None

    # -- events -----------------------------------------------------------------------

    def hello(self, rank: int, info: Mapping[str, Any]) -> None:
        self.n_ranks = int(info["size"])
        if self.first_hello is None:
            self.first_hello = self.clock()
        if not info.get("asks"):
            self.joined.add(rank)
        self.ranks.setdefault(rank, {}).update(
            {key: info[key] for key in ("host", "pid", "lane") if key in info}
        )

    def begin_launch(self, size: int) -> None:
        """Expect the ranks of another launch; the accounts of those before stay."""
        self._waited_before = np.array(self.waited)
        self._waited = np.zeros(0)
        self.ledger.begin_launch()
        self.steps.begin_launch()
        self.n_ranks, self.first_hello, self.last_put = size, None, None
        self.awaits_all = True
        self.ranks.clear()
        self.joined.clear()
        self.without_cells.clear()
        self.byes.clear()
        self._last_steps.clear()
        self.lost_ranks.clear()

    def launch_accounts(self) -> dict[str, Any]:
        """The accounts of the newest launch alone."""
        return self.ledger.launch_to_json()

    def step_end(self, rank: int, step: int, waited: float, counters: Mapping[str, Any]) -> None:
        """A rank has put everything of ``step``; ``waited`` is its total so far in seconds."""
        self.ledger.update(rank, counters)
        self._step_ends(step, np.array([rank]), np.array([waited]))
        self._note_growth()

    def step_ends(self, report: StepReport) -> None:
        """Ranks have put everything of some steps: the same for many at once."""
        self.ledger.update_all(report.accounted, report.names, report.counts)
        for step, moment in zip(report.timed.tolist(), report.times.tolist(), strict=True):
            self.times.setdefault(step, moment)
        self.position = max(self.position, report.position)
        self.signs += bool(np.setdiff1d(report.accounted, report.ranks).size)
        for step, mine in _by_step(report.steps):
            self._step_ends(step, report.ranks[mine], report.waited[mine])
        if self.clock() - self._noted >= NOTE_EVERY:
            self._note_growth()

    def _note_growth(self) -> None:
        """Note how far the ranks are, as they say it themselves: chunks arrive when they may."""
        self._noted = now = self.clock()
        self.bytes_delivered.note(now, self.ledger.total("delivered"))
        self.steps_put.note(now, self.position_put)

    def _step_ends(self, step: int, ranks: NDArray[np.int64], waited: NDArray[np.float64]) -> None:
        now = self.clock()
        self._waited = grown(self._waited, ranks)
        since = np.maximum(waited - self._waited[ranks], 0.0)
        self._waited[ranks] += since
        self.newest_step = step if self.newest_step is None else max(step, self.newest_step)
        self.without_cells.difference_update(ranks.tolist())
        putting = None if self.n_ranks is None else self.n_ranks - len(self.without_cells)
        if (completed := self.steps.put(step, ranks, since, putting, now)) is not None:
            completed.delivered = self.ledger.total("delivered")

    def bye(self, rank: int, status: str, counters: Mapping[str, Any], last_step: int = -1) -> None:
        self.byes[rank] = status
        self._last_steps[rank] = last_step
        if last_step >= 0:
            self.last_put = max(last_step, self.last_put or 0)
        self.ledger.update(rank, counters, final=True)
        for name, account in counters.items():
            if (beyond := account.get("beyond", 0)) and name not in self._beyond:
                self._beyond.add(name)
                self.fault(
                    f"rank {rank}",
                    "notes",
                    f"it put array {name!r} at steps beyond the last one of the run: {beyond} "
                    f"step{'s were' if beyond > 1 else ' was'} left out; if they are meant, give "
                    "that many steps where the array is described, or NSTEP in [TIME_LOOP]; a "
                    "driver that calls step for START, too, launches once more than [TIME_LOOP] "
                    "has intervals",
                )

    def rank_lost(self, rank: int, why: str) -> bool:
        """Note the death of a rank; False when it is known or no goodbye of it is awaited."""
        if rank in self.byes or rank in self.lost_ranks:
            return False
        if not self.awaits_all and rank not in self.joined:
            return False
        self.lost_ranks[rank] = why
        self.ledger.write_off(rank)
        self.fault(f"rank {rank}", "lost", why)
        return True

    def analysed(self, step: int) -> None:
        """All consumers of a step are done; after a failure they have only been given up."""
        if self.phase != "failed":
            self.steps.note_analysed(step, self.clock())

    def sample(self, sample: dict[str, Any]) -> None:
        self.samples.append({"t": self.clock(), **sample})
        if len(self.samples) > MAX_SAMPLES:
            self.samples = deque(list(self.samples)[::2])

    def fault(self, who: str, what: str, cause: str) -> None:
        self.faults.append(Fault(self.clock(), who, what, cause))
        if len(self.faults) > MAX_FAULTS:
            del self.faults[MAX_FAULTS // 2]
            self.faults_left_out += 1

    def fail(self, who: str, what: str, cause: str) -> None:
        """The run cannot succeed any more; the first cause is kept."""
        self.fault(who, what, cause)
        if self.phase != "failed":
            self.fatal = self.faults[-1]
            self.phase = "failed"
            self.ended = self.clock()

    def leave_out(self, who: str, what: str, cause: str) -> None:
        """The simulation has failed, and the analysis goes on with what it has delivered."""
        self.fault(who, what, cause)
        self.left_out = self.faults[-1]

    def end(self) -> None:
        if self.phase not in ("failed", "ended"):
            self.phase = "ended"
            self.ended = self.clock()

    # -- questions --------------------------------------------------------------------

    @property
    def position_put(self) -> int:
        """Steps of its own that the simulation has put, whether they are wanted or not.

        Ranks say where they are at the end of each step of which something is wanted; in other
        steps not more often than once a second.
        """
        known = [each + 1 for each in (self.newest_step, self.last_put) if each is not None]
        return max([*known, self.position])

    @property
    def simulation_over(self) -> bool:
        """All ranks that are awaited have said goodbye or are lost."""
        return self.n_ranks is not None and self.lost_ranks.keys() >= set(self.missing_goodbyes)

    @property
    def missing_goodbyes(self) -> list[int]:
        """Ranks that have not closed their bridge, whether they are lost or still there."""
        awaited = range(self.n_ranks or 0) if self.awaits_all else sorted(self.joined)
        return [rank for rank in awaited if rank not in self.byes]

    @property
    def last_common_step(self) -> int | None:
        """The last step that every rank has put, once all have closed; None before."""
        if self.n_ranks is None or len(self._last_steps) < self.n_ranks:
            return None
        return min(self._last_steps.values(), default=None)

    def newest_steps(self) -> NDArray[np.int64]:
        """The newest step that each rank of this launch has put, as far as is known; else -1."""
        newest = self.steps.newest_of(self.n_ranks or 0)
        for rank, step in self._last_steps.items():
            newest[rank] = max(newest[rank], step)
        return newest

    @property
    def steps_done(self) -> int:
        """Steps that all ranks have put."""
        return self.steps.complete

    @property
    def waited(self) -> list[float]:
        """Seconds that each rank has waited so far, up to the last one that said so."""
        size = max(len(self._waited), len(self._waited_before))
        before = np.pad(self._waited_before, (0, size - len(self._waited_before)))
        seconds: list[float] = (
            before + np.pad(self._waited, (0, size - len(self._waited)))
        ).tolist()
        return seconds

    def ending(self, n_steps: int | None) -> str:
        """``ended at step k of n``, as the errors of the remaining tasks say it."""
        last = max((s for s in (self.newest_step, self.last_put) if s is not None), default=None)
        reached = "before its first step" if last is None else f"at step {last}"
        # A total that is exceeded is no total: programs may take their own number of steps.
        of = "" if n_steps is None or (last or 0) > n_steps else f" of {n_steps}"
        return f"simulation ended {reached}{of}"

    def progress(self) -> dict[str, Any]:
        """A few numbers for a progress line; cheap."""
        self._note_growth()
        return {
            "run": self.run,
            "phase": self.phase,
            "t": self.clock(),
            "started": self.started,
            "steps": self.steps_done,
            "position": self.position_put,
            "analysed": self.steps.analysed,
            "signs": self.signs,
            "ranks": len(self.ranks),
            "produced": self.ledger.total("produced"),
            "delivered": self.ledger.total("delivered"),
            "skipped": self.ledger.total("skipped"),
            "waited": max(self.waited, default=0.0),
            "faults": len(self.faults) + self.faults_left_out,
            "left_out": "" if self.left_out is None else self.left_out.text,
            "workers": self.latest_samples(),
        }

    def latest_samples(self) -> dict[str, dict[str, Any]]:
        """The newest sample of every worker that has sent one, by address."""
        return {sample["worker"]: sample for sample in self.samples if "worker" in sample}

    def _account(self) -> dict[str, Any]:
        """The ledger; it is closed only when every rank that is awaited has closed, too."""
        account = self.ledger.to_json()
        all_said_goodbye = not self.missing_goodbyes or self.left_out is not None
        return {**account, "closed": account["closed"] and all_said_goodbye}

    def record(self) -> dict[str, Any]:
        """The coordinator's part of ``run.json``."""
        return {
            "run": self.run,
            "phase": self.phase,
            "started": self.started,
            "ended": self.ended,
            "workers": [self.endpoints[o] for o in sorted(self.endpoints)],
            "ranks": [{"rank": rank, **self.ranks[rank]} for rank in sorted(self.ranks)],
            "byes": {str(rank): status for rank, status in sorted(self.byes.items())},
            "ledger": self._account(),
            "steps": self.steps.to_json(),
            "step_counts": self.steps.counts(),
            "waited": {"per_rank": self.waited},
            "samples": list(self.samples),
            "faults": [fault.to_json() for fault in self.faults],
            "faults_left_out": self.faults_left_out,
            "fatal": None if self.fatal is None else self.fatal.to_json(),
            "left_out": [] if self.left_out is None else [self.left_out.to_json()],
            "stop_reason": self.stop_reason,
        }


def _by_step(steps: NDArray[np.int64]) -> Iterator[tuple[int, Any]]:
    """Yield each step, and which entries are of it; nearly always they all are of one."""
    if len(steps) and (steps == steps[0]).all():
        yield int(steps[0]), slice(None)
        return
    for step in np.unique(steps).tolist():
        yield step, steps == step
