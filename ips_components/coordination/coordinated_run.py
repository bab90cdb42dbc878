"""One coupled run as the coordinator keeps it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ips_components.coordination.launch_record import LaunchRecord
from ips_components.coordination.live_page import LivePage
from ips_components.coordination.messages import WaitingRanks
from ips_components.coordination.published import Published
from ips_components.coordination.run_state import RunState
from ips_components.coordination.settings import DEADLINES
from ips_components.coordination.window_saves import WindowSaves
from ips_components.deadlines import Deadline
from ips_components.errors import ContractError, SimulationLost
from ips_components.model.block import Block
from ips_components.model.contract import Contract
from ips_components.model.placement import Placement


@dataclass(slots=True)
class Stall:
    """Since when nothing has moved, and what the receivers have answered since."""

    mark: tuple[int, ...] = ()  # what has moved until then
    since: float = 0.0  # seconds since the epoch
    ask_at: float = 0.0
    asked: set[str] = field(default_factory=set)
    answers: dict[str, WaitingRanks] = field(default_factory=dict)

    def begin(self, mark: tuple[int, ...], now: float, patience: float) -> None:
        """Something has moved: wait again."""
        self.mark, self.since, self.ask_at = mark, now, now + patience
        self.asked, self.answers = set(), {}


class CoordinatedRun:
    """The data of one run in the scheduler process; the services of the coordinator act on it.

    Only the scheduler's event loop touches it, so that it needs no lock.

    =============================================== ==========================================
    field                                           written by
    =============================================== ==========================================
    ``workers``, ``blocks``, ``asked``              `Membership`
    ``nothing_described``                           `Membership`
    ``contract``, ``blob``, ``ahead``, ``horizon``  `AnalysisCalls`; ``contract`` by `Placer`, too
    ``wanted``                                      `AnalysisCalls`
    ``epoch``, ``again``, ``cells``, ``shared``     `Placer`
    ``graph_keys``, ``results``, ``outcome``        `AnalysisCalls`
    ``flushing``, ``flushed``, ``departing``        `Ending`
    ``absent``                                      `Ending`
    ``stall``                                       `Stalls`
    ``launches``, ``expecting``, ``closed``         `WorkflowCalls`, through `launches`
    ``published``, ``awaited``, ``windows``         `AnalysisCalls`
    ``attached``, ``main``                          `Attaching`
    ``begun``                                       `Membership`
    ``state``                                       each service, through its methods
    =============================================== ==========================================
    """

    def __init__(self, run: str) -> None:
        self.state = RunState(run)
        self.changed = asyncio.Event()
        self.plugin = ""  # worker plugin that opens the receivers
        self.workers: dict[str, int] = {}  # address -> receiver ordinal, open ones
        self.contract: Contract | None = None
        self.remarks: dict[str, dict[str, Any]] = {}  # shown with its table
        self.blob = b""
        self.epoch = 0
        self.blocks: dict[str, dict[int, tuple[Block, ...]]] = {}  # array -> rank -> blocks
        self.graph_keys: set[Any] | None = None
        self.flushing: set[str] = set()
        self.flushed = False  # all ranks have closed, and the workers have announced everything
        self.flush_until = 0.0  # chunks that ranks have put are awaited until then
        self.analysis_over = False  # it has its results, or has failed
        self.departing: set[str] = set()  # workers to whose receivers ranks may be connected
        self.retiring = self.retired = False  # its receivers will be closed; are being closed
        self.absent: set[Any] = set()  # keys of chunks whose steps never came
        self.again: set[Any] = set()  # keys of chunks that ranks were asked to send again
        self.results: dict[str, Any] = {}  # keys of the results, once their graph is registered
        self.outcome: dict[str, Any] | None = None  # of the analysis
        self.asked = self.answered = False  # the ranks ask for the contract; they have got it
        self.nothing_described = False  # rank 0 asked for the contract and described no array
        self.asked_at = self.answered_at = 0.0  # when, in seconds since the epoch
        self.hosts: list[Any] = []  # by rank: host, blocks by array
        self.cells: dict[str, Any] = {}
        self.ahead = False  # open-ended: tasks are declared as steps come, beyond the last one
        self.horizon: dict[int, int] = {}
        self.wanted: dict[int, int] = {}  # by array: rows from here on are dropped
        self.shared: dict[int, Placement] = {}  # by array: what new receivers have been given
        self.settings: dict[str, Any] = {"deadlines": DEADLINES}
        self.page: LivePage | None = None
        self.launches: list[LaunchRecord] = []  # where the simulation is launched many times
        self.expecting: set[str] = set()  # workers that do not expect the newest launch yet
        self.idle = False  # the ranks of the newest launch have closed their bridges
        self.published = Published()
        self.windows = WindowSaves()
        self.awaited: list[Any] = []  # keys of the results that the analysis waits for next
        self.stall = Stall()
        self.closed = False  # the workflow launches nothing any more
        self.attached: dict[str, Any] = {}  # `AttachedClient`s by name, those that left as well
        self.main = ""  # of an attached run: the run that it is attached to
        self.begun: dict[int, int] = {}  # of an attached run: newest step of each rank that joins

    def agree(self, contract: Contract, blob: bytes = b"") -> None:
        """Set the contract, and beside it the binary form that ranks and workers get."""
        self.contract, self.blob = contract, blob or contract.to_bytes()

    @property
    def between_launches(self) -> bool:
        """Whether more launches may come when the ranks have closed their bridges."""
        return bool(self.settings.get("launches")) and not self.closed

    @property
    def may_put(self) -> bool:
        """Whether ranks may put further steps: there is something to attach to."""
        return not self.state.simulation_over or self.between_launches

    @property
    def agreed(self) -> Contract:
        """The contract; ContractError if there is none yet."""
        if self.contract is None:
            raise ContractError(f"run {self.state.run} has no contract yet")
        return self.contract

    def open_endpoints(self) -> list[dict[str, Any]]:
        """Return the endpoints of the open receivers."""
        return [self.state.endpoints[ordinal] for ordinal in sorted(self.workers.values())]

    def raise_if_failed(self) -> None:
        """Raise the run's first fault, if it has failed."""
        fault = self.state.fatal
        if fault is not None:
            raise SimulationLost(f"{fault.who} {fault.what}: {fault.cause}")

    @property
    def over(self) -> bool:
        """Whether the run has ended or failed."""
        return self.state.phase in ("ended", "failed")

    @property
    def has_tasks(self) -> bool:
        """Whether the contract names anything; of one simulation of several, it may be nothing."""
        return self.contract is not None and bool(self.contract.arrays)

    @property
    def grows(self) -> bool:
        """Whether one graph spans all steps of an array that has no number of them."""
        arrays = () if self.contract is None else self.contract.arrays
        return any(a.spec.steps.at_most and a.spec.steps.open_ended for a in arrays)

    @property
    def with_windows(self) -> bool:
        """Whether steps that are declared and do not come are of windows that are left out."""
        return self.ahead and not self.grows

    @property
    def graph_is_there(self) -> bool:
        """Whether the graph that needs the chunks is registered."""
        return self.state.phase in ("running", "ended", "failed")

    @property
    def holder(self) -> str:
        """The pseudo-client that holds the results, so that they outlive the analysis task."""
        return f"external-results-{self.state.run}"

    def notify(self) -> None:
        self.changed.set()
        self.changed = asyncio.Event()

    async def until(self, predicate: Callable[[], Any], timeout: float, awaited: str) -> Any:
        """Wait until `predicate` holds; DeadlineExceeded says what was `awaited`."""
        deadline = Deadline(timeout)
        while not (value := predicate()):
            deadline.raise_if_expired(
                f"run {self.state.run}: waited {timeout:g} s for {awaited}; "
                "see the simulation's and the workers' logs for the reason, "
                "or raise the deadline in the config"
            )
            try:
                await asyncio.wait_for(self.changed.wait(), deadline.left)
            except TimeoutError:
                continue
        return value
