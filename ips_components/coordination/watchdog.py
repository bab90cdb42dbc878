"""Peers that are silent rather than dead: stopped processes, hosts that hang, cables pulled.

A process that dies closes its connections and is noticed at once.  One that is silent is noticed
by the lack of signs of life: receivers and ranks watch each other over the wire, Dask's workers
send heartbeats to the scheduler, which the run coordinator watches by these functions.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ips_components.coordination.run_state import RunState

#: Seconds between two looks.
INTERVAL = 0.5
#: Of the deadline for silence, what is added for coming back.
GRACE = 1 / 3


def liveness_limit(deadlines: Mapping[str, float]) -> float:
    """Return the seconds without a sign of life after which a peer is given up."""
    return deadlines["silence"] * (1 + GRACE)


def silent_workers(
    workers: Mapping[str, Any], ours: Iterable[str], limit: float, now: float
) -> list[tuple[str, float]]:
    """Return those of our workers without a heartbeat for `limit` seconds, and for how long.

    Parameters
    ----------
    workers : mapping
        ``scheduler.workers``.
    ours : iterable of str
        Addresses.
    limit, now : float
        Seconds; seconds since the epoch.
    """
    silent = []
    for address in ours:
        known = workers.get(address)
        if known is not None and now - known.last_seen > limit:
            silent.append((address, now - known.last_seen))
    return silent


def missing_ranks(state: RunState, answered: float, limit: float, now: float) -> list[int]:
    """Return the ranks that have said no hello, `limit` seconds after they could.

    Ranks other than 0 connect when they have the contract, which was sent at `answered`.
    """
    if state.n_ranks is None or state.first_hello is None:
        return []
    if now - max(state.first_hello, answered) <= limit:
        return []
    return [rank for rank in range(state.n_ranks) if rank not in state.ranks]
