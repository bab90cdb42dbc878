"""The bridge: three calls in a simulation (open, put, close) couple it to the analysis."""

from __future__ import annotations

import contextlib
import os
import time
import weakref
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

from ips_components.bridge._arrays import Array, Outgoing
from ips_components.bridge._comm import Apart, Communicator, Serial, from_rank_0, to_rank_0
from ips_components.bridge._putting import Putting
from ips_components.bridge._transport import Transport
from ips_components.errors import (
    AnalyticsLost,
    BridgeError,
    ContactError,
    ContractError,
    DeadlineExceeded,
    IPSComponentsError,
    RunStopped,
)
from ips_components.model.contract import Contract
from ips_components.model.spec import ArraySpec
from ips_components.wire import contact as contacts
from ips_components.wire import framing, values
from ips_components.wire import messages as m

DEADLINE = "IPS_COMPONENTS_DEADLINE"
_NOTHING: Any = object()
Whereabouts: TypeAlias = tuple[str, dict[str, list[tuple[list[int], list[int]]]]]
"""A rank's host, and its blocks by array."""


@dataclass(frozen=True, slots=True)
class BridgeStatistics:
    """What a bridge did: its account per array, seconds waited, how it reaches receivers.

    ``waited_per_step`` has the latest steps that waited at all.
    """

    arrays: dict[str, dict[str, dict[str, int]]]
    waited: float
    waited_per_step: dict[int, float] = field(default_factory=dict)
    lanes: dict[int, str] = field(default_factory=dict)
    lost: str | None = None


class Bridge(Putting):
    """Connects the ranks of a simulation to the analysis of its arrays.

    Parameters
    ----------
    comm
        Communicator of all ranks (mpi4py's, or anything with ``rank``, ``size`` and ``bcast``).
        None: a serial program, or ranks that say who they are by ``rank`` and ``size``.
    contact
        Path of the contact file. None: the environment's ``IPS_COMPONENTS_CONTACT``.
    arrays
        What the simulation offers, described in code. None: the workflow's config has described
        it; ``put`` then takes blocks of the regular decomposition, or an ``offset`` with each.
    rank, size
        Only without ``comm``.

    Raises
    ------
    ContactError, ContractError, DeadlineExceeded
        On every rank alike, when rank 0 finds no contact file, no receiver, or no contract.

    Notes
    -----
    ============= ============ ================================= ================================
    call          who          blocks                            the caller's array
    ============= ============ ================================= ================================
    `Bridge`      collective   until the contract is there       -
    `put`         independent  while credit or a buffer lacks;   may be re-used on return
                               else for one copy; not in the
                               contract: about a microsecond
    `block`       independent  while credit or a buffer lacks    belongs to the bridge; not to be
                                                                 touched after the ``with``
    `step_end`    independent  no                                -
    `wait`        independent  until all is taken by receivers   -
    `receive`     collective   until the value is there, or it   the value is the caller's
                               is known that it will not come;
                               not at all with a ``default``
    `should_stop` collective   no                                -
    `close`       collective   until all is taken and accounted  -
    ============= ============ ================================= ================================

    "Independent" calls may be made by any rank at any time, in any order of arrays within a step;
    steps must rise. One thread of a rank at a time may use a bridge.

    A simulation may be launched many times in one run. `first_step` is the step at which this
    launch goes on, the same on every rank; 0 in the first one.

    Examples
    --------
    ::

        with Bridge(comm=MPI.COMM_WORLD) as bridge:
            for step in range(steps):
                advance(field)
                bridge.put("temperature", step, field)
    """

    def __init__(
        self,
        comm: Communicator | None = None,
        contact: str | os.PathLike[str] | None = None,
        arrays: Sequence[Array] | None = None,
        *,
        rank: int | None = None,
        size: int | None = None,
    ) -> None:
        if comm is None:
            comm = Serial() if rank is None and size is None else Apart(rank or 0, size or 1)
        elif rank is not None or size is not None:
            raise BridgeError("give either a communicator or rank and size, not both")
        self._comm = comm
        self.rank, self.size = comm.rank, comm.size
        self._closed = False
        self._pid = os.getpid()
        self._begin()
        described = {array.name: array for array in arrays or ()}
        if len(described) < len(arrays or ()):
            names = [array.name for array in arrays or ()]
            twice = sorted({name for name in names if names.count(name) > 1})
            raise BridgeError(
                f"array {twice[0]!r} is described more than once: an array has one description, "
                "which may name several blocks"
            )
        hosts = to_rank_0(comm, _whereabouts(described.values()))
        found, frame = from_rank_0(
            comm, lambda: self._open(contact, list(described.values()), hosts or [])
        )
        self._contact = contacts.Contact.from_bytes(found)
        header = framing.parse_header(frame)
        message = framing.parse(header, memoryview(frame)[framing.HEADER_BYTES :])
        if not isinstance(message, m.ContractIs):
            raise ContractError("rank 0 broadcast something that is not a contract")
        self._contract = Contract.from_bytes(message.contract)
        self.first_step, self._launch = message.first_step, message.launch
        self._many = bool(message.launch_flags & m.ContractIs.MANY_LAUNCHES)
        if message.launch_flags & m.ContractIs.RENUMBER:
            self._shift = message.first_step
        contact_now = contacts.Contact(
            self._contact.run,
            self._contact.token,
            message.endpoints,
            self._contact.deadlines,
            self._contact.options,
            tls=self._contact.tls,
        )
        self._transport = Transport(contact_now, self.rank, self.size)
        self._transport.contract = message
        self._transport.digest = message.digest
        try:
            self._outgoing = self._prepare(described)
            if message.endpoints:
                self._transport.home()
            else:  # nobody wants anything, for nobody is there
                self._transport.lost = "the receivers went away before there was a contract"
        except BaseException:
            self._transport.close()
            raise
        self._agreed = [out for out in self._outgoing.values() if out.contract is not None]
        _living.add(self)

    # -- opening -------------------------------------------------------------------------------

    def _open(
        self, path: str | os.PathLike[str] | None, described: list[Array], hosts: list[Whereabouts]
    ) -> tuple[bytes, bytes]:
        """Find the contact file and ask for the contract (rank 0)."""
        contact = _wait_for_contact(path)
        transport = Transport(contact, self.rank, self.size)
        try:
            transport.described = described
            transport.hosts = hosts
            contract = transport.ask_contract()
        except AnalyticsLost:
            if contact.options["on_analytics_loss"] == "abort":
                raise
            contract = m.ContractIs(bytes(32), Contract(contact.run, ()).to_bytes())
        finally:
            transport.close()
        return contact.to_bytes(), framing.pack(contract)

    def _as_agreed(self, described: ArraySpec, agreed: ArraySpec) -> ArraySpec:
        """Return a description with the run's steps, where launches may describe only their own."""
        if not self._many or described.steps.every != agreed.steps.every:
            return described
        return replace(described, steps=agreed.steps)

    def _prepare(self, described: dict[str, Array]) -> dict[str, Outgoing]:
        transport = self._transport
        outgoing: dict[str, Outgoing] = {}
        for ordinal, contract in enumerate(self._contract.arrays):
            name = contract.spec.name
            one = described.get(name)
            if described and one is None:
                raise ContractError(
                    f"the analysis wants array {name!r}, this simulation describes "
                    f"{sorted(described)}: rename one of them"
                )
            if one is not None and self._as_agreed(one.spec, contract.spec) != contract.spec:
                raise ContractError(
                    f"array {name!r} is described in code as {one.spec}, but the contract has "
                    f"{contract.spec}: describe it in one place only"
                )
            out = Outgoing(name, one, contract, ordinal, self.rank, self.size)
            outgoing[name] = out
            transport.outgoing[ordinal] = out
            transport.rings[ordinal] = out.rings
        for name, one in described.items():
            if name not in outgoing:
                outgoing[name] = Outgoing(name, one, None, len(outgoing), self.rank, self.size)
        transport.blocks = {
            name: [(block.offset, block.shape) for block in out.blocks]
            for name, out in outgoing.items()
            if out.blocks is not None and out.contract is not None
        }
        self._described = bool(described)
        options = self._contact.options
        self._replay = max(0, int(options["replay_steps"]))
        self._lends = self._replay == 0
        self._shared = "shm" in transport.lanes and any(
            link.endpoint.local and link.endpoint.unix for link in transport.links.values()
        )
        return outgoing

    # -- news ----------------------------------------------------------------------------------

    def receive(
        self,
        name: str,
        step: int | None = None,
        default: Any = _NOTHING,
        timeout: float | None = None,
    ) -> Any:
        """Return a value that the analysis sent; the same on every rank. Collective.

        Parameters
        ----------
        name
            Of the value.
        step
            Without a `default`: wait for the value that was sent for exactly this step. With
            one: of the values sent for this step or an earlier one, the latest. None: the latest
            of all.
        default
            What to return when there is none yet. Without it, wait.
        timeout
            Seconds to wait; None: the run's deadline for a step.

        Raises
        ------
        RunStopped
            At once, when the analysis has stopped the run, or has returned, without having sent
            the value.
        AnalyticsLost
            As soon as it is known that nobody is left to send it.
        DeadlineExceeded
            When it did not come in time.

        Notes
        -----
        With a `default` nothing is raised unless the run shall end with its analysis.
        """
        self._check_open()
        if step is not None:
            step += self._shift

        def of_rank_0() -> Any:
            transport = self._transport
            exact = default is _NOTHING

            def no_more() -> bool:
                return values.NO_MORE.name in transport.feedback

            limit = transport.deadlines["step"] if timeout is None else timeout
            if exact:
                transport.wait_for(
                    lambda: (
                        self._feedback(name, step, exact) is not None
                        or transport.stop is not None
                        or no_more()
                        or transport.quiet
                    ),
                    limit,
                )
            found = self._feedback(name, step, exact)
            if found is not None:
                return (True, values.decode(found))
            if not exact:
                return (False, None)
            missing = f"no value {name!r} " + ("" if step is None else f"for step {step} ")
            if transport.stop is not None and transport.fault is None:
                raise RunStopped(
                    f"{missing}will come: the analysis has stopped the run ({transport.stop}); "
                    "leave the time loop and close the bridge"
                )
            transport.check()
            if no_more() and not transport.quiet:
                raise RunStopped(
                    f"{missing}will come: the analysis has all its results and has returned; "
                    "leave the time loop, or give a default"
                )
            if transport.quiet:
                why = transport.lost if transport.fault is None else transport.fault.text
                raise AnalyticsLost(f"{missing}will come, the analysis is gone: {why}")
            raise DeadlineExceeded(
                f"{missing}came from the analysis within {limit:g} s; give a default, or see "
                "whether the analysis sends it"
            )

        found, value = from_rank_0(self._comm, of_rank_0)
        return value if found else default

    def _feedback(self, name: str, step: int | None, exact: bool) -> m.Feedback | None:
        with self._transport.changed:
            steps = self._transport.feedback.get(name, {})
            if exact and step is not None:
                return steps.get(step)
            held = [k for k in steps if step is None or k <= step]
            return steps[max(held)] if held else None

    def should_stop(self) -> bool:
        """Tell whether the analysis has what it wants; the same on every rank. Collective."""
        self._check_open()
        return bool(from_rank_0(self._comm, lambda: self._transport.stop is not None))

    @property
    def stop_reason(self) -> str | None:
        """Why the analysis wants to stop, as far as this rank knows."""
        return self._transport.stop

    # -- ending --------------------------------------------------------------------------------

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until receivers have taken all that was put; return whether they have."""
        limit = self._transport.deadlines["drain"] if timeout is None else timeout
        return self._transport.drain(limit)

    def close(self, status: str = "ok", reason: str = "") -> None:
        """Send what is left, say goodbye with the final account, and end. May be called twice.

        Parameters
        ----------
        status
            ``"ok"`` or ``"aborted"``.
        reason
            Why, when aborted.
        """
        if self._closed:
            return
        transport = self._transport
        try:
            if self._step is not None:
                self._end_step()
            drained = transport.drain(transport.deadlines["drain"] if status == "ok" else 1.0)
            if not drained:
                self._write_off()
            answered = self._goodbye(status, reason)
        finally:
            self._closed = True
            _living.discard(self)
            transport.close()
        if status == "ok" and not (drained and answered):
            transport.check()
            if not drained and not transport.quiet:
                raise BridgeError(
                    f"rank {self.rank}: receivers did not take all data within "
                    f"{transport.deadlines['drain']:g} s of the end; what is missing is accounted "
                    "as lost"
                )

    def _goodbye(self, status: str, reason: str) -> bool:
        """Tell the receivers, and stay until they answer; return whether one has.

        They do so when all that was put has arrived: if one of them dies meanwhile, this rank is
        there to send its chunks to another one.
        """
        transport = self._transport
        bye = m.Bye(self._newest, int(status != "ok"), self._counters(), reason)
        deadline = time.monotonic() + transport.deadlines["connect"]
        while not transport.quiet or transport.any_open():
            transport.say_bye(bye)
            if not transport.wait_for(transport.bye_answered, deadline - time.monotonic()):
                import logging  # 4 ms that no rank has to pay at import

                logging.getLogger(__name__).warning(
                    "Rank %s: receivers did not answer the goodbye", self.rank
                )
            if transport.said_bye or transport.quiet or time.monotonic() > deadline:
                break
            try:
                transport.home()  # those who heard it are gone
            except (OSError, IPSComponentsError) as error:
                with transport.changed:
                    transport.lost = transport.lost or str(error)
        return bool(transport.said_bye)

    def _write_off(self) -> None:
        """Move what nobody took from delivered to lost."""
        for ordinal, (blocks, nbytes) in self._transport.untaken().items():
            out = self._transport.outgoing[ordinal]
            blocks, nbytes = min(blocks, out.delivered_blocks), min(nbytes, out.delivered_bytes)
            out.delivered_blocks -= blocks
            out.lost_blocks += blocks
            out.delivered_bytes -= nbytes
            out.lost_bytes += nbytes

    def __enter__(self) -> Bridge:
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if error is None or (isinstance(error, SystemExit) and not error.code):
            self.close()  # a program that exits with status 0 has ended well
            return
        with contextlib.suppress(Exception):  # the body's error is the one to see
            self.close("aborted", f"{type(error).__name__}: {error}")

    def statistics(self) -> BridgeStatistics:
        """Return this rank's account so far."""
        arrays = {}
        for name, out in self._outgoing.items():
            counters = out.counters()
            arrays[name] = {
                "blocks": dict(zip(counters.NAMES, counters.blocks, strict=True)),
                "bytes": dict(zip(counters.NAMES, counters.bytes, strict=True)),
            }
        transport = self._transport
        return BridgeStatistics(
            arrays=arrays,
            waited=self._transport.waited_ns / 1e9,
            waited_per_step=dict(self._step_waited),
            lanes=transport.open_lanes(),
            lost=transport.lost or (transport.fault.text if transport.fault else None),
        )

    # -- helpers -------------------------------------------------------------------------------

    def _counters(self) -> tuple[m.Counters, ...]:
        return tuple(out.counters() for out in self._agreed)


_living: weakref.WeakSet[Bridge] = weakref.WeakSet()


def _after_fork() -> None:
    # A child that kept the sockets open would hide its parent's death from the receivers.
    for bridge in list(_living):
        bridge._closed = True
        bridge._transport.release_in_child()
    _living.clear()


os.register_at_fork(after_in_child=_after_fork)


def _whereabouts(described: Iterable[Array]) -> Whereabouts:
    """Return this rank's host and what it holds: chunks go to receivers on the same host."""
    boxes: dict[str, list[tuple[list[int], list[int]]]] = {}
    for one in described:
        if one.blocks is not None:
            boxes[one.name] = [(list(offset), list(extent)) for offset, extent in one.blocks]
        elif one.offset is not None:  # its extent is known at the first put only
            boxes[one.name] = [(list(one.offset), [1] * len(one.offset))]
    return contacts.host_identity()[0], boxes


def _wait_for_contact(path: str | os.PathLike[str] | None) -> contacts.Contact:
    """Read the contact file, as soon as there is one."""
    path = path or os.environ.get(contacts.ENVIRONMENT)
    if not path:
        raise ContactError(
            f"no contact file: neither Bridge(contact=...) nor the environment variable "
            f"{contacts.ENVIRONMENT} names one; the simulation component sets it"
        )
    text = os.environ.get(DEADLINE, "60")
    try:
        limit = float(text)
    except ValueError:
        raise ContactError(f"{DEADLINE} must be a number of seconds, got {text!r}") from None
    deadline = time.monotonic() + limit
    pause = 0.01
    while True:
        try:
            return contacts.read(path)
        except FileNotFoundError:
            if time.monotonic() + pause > deadline:
                raise ContactError(
                    f"no contact file at {path} after {limit:g} s: the analytics have not started; "
                    f"see their log, or raise {DEADLINE}"
                ) from None
        # A file system has no portable signal for a new file: look again, ever less often.
        time.sleep(pause)
        pause = min(0.5, 2 * pause)
