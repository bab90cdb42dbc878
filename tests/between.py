"""What stands between ranks and a receiver: it passes on bytes, holds them back, or cuts."""

from __future__ import annotations

import contextlib
import select
import socket
import threading
import time
from dataclasses import replace

from ips_components.wire import contact as contacts


class Between:
    """A port in front of a receiver's; ranks reach it over TCP.

    ``passing`` holds what ranks send while it is cleared, ``accepting`` connections: a rank then
    reaches the port, and gets no answer. ``most`` bytes of each connection pass before ``passing``
    is cleared and ``held`` is set.

    Parameters
    ----------
    endpoint
        Of the receiver.
    part
        Bytes that are passed on at a time at most.
    pause
        Seconds between two parts from a rank: a slow network, with little room on the way.
    """

    def __init__(self, endpoint, part=1 << 16, pause=0.0):
        self._part, self._pause = part, pause
        self._to = (endpoint.host, endpoint.port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        if pause:
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        self.endpoint = replace(endpoint, port=self._listener.getsockname()[1])
        self.passing, self.accepting = threading.Event(), threading.Event()
        self.passing.set()
        self.accepting.set()
        self.held, self.most = threading.Event(), None
        self._ended = False
        self._pairs, self._threads = [], []
        self._start(self._serve)

    def _start(self, work, *args):
        thread = threading.Thread(target=work, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _serve(self):
        while True:
            try:
                rank, _ = self._listener.accept()
            except OSError:
                return
            self._start(self._connect, rank)

    def _connect(self, rank):
        self.accepting.wait()
        if self._ended:
            rank.close()
            return
        receiver = socket.create_connection(self._to)
        for side in (rank, receiver):
            side.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._pairs.append((rank, receiver))
        back = threading.Thread(target=self._pass, args=(receiver, rank, None), daemon=True)
        back.start()
        self._pass(rank, receiver, self.passing)
        back.join(10)
        rank.close()
        receiver.close()

    def _pass(self, one, other, gate):
        passed = 0
        with contextlib.suppress(OSError):
            while True:
                select.select([one], [], [])
                if gate is not None:
                    if self.most is not None and passed > self.most:
                        gate.clear()
                        self.held.set()
                    gate.wait()
                    time.sleep(self._pause)
                data = one.recv(self._part)
                passed += len(data)
                if not data:
                    break
                other.sendall(data)
        for side in (one, other):
            with contextlib.suppress(OSError):
                side.shutdown(socket.SHUT_RDWR)

    def stand_in(self, file, receiver, contract, others=()):
        """Have ranks that read this contact file come here, and directly to other receivers."""
        endpoints = (*(other.endpoint for other in others), self.endpoint)
        for one in (receiver, *others):
            one.set_contract(contract, endpoints)
        known = contacts.read(file)
        file.unlink()
        contacts.write(file, replace(known, endpoints=endpoints))

    def cut(self):
        """Break all connections, with what is held back of them; others pass."""
        pairs, self._pairs = self._pairs, []
        for pair in pairs:
            for side in pair:
                with contextlib.suppress(OSError):
                    side.shutdown(socket.SHUT_RDWR)
        self.held.clear()
        self.passing.set()

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self._ended, self.most = True, None
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()
        self.accepting.set()
        for thread in self._threads:
            thread.join(10)
