"""Steps that ranks have left out: why chunks wait although the simulation went on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from ips_components.coordination.coordinated_run import CoordinatedRun
from ips_components.model.array_contract import ArrayContract
from ips_components.model.block import Block
from ips_components.model.pieces import BlockPlan, ranks_of
from ips_components.model.progression import Progression

#: Chunks that are looked at, in the order of their steps.
LOOK_AT = 100


def first_gap(run: CoordinatedRun, waiting: Iterable[Any]) -> str:
    """Return which step which ranks have left out; empty if no step is known to be left out.

    Parameters
    ----------
    run : CoordinatedRun
        A run with a contract.
    waiting : iterable of keys
        Chunks that have not arrived. A rank that has not come as far as their steps has left out
        none, unless it has closed its bridge; nothing that it has put may still be under way.
    """
    arrays = {array.name: array for array in run.agreed.arrays}

    def first_step(key: Any) -> tuple[int, str]:
        array = arrays[key[0]]
        return array.spec.steps.step(array.layout.bounds(0, key[1])[0]), str(key)

    newest = run.state.newest_steps()
    for key in sorted(waiting, key=first_step)[:LOOK_AT]:
        array = arrays[key[0]]
        chunk = array.layout.ravel(key[1:])
        for t in range(*array.layout.bounds(0, key[1])):
            if said := _left_out(run, array, chunk, t, newest):
                return said
    return ""


def furthest_behind(run: CoordinatedRun) -> str:
    """Return which rank is behind the others, as far as is known; empty if none is."""
    newest = run.state.newest_steps()
    ranks = [rank for rank in range(len(newest)) if rank not in run.state.without_cells]
    if not ranks or newest[ranks].min() == newest[ranks].max():
        return ""
    last, first = (int(choose(ranks, key=newest.__getitem__)) for choose in (min, max))
    put = f"step {newest[last]}" if newest[last] >= 0 else "no step"
    return f"rank {last} is behind: it has put {put}, rank {first} has put step {newest[first]}"


def _left_out(
    run: CoordinatedRun, array: ArrayContract, chunk: int, t: int, newest: np.ndarray
) -> str:
    step = array.spec.steps.step(t)
    ranks = contributors(run, array, chunk, t)
    put = run.state.steps.ranks_of(step, len(newest))
    if put is None:  # not remembered
        return ""
    lacking = [rank for rank in ranks if not put[rank] and newest[rank] > step]
    if lacking:
        return left_out(array, step, ranks, lacking, newest)
    closed = [r for r in ranks if r in run.state.byes and not put[r] and newest[r] < step]
    if closed and newest.max() >= step:
        return _closed_early(closed, newest)
    # Accounts can be compared once they are final.
    if ranks and put[ranks].all() and not run.state.missing_goodbyes:
        return _array_left_out(run, array, ranks)
    return ""


def left_out(
    array: ArrayContract, step: int, ranks: list[int], lacking: list[int], newest: np.ndarray
) -> str:
    """Return that some of the ranks whose cells are needed have put no step but later ones."""
    others = f" and {len(lacking) - 1} more" if lacking[1:] else ""
    by = "put by no rank" if lacking == ranks else f"not put by rank {lacking[0]}{others}"
    return (
        f"step {step} of array {array.spec.name!r} was {by}, but step {newest[lacking].max()} was; "
        "put every step that the array is described with, or describe it with the steps that are "
        "put (steps = start:stop:every)"
    )


def _closed_early(closed: list[int], newest: np.ndarray) -> str:
    """Return that some ranks have ended in order before others."""
    rank, last = closed[0], int(newest.argmax())
    others = f" and {len(closed) - 1} more" if closed[1:] else ""
    after = f"after step {newest[rank]}" if newest[rank] >= 0 else "before its first step"
    return (
        f"rank {rank}{others} closed the bridge {after}, but rank {last} has put step "
        f"{newest[last]}; every rank must put every step"
    )


def _array_left_out(run: CoordinatedRun, array: ArrayContract, ranks: list[int]) -> str:
    """Of a step that every rank has put: say which rank has put less of this array."""
    name = array.spec.name
    counts = run.state.ledger.blocks_put(name, run.state.n_ranks or 0)
    blocks = run.blocks.get(name, {})
    steps = {rank: counts[rank] // max(len(blocks.get(rank, ())), 1) for rank in ranks}
    least, most = min(steps, key=steps.__getitem__), max(steps, key=steps.__getitem__)
    if steps[least] == steps[most]:
        return ""
    return (
        f"rank {least} has put array {name!r} in {steps[least]} steps, rank {most} in "
        f"{steps[most]}; all ranks must put an array in the same steps"
    )


def contributors(run: CoordinatedRun, array: ArrayContract, chunk: int, t: int) -> list[int]:
    """Return the ranks parts of whose blocks belong to a chunk at a time index."""
    size = run.state.n_ranks or 0
    if array.spec.ragged:
        index = array.layout.unravel(chunk)
        return list(ranks_of(index[1], array.layout.numblocks[1], size))
    if array.spec.ids:
        return list(range(size)) if t in array.wanted_times(chunk) else []
    space = array.layout.box(chunk).dims[1:]
    return [
        rank
        for rank, blocks in sorted(run.blocks.get(array.spec.name, {}).items())
        if any(
            piece.chunk == chunk
            for block in blocks
            if _touches(block, space)  # a plan costs more than this look
            for piece in BlockPlan(array, block).at(t)
        )
    ]


def _touches(block: Block, space: Sequence[Progression]) -> bool:
    return all(
        offset < axis.stop and axis.start < offset + extent
        for offset, extent, axis in zip(block.offset, block.shape, space, strict=True)
    )
