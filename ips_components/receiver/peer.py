"""A rank as a receiver knows it, across its connections."""

from __future__ import annotations

import threading

from ips_components.receiver.reading import Closed


class Peer:
    """A rank, from its first hello to its goodbye or its loss.

    Parameters
    ----------
    rank
        Number of the rank.
    session
        Chosen at random by the bridge when it opened; a reconnect has the same.
    pid, host
        The process, for messages.

    Notes
    -----
    `lock` guards `last_seq` and `generation`. A rank that reconnects gets a new generation, and
    with it the number of the last message that was taken. Whatever takes a message holds the lock
    and compares the generation of its connection: after the welcome of the new connection nothing
    of the old one is taken, so that the rank sends again exactly what is missing.
    The lock of the `PeerTable` guards the other fields.
    """

    __slots__ = (
        "generation",
        "gone_since",
        "host",
        "last_seq",
        "left",
        "lock",
        "pid",
        "rank",
        "session",
        "wants_contract",
        "why",
    )

    def __init__(self, rank: int, session: int, pid: int, host: str) -> None:
        self.rank = rank
        self.session = session
        self.pid = pid
        self.host = host
        self.lock = threading.Lock()
        self.generation = 0
        self.last_seq = 0
        self.gone_since: float | None = None
        self.why = ""
        self.left = False
        self.wants_contract = False

    def check_generation(self, generation: int) -> None:
        """Stop a connection when the rank has another one by now (the lock is held).

        Raises
        ------
        Closed
            The rank has a later generation.
        """
        if self.generation != generation:
            raise Closed("the rank has connected anew")
