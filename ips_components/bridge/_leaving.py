"""Waiting for what was sent, saying goodbye, and ending: the last part of a transport's life."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable

from ips_components.bridge._link import Item, Standing
from ips_components.bridge._listening import Listening
from ips_components.wire import framing
from ips_components.wire import messages as m

LOOK_AGAIN = 0.25  # at the latest, although every change is notified


class Leaving(Listening):
    """The part of a `Transport` that waits and ends; the state belongs to the transport."""

    _thread: threading.Thread

    @property
    def quiet(self) -> bool:
        """Whether nobody is there to send to, and the simulation goes on alone."""
        return self.fault is not None or self.lost is not None

    def say_bye(self, bye: m.Bye) -> None:
        """Say goodbye on all links that have not heard it."""
        with self.changed:
            links = [k for k in self.links.values() if k.standing is Standing.OPEN and not k.left]
            for link in links:
                link.left = True
                link.state.leave()
                link.to_send.append(Item(framing.pack(bye)))
        for link in links:
            link.pump()

    def bye_answered(self) -> bool:
        """Tell whether all have answered the goodbye that have heard it and are still there."""
        with self.changed:
            return all(
                link.ordinal in self.said_bye
                for link in self.links.values()
                if link.standing is Standing.OPEN and link.left
            )

    def any_open(self) -> bool:
        """Tell whether any receiver is connected."""
        with self.changed:
            return any(link.standing is Standing.OPEN for link in self.links.values())

    def open_lanes(self) -> dict[int, str]:
        """Return how each connected receiver is reached."""
        with self.changed:
            links = self.links.values()
            return {k.ordinal: k.lane for k in links if k.standing is Standing.OPEN}

    def untaken(self) -> dict[int, tuple[int, int]]:
        """Return, per array, blocks and bytes that were sent and not taken."""
        with self.changed:
            slots: dict[int, set[int]] = {}
            nbytes: dict[int, int] = {}
            for link in self.links.values():
                for item in (*link.unacked, *link.to_send):
                    if item.stored is not None and item.slot is not None:
                        array = item.stored.array
                        slots.setdefault(array, set()).add(item.slot.number)
                        nbytes[array] = nbytes.get(array, 0) + item.stored.place.cells.nbytes
            return {array: (len(of), nbytes[array]) for array, of in slots.items()}

    def drained(self) -> bool:
        """Tell whether all that was sent was taken (the condition is held)."""
        return all(
            not link.to_send and not link.unacked
            for link in self.links.values()
            if link.standing is not Standing.GONE
        )

    def drain(self, timeout: float) -> bool:
        """Wait until all was taken, or nobody is there to take it."""
        deadline = time.monotonic() + timeout
        with self.changed:
            while not self.drained():
                if self.quiet or not self._wait(deadline):
                    return self.drained()
        return True

    def _wait(self, deadline: float) -> bool:
        left = deadline - time.monotonic()
        if left <= 0:
            return False
        self.changed.wait(min(left, LOOK_AGAIN))
        return True

    def wait_for(self, done: Callable[[], bool], timeout: float) -> bool:
        """Wait for something that news can bring."""
        deadline = time.monotonic() + timeout
        with self.changed:
            while not done():
                if not self._wait(deadline):
                    return done()
        return True

    def release_in_child(self) -> None:
        """Close a forked child's copies of the descriptors, and touch nothing that is shared."""
        self.closed = True
        for link in self.links.values():
            if link.sock is not None:
                link.sock.close()
        os.close(self._wake)

    def close(self) -> None:
        """End threads and connections at once."""
        with self.changed:
            self.closed = True
            for link in self.links.values():
                if link.sock is not None:
                    self._forget(link.sock)
                    link.sock = None
                link.standing = Standing.GONE
            self.changed.notify_all()
        self.wake()
        if threading.current_thread() is not self._thread:
            self._thread.join(5.0)
        for link in self.links.values():
            sender = link._sender
            if sender is not None:
                sender.join(5.0)
        os.close(self._wake)
        for rings in self.rings.values():
            for ring in rings:
                for slot in ring.slots:
                    slot.close()
