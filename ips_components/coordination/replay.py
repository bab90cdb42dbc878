"""What the replay buffers of a run's ranks allow, said before its first step."""

from __future__ import annotations

from collections.abc import Iterable

from ips_components.model.array_contract import ArrayContract


def what_replay_lacks(
    arrays: Iterable[ArrayContract],
    n_ranks: int,
    replay_steps: int,
    replay_bytes: int,
    slot_bytes: int,
) -> str:
    """Return why not every chunk survives the death of its worker; empty if every one does.

    Parameters
    ----------
    arrays
        Of the contract. How many rows a ragged one has is not known, so that it is left out.
    n_ranks
        Number of ranks, which are taken to hold equal parts.
    replay_steps
        Steps that a rank keeps at least; 0: it keeps none.
    replay_bytes
        Memory that it may take for that.
    slot_bytes
        Memory that it may take for all its blocks, the one that it writes included.
    """
    if not replay_steps:
        return ""
    wanted, kept, total = [], 0, 0
    for array in arrays:
        ids = array.needed_ids(0, 1).tolist()
        if array.spec.ragged or not ids:
            continue
        first, stop = array.layout.bounds(0, 0)
        cells = sum(array.chunk_cells(chunk) for chunk in ids)
        of_step = cells * array.spec.itemsize / (stop - first) / n_ranks
        longest = max(stop - first, replay_steps)
        wanted.append(f"array {array.spec.name!r} {longest} steps of {_size(of_step)}")
        kept += round(longest * of_step)
        total += round((longest + 1) * of_step)
    lacks = []
    if kept > replay_bytes:
        lacks.append(("REPLAY_BYTES", replay_bytes, kept, ""))
    if total > slot_bytes:
        lacks.append(("SLOT_BYTES", slot_bytes, total, ", and one more that is written"))
    if not lacks:
        return ""
    few = "; ".join(
        f"{name} = {limit} ({_size(limit)}) is less than the {_size(need)} that a rank needs to "
        f"send chunks again whose worker died: {', '.join(wanted)}{more}"
        for name, limit, need, more in lacks
    )
    remedy = " and ".join(f"{name} = {need}" for name, _, need, _ in lacks)
    return (
        f"{few}. Such a chunk is lost if its first steps were overwritten; set {remedy}, or make "
        "chunks of fewer steps (CHUNKS)"
    )


def _size(nbytes: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if nbytes < 1024:
            return f"{nbytes:.3g} {unit}"
        nbytes /= 1024
    return f"{nbytes:.3g} GiB"
