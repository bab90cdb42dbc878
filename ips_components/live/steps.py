"""Which steps an attached client asks for, and which of them can still be had."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from operator import index

from ips_components.errors import SelectionError
from ips_components.model.contract import Contract
from ips_components.model.spec import ArraySpec, StepAxis

Wanted = int | slice | range | None
"""The next n steps; simulation steps ``start:stop:every``; None: all that are left."""


def restrict(spec: ArraySpec, wanted: Wanted, first: int) -> ArraySpec:
    """Return an array of the wanted steps only.

    Parameters
    ----------
    spec
        The array as the simulation offers it.
    wanted
        See `Wanted`. Of a slice or range, steps that the array does not have are left out.
    first
        The first step that can be had.

    Raises
    ------
    SelectionError
        When a wanted step has passed, or there is none.

    Examples
    --------
    >>> spec = ArraySpec("t", "f8", (4,), StepAxis(count=100, every=5))
    >>> restrict(spec, 3, first=11).steps
    StepAxis(start=15, every=5, count=3, at_most=False)
    >>> restrict(spec, slice(20, 60, 10), first=11).steps
    StepAxis(start=20, every=10, count=4, at_most=False)
    """
    axis = spec.steps
    begin = axis.index_from(first)
    if wanted is None:
        if axis.count is None:
            raise SelectionError(
                f"array {spec.name!r} has no number of steps; give steps=..., a number of steps "
                "or a slice"
            )
        found = range(begin, axis.count)
    elif isinstance(wanted, slice | range):
        found = _indices(spec, wanted, first)
    else:
        count = index(wanted)
        if count < 1:
            raise SelectionError(f"steps must be >= 1, got {count}")
        stop = begin + count if axis.count is None else min(begin + count, axis.count)
        found = range(begin, stop)
    if not found:
        end = "" if axis.count is None else f", the last one is {axis.step(axis.count - 1)}"
        raise SelectionError(
            f"array {spec.name!r} has none of the steps asked for: the first that can be had is "
            f"{first}{end}"
        )
    steps = StepAxis(axis.step(found[0]), axis.every * found.step, len(found))
    return replace(spec, steps=steps)


def _indices(spec: ArraySpec, wanted: slice | range, first: int) -> range:
    axis, every = spec.steps, wanted.step or 1
    if every < 1 or min(wanted.start or 0, wanted.stop or 0) < 0:
        raise SelectionError(f"steps must rise and be >= 0, got {wanted}")
    if every % axis.every and axis.every % every:
        raise SelectionError(
            f"array {spec.name!r} has every {axis.every}th step, which does not go with every "
            f"{every}th"
        )
    start = first if wanted.start is None else wanted.start
    begin = axis.index_from(start)
    stride = max(1, every // axis.every)
    if begin < axis.length and axis.step(begin) < first:
        passed(spec.name, axis.step(begin), first)
    if wanted.stop is None and axis.count is None:
        raise SelectionError(f"array {spec.name!r} has no number of steps; give an end of them")
    stop = axis.length if wanted.stop is None else axis.index_from(wanted.stop)
    return range(begin, stop, stride)


def passed(name: str, step: int, first: int) -> None:
    """Refuse a step that has passed."""
    raise SelectionError(
        f"step {step} of array {name!r} has passed and cannot be had any more; the first that can "
        f"be had now is {first}"
    )


def refuse_passed(contract: Contract, first: int) -> None:
    """Refuse a contract that names steps which have passed.

    Raises
    ------
    SelectionError
    """
    for array in contract.arrays:
        step = array.spec.steps.step(array.cover.start[0])
        if step < first:
            passed(array.spec.name, step, first)


def first_to_come(begun: Mapping[int, int], margin: int) -> int:
    """Return the first step that all ranks can be expected to put.

    Parameters
    ----------
    begun
        The newest step that each rank has begun.
    margin
        Steps that ranks may go on until they have the contract.
    """
    return max(begun.values(), default=-1) + 1 + margin


def specs_of(specs: Iterable[ArraySpec], wanted: Wanted, first: int) -> list[ArraySpec]:
    """Return all arrays, restricted; see `restrict`. Those without any of the steps are left out.

    Raises
    ------
    SelectionError
        When none is left.
    """
    found, errors = [], []
    for spec in specs:
        try:
            found.append(restrict(spec, wanted, first))
        except SelectionError as error:
            errors.append(error)
    if not found and errors:
        raise errors[0]
    return found
