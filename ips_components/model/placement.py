"""Which receiver gets which chunk: deterministic, aware of hosts, stable under change.

Receivers have ordinals, given in the order in which they joined and never reused, so that an old
message can never reach a newcomer by mistake.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import gcd

import numpy as np

from ips_components.errors import GeometryError
from ips_components.model.block import Block
from ips_components.model.layout import ChunkLayout, Ints
from ips_components.model.selection import Selection

_MAX_OWNERS = 1 << 16
"""Bound of the table of owners: every rank holds it."""


@dataclass(frozen=True, slots=True)
class Placement:
    """The receiver of every chunk of one array.

    Parameters
    ----------
    epoch
        Number of this placement; a later one replaces it.
    period
        Number of time chunks after which the pattern repeats.
    owners
        Ordinal of the receiver of chunk ``(t, s)`` at ``(t % period) * n_space + s``, where ``s``
        is the number of the chunk in space (C order).

    Examples
    --------
    >>> placement = Placement(0, 2, (0, 1, 1, 0))
    >>> [placement.owner(chunk) for chunk in range(6)]
    [0, 1, 1, 0, 0, 1]
    """

    epoch: int
    period: int
    owners: tuple[int, ...]

    def __post_init__(self) -> None:
        if self.epoch < 0:
            raise GeometryError(f"epoch must be >= 0, got {self.epoch}")
        if self.period < 1 or not self.owners or len(self.owners) % self.period:
            raise GeometryError(
                f"placement: {len(self.owners)} owners do not divide into {self.period} periods"
            )
        if min(self.owners) < 0:
            raise GeometryError(f"placement: ordinals must be >= 0, got {min(self.owners)}")

    @property
    def n_space(self) -> int:
        """Number of chunks of one time chunk."""
        return len(self.owners) // self.period

    @property
    def receivers(self) -> tuple[int, ...]:
        """Ordinals in use, ascending."""
        return tuple(sorted(set(self.owners)))

    def owner(self, chunk: int) -> int:
        """Return the receiver of a chunk number."""
        return self.owners[chunk % len(self.owners)]


def affinity(
    layout: ChunkLayout, wanted: Iterable[Selection], blocks: Mapping[str, Sequence[Block]]
) -> dict[str, Ints]:
    """Count, per host and chunk in space, the wanted cells that the blocks of the host hold.

    Parameters
    ----------
    layout, wanted
        Of the array.
    blocks
        Blocks of all ranks, by host.

    Returns
    -------
    dict
        For each host an array of shape ``(n_space,)``.
    """
    cells = {host: np.zeros(layout.numblocks[1:], dtype=np.int64) for host in blocks}
    for selection in wanted:
        for host, of_host in blocks.items():
            for block in of_host:
                cells[host] += _cells_of(block, selection, layout) * selection.count[0]
    return {host: grid.reshape(-1) for host, grid in cells.items()}


def _cells_of(block: Block, selection: Selection, layout: ChunkLayout) -> Ints:
    """Count, per chunk in space, the cells of a block that a selection holds of each step."""
    counts: Ints = np.ones((), dtype=np.int64)
    ranges = zip(selection.dims[1:], block.offset, block.stop, strict=True)
    for dim, (indices, low, high) in enumerate(ranges, start=1):
        counts = np.multiply.outer(counts, layout.counts(dim, indices.clip(low, high)))
    return counts


def place(
    layout: ChunkLayout,
    receivers: Sequence[int],
    *,
    needed: Sequence[int] | None = None,
    hosts: Mapping[int, str] | None = None,
    cells: Mapping[str, Ints] | None = None,
    epoch: int = 0,
) -> Placement:
    """Place chunks anew.

    Parameters
    ----------
    layout
        Chunk grid of the array.
    receivers
        Ordinals of the receivers.
    needed
        Chunks in space that are needed at all (None: every one); only they count as load.
    hosts
        Host of each receiver.
    cells
        Result of `affinity`. A chunk goes to a receiver of the host that holds most of its cells,
        where that host has receivers; else to any.
    epoch
        Number of the placement.

    Examples
    --------
    >>> place(ChunkLayout((8, 6), ((1,) * 8, (2, 2, 2))), [0, 1])
    Placement(epoch=0, period=2, owners=(0, 1, 0, 1, 0, 1))
    """
    ordinals = sorted(set(receivers))
    if not ordinals:
        raise GeometryError("there is no receiver to place chunks on; start at least one worker")
    spaces = list(range(layout.n_space)) if needed is None else sorted(set(needed))
    groups: dict[tuple[int, ...], list[int]] = {}
    for s in spaces:
        groups.setdefault(_candidates(s, ordinals, hosts, cells), []).append(s)
    period = 1
    for members, chunks in groups.items():
        turns = len(members) // gcd(len(members), len(chunks))
        period = period * turns // gcd(period, turns)
    period = max(1, min(period, layout.numblocks[0], _MAX_OWNERS // layout.n_space))
    owners = [ordinals[i % len(ordinals)] for i in range(period * layout.n_space)]
    for members, chunks in groups.items():
        for turn in range(period):
            for i, s in enumerate(chunks):
                owners[turn * layout.n_space + s] = members[(turn * len(chunks) + i) % len(members)]
    return Placement(epoch, period, tuple(owners))


def replace(
    placement: Placement,
    receivers: Sequence[int],
    *,
    needed: Sequence[int] | None = None,
    hosts: Mapping[int, str] | None = None,
    cells: Mapping[str, Ints] | None = None,
) -> Placement:
    """Place chunks again after receivers left or joined, moving as few of them as possible.

    Chunks of receivers that left go to those with the least load, on the host of most of their
    cells where possible. Newcomers get chunks from the most loaded receivers (which may serve the
    same hosts) until the load is even.

    Examples
    --------
    >>> replace(Placement(0, 1, (0, 1, 2, 0, 1, 2)), [0, 2])
    Placement(epoch=1, period=1, owners=(0, 0, 2, 0, 2, 2))
    >>> replace(Placement(1, 1, (0, 0, 0, 0)), [0, 3]).owners
    (3, 3, 0, 0)
    """
    ordinals = sorted(set(receivers))
    if not ordinals:
        raise GeometryError("there is no receiver left to place chunks on")
    n_space = placement.n_space
    wanted = set(range(n_space)) if needed is None else set(needed)
    owners = list(placement.owners)
    load = dict.fromkeys(ordinals, 0)
    homeless = []
    for slot, owner in enumerate(owners):
        if owner not in load:
            homeless.append(slot)
        elif slot % n_space in wanted:
            load[owner] += 1
    for slot in homeless:
        members = _candidates(slot % n_space, ordinals, hosts, cells)
        owners[slot] = min(members, key=lambda r: (load[r], r))
        load[owners[slot]] += slot % n_space in wanted
    for slot, owner in enumerate(owners):
        if slot % n_space in wanted:
            members = _candidates(slot % n_space, ordinals, hosts, cells)
            least = min(members, key=lambda r: (load[r], r))
            if load[owner] - load[least] > 1:
                owners[slot] = least
                load[owner] -= 1
                load[least] += 1
    return Placement(placement.epoch + 1, placement.period, tuple(owners))


def share(
    placement: Placement,
    receivers: Sequence[int],
    *,
    needed: Sequence[int] | None = None,
    hosts: Mapping[int, str] | None = None,
    cells: Mapping[str, Ints] | None = None,
) -> Placement:
    """Place chunks again so that every receiver can have some, newcomers as well.

    Like `replace`, with a period that is long enough to divide the chunks evenly.

    Examples
    --------
    >>> share(Placement(0, 1, (0, 0)), [0, 1, 2])
    Placement(epoch=1, period=3, owners=(1, 2, 1, 2, 0, 0))
    """
    n = len(set(receivers))
    each = placement.period * max(1, placement.n_space if needed is None else len(set(needed)))
    turns = n // gcd(n, each) if n else 1
    turns = max(1, min(turns, _MAX_OWNERS // len(placement.owners)))
    wide = Placement(placement.epoch, placement.period * turns, placement.owners * turns)
    return replace(wide, receivers, needed=needed, hosts=hosts, cells=cells)


def switch(old: Placement, new: Placement, window: range, rows: int) -> Placement | None:
    """Follow a new placement, except for the chunks of some rows.

    Those that are on their way stay with their receivers. They recur with the period, which is made
    so long that they are few, or longer than the run.

    Parameters
    ----------
    old, new
        The present placement, and the one to follow.
    window
        Rows (time chunks) whose chunks must not move.
    rows
        Number of rows of the array.

    Returns
    -------
    Placement or None
        None when the table of owners would be too large.

    Examples
    --------
    >>> switch(Placement(0, 1, (0,)), Placement(1, 2, (0, 1)), range(3, 6), 10).owners
    (0, 1, 0, 0, 0, 0, 0, 1, 0, 1)
    """
    if old.n_space != new.n_space:
        raise GeometryError(f"{old.n_space} chunks in space cannot become {new.n_space}")
    long = min(rows, 16 * len(window))
    turns = max(1, -(-long // new.period))
    owners = list(new.owners * turns)
    if len(owners) > _MAX_OWNERS:
        return None
    n_space = new.n_space
    for chunk in range(window.start * n_space, window.stop * n_space):
        owners[chunk % len(owners)] = old.owner(chunk)
    return Placement(max(old.epoch, new.epoch) + 1, new.period * turns, tuple(owners))


def _candidates(
    space: int,
    ordinals: Sequence[int],
    hosts: Mapping[int, str] | None,
    cells: Mapping[str, Ints] | None,
) -> tuple[int, ...]:
    """Return the receivers on the host that holds most of a chunk, or all of them."""
    if hosts and cells:
        best = max(sorted(cells), key=lambda host: int(cells[host][space]))
        local = tuple(r for r in ordinals if hosts.get(r) == best) if cells[best][space] else ()
        if local:
            return local
    return tuple(ordinals)
