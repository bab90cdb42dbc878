"""Attached clients: they look into a running run, and have data of their own sent.

An attached client has the ranks of a run put into further runs, its *attached runs*: each has a
contract, receivers, credit and a ledger of its own, so that nothing that the first contract
promised changes. The client opens one as an analysis opens its run; the coordinator has the ranks
join it (`Invite`) and ends it when the client is done, leaves, dies, or is silent.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from hmac import compare_digest
from typing import Any

from ips_components.coordination import launches
from ips_components.coordination.coordinated_run import CoordinatedRun
from ips_components.coordination.ending import Ending
from ips_components.coordination.launch_record import LaunchRecord
from ips_components.coordination.messages import (
    Amend,
    Attach,
    AwaitDescription,
    AwaitRanks,
    Detach,
    EndAmendment,
    Invite,
    Renew,
    SendStop,
    Uninvite,
)
from ips_components.coordination.outbox import Outbox
from ips_components.coordination.progress import Progress
from ips_components.errors import ContractError, SimulationLost
from ips_components.wire.contact import Contact

logger = logging.getLogger(__name__)

#: Seconds without a word after which an attached client is given up.
LEASE = 30.0
#: Seconds after its end at which the receivers of an attached run are closed, whatever ranks do.
CLOSE_AFTER = 30.0
#: Contracts and clients of which the record keeps the account.
KEPT = 100
#: Settings of a run that its attached runs share.
SHARED = (
    *("arrays", "decompositions", "halos", "chunks", "at_most", "lanes", "security"),
    *("deadlines", "slot_bytes", "simulation", "n_steps", "launches"),
)


@dataclass(slots=True)
class Amendment:
    """One further contract: an attached run, and what is left of it when it is over."""

    run: CoordinatedRun
    contact: bytes
    since: float
    until: float | None = None
    why: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return its part of the record."""
        state = self.run.state
        signed = self.run.contract is not None
        return {
            "run": state.run,
            "since": self.since,
            "until": self.until,
            "why": self.why,
            "phase": state.phase if signed else "unsigned",
            "arrays": self.run.agreed.table() if signed else [],
            "steps": self._steps() if signed else [],
            "ledger": state.record()["ledger"] if signed else {"closed": True, "arrays": {}},
            "notes": [fault.to_json() for fault in state.faults],
        }

    def _steps(self) -> list[int]:
        """Return the first and the last step that it asks for."""
        bounds = [
            array.spec.steps.step(t)
            for array in self.run.agreed.arrays
            for t in (array.cover.start[0], array.cover.stop[0] - 1)
        ]
        return [min(bounds), max(bounds)] if bounds else []


@dataclass(slots=True)
class AttachedClient:
    """A client that is attached to a run, or was."""

    name: str
    client: str
    since: float
    heard: float
    until: float | None = None
    why: str = ""
    amendments: dict[str, Amendment] = field(default_factory=dict)
    begun: int = 0  # amendments, also those that are not kept

    @property
    def waiting(self) -> bool:
        """Whether it has a contract whose results it may not have yet."""
        return any(each.until is None for each in self.amendments.values())

    def to_json(self) -> dict[str, Any]:
        """Return its part of the record."""
        return {
            "name": self.name,
            "since": self.since,
            "until": self.until,
            "why": self.why,
            "n_contracts": self.begun,
            "contracts": [each.to_json() for each in self.amendments.values()],
        }


class Attaching:
    """Answers attached clients, and ends what they leave behind.

    Parameters
    ----------
    scheduler : distributed.Scheduler
    outbox : Outbox
    ending : Ending
    progress : Progress
    find : callable
        ``find(run id)`` returns a run, a new one if there is none.
    described : callable
        Answers `AwaitDescription`.
    watch : callable
        Called when a client has attached: it is to be looked at now and then.
    """

    def __init__(
        self,
        scheduler: Any,
        outbox: Outbox,
        ending: Ending,
        progress: Progress,
        find: Callable[[str], CoordinatedRun],
        described: Callable[[CoordinatedRun, AwaitDescription], Any],
        watch: Callable[[], None],
    ) -> None:
        self._scheduler = scheduler
        self._outbox = outbox
        self._ending = ending
        self._progress = progress
        self._find = find
        self._described = described
        self._watch = watch

    # -- calls -------------------------------------------------------------------------

    async def attach(self, run: CoordinatedRun, call: Attach) -> dict[str, Any]:
        """Let a client in; what it must know of the run."""
        connect = run.settings["deadlines"]["connect"]
        if not run.over:
            await run.until(lambda: run.state.attempts or run.over, connect, "the run to be opened")
        token = str(run.settings.get("token", ""))
        if not token or not compare_digest(token.encode(), str(call.token).encode()):
            raise ContractError(
                f"run {run.state.run}: the token is not that of the run; attach with its present "
                "contact file"
            )
        if not run.settings.get("attach", True):
            raise ContractError(
                f"run {run.state.run}: its config forbids to attach (ATTACH = False in the "
                "section of the analytics)"
            )
        self._raise_if_over(run)
        arrays = run.settings.get("arrays") or run.state.described
        if not arrays:
            arrays = await self._described(run, AwaitDescription(connect))
        now = run.state.clock()
        run.attached[call.name] = AttachedClient(call.name, call.client_id, now, now)
        while len(run.attached) > KEPT:
            gone = [name for name, each in run.attached.items() if each.until is not None]
            if not gone:
                break
            del run.attached[gone[0]]
        self._watch()
        return {
            **{name: run.settings[name] for name in SHARED if name in run.settings},
            "arrays": arrays,
            "n_receivers": max(1, len(run.workers)),
        }

    async def renew(self, run: CoordinatedRun, call: Renew) -> dict[str, Any]:
        """Note that the client lives; how far the run is."""
        client = self._client(run, call.name)
        client.heard = run.state.clock()
        state = self._progress.progress(run)
        return {
            **state,
            "phase": "alone" if state["alone"] else state["phase"],
            "newest": run.state.position_put - 1,
            "over": not run.may_put,
            "n_ranks": run.state.n_ranks,
            "detached": client.why if client.until is not None else None,
        }

    async def amend(self, run: CoordinatedRun, call: Amend) -> None:
        """Have the ranks join an attached run."""
        self._raise_if_over(run)
        client = self._client(run, call.name)
        if client.until is not None:
            raise ContractError(f"{call.name} is not attached any more: {client.why}")
        attached = self._find(Contact.from_bytes(call.contact).run)
        attached.main = run.state.run
        if launches.is_under_way(run):
            self._expect(attached, run.launches[-1])
        client.amendments[attached.state.run] = Amendment(attached, call.contact, run.state.clock())
        client.begun += 1
        over = [name for name, each in client.amendments.items() if each.until is not None]
        for name in over[: max(0, len(client.amendments) - KEPT)]:
            del client.amendments[name]
        self._outbox.send(run, Invite(call.contact))

    async def ranks(self, run: CoordinatedRun, call: AwaitRanks) -> dict[int, int]:
        """Wait until all ranks have joined an attached run; the newest step that each has begun."""

        main = self._find(run.main) if run.main else run

        def joined() -> dict[int, int]:
            run.raise_if_failed()
            self._raise_if_over(main)
            if main.settings.get("launches") and not launches.is_under_way(main):
                return {0: launches.next_step(main) - 1}  # the next launch begins with it
            n_ranks = run.state.n_ranks
            there = run.state.joined if call.joined else run.begun
            return dict(run.begun) if n_ranks is not None and len(there) >= n_ranks else {}

        found: dict[int, int] = await run.until(
            joined,
            call.timeout,
            f"the ranks to join ({len(run.begun)} of {run.state.n_ranks or 'an unknown number'} "
            "have)",
        )
        return found

    async def end_amendment(self, run: CoordinatedRun, call: EndAmendment) -> None:
        """End an attached run; idempotent."""
        amendment = self._client(run, call.name).amendments.get(call.attached)
        if amendment is not None:
            self._end(run, amendment, call.why)

    async def detach(self, run: CoordinatedRun, call: Detach) -> None:
        """End all attached runs of a client; idempotent."""
        self._detach(run, self._client(run, call.name), call.why)

    # -- launches ----------------------------------------------------------------------

    def begin_launch(self, run: CoordinatedRun, record: LaunchRecord) -> None:
        """Have the attached runs go on with the next launch, from its first step on."""
        for each in self._open(run):
            attached = each.run
            try:
                self._expect(attached, record)
            except ContractError as error:
                self._end(run, each, str(error))
                continue
            record.awaits += attached.state.phase == "running"
            if attached.has_tasks:
                self._ending.give_up_passed(attached, record.first_step)

    def _expect(self, attached: CoordinatedRun, launch: LaunchRecord) -> None:
        """Have the receivers of an attached run expect the ranks of a launch."""
        record = LaunchRecord(launch.number, launch.first_step, launch.size, launch.began)
        launches.expect(attached, record)
        self._outbox.send(attached, record.message(attached.settings.get("launches", {})))
        attached.notify()

    def end_launch(self, run: CoordinatedRun, record: LaunchRecord) -> None:
        """A launch has ended, and with it the part of its ranks in the attached runs."""
        for each in self._open(run):
            attached = each.run
            if not launches.is_under_way(attached):
                continue
            attached.state.awaits_all = False
            for rank in attached.state.missing_goodbyes:
                attached.state.rank_lost(rank, f"launch {record.number} has ended")
            attached.launches[-1].ok = record.ok
            attached.notify()

    def close(self, run: CoordinatedRun) -> None:
        """Nothing is launched any more."""
        for each in self._open(run):
            self._close(each.run)

    def _close(self, attached: CoordinatedRun) -> None:
        """Let an attached run end with its launch; with none under way, end it."""
        if attached.closed or not attached.settings.get("launches"):
            return
        attached.closed = True
        if not launches.is_under_way(attached) and not attached.over:
            self._ending.ranks_closed(attached)

    @staticmethod
    def _open(run: CoordinatedRun) -> list[Amendment]:
        """Return the attached runs that have not ended."""
        every = [each for client in run.attached.values() for each in client.amendments.values()]
        return [each for each in every if each.until is None and not each.run.over]

    # -- ranks that will not join ------------------------------------------------------

    def ranks_gone(self, run: CoordinatedRun) -> None:
        """No rank of this run, or launch, puts any more, or joins its attached runs."""
        for each in self._open(run):
            self._await_joined(each.run, "simulation", "ended", "before the ranks had the contract")

    def _await_joined(self, attached: CoordinatedRun, who: str, what: str, cause: str) -> None:
        """Await no ranks of an attached run but those that have joined: others owe no goodbye."""
        was_over = attached.state.simulation_over
        attached.state.awaits_all = False
        if attached.over:
            self._ending.retire_if_over(attached)
        elif not attached.answered and not attached.between_launches:
            self._ending.fail(attached, who, what, cause)
        elif attached.state.simulation_over and not was_over:
            self._ending.ranks_closed(attached)

    # -- clients that go without a word ------------------------------------------------

    def client_left(self, run: CoordinatedRun, client: str) -> None:
        """A client of Dask has closed its connection, or died."""
        for each in run.attached.values():
            if each.client == client and each.until is None:
                self._note_loss(run, each, "its connection to the scheduler ended")

    def check_liveness(self, run: CoordinatedRun) -> None:
        """Give up clients that are silent."""
        now = run.state.clock()
        for each in run.attached.values():
            if each.until is None and now - each.heard > LEASE:
                self._note_loss(run, each, f"no sign of life for {now - each.heard:.0f} s")
                # A connection without an end would keep its results in the workers' memory.
                if (stream := self._scheduler.client_comms.get(each.client)) is not None:
                    stream.abort()

    def receiver_opened(self, run: CoordinatedRun, worker: str) -> None:
        """A receiver has opened: have it invite the ranks that connect to it first."""
        for client in run.attached.values():
            for each in client.amendments.values():
                if each.until is None:
                    self._outbox.send(run, Invite(each.contact), [worker])

    # -- internals ---------------------------------------------------------------------

    def _client(self, run: CoordinatedRun, name: str) -> AttachedClient:
        if name not in run.attached:
            raise ContractError(f"run {run.state.run}: no client {name!r} is attached")
        client: AttachedClient = run.attached[name]
        return client

    def _raise_if_over(self, run: CoordinatedRun) -> None:
        """Refuse where no rank will put anything any more."""
        if not run.may_put:
            raise SimulationLost(
                f"run {run.state.run}: the {run.state.ending(run.settings.get('n_steps'))}; "
                "there is nothing to attach to"
            )

    def _note_loss(self, run: CoordinatedRun, client: AttachedClient, why: str) -> None:
        logger.info("Attached client %s of run %s is lost: %s", client.name, run.state.run, why)
        self._detach(run, client, f"lost: {why}")

    def _detach(self, run: CoordinatedRun, client: AttachedClient, why: str) -> None:
        if client.until is not None:
            return
        client.until, client.why = run.state.clock(), why or "detached"
        for each in client.amendments.values():
            self._end(run, each, client.why)

    def _end(self, run: CoordinatedRun, amendment: Amendment, why: str) -> None:
        """Have the ranks leave an attached run, and its receivers closed."""
        if amendment.until is not None:
            return
        amendment.until, amendment.why = run.state.clock(), why
        attached = amendment.run
        self._outbox.send(run, Uninvite(attached.state.run))
        attached.analysis_over = True
        if attached.holder in self._scheduler.clients:
            self._scheduler.remove_client(attached.holder)
        if attached.answered and not attached.over:
            attached.state.stop_reason = attached.state.stop_reason or why or "detached"
            self._close(attached)
            self._outbox.send(attached, SendStop(attached.state.stop_reason))
        attached.closed = True
        self._await_joined(attached, "attached client", "left", why or "before its contract")
        self._scheduler.loop.call_later(CLOSE_AFTER, self._ending.close_receivers, attached)
        attached.notify()
