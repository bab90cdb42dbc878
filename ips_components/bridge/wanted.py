"""The steps of an array of which the analysis wants something."""

from __future__ import annotations

from collections.abc import Container, Sequence

from ips_components.model.contract import ArrayContract


class _Steps:
    """Steps of several ranges."""

    def __init__(self, ranges: Sequence[range]) -> None:
        self.ranges = tuple(ranges)

    def __contains__(self, step: object) -> bool:
        return any(step in steps for steps in self.ranges)


def steps_below(wanted: Container[int], step: int) -> list[int]:
    """Return the wanted steps that are before a step, rising."""
    ranges = wanted.ranges if isinstance(wanted, _Steps) else (wanted,)
    found = {
        each
        for one in ranges
        if isinstance(one, range)
        for each in range(one.start, min(step, one.stop), one.step)
    }
    return sorted(found)


def wanted_steps(contract: ArrayContract | None) -> Container[int]:
    """Return the simulation steps of which something is wanted of any rank.

    Every put of every rank asks: mostly it is a range, which answers at once.
    """
    if contract is None:
        return ()
    axis = contract.spec.steps
    found: list[range] = []
    for part in contract.wanted:
        time = part.dims[0]
        start = axis.start + axis.every * time.start
        stride = axis.every * time.step
        steps = range(start, start + stride * time.count, stride)
        if steps not in found:
            found.append(steps)
    return found[0] if len(found) == 1 else _Steps(found)
