"""Arrays as a simulation describes them in code."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeAlias

import numpy as np

from ips_components.errors import BridgeError, GeometryError
from ips_components.model.amr import LEVELS, REFINEMENT, TABLE_OF, table_name
from ips_components.model.margins import Margins
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
        Ghost cells around the block in what is put, never sent: one number; or one entry per
        dimension, a number or a pair (below, above), such as ``((2, 3), (2, 3))``; or a single
        pair ``((2, 3),)`` for all dimensions, as in `numpy.pad`.
    shared
        For staggered arrays, in which neighbouring blocks both have the plane of points between
        them: ``"low"`` if the block that begins lower owns it, ``"high"`` if the next one does;
        one for all dimensions, or one per dimension, None where blocks share no points. Blocks are
        given and put with all their points; each is sent once. None: blocks do not overlap. With
        ``ids``: which rank owns an id that several have, the lowest or the highest.
    ids
        Global ids of this rank's rows, for an array whose first dimension is indexed by ids (the
        points or cells of a mesh): in the order of the rows, from 0 on, and empty for a rank that
        has none. True: they come with each put. None: ranks have blocks.
    levels
        Levels of refinement, for the blocks of an adaptive mesh: a ragged array, each row of which
        is a block with a level and a place that are put with it. 0: rows have none.
    refinement
        Cells of the next level along one cell, with ``levels``.
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
        When a number of cells, a position or a step is not a whole number, or halo or shared
        points do not fit the shape.

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
    halo: int | tuple[int | tuple[int, int], ...] = 0
    dims: tuple[str, ...] = ()
    steps: StepAxis | range | int | None = None
    attrs: Mapping[str, Any] = field(default_factory=dict)
    ragged: bool = False
    grid: tuple[int, ...] | None = None
    fill_value: Any = None
    shared: str | tuple[str | None, ...] | None = None
    ids: Any = None
    levels: int = 0
    refinement: int = 2

    def __post_init__(self) -> None:
        # Numbers come as they are in the program, of NumPy or not; from here on they are Python's.
        whole = partial(whole_numbers, self.name)
        changes: dict[str, Any] = {"shape": whole("shape", self.shape)}
        for name in ("offset", "grid"):
            if (value := getattr(self, name)) is not None:
                changes[name] = whole(name, value)
        changes["halo"] = _whole_halo(whole, self.halo)
        if self.blocks is not None:
            changes["blocks"] = [
                (whole("blocks", offset), whole("blocks", extent)) for offset, extent in self.blocks
            ]
        if not isinstance(self.steps, StepAxis | range | None):
            (changes["steps"],) = whole("steps", (self.steps,))
        for name, value in changes.items():
            object.__setattr__(self, name, value)
        if self.ids is not None and self.ids is not False:
            self._check_ids()
        if self.levels:
            self._check_levels()
        try:
            margins = self.margins
        except GeometryError as error:
            raise BridgeError(str(error)) from None
        if self.ragged and (any(map(any, margins.halo)) or any(margins.shared)):
            raise BridgeError(
                f"array {self.name!r} is ragged: its rows have neither halo nor shared points"
            )

    @property
    def margins(self) -> Margins:
        """Ghost cells and shared points around what this rank owns."""
        shared = None if self.by_id else self.shared
        return Margins.of(self.name, self.shape, self.halo, shared)

    @property
    def by_id(self) -> bool:
        """Whether ranks have rows with ids instead of blocks."""
        return self.ids is not None and self.ids is not False

    @property
    def table(self) -> Array | None:
        """The array of levels and places that goes with blocks of an adaptive mesh."""
        if not self.levels:
            return None
        return Array(
            table_name(self.name),
            (-1, len(self.shape)),
            "i8",
            dims=("block", "level_and_place"),
            steps=self.steps,
            attrs={TABLE_OF: self.name},
            ragged=True,
        )

    def _check_levels(self) -> None:
        rows = self.ragged and len(self.shape) > 1 and self.shape[0] in (-1, 0)
        if not rows or self.levels < 0 or self.refinement < 1:
            raise BridgeError(
                f"array {self.name!r} has levels, so that its rows are blocks: it must be ragged "
                f"and have a shape such as (-1, 8, 8), got {self.shape} with levels="
                f"{self.levels!r}, refinement={self.refinement!r}"
            )
        attrs = {**self.attrs, LEVELS: int(self.levels), REFINEMENT: int(self.refinement)}
        object.__setattr__(self, "attrs", attrs)

    def _check_ids(self) -> None:
        where = f"array {self.name!r} is indexed by ids"
        for name in ("offset", "blocks", "grid", "halo"):
            if getattr(self, name):
                raise BridgeError(f"{where}, so that it has no {name}: give one of both")
        if self.shared not in (None, "low", "high"):
            raise BridgeError(
                f"{where}: shared must be 'low' or 'high', the lowest or the highest rank that has "
                f"an id, or None where each id is at one rank; got {self.shared!r}"
            )
        if self.ids is not True:
            object.__setattr__(self, "ids", whole_ids(self.name, self.ids))

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
            (str(self.shared) if self.shared else "unique") if self.by_id else "",
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
            **({"ids": spec.ids} if spec.ids else {}),
        }


def whole_ids(array: str, ids: Any) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Return ids as 64-bit integers, a copy of the caller's.

    Raises
    ------
    BridgeError
        If they are no list of whole numbers.
    """
    given = np.asarray(ids)
    if given.ndim != 1 or (given.size and given.dtype.kind not in "iu"):
        raise BridgeError(
            f"array {array!r}: ids must be whole numbers, one for each row, got {given.dtype} of "
            f"shape {given.shape}"
        )
    return given.astype(np.int64)


def _whole_halo(whole: Callable[[str, Any], tuple[int, ...]], halo: Any) -> Any:
    """Return a halo with Python's integers, in the notation in which it came."""
    if isinstance(halo, Iterable) and not isinstance(halo, str) and getattr(halo, "ndim", 1) != 0:
        return tuple(
            whole("halo", entry) if isinstance(entry, Iterable) else whole("halo", (entry,))[0]
            for entry in halo
        )
    return whole("halo", (halo,))[0]


def whole_numbers(array: str, what: str, values: Any) -> tuple[int, ...]:
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


def margins_of(name: str, described: Array | None, spec: ArraySpec | None) -> Margins:
    """Return what is around the blocks of an array: as described in code, else by the config."""
    if described is not None:
        return described.margins
    if spec is None:
        return Margins((), (), ())
    attrs = spec.attrs
    return Margins.of(name, spec.shape, attrs.get("halo", 0), attrs.get("shared"))


def by_name(arrays: Sequence[Array]) -> dict[str, Array]:
    """Return descriptions by name, with those of the tables beside blocks of adaptive meshes.

    Raises
    ------
    BridgeError
        When an array is described more than once.
    """
    arrays = [*arrays, *(table for array in arrays if (table := array.table) is not None)]
    described = {array.name: array for array in arrays}
    if len(described) < len(arrays):
        names = [array.name for array in arrays]
        twice = sorted({name for name in names if names.count(name) > 1})
        raise BridgeError(
            f"array {twice[0]!r} is described more than once: an array has one description, "
            "which may name several blocks"
        )
    return described
