"""The bridge: three calls in a simulation (open, put, close) couple it to the analysis."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

from ips_components.bridge import forks
from ips_components.bridge.arrays import Array, by_name, whole_numbers
from ips_components.bridge.attached import AttachedBlock, Attachments
from ips_components.bridge.comm import Apart, Communicator, Serial, from_rank_0
from ips_components.bridge.in_place import BlockInPlace
from ips_components.bridge.naming import raise_naming
from ips_components.bridge.opening import announce
from ips_components.bridge.outgoing import Cells, OutgoingArray
from ips_components.bridge.put_path import PutPath
from ips_components.bridge.rows import Rows
from ips_components.bridge.session import Session, agree, nothing_agreed
from ips_components.bridge.statistics import BridgeStatistics
from ips_components.bridge.steps import Steps, whole_step
from ips_components.errors import BridgeError
from ips_components.model.amr import table_name
from ips_components.wire import messages as m
from ips_components.wire import values

_NOTHING: Any = object()


class Bridge:
    """Connects the ranks of a simulation to the analysis of its arrays.

    Parameters
    ----------
    comm
        Communicator of all ranks (mpi4py's, or anything with ``rank``, ``size`` and ``bcast``).
        None: a serial program, or ranks identified by ``rank`` and ``size``.
    contact
        Path of the contact file. None: the environment's ``IPS_COMPONENTS_CONTACT``.
    arrays
        What the simulation offers, described in code. None: the workflow's config has described
        it; ``put`` then takes blocks of the regular decomposition, or an ``offset`` with each.
    rank, size
        Only without ``comm``.
    alone
        Let the program run by itself where neither ``contact`` nor the environment names a contact
        file: all calls succeed and nothing is sent, which rank 0 says once. The environment's
        ``IPS_COMPONENTS_ALONE=1`` does the same.

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
    `step_time`   independent  no                                -
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
        alone: bool = False,
    ) -> None:
        if comm is None:
            comm = Serial() if rank is None and size is None else Apart(rank or 0, size or 1)
        elif rank is not None or size is not None:
            raise BridgeError("give either a communicator or rank and size, not both")
        described = by_name(arrays or ())
        self._comm = comm
        self.rank, self.size = comm.rank, comm.size
        self._pid = os.getpid()
        self._closed = False
        announce(self.rank, self.size)
        known, agreed = agree(comm, described, contact, alone=alone)
        self.is_alone = known is None
        """Whether the program runs by itself: there is no analysis, and nothing is sent."""
        known = known or nothing_agreed()[0]
        self._session = Session(known, agreed, described, self.rank, self.size, alone=self.is_alone)
        self._described = bool(described)
        self._arrays = self._session.arrays
        self._mailbox, self._delivery = self._session.mailbox, self._session.delivery
        self._steps = Steps(
            self._delivery,
            self._session.accounted,
            agreed.first_step,
            agreed.launch,
            renumbered=bool(agreed.launch_flags & m.ContractIs.RENUMBER),
        )
        self._path = PutPath(
            self._delivery,
            self._steps,
            self._arrays,
            max(0, int(self._session.contact.options["replay_steps"])),
            shared=self._session.shared,
            rank=self.rank,
        )
        self._attachments = Attachments(
            described,
            self.rank,
            self.size,
            lambda: max(self._steps.newest, self._steps.first - 1),
        )
        self._attached = self._attachments.active  # one object, so that a put asks it only
        with self._mailbox.lock:
            self._mailbox.on_attach = self._attachments.invite
            for message in self._mailbox.attached.values():
                self._attachments.invite(message)
        self._attachments.wait(agreed.awaited)
        forks.open_objects.add(self)

    @property
    def first_step(self) -> int:
        """Step at which this launch goes on, the same on every rank; 0 in the first one."""
        return self._steps.first

    # -- data ------------------------------------------------------------------------------------

    def put(
        self,
        name: str,
        step: int,
        block: Cells | Rows | Sequence[Rows],
        *,
        offset: tuple[int, ...] | None = None,
        time: float | None = None,
        ids: Any = None,
        levels: Any = None,
        places: Any = None,
    ) -> None:
        """Offer a block of one step; what the contract names of it is sent.

        Parameters
        ----------
        name
            Array.
        step
            Simulation step; steps of an array rise.
        block
            This rank's cells, halo included, any memory order. Ragged, or indexed by ids: this
            rank's rows, as an array, or as `Rows` or a list of them where they lie apart; these
            are packed only if the step is wanted.
        offset
            Global index of the block's first cell (without halo), when it is not the one
            described.
        time
            Physical time of the step, which becomes the coordinate of results. It is said once for
            each step, by any array and any rank; the time loop's counts where it is not.
        ids
            Global ids of the rows, for an array that is indexed by ids, when they are not those
            that were described: of this put alone, so that rows may move from rank to rank.
        levels, places
            Of the rows of an array with levels: the level of each block, and the index of its first
            cell in cells of its own level, of shape (blocks, dimensions).

        Raises
        ------
        BridgeError
            When dtype or shape are not what was described, when the step is below one that was
            put, or when this block was put at this step (see `rewind`).
        DeadlineExceeded, AnalyticsLost
            When the analytics do not take data any more and the policy is to end with them.
        """
        try:
            out, step = self._begin(name, step, time)
            steps = self._steps
            before, steps.newest = steps.newest, step
            if ids is not None and out.spec is not None and not out.by_id:
                raise BridgeError(
                    f"array {name!r} is not indexed by ids; describe it by Array(..., ids=True)"
                )
            at = None if offset is None else whole_numbers(name, "offset", offset)
            blocks = None
            if levels is not None or places is not None or out.levels:
                if levels is None and places is None and getattr(block, "shape", ())[:1] == (0,):
                    levels = places = ()  # a rank without blocks has nothing to say of them
                blocks = self._path.blocks_of(out, step, levels, places)
            if blocks is None:
                self._path.put(out, step, block, at, ids)
            else:
                table = self._arrays[table_name(name)]
                self._path.put_blocks(out, table, step, block, *blocks)
            if self._attached:
                self._attachments.put(name, step, before, block, at, ids, blocks)
        except Exception as error:
            raise_naming(error, name, step, self.rank)

    def block(
        self,
        name: str,
        step: int,
        *,
        offset: tuple[int, ...] | None = None,
        time: float | None = None,
    ) -> AbstractContextManager[Cells]:
        """Give memory inside the bridge to compute a block into; it is put on leaving.

        Parameters
        ----------
        name, step, offset, time
            As in `put`.

        Returns
        -------
        context manager
            Of an array of the block's shape with halo, C order, cells unspecified. It belongs to
            the bridge after the ``with``. When the body raises, nothing is put.

        Raises
        ------
        BridgeError
            When the shape of the block is not known before it is put.
        """
        try:
            out, step = self._begin(name, step, time)
            if out.dtype is None or out.by_id or (out.spec is not None and out.spec.ragged):
                raise BridgeError(f"array {name!r} cannot be computed in place; use put")
            at = None if offset is None else whole_numbers(name, "offset", offset)
        except Exception as error:
            raise_naming(error, name, step, self.rank)
        steps = self._steps
        before, steps.newest = steps.newest, step
        block = BlockInPlace(self._path, out, step, at)
        if not self._attached:
            return block
        return AttachedBlock(
            block, lambda cells: self._attachments.put(name, step, before, cells, at)
        )

    def rewind(self, step: int) -> None:
        """Go back: the next puts of all arrays may begin at this step again.

        For a solver that has rejected steps. What was sent cannot be taken back, since the
        analysis may have used it; steps that were put and that were not wanted can be put again.

        Parameters
        ----------
        step
            The first step that will be put again.

        Raises
        ------
        BridgeError
            When this step or a later one of some array was sent, or a block is being computed in
            place. Nothing has changed then.
        """
        self._check_open()
        step = whole_step(step) + self._steps.shift
        self._path.rewind(step)
        self._attachments.rewind(step)

    def step_time(self, step: int, time: float) -> None:
        """Say the physical time of a step, as ``put(..., time=)`` does; before what is put of it.

        Raises
        ------
        BridgeError
            When the time is not finite.
        """
        self._check_open()
        step = whole_step(step) + self._steps.shift
        if any(step in out.wanted for out in self._arrays.values()):
            self._steps.note_time(step, time)

    def step_end(self, step: int) -> None:
        """Say that this rank has put all of a step; the next step's first put implies it."""
        self._check_open()
        steps = self._steps
        if type(step) is not int:
            step = whole_step(step)
        step += steps.shift
        steps.newest = max(steps.newest, step)
        if steps.current is None:
            steps.current = step
        if steps.current == step:
            steps.end()
        if self._attached:
            self._attachments.step_end(step)

    # -- messages ----------------------------------------------------------------------------------

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
            As soon as it is known that no receiver is left that could send it.
        DeadlineExceeded
            When it did not come in time.

        Notes
        -----
        With a `default` nothing is raised unless the run shall end with its analysis.
        """
        self._check_open()
        if step is not None:
            step = whole_step(step) + self._steps.shift
        limit = self._session.contact.deadlines["step"] if timeout is None else timeout

        def of_rank_0() -> tuple[bool, Any]:
            if default is _NOTHING:
                return True, values.decode(self._mailbox.wait_for_value(name, step, limit))
            found = self._mailbox.latest(name, step)
            return (False, None) if found is None else (True, values.decode(found))

        found, value = from_rank_0(self._comm, of_rank_0)
        return value if found else default

    def receive_model(
        self, name: str, newer_than: int = -1, timeout: float | None = 0.0
    ) -> tuple[int, dict[str, Any]] | None:
        """Return the latest version of a model and its arrays by name, on every rank. Collective.

        Parameters
        ----------
        name
            What the analysis sent by ``run.send_model``.
        newer_than
            Return None, and broadcast nothing, where there is no version above this one.
        timeout
            Seconds to wait for the first version; None: the run's deadline for a step. By
            default there is no wait.

        Raises
        ------
        RunStopped, AnalyticsLost, DeadlineExceeded
            See `receive`; not without a wait.
        """
        self._check_open()
        limit = self._session.contact.deadlines["step"] if timeout is None else timeout

        def of_rank_0() -> tuple[int, dict[str, Any]] | None:
            if limit:
                self._mailbox.wait_for_value(name, None, limit)
            return self._mailbox.latest_model(name, newer_than)

        return from_rank_0(self._comm, of_rank_0)

    def should_stop(self) -> bool:
        """Return whether the analysis has what it wants; the same on every rank. Collective."""
        self._check_open()
        return bool(from_rank_0(self._comm, lambda: self._mailbox.stop is not None))

    @property
    def stop_reason(self) -> str | None:
        """Why the analysis wants to stop, as far as this rank knows."""
        return self._mailbox.stop

    # -- ending --------------------------------------------------------------------------------

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until receivers have taken all that was put; return whether they have."""
        limit = self._session.contact.deadlines["drain"] if timeout is None else timeout
        return self._delivery.drain(limit)

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
        mailbox, limit = self._mailbox, self._session.contact.deadlines["drain"]
        wait_for_attached = self._attachments.begin_close(status, reason)
        try:
            self._steps.end()
            drained = self._delivery.drain(limit if status == "ok" else 1.0)
            if not drained:
                self._delivery.write_off()
            counters = tuple(out.account.counters() for out in self._session.accounted)
            last = max(self._steps.ended, self._session.last_put)
            bye = m.Bye(last, int(status != "ok"), counters, reason)
            answered = self._session.goodbye(bye)
        finally:
            self._closed = True
            forks.open_objects.discard(self)
            wait_for_attached()
            self._session.close()
        if status == "ok" and not (drained and answered):
            mailbox.check()
            if not drained and not mailbox.disconnected:
                raise BridgeError(
                    f"rank {self.rank}: receivers did not take all data within {limit:g} s of the "
                    "end; what is missing is accounted as lost"
                )

    def __enter__(self) -> Bridge:
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if error is None or (isinstance(error, SystemExit) and not error.code):
            self.close()  # a program that exits with status 0 has ended well
            return
        with contextlib.suppress(Exception):  # the body's error is the one to see
            from ips_components.origin import with_place  # no rank that ends well needs it

            self.close("aborted", with_place(error))

    def statistics(self) -> BridgeStatistics:
        """Return this rank's account so far."""
        return BridgeStatistics.of(self._arrays, self._delivery, self._steps, alone=self.is_alone)

    # -- helpers -----------------------------------------------------------------------------------

    def _begin(self, name: str, step: int, time: float | None) -> tuple[OutgoingArray, int]:
        """Return an array and the step of the run at which a block of it is put, once checked."""
        if self._closed:
            self._check_open()
        out = self._arrays.get(name)
        if out is None:
            out = self._find(name)
        steps = self._steps
        if type(step) is not int:
            step = whole_step(step)
        step += steps.shift
        if not 0 <= step < out.end:
            out.check_axis(step)
        if time is not None and step in out.wanted:
            steps.note_time(step, time)
        return out, step

    def _find(self, name: str) -> OutgoingArray:
        """Return an array that the contract does not name."""
        if self._described:
            raise BridgeError(
                f"array {name!r} was not described; described are {sorted(self._arrays)}"
            )
        # The config may offer arrays that are not wanted.
        out = OutgoingArray(name, None, None, len(self._arrays), self.rank, self.size)
        self._arrays[name] = out
        return out

    def _check_open(self) -> None:
        if os.getpid() != self._pid:
            raise BridgeError("a bridge cannot be used in a forked process")
        if self._closed:
            raise BridgeError("the bridge is closed")

    def release_in_child(self) -> None:
        """Release what a forked process must not keep; called by `forks`."""
        self._closed = True
        self._delivery.connections.release_in_child()
        self._attachments.release_in_child()
