"""Thousands of ranks in one process and one thread, that speak the protocol over sockets.

Run with the path of a job file; says ``open`` and ``put``, and waits for a line after each.

Rank 0 is a real bridge: it describes the array and gets the contract.  The others have what a
bridge has on the wire and nothing else: a bridge has a thread, and thousands of them would measure
the machine that they share with the scheduler and the worker.
"""

from __future__ import annotations

import json
import os
import select
import socket
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from ips_components.bridge import Array, Bridge
from ips_components.model.block import Block
from ips_components.model.contract import ArrayContract
from ips_components.model.decomposition import Decomposition
from ips_components.model.pieces import BlockPlan
from ips_components.wire import contact as contacts
from ips_components.wire import framing, proof
from ips_components.wire import messages as m
from ips_components.wire.protocol import Connection


class Rank:
    """One rank with a single block, at one receiver."""

    def __init__(self, rank: int, array: ArrayContract, block: Block, row_bytes: int) -> None:
        self.rank, self.block, self.row_bytes = rank, block, row_bytes
        self.plan = BlockPlan(array, block)
        self.state, self.decoder = Connection.of_rank(), framing.Decoder()
        self.sock = socket.socket()
        self.seq = self.acked = self.admitted = 0
        self.gone = False

    def open(self, contact: contacts.Contact, digest: bytes, size: int, name: str) -> None:
        """Connect and say hello; the welcome is taken with what follows it."""
        endpoint = contact.endpoints[0]
        info = {"host": socket.gethostname(), "blocks": {name: [self.block_as_list()]}}
        hello = m.Hello(
            run=contact.run,
            rank=self.rank,
            size=size,
            pid=os.getpid(),
            session=self.rank + 1,
            digest=digest,
            info=json.dumps(info).encode(),
        )
        self.sock.connect((endpoint.host, endpoint.port))
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        greeting = m.Greeting(proof.new_nonce(), hello.session)
        self.sock.sendall(framing.pack(greeting))
        (challenge,) = self.decoder.feed(self.sock.recv(1 << 16))
        self.state.received(challenge)
        assert isinstance(challenge, m.Challenge)
        hello = proof.answer(hello, contact.secret, greeting, challenge, endpoint.id)
        self.sock.sendall(framing.pack(hello))

    def block_as_list(self) -> list[list[int]]:
        """Where the block is, as a hello says it."""
        return [list(self.block.offset), list(self.block.shape)]

    def hear(self) -> bool:
        """Take what the receiver has sent; return whether it may send more."""
        said = self.sock.recv(1 << 16)
        if not said:
            raise ConnectionResetError(f"rank {self.rank}: the receiver has closed the connection")
        for message in self.decoder.feed(said):
            self.state.received(message)
            if isinstance(message, m.Credit):
                self.admitted = max(self.admitted, message.rows)
            elif isinstance(message, m.Ack):
                self.acked = max(self.acked, message.seq)
            elif isinstance(message, m.ByeAck):
                self.gone = True
                return False
            elif isinstance(message, m.Refused):
                raise ConnectionRefusedError(f"rank {self.rank}: {message.text}")
        return True

    def put(self, step: int, cells: bytes) -> None:
        """Send the block of a step, and say that the step is over."""
        (piece,) = self.plan.at(step)
        self.seq += 1
        head = framing.pack_piece(0, self.seq, piece.chunk, step, piece.dst, len(cells))
        self.sock.sendall(b"".join((head, cells, framing.pack_step_end(step, 0, ()))))

    def leave(self, steps: int) -> None:
        """Say goodbye, with the account."""
        sent = (steps, 0, steps, 0, 0)
        counters = m.Counters(0, sent, tuple(self.row_bytes * n for n in sent))
        self.state.leave()
        self.sock.sendall(framing.pack(m.Bye(steps - 1, 0, (counters,))))


class Crowd:
    """Ranks that one thread listens to."""

    def __init__(self, ranks: Iterable[Rank], patience: float) -> None:
        self.ranks, self.patience = list(ranks), patience
        self._poll = select.epoll()
        self._by_fd = {rank.sock.fileno(): rank for rank in self.ranks}
        for fd in self._by_fd:
            self._poll.register(fd, select.EPOLLIN)

    def until(self, rank: Rank, done: Callable[[Rank], bool], what: str) -> None:
        """Listen to all until one has what it waits for."""
        deadline = time.monotonic() + self.patience
        while not done(rank):
            self.listen(1.0)
            if time.monotonic() > deadline:
                raise TimeoutError(f"rank {rank.rank} waited {self.patience:g} s for {what}")

    def listen(self, timeout: float = 0.0) -> None:
        """Take what has been said to any of the ranks."""
        for fd, _ in self._poll.poll(timeout):
            if not self._by_fd[fd].hear():
                self._poll.unregister(fd)

    def close(self) -> None:
        """Close all connections."""
        self._poll.close()
        for rank in self.ranks:
            rank.sock.close()


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text())
    n, steps = job["ranks"], job["steps"]
    shape = (job["rows"] * n, job["columns"])
    cells = np.ones((job["rows"], job["columns"]))
    described = Array("t", shape, "f8", grid=(n, 1), steps=steps)
    crowd = Crowd((), job["patience"])
    with Bridge(contact=job["contact"], arrays=[described], rank=0, size=n) as bridge:
        try:
            crowd = enter(bridge, n, job["patience"])
            say("open")
            for step in range(steps):
                bridge.put("t", step, cells)
                for rank in crowd.ranks:
                    crowd.until(rank, lambda rank, step=step: rank.admitted > step, "credit")
                    rank.put(step, cells.tobytes())
                crowd.listen()
            for rank in crowd.ranks:
                crowd.until(rank, lambda rank: rank.acked == rank.seq, "its blocks to be taken")
            bridge.wait()
            say("put")
            for rank in crowd.ranks:
                rank.leave(steps)
            bridge.close()  # which waits until all ranks have said goodbye
            for rank in crowd.ranks:
                crowd.until(rank, lambda rank: rank.gone, "the answer to its goodbye")
        finally:
            crowd.close()


def enter(bridge: Bridge, n: int, patience: float) -> Crowd:
    """Let all ranks but the first connect, one after the other."""
    session = bridge._session
    (array,) = session.contract.arrays
    blocks = Decomposition.regular(array.spec.shape, (n, 1)).blocks
    itemsize = array.spec.itemsize
    ranks = [
        Rank(rank, array, block, block.size * itemsize)
        for rank, (block,) in enumerate(blocks)
        if rank
    ]
    for rank in ranks:
        rank.open(session.contact, bytes.fromhex(session.contract.digest()), n, array.spec.name)
    return Crowd(ranks, patience)


def say(word: str) -> None:
    print(word, flush=True)
    sys.stdin.readline()


if __name__ == "__main__":
    main()
