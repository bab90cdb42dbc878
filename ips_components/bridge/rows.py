"""Rows that do not lie one behind the other: packed by the bridge, where they are wanted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np

from ips_components.errors import BridgeError

Array: TypeAlias = np.ndarray[Any, Any]


class Rows:
    """Some rows of an array, such as the particles in cells that have gaps.

    Parameters
    ----------
    cells
        Array whose first dimension counts rows; any strides.
    index
        Which rows, counted from 0, in the order in which they are put; or a mask with an entry for
        each row. None: all.

    Raises
    ------
    BridgeError
        When the index is neither, or names a row that is not there.

    Examples
    --------
    >>> Rows(np.arange(10.0), [7, 0]).pack()
    array([7., 0.])
    >>> len(Rows(np.zeros((5, 3)), np.array([True, False, True, True, False])))
    3
    """

    __slots__ = ("cells", "index")

    def __init__(self, cells: Any, index: Any = None) -> None:
        self.cells = as_array(cells)
        self.index: Array | None = None
        if self.cells.ndim < 1:
            raise BridgeError(f"rows are an array of one dimension or more, got {self.cells!r}")
        if index is None:
            return
        given = np.asarray(index)
        n = len(self.cells)
        if given.dtype.kind == "b" and given.shape != (n,):
            raise BridgeError(f"a mask of shape {given.shape} does not fit {n} rows")
        if given.dtype.kind == "b":
            given = np.flatnonzero(given)
        if given.ndim != 1 or (given.size and given.dtype.kind not in "iu"):
            raise BridgeError(
                "an index of rows must be a list of whole numbers or a mask, got "
                f"{given.dtype} of shape {given.shape}"
            )
        if given.size and not (given.min() >= 0 and given.max() < n):
            wrong = int(given.min()) if given.min() < 0 else int(given.max())
            raise BridgeError(f"there are rows 0 to {n - 1}, the index names row {wrong}")
        self.index = given.astype(np.intp, copy=False)

    def __len__(self) -> int:
        return len(self.cells if self.index is None else self.index)

    @property
    def nbytes(self) -> int:
        """Bytes of the rows."""
        return len(self) * self.cells[:1].nbytes

    def pack(self) -> Array:
        """Return the rows one behind the other."""
        return self.cells if self.index is None else self.cells[self.index]


def as_rows(block: Any) -> Sequence[Rows] | None:
    """Return what is put as parts, None if it is an array."""
    if isinstance(block, Rows):
        return [block]
    if isinstance(block, list | tuple) and block and all(isinstance(one, Rows) for one in block):
        return block
    return None


def as_array(cells: Any) -> Array:
    """Return cells as an array; a mask stays, which the array they are put into deals with."""
    if type(cells) is np.ndarray:  # nearly always, and then numpy.ma is not loaded
        return cells
    return cells if isinstance(cells, np.ma.MaskedArray) else np.asarray(cells)


def filled(cells: Any, fill_value: Any, where: str) -> Array:
    """Return cells as an array without a mask.

    Raises
    ------
    BridgeError
        When cells are masked and there is no `fill_value`.
    """
    array = as_array(cells)
    if type(array) is np.ndarray:
        return array
    assert isinstance(array, np.ma.MaskedArray)
    if fill_value is None and np.any(array.mask):
        raise BridgeError(
            f"{where}: {np.count_nonzero(array.mask)} cells are masked, and a mask does not "
            "travel; describe the array with fill_value=..., or fill the block"
        )
    return np.asarray(array.filled(fill_value))
