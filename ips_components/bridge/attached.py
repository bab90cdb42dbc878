"""Attached runs: further contracts that a running simulation puts into.

A client that attaches to a run has data of its own sent, with a contract, receivers and a ledger
of their own. A rank learns of it over a connection that it has (`wire.messages.Attach`) and joins
in a thread of its own; the simulation's thread puts into the attached run from the next step on.
It never waits for an attached run and gets no error of it: what cannot be sent at once is dropped,
and what goes wrong ends the attached run only.

Threads: `Attachments.active` changes with the lock of `Attachments` held, in the threads that
join. The simulation's thread reads it without the lock: it tests whether it is empty, and copies
it before it puts.
`AttachedRun._lock` guards what the simulation's thread puts into and the joining thread ends.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import numpy as np

from ips_components.bridge.arrays import Array
from ips_components.bridge.outgoing import Cells, Offset, OutgoingArray
from ips_components.bridge.put_path import PutPath
from ips_components.bridge.session import Session, ask_contract
from ips_components.bridge.steps import Steps
from ips_components.bridge.wanted import steps_below
from ips_components.deadlines import Deadline
from ips_components.errors import BridgeError, DeadlineExceeded, IPSComponentsError
from ips_components.model.amr import table_name
from ips_components.model.pieces import Piece
from ips_components.wire import messages as m
from ips_components.wire.contact import Contact

CLOSE_WITHIN = 2.0  # seconds that the end of a simulation waits for attached runs
LAUNCH_WITHIN = 5.0  # seconds that a launch waits for the attached runs that it goes on with
CONNECT_WITHIN = 5.0  # seconds that a receiver has before steps are dropped for it
_FOR_EVER = 1e9  # seconds


class AttachedRun:
    """This rank's part in one attached run.

    Parameters
    ----------
    contact
        Of the attached run.
    described
        Arrays described in code.
    rank, size
        Of this process in the simulation.
    newest
        Returns the newest step that this rank has begun.
    joined, ended
        Called when blocks can be put, and when none can be put any more.
    """

    def __init__(
        self,
        contact: Contact,
        described: Mapping[str, Array],
        rank: int,
        size: int,
        newest: Callable[[], int],
        joined: Callable[[AttachedRun], None],
        ended: Callable[[AttachedRun], None],
    ) -> None:
        self.run = contact.run
        self._contact, self._described = contact, described
        self._rank, self._size, self._newest = rank, size, newest
        self._joined, self._ended = joined, ended
        self._lock = threading.Lock()
        self._session: Session | None = None
        self._path: PutPath | None = None
        self._first: int | None = None  # step from which on this rank puts
        self._begun: dict[tuple[str, Offset], int] = {}  # first step by block
        self._wrong = ""
        self._closing: tuple[str, str] | None = None  # status and reason of the simulation
        self._close_by: Deadline | None = None
        self._thread = threading.Thread(target=self._work, name="bridge attached", daemon=True)

    def start(self) -> None:
        """Join in a thread."""
        self._thread.start()

    # -- the simulation's thread -------------------------------------------------------------------

    def put(
        self,
        name: str,
        step: int,
        before: int,
        block: Any,
        offset: Offset,
        ids: Any = None,
        blocks: tuple[Any, Any] | None = None,
    ) -> None:
        """Put a block of a step of the run; ``before`` is the newest step before this put."""
        with self._lock:
            path, session = self._path, self._session
            if path is None or session is None:
                return
            if self._first is None:  # a step that has begun would lack what was put before
                self._first = step if step > before else step + 1
            out = session.arrays.get(name)
            if step < self._first or out is None:
                return
            try:
                self._begin(path, out, step, block, offset, ids)
                table = session.arrays.get(table_name(name)) if blocks is not None else None
                if table is None or blocks is None:
                    path.put(out, step, block, offset, ids)
                else:
                    none = np.empty((0, np.ndim(block)), np.int64)
                    self._begin(path, table, step, none, offset, None)
                    path.put_blocks(out, table, step, block, *blocks)
            except Exception as error:
                self._fail(f"{type(error).__name__}: {error}")

    def _begin(
        self, path: PutPath, out: OutgoingArray, step: int, block: Any, offset: Offset, ids: Any
    ) -> None:
        """Report what was put before the first put of a block."""
        if out.contract is not None and self._begun.setdefault((out.name, offset), step) == step:
            self._note_passed(path, out, step, block, offset, ids)

    def _note_passed(
        self,
        path: PutPath,
        out: OutgoingArray,
        step: int,
        block: Any,
        offset: Offset,
        ids: Any,
    ) -> None:
        """Report the wanted steps that this rank had put before it could put them here."""
        first = path.steps.first  # what was below is the account of earlier launches
        passed = [each for each in steps_below(out.wanted, step) if each >= first]
        if not passed:
            return
        if out.by_id:
            plan = out.id_plan(out.cells(block, step), ids, step)

            def at(t: int) -> Sequence[Piece]:
                return [one.piece for one in plan.at(t)]

        elif out.rows is None:
            at = out.plan(out.cells(block, step), offset, step).at
        else:
            out.row_cells(out.cells(block, step), step)
        missing = {}
        for each in passed:
            t = (each - out.first) // out.every
            if out.rows is None:
                missing.update({piece.chunk: piece.receiver for piece in at(t)})
            elif (row := out.rows.at(t)) is not None:
                missing[row.chunk] = row.receiver
        by_ordinal = path.delivery.connections.by_ordinal
        for chunk, receiver in missing.items():
            connection = by_ordinal.get(receiver)
            if connection is not None:
                path.delivery.send_numbered(connection, _passed(out.ordinal, chunk))

    def step_end(self, step: int) -> None:
        """End a step."""
        with self._lock:
            if self._path is not None and self._path.steps.current == step:
                try:
                    self._path.steps.end()
                except DeadlineExceeded as error:
                    self._fail(str(error))

    def rewind(self, step: int) -> None:
        """Go back; what was sent already makes the attached run end."""
        with self._lock:
            if self._path is not None:
                try:
                    self._path.rewind(step)
                except BridgeError as error:
                    self._fail(str(error))

    def begin_close(self, status: str, reason: str, deadline: Deadline) -> None:
        """Have the thread say goodbye, since the simulation ends."""
        with self._lock:
            self._closing, self._close_by = (status, reason), deadline
        self._wake()

    def join(self, deadline: Deadline) -> None:
        """Wait until the thread has ended, for a bounded time."""
        self._thread.join(deadline.left)

    def release_in_child(self) -> None:
        """Close a forked child's copies of the descriptors."""
        if self._session is not None:
            self._session.delivery.connections.release_in_child()

    # -- the thread that joins ---------------------------------------------------------------------

    def _work(self) -> None:
        try:
            if self._join():
                self._stay()
        finally:
            self._ended(self)

    def _join(self) -> bool:
        """Ask for the contract and connect; return whether there is anything to put."""
        contact = self._contact
        try:
            agreed = ask_contract(
                contact,
                self._rank,
                self._size,
                list(self._described.values()),
                [],
                step=self._newest(),
                given_up=lambda: self._closing is not None,
            )
            session = Session(
                contact, agreed, self._described, self._rank, self._size, attached=True
            )
        except (IPSComponentsError, OSError):
            return False  # the coordinator knows why, or finds out that this rank does not come
        for out in session.needed:
            out.has_fast_path = False  # it takes credit for all that it needs to know
            for receiver in set(() if out.placement is None else out.placement.owners):
                self._connect(session, receiver)
        delivery = session.delivery
        steps = Steps(delivery, session.needed, agreed.first_step, agreed.launch, renumbered=False)
        path = PutPath(
            delivery,
            steps,
            session.arrays,
            max(1, int(contact.options["replay_steps"])),
            shared=session.shared,
            rank=self._rank,
        )
        with self._lock:
            self._session, self._path = session, path
        self._joined(self)
        return True

    def _connect(self, session: Session, receiver: int) -> None:
        """Connect to a receiver now, so that the first step is not dropped for that."""
        connections = session.delivery.connections
        connection = connections.by_ordinal.get(receiver)
        if connection is not None:
            try:
                connection.connect(CONNECT_WITHIN)
            except (IPSComponentsError, OSError):
                connections.get(receiver)  # goes on in the background

    def _stay(self) -> None:
        """Wait for the end, and say goodbye with the account."""
        session = self._session
        if session is None:
            return
        mailbox = session.mailbox
        mailbox.wait_for(
            lambda: mailbox.stop is not None or mailbox.disconnected or self._is_over(), _FOR_EVER
        )
        with self._lock:
            path, self._path = self._path, None
            status, reason = self._closing or ("ok", "")
            deadline = self._close_by or Deadline(self._contact.deadlines["connect"])
            if self._wrong:
                status, reason = "aborted", self._wrong
        if path is None:
            return
        try:
            path.steps.end()
            if not path.delivery.drain(deadline.left):
                path.delivery.write_off()
            counters = tuple(out.account.counters() for out in session.needed)
            session.goodbye(
                m.Bye(session.last_put, int(status != "ok"), counters, reason), deadline.left
            )
        except (IPSComponentsError, OSError) as error:
            mailbox.lose(str(error))
        finally:
            session.close()

    def _is_over(self) -> bool:
        return bool(self._wrong) or self._closing is not None

    def _fail(self, why: str) -> None:
        self._wrong = self._wrong or why
        self._wake()

    def _wake(self) -> None:
        session = self._session
        if session is not None:
            with session.mailbox.changed:
                session.mailbox.changed.notify_all()


def _passed(array: int, chunk: int) -> Callable[[int], m.Dropped]:
    return partial(m.Dropped, array, chunk, flags=m.Dropped.PASSED)


class Attachments:
    """All attached runs of a rank.

    Parameters
    ----------
    described
        Arrays described in code.
    rank, size
        Of this process in the simulation.
    newest
        Returns the newest step that this rank has begun.

    Attributes
    ----------
    active : list of AttachedRun
        Those that take blocks; nearly always empty.
    """

    def __init__(
        self, described: Mapping[str, Array], rank: int, size: int, newest: Callable[[], int]
    ) -> None:
        self.active: list[AttachedRun] = []
        self._described, self._rank, self._size, self._newest = described, rank, size, newest
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._seen: set[str] = set()  # runs that have been joined, or have ended
        self._waiting = True  # from the beginning to the end of `wait`
        self._runs: dict[str, AttachedRun] = {}
        self._closed = False

    def invite(self, message: m.Attach) -> None:
        """Join a run, in a thread of its own; returns at once. Of one that has ended, note that."""
        if (ended := message.ended_run) is not None:
            self._note(ended)
            return
        contact = Contact.from_bytes(message.contact)
        with self._lock:
            if self._closed or contact.run in self._runs:
                return
            run = self._runs[contact.run] = AttachedRun(
                contact,
                self._described,
                self._rank,
                self._size,
                self._newest,
                self._joined,
                self._ended,
            )
        run.start()

    def _joined(self, run: AttachedRun) -> None:
        with self._lock:
            self.active.append(run)
        self._note(run.run)

    def _ended(self, run: AttachedRun) -> None:
        with self._lock:
            self._runs.pop(run.run, None)
            if run in self.active:
                self.active.remove(run)
        self._note(run.run)

    def _note(self, run: str) -> None:
        with self._lock:
            if self._waiting:
                self._seen.add(run)
                self._changed.notify_all()

    def wait(self, n: int) -> bool:
        """Wait until so many runs take blocks, or have ended, for a bounded time.

        A launch goes on with the attached runs of the one before from its first step on.
        """
        with self._lock:
            seen = self._changed.wait_for(lambda: len(self._seen) >= n, LAUNCH_WITHIN)
            self._waiting = False
            self._seen.clear()
        return seen

    def put(
        self,
        name: str,
        step: int,
        before: int,
        block: Any,
        offset: Offset,
        ids: Any = None,
        blocks: tuple[Any, Any] | None = None,
    ) -> None:
        """Put a block into all of them; see `AttachedRun.put`."""
        for run in tuple(self.active):
            run.put(name, step, before, block, offset, ids, blocks)

    def step_end(self, step: int) -> None:
        """End a step in all of them."""
        for run in tuple(self.active):
            run.step_end(step)

    def rewind(self, step: int) -> None:
        """Go back in all of them."""
        for run in tuple(self.active):
            run.rewind(step)

    def begin_close(self, status: str, reason: str) -> Callable[[], None]:
        """Have all say goodbye; return a function that waits for that, for a bounded time."""
        deadline = Deadline(CLOSE_WITHIN)
        with self._lock:
            self._closed = True
            runs = list(self._runs.values())
        for run in runs:
            run.begin_close(status, reason, deadline)

        def join() -> None:
            for run in runs:
                run.join(deadline)

        return join

    def release_in_child(self) -> None:
        """Close a forked child's copies of the descriptors."""
        for run in list(self._runs.values()):
            run.release_in_child()


class AttachedBlock(AbstractContextManager[Cells]):
    """A block that is computed in place and put into attached runs as well.

    Parameters
    ----------
    block
        The block itself.
    put
        Puts the cells into attached runs.
    """

    __slots__ = ("_block", "_cells", "_put")

    def __init__(self, block: AbstractContextManager[Cells], put: Callable[[Cells], None]) -> None:
        self._block, self._put = block, put

    def __enter__(self) -> Cells:
        self._cells = self._block.__enter__()
        return self._cells

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if error is None:
            self._put(self._cells)  # before it belongs to the bridge again
        self._block.__exit__(kind, error, trace)
