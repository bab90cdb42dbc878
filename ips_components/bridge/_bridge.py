"""The bridge: three calls in a simulation (open, put, close) couple it to the analysis."""

from __future__ import annotations

import contextlib
import logging
import os
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from math import prod
from typing import Any

import numpy as np

from ips_components.bridge._arrays import Array, Cells, Outgoing
from ips_components.bridge._comm import Apart, Communicator, Serial, from_rank_0
from ips_components.bridge._slots import Ring, Slot, Stored, aligned
from ips_components.bridge._transport import Transport
from ips_components.errors import AnalyticsLost, BridgeError, ContactError, ContractError
from ips_components.model.contract import Contract
from ips_components.model.pieces import Piece
from ips_components.wire import contact as contacts
from ips_components.wire import framing, values
from ips_components.wire import messages as m

logger = logging.getLogger(__name__)

DEADLINE = "IPS_COMPONENTS_DEADLINE"
_NOTHING: Any = object()


@dataclass(frozen=True, slots=True)
class BridgeStatistics:
    """What a bridge did: its account per array, seconds waited, how it reaches receivers."""

    arrays: dict[str, dict[str, dict[str, int]]]
    waited: float
    waited_per_step: dict[int, float] = field(default_factory=dict)
    lanes: dict[int, str] = field(default_factory=dict)
    lost: str | None = None


class Bridge:
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
    `receive`     collective   until the value is there, or not  the value is the caller's
                               at all with a ``default``
    `should_stop` collective   no                                -
    `close`       collective   until all is taken and accounted  -
    ============= ============ ================================= ================================

    "Independent" calls may be made by any rank at any time, in any order of arrays within a step;
    steps must rise. One thread of a rank at a time may use a bridge.

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
        self._waited_ns = 0
        self._step: int | None = None
        self._step_waited: deque[tuple[int, float]] = deque(maxlen=4096)
        self._step_began_waited = 0
        self._scratch: dict[tuple[Any, ...], Cells] = {}
        self._in_block = False
        described = {array.name: array for array in arrays or ()}
        found, frame = from_rank_0(comm, lambda: self._open(contact, list(described.values())))
        self._contact = contacts.Contact.from_bytes(found)
        header = framing.parse_header(frame)
        message = framing.parse(header, memoryview(frame)[framing.HEADER_BYTES :])
        if not isinstance(message, m.ContractIs):
            raise ContractError("rank 0 broadcast something that is not a contract")
        self._contract = Contract.from_bytes(message.contract)
        contact_now = contacts.Contact(
            self._contact.run,
            self._contact.token,
            message.endpoints,
            self._contact.deadlines,
            self._contact.options,
        )
        self._transport = Transport(contact_now, self.rank, self.size)
        self._transport.contract = message
        self._transport.digest = message.digest
        try:
            self._outgoing = self._prepare(described)
            self._transport.home()
        except BaseException:
            self._transport.close()
            raise
        self._agreed = [out for out in self._outgoing.values() if out.contract is not None]
        self._quick = {name: out.wanted for name, out in self._outgoing.items()}
        _living.add(self)

    # -- opening -------------------------------------------------------------------------------

    def _open(
        self, path: str | os.PathLike[str] | None, described: list[Array]
    ) -> tuple[bytes, bytes]:
        """Find the contact file and ask for the contract (rank 0)."""
        contact = _wait_for_contact(path)
        transport = Transport(contact, self.rank, self.size)
        try:
            transport.described = described
            contract = transport.ask_contract()
        finally:
            transport.close()
        return contact.to_bytes(), framing.pack(contract)

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
            if one is not None and one.spec != contract.spec:
                raise ContractError(
                    f"array {name!r} is described in code as {one.spec}, but the contract has "
                    f"{contract.spec}: describe it in one place only"
                )
            out = Outgoing(name, one, contract, ordinal, self.rank, self.size)
            outgoing[name] = out
            transport.outgoing[ordinal] = out
            transport.rings[ordinal] = []
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
        self._shared = "shm" in transport.lanes and any(
            link.endpoint.local and link.endpoint.unix for link in transport.links.values()
        )
        return outgoing

    # -- putting -------------------------------------------------------------------------------

    def put(
        self,
        name: str,
        step: int,
        block: Cells,
        *,
        offset: tuple[int, ...] | None = None,
    ) -> None:
        """Offer a block of one step; what the contract names of it is sent.

        Parameters
        ----------
        name
            Array.
        step
            Simulation step; steps of an array rise.
        block
            This rank's cells, halo included, any memory order. Ragged: this rank's rows.
        offset
            Global index of the block's first cell (without halo), when it is not the one
            described.

        Raises
        ------
        BridgeError
            When dtype or shape are not what was described.
        DeadlineExceeded, AnalyticsLost
            When the analytics do not take data any more and the policy is to end with them.
        """
        wanted = self._quick.get(name)
        if wanted is not None:
            for steps in wanted:
                if step in steps:
                    break
            else:
                out = self._outgoing[name]
                out.skipped_blocks += 1
                own = out.own_bytes
                out.skipped_bytes += out.owned_bytes(block) if own is None else own
                return
        self._put(name, step, block, offset)

    def _put(self, name: str, step: int, block: Cells, offset: tuple[int, ...] | None) -> None:
        self._check_open()
        out = self._find(name)
        cells = np.asarray(block)
        contract = out.contract
        if contract is None:
            out.skipped_blocks += 1
            out.skipped_bytes += out.owned_bytes(cells)
            return
        t = contract.spec.steps.index(step)
        if t is None:
            out.skipped_blocks += 1
            out.skipped_bytes += out.owned_bytes(cells)
            return
        if step != self._step:
            self._begin_step(step)
        if out.rows is not None:
            self._put_rows(out, step, t, out.row_cells(cells, step))
            return
        plan = out.plan(cells, offset, step)
        if out.told is False:
            box = (plan.block.offset, plan.block.shape)
            self._transport.report(framing.pack(m.Blocks(out.ordinal, (box,))), now=False)
            out.told = True
        ring = self._ring(out, step)
        total = prod(plan.block.shape) * cells.itemsize
        pieces = self._send(out, step, t, partial(plan.at, t), cells, total, ring)
        out.note(plan, t, pieces)

    def _put_rows(self, out: Outgoing, step: int, t: int, cells: Cells) -> None:
        """Put this rank's rows of a ragged array."""
        rows = out.rows
        if rows is None:
            return

        def find() -> Sequence[Piece]:
            one = rows.at(t)
            if one is None:
                return ()
            count = len(cells)
            dst = ((0, 1, 1), (0, count, 1), *((0, n, 1) for n in one.row_shape))
            size = count * prod(one.row_shape)
            return (Piece(one.chunk, one.receiver, one.src, dst, size),)

        if len(cells) or not find():
            self._send(out, step, t, find, cells, cells.nbytes, self._ring(out, step))
            return
        began = time.perf_counter_ns()
        pieces, links, admitted = self._transport.admit(out, out.n_space, find)
        self._waited_ns += time.perf_counter_ns() - began
        out.last_step = step
        if admitted:
            out.delivered_blocks += 1
            chunk = pieces[0].chunk
            self._transport.tell(links[0], lambda seq: m.Rows(out.ordinal, chunk, t, 0, seq))
        else:
            self._not_sent(out, pieces, 0)

    def _send(
        self,
        out: Outgoing,
        step: int,
        t: int,
        find: Callable[[], Sequence[Piece]],
        cells: Cells,
        total: int,
        ring: Ring,
    ) -> Sequence[Piece]:
        """Copy the wanted cells into a slot and send it."""
        transport = self._transport
        began = time.perf_counter_ns()
        n_space = out.n_space
        pieces, links, admitted = transport.admit(out, n_space, find)
        if not pieces:
            out.skipped_blocks += 1
            out.skipped_bytes += total
            return ()
        itemsize = cells.itemsize
        wanted = sum(piece.cells for piece in pieces) * itemsize
        out.skipped_bytes += total - wanted
        out.last_step = step
        slot = None
        if admitted:
            places, at = [], 0
            for piece in pieces:
                places.append(at)
                at += aligned(piece.cells * itemsize)
            slot = transport.slot(ring, at)
        self._waited_ns += time.perf_counter_ns() - began
        if slot is None:
            self._not_sent(out, pieces, wanted)
            return pieces
        stored = []
        for piece, place in zip(pieces, places, strict=True):
            source = cells[piece.src]
            target = slot.array(source.shape, source.dtype, place)
            np.copyto(target, source)
            stored.append(Stored(out.ordinal, t, piece, target, place))
        out.delivered_blocks += 1
        out.delivered_bytes += wanted
        transport.publish(slot, stored, links)
        return pieces

    def _not_sent(self, out: Outgoing, pieces: Sequence[Piece], wanted: int) -> None:
        """Account for a block that nobody took."""
        if self._transport.quiet:
            out.lost_blocks += 1
            out.lost_bytes += wanted
            return
        if self._transport.stop is not None:  # the analysis has all that it wants
            out.skipped_blocks += 1
            out.skipped_bytes += wanted
            return
        out.dropped_blocks += 1
        out.dropped_bytes += wanted
        for piece in pieces:
            link = self._transport.link(piece.receiver)
            if link is not None:
                self._transport.tell(link, partial(m.Dropped, out.ordinal, piece.chunk))

    def _ring(self, out: Outgoing, step: int) -> Ring:
        """Return the ring of this put: the n-th put of an array in a step has the n-th ring."""
        rings = self._transport.rings[out.ordinal]
        nth = out.nth if out.last_step == step else 0
        out.nth = nth + 1
        while len(rings) <= nth:
            rings.append(Ring(self._replay, self._shared))
        return rings[nth]

    @contextlib.contextmanager
    def block(
        self, name: str, step: int, *, offset: tuple[int, ...] | None = None
    ) -> Iterator[Cells]:
        """Give memory inside the transport to compute a block into; it is put on leaving.

        Parameters
        ----------
        name, step, offset
            As in `put`.

        Yields
        ------
        ndarray
            Of the block's shape with halo, C order, cells unspecified. It belongs to the bridge
            after the ``with``. When the body raises, nothing is put.
        """
        self._check_open()
        out = self._find(name)
        if out.dtype is None or (out.spec is not None and out.spec.ragged):
            raise BridgeError(f"array {name!r} cannot be computed in place; use put")
        shape = out.block_shape(offset, step)
        contract = out.contract
        t = None if contract is None else contract.spec.steps.index(step)
        plan = None
        if t is not None and out.wants(step):
            plan = out.plan_at(offset, step)
        transport = self._transport
        slot: Slot | None = None
        began = time.perf_counter_ns()
        if plan is not None and contract is not None and t is not None:
            n_space, when = contract.layout.n_space, t
            pieces, links, admitted = transport.admit(out, n_space, lambda: plan.at(when))
            if pieces and admitted:
                nbytes = prod(shape) * out.dtype.itemsize
                slot = transport.slot(self._ring(out, step), nbytes)
        self._waited_ns += time.perf_counter_ns() - began
        if slot is None or plan is None or t is None:
            key = (shape, out.dtype)
            cells = self._scratch.get(key)
            if cells is None:
                cells = self._scratch[key] = np.empty(shape, out.dtype)
            yield cells
            self.put(name, step, cells, offset=offset)
            return
        cells = slot.array(shape, out.dtype)
        try:
            yield cells
        except BaseException:
            transport.unused(slot)
            raise
        if step != self._step:
            self._begin_step(step)
        when = t
        pieces, links, admitted = transport.admit(out, n_space, lambda: plan.at(when))
        wanted = sum(piece.cells for piece in pieces) * cells.itemsize
        total = plan.block.size * cells.itemsize
        out.skipped_bytes += total - wanted
        out.last_step = step
        out.note(plan, t, pieces)
        if not admitted:
            transport.unused(slot)
            self._not_sent(out, pieces, wanted)
            return
        strides = cells.strides
        stored = []
        for piece in pieces:
            source = cells[piece.src]
            place = sum(cut.start * stride for cut, stride in zip(piece.src, strides, strict=True))
            stored.append(Stored(out.ordinal, t, piece, source, place))
        out.delivered_blocks += 1
        out.delivered_bytes += wanted
        transport.publish(slot, stored, links)

    # -- steps ---------------------------------------------------------------------------------

    def _begin_step(self, step: int) -> None:
        if self._step is not None:
            self._end_step(now=False)  # it travels with the first piece of the next step
        self._step = step

    def _end_step(self, now: bool = True) -> None:
        step, self._step = self._step, None
        if step is None:
            return
        waited = self._waited_ns
        self._step_waited.append((step, (waited - self._step_began_waited) / 1e9))
        self._step_began_waited = waited
        if not self._transport.quiet:
            numbers = [n for out in self._agreed for n in out.numbers()]
            self._transport.report(framing.pack_step_end(step, waited, numbers), now)

    def step_end(self, step: int) -> None:
        """Say that this rank has put all of a step; the next step's first put implies it."""
        self._check_open()
        if self._step is None:
            self._step = step
        if self._step == step:
            self._end_step()

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
        """
        self._check_open()

        def of_rank_0() -> Any:
            transport = self._transport
            exact = default is _NOTHING
            found = self._feedback(name, step, exact)
            if found is None and default is _NOTHING and not transport.quiet:
                limit = transport.deadlines["step"] if timeout is None else timeout
                transport.wait_for(
                    lambda: self._feedback(name, step, exact) is not None or transport.quiet, limit
                )
                found = self._feedback(name, step, exact)
                if found is None and not transport.quiet:
                    raise BridgeError(
                        f"no value {name!r} came from the analysis for step {step} within "
                        f"{limit:g} s; give a default, or see whether the analysis sends it"
                    )
            if found is not None:
                return (True, values.decode(found))
            if default is _NOTHING:
                raise AnalyticsLost(
                    f"the analysis is gone and has sent no value {name!r} for step {step}"
                )
            return (False, None)

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
        if self._closed or os.getpid() != self._pid:
            return
        transport = self._transport
        try:
            if self._step is not None:
                self._end_step()
            drained = transport.drain(transport.deadlines["drain"] if status == "ok" else 1.0)
            if not drained:
                self._write_off()
            self._goodbye(status, reason)
        finally:
            self._closed = True
            _living.discard(self)
            transport.close()
        if not drained and status == "ok":
            transport.check()
            if not transport.quiet:
                raise BridgeError(
                    f"rank {self.rank}: receivers did not take all data within "
                    f"{transport.deadlines['drain']:g} s of the end; what is missing is accounted "
                    "as lost"
                )

    def _goodbye(self, status: str, reason: str) -> None:
        transport = self._transport
        last = max(
            (o.last_step for o in self._outgoing.values() if o.last_step is not None), default=-1
        )
        bye = m.Bye(last, int(status != "ok"), self._counters(), reason)
        if transport.quiet and not transport.any_open():
            return
        reached = transport.say_bye(bye)
        if not transport.wait_for(
            lambda: reached <= transport.said_bye or not transport.any_open(),
            transport.deadlines["connect"],
        ):
            logger.warning("Rank %s: receivers did not answer the goodbye", self.rank)

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
        if error is None:
            self.close()
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
            waited=self._waited_ns / 1e9,
            waited_per_step=dict(self._step_waited),
            lanes=transport.open_lanes(),
            lost=transport.lost or (transport.fault.text if transport.fault else None),
        )

    # -- helpers -------------------------------------------------------------------------------

    def _counters(self) -> tuple[m.Counters, ...]:
        return tuple(out.counters() for out in self._agreed)

    def _find(self, name: str) -> Outgoing:
        out = self._outgoing.get(name)
        if out is None:
            if self._described:
                raise BridgeError(
                    f"array {name!r} was not described; described are {sorted(self._outgoing)}"
                )
            # The config may offer arrays that nobody wants.
            out = Outgoing(name, None, None, len(self._outgoing), self.rank, self.size)
            self._outgoing[name] = out
            self._quick[name] = ()
        return out

    def _check_open(self) -> None:
        if self._closed:
            raise BridgeError("the bridge is closed")
        if os.getpid() != self._pid:
            raise BridgeError("a bridge cannot be used in a forked process")


_living: weakref.WeakSet[Bridge] = weakref.WeakSet()


def _after_fork() -> None:
    # A child that kept the sockets open would hide its parent's death from the receivers.
    for bridge in list(_living):
        bridge._transport.release_in_child()
    _living.clear()


os.register_at_fork(after_in_child=_after_fork)


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
