"""The queue from the components to the framework, at both of its ends.

``multiprocessing`` pickles in a thread and drops what it cannot pickle; it guards the pipe by a
lock that stays locked for ever when a process dies while it writes; and a reader that has seen the
first bytes of a message waits for the others without a deadline. None of this may stop a run.
"""

import contextlib
import math
import pickle
import queue
import select
import struct
import time
from collections.abc import Callable, Iterator
from os import read
from typing import Any

from ips_components.deadlines import Deadline
from ips_components.ips_compat._ips import Message, MethodResult
from ips_components.ips_compat._text import describe

_TICK = 0.2
_LOCK_LIMIT = 5.0
_LONG = -1
"""Length that says that the true length follows, in eight bytes."""


class PickleCheckedQueue:
    """A component's end: an answer that cannot travel becomes a failure that says so."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def put(self, message: Any) -> None:
        """Queue *message*; an answer that would get lost becomes a failure with its text."""
        if isinstance(message, MethodResult):
            try:
                pickle.loads(pickle.dumps(message.args))
            except Exception as error:
                (value,) = message.args
                if message.status == Message.FAILURE:
                    text = describe(value)
                else:
                    text = f"returned a {type(value).__name__} which cannot be pickled: {error}"
                message.status = Message.FAILURE
                message.args = (RuntimeError(text),)
        self._inner.put(message)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class FrameDecoder:
    """Cuts the stream of a ``multiprocessing`` pipe into messages.

    Examples
    --------
    >>> frames = FrameDecoder()
    >>> frames.feed(b"\\x00\\x00\\x00\\x02a")
    >>> frames.next() is None
    True
    >>> frames.feed(b"b")
    >>> frames.next()
    b'ab'
    """

    def __init__(self) -> None:
        self._data = bytearray()

    def feed(self, data: bytes) -> None:
        """Take what was read."""
        self._data += data

    def next(self) -> bytes | None:
        """Return the next complete message, or None."""
        head = 4
        if len(self._data) < head:
            return None
        (size,) = struct.unpack_from("!i", self._data)
        if size == _LONG:
            head = 12
            if len(self._data) < head:
                return None
            (size,) = struct.unpack_from("!Q", self._data, 4)
        if len(self._data) < head + size:
            return None
        frame = bytes(self._data[head : head + size])
        del self._data[: head + size]
        return frame

    def drop_partial(self) -> bool:
        """Forget the beginning of a message whose writer is dead; return whether there was one."""
        had = bool(self._data)
        self._data.clear()
        return had


class PollingQueue:
    """The framework's end: read in slices of time, with *on_idle* in between.

    Parameters
    ----------
    inner
        The queue, a ``multiprocessing.Queue`` that this process alone reads.
    on_message
        Called with each message before it is returned.
    on_idle
        Called while nothing is there to read, now and then also when messages keep coming; a
        message that it returns is taken as arrived.
    a_writer_died
        Whether a process that writes to the queue has ended, so that it may have left the lock
        locked.
    """

    def __init__(
        self,
        inner: Any,
        on_message: Callable[[Any], None],
        on_idle: Callable[[], Any],
        a_writer_died: Callable[[], bool],
    ) -> None:
        self._inner = inner
        self._on_message = on_message
        self._on_idle = on_idle
        self._a_writer_died = a_writer_died
        self._frames = FrameDecoder()
        self._fd = inner._reader.fileno()
        self._poll = select.poll()
        self._poll.register(self._fd, select.POLLIN)
        self._last_read = self._looked = time.monotonic()
        self._locked_since: float | None = None

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        """Return the next message: a real one, or one that *on_idle* made.

        Raises
        ------
        queue.Empty
            When none came in time, or at once with ``block=False``.
        """
        deadline = Deadline(math.inf if timeout is None else timeout)
        while True:
            message = self._received(0.0)
            if message is None and block and time.monotonic() - self._looked < _TICK:
                message = self._received(_TICK)
            if message is None:
                self._looked = time.monotonic()
                self._recover()
                message = self._on_idle()
            if message is not None:
                self._on_message(message)
                return message
            if not block or deadline.expired:
                raise queue.Empty

    def put(self, message: Any) -> None:
        """Pass on, for components."""
        self._inner.put(message)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    @contextlib.contextmanager
    def no_writer(self) -> Iterator[None]:
        """Within the block no other process writes, so that any of them may be killed.

        Waits some seconds at most for a process that is writing; one that holds the lock for
        longer is dead, or will not write any more.
        """
        deadline = Deadline(_LOCK_LIMIT)
        locked = False
        while not (locked or deadline.expired):
            locked = bool(self._inner._wlock.acquire(timeout=0.02))
            self._read(0.0)  # a writer may wait for room in the pipe
        try:
            yield
        finally:
            if locked:
                self._inner._wlock.release()

    def _received(self, timeout: float) -> Any:
        """Return a message, None when none is complete in time or it cannot be unpickled."""
        frame = self._frames.next()
        while frame is None:
            if not self._read(timeout):
                return None
            frame = self._frames.next()
        try:
            return pickle.loads(frame)
        except Exception:
            return None  # only a component without PickleCheckedQueue sends such a thing

    def _read(self, timeout: float) -> bool:
        """Read what is there; whether there was anything."""
        if not self._poll.poll(timeout * 1000):
            return False
        self._frames.feed(read(self._fd, 1 << 18))
        self._last_read = time.monotonic()
        return True

    def _recover(self) -> None:
        """Unlock the queue after a process that has died while it wrote, and drop what it wrote."""
        lock = self._inner._wlock
        if not self._a_writer_died():
            return
        if lock.acquire(block=False):
            lock.release()
            self._locked_since = None
            return
        now = time.monotonic()
        self._locked_since = self._locked_since or now
        if now - max(self._locked_since, self._last_read) > _LOCK_LIMIT:
            self._frames.drop_partial()
            lock.release()
            self._locked_since = None
