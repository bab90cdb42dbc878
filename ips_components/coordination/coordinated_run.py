"""One coupled run as the coordinator keeps it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ips_components.coordination.live_page import LivePage
from ips_components.coordination.published import Published
from ips_components.coordination.run_state import RunState
from ips_components.coordination.settings import DEADLINES
from ips_components.errors import DeadlineExceeded
from ips_components.model.block import Block
from ips_components.model.contract import Contract
from ips_components.model.placement import Placement

if TYPE_CHECKING:
    from ips_components.coordination.launches import LaunchRecord


class CoordinatedRun:
    """A run's state, with what the scheduler process adds: awaiting and addresses."""

    def __init__(self, run: str) -> None:
        self.state = RunState(run)
        self.changed = asyncio.Event()
        self.workers: dict[str, int] = {}  # address -> receiver ordinal, living ones
        self.contract: Contract | None = None
        self.blob = b""
        self.epoch = 0
        self.blocks: dict[str, dict[int, tuple[Block, ...]]] = {}  # array -> rank -> blocks
        self.graph_keys: set[Any] | None = None
        self.flushing: set[str] = set()
        self.flushed = False  # all ranks have said goodbye, and all that was on its way is there
        self.again: set[Any] = set()  # keys of chunks that ranks were asked to send again
        self.results: dict[str, Any] = {}  # keys of the results, once their graph is registered
        self.outcome: dict[str, Any] | None = None  # of the analysis
        self.asked = self.answered = False  # the ranks ask for the contract; they have got it
        self.joined: set[int] = set()  # ranks that have the contract
        self.hosts: list[Any] = []  # by rank: host, blocks by array
        self.cells: dict[str, Any] = {}
        self.ahead = False  # open-ended: what is declared reaches beyond the last step
        self.horizon: dict[int, int] = {}
        self.shared: dict[int, Placement] = {}  # by array: what newcomers have been given
        self.settings: dict[str, Any] = {"deadlines": DEADLINES}
        self.page: LivePage | None = None
        self.launches: list[LaunchRecord] = []  # where the simulation is launched many times
        self.expecting: set[str] = set()  # workers that do not expect the newest launch yet
        self.idle = False  # the ranks of the newest launch have closed their bridges
        self.published = Published()
        self.awaited: list[Any] = []  # keys of the results that the analysis waits for next
        self.closed = False  # the workflow launches nothing any more

    def agree(self, contract: Contract, blob: bytes = b"") -> None:
        """Set the contract, and beside it the binary form that ranks and workers get."""
        self.contract, self.blob = contract, blob or contract.to_bytes()

    @property
    def between_launches(self) -> bool:
        """Whether more launches may come when the ranks have closed their bridges."""
        return bool(self.settings.get("launches")) and not self.closed

    @property
    def has_tasks(self) -> bool:
        """Whether the contract names anything; of one simulation of several, it may be nothing."""
        return self.contract is not None and bool(self.contract.arrays)

    @property
    def holder(self) -> str:
        """The pseudo-client that holds the results, whoever asked for them may die."""
        return f"external-results-{self.state.run}"

    def notify(self) -> None:
        self.changed.set()
        self.changed = asyncio.Event()

    async def until(self, predicate: Callable[[], Any], timeout: float, awaited: str) -> Any:
        """Wait until `predicate` holds; DeadlineExceeded says who was `awaited`."""
        deadline = time.monotonic() + timeout
        while not (value := predicate()):
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                raise DeadlineExceeded(
                    f"run {self.state.run}: waited {timeout:g} s for {awaited}; "
                    "see the simulation's and the workers' logs for the reason, "
                    "or raise the deadline in the config"
                )
            try:
                await asyncio.wait_for(self.changed.wait(), remaining)
            except TimeoutError:
                continue
        return value
