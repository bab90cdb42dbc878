"""Arrays as a simulation describes them in code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeAlias

import numpy as np

from ips_components.errors import BridgeError
from ips_components.model.spec import ArraySpec, StepAxis

Box: TypeAlias = tuple[Sequence[int], Sequence[int]]
"""Offset and shape."""


@dataclass(frozen=True, slots=True)
class Array:
    """An array that a simulation offers, described in code.

    Parameters
    ----------
    name
        Identifier.
    shape
        Global shape of space, without time. For particles (``ragged=True``) the first entry is -1.
    dtype
        NumPy dtype or its name.
    offset
        Global index of the first cell of this rank's block; its extent is what is put. None: see
        ``blocks``.
    blocks
        This rank's blocks, each an offset and a shape; an empty list for a rank without cells.
        None, with no ``offset``: the regular decomposition over ``grid``.
    halo
        Ghost cells around the block in what is put, one number or one per dimension; never sent.
    dims
        Names of the dimensions.
    steps
        Steps at which the array is put: a `StepAxis`, a ``range``, a number of steps, or None when
        it is not known.
    attrs
        Attributes that travel with the array.
    ragged
        The number of rows varies from rank to rank and step to step.
    grid
        Process grid of the regular decomposition, ranks in C order; None: as MPI_Dims_create.
    fill_value
        What masked cells become when a masked array is put. None: masked arrays are refused.

    Raises
    ------
    BridgeError
        When a number of cells, a position or a step is not a whole number.

    Examples
    --------
    >>> Array("temperature", (64, 32), "f8", steps=100).spec.index_shape
    (100, 64, 32)
    """

    name: str
    shape: tuple[int, ...]
    dtype: Any = "f8"
    offset: tuple[int, ...] | None = None
    blocks: Sequence[Box] | None = None
    halo: int | tuple[int, ...] = 0
    dims: tuple[str, ...] = ()
    steps: StepAxis | range | int | None = None
    attrs: Mapping[str, Any] = field(default_factory=dict)
    ragged: bool = False
    grid: tuple[int, ...] | None = None
    fill_value: Any = None

    def __post_init__(self) -> None:
        # Numbers come as they are in the program, of NumPy or not; from here on they are Python's.
        whole = partial(_whole_numbers, self.name)
        changes: dict[str, Any] = {"shape": whole("shape", self.shape)}
        for name in ("offset", "grid"):
            if (value := getattr(self, name)) is not None:
                changes[name] = whole(name, value)
        if np.ndim(self.halo):
            changes["halo"] = whole("halo", self.halo)
        else:
            (changes["halo"],) = whole("halo", (self.halo,))
        if self.blocks is not None:
            changes["blocks"] = [
                (whole("blocks", offset), whole("blocks", extent)) for offset, extent in self.blocks
            ]
        if not isinstance(self.steps, StepAxis | range | None):
            (changes["steps"],) = whole("steps", (self.steps,))
        for name, value in changes.items():
            object.__setattr__(self, name, value)

    @property
    def spec(self) -> ArraySpec:
        """The array as all ranks and the analyst see it."""
        steps = self.steps
        if steps is None:
            axis = StepAxis()
        elif isinstance(steps, range):
            axis = StepAxis(steps.start, steps.step, len(steps))
        elif isinstance(steps, StepAxis):
            axis = steps
        else:
            axis = StepAxis(count=steps)
        count = None if axis.count is None else int(axis.count)
        axis = StepAxis(int(axis.start), int(axis.every), count)
        return ArraySpec(
            self.name,
            np.dtype(self.dtype).str,
            tuple(self.shape),
            axis,
            tuple(self.dims),
            dict(self.attrs),
            self.ragged,
        )

    def to_json(self) -> dict[str, Any]:
        """Return the description as a hello carries it."""
        spec = self.spec
        axis = spec.steps
        return {
            "name": spec.name,
            "dtype": spec.dtype,
            "shape": list(spec.shape),
            "steps": {"start": axis.start, "every": axis.every, "count": axis.count},
            "dims": list(spec.dims),
            "attrs": dict(spec.attrs),
            "ragged": spec.ragged,
        }


def _whole_numbers(array: str, what: str, values: Any) -> tuple[int, ...]:
    """Return numbers as Python's integers.

    Raises
    ------
    BridgeError
        If one of them is not a whole number.
    """
    numbers = []
    for value in values:
        try:
            number = int(value)
        except (TypeError, ValueError, OverflowError):
            number = None
        if number is None or number != value:
            raise BridgeError(
                f"array {array!r}: {what} must be whole numbers, got {value!r} in {values!r}"
            )
        numbers.append(number)
    return tuple(numbers)
