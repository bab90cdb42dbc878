"""Names, keys and ranges of external arrays: what a client may ask for, checked.

Everything here is plain Python: these checks stand between what comes over a Dask RPC and
the scheduler's state.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, TypeAlias

from ips_components.errors import ExternalTaskError

#: Half-open ranges of linear (C-order) chunk ids, ascending and disjoint.
Ranges: TypeAlias = tuple[tuple[int, int], ...]
#: A key of a Dask task.
Key: TypeAlias = Any

#: Longest name of an array, key or group.
MAX_NAME = 500
#: Most chunks of one external array.
MAX_CHUNKS = 50_000_000
#: Most dimensions of one external array, time included.
MAX_DIMENSIONS = 32


def key_name(key: Key) -> Key:
    """Return the name that a key belongs to: its first element, or a plain key itself.

    Examples
    --------
    >>> key_name(("external-t-0a1b2c3d", 0, 1)), key_name("x")
    ('external-t-0a1b2c3d', 'x')
    """
    return key[0] if type(key) is tuple and key else key


def linear_index(index: Sequence[Any], numblocks: Sequence[int]) -> int | None:
    """Return the C-order id of the chunk at `index`; None if there is no such chunk.

    Examples
    --------
    >>> linear_index((1, 2), (2, 3)), linear_index((2, 0), (2, 3))
    (5, None)
    """
    if len(index) != len(numblocks):
        return None
    linear = 0
    for i, n in zip(index, numblocks, strict=True):
        if type(i) is not int or not 0 <= i < n:
            return None
        linear = linear * n + i
    return linear


def chunk_index(linear: int, numblocks: Sequence[int]) -> tuple[int, ...]:
    """Return the index of the chunk with C-order id `linear`.

    Examples
    --------
    >>> chunk_index(5, (2, 3))
    (1, 2)
    """
    index = []
    for n in reversed(numblocks):
        linear, i = divmod(linear, n)
        index.append(i)
    return tuple(reversed(index))


@dataclass(frozen=True, slots=True)
class ExternalName:
    """A declared external array: its name, chunk grid, and what is known of each chunk.

    Attributes
    ----------
    name : str
        First element of all its keys.
    numblocks : tuple of int
        Number of chunks per dimension.
    ranges : tuple of (int, int) or None
        Ids of the chunks that are tasks; None for all of them.
    chunks : tuple of tuple of int or None
        Chunk lengths per dimension, as in Dask, if arrivals are to be checked.
    dtype : str
        NumPy type string, or empty if unknown.

    Raises
    ------
    ExternalTaskError
        A field does not make sense.
    """

    name: str
    numblocks: tuple[int, ...]
    ranges: Ranges | None = None
    chunks: tuple[tuple[int, ...], ...] | None = None
    dtype: str = ""

    def __post_init__(self) -> None:
        check_name("the name of an external array", self.name)
        if not isinstance(self.numblocks, tuple) or not 0 < len(self.numblocks) <= MAX_DIMENSIONS:
            raise ExternalTaskError(
                f"numblocks of external array {self.name!r} must be a tuple of 1 to "
                f"{MAX_DIMENSIONS} integers, got {self.numblocks!r}"
            )
        if not all(type(n) is int and n > 0 for n in self.numblocks):
            raise ExternalTaskError(
                f"numblocks of external array {self.name!r} must be positive integers, "
                f"got {self.numblocks!r}"
            )
        total = prod(self.numblocks)
        if total > MAX_CHUNKS:
            raise ExternalTaskError(
                f"external array {self.name!r} has {total} chunks; at most {MAX_CHUNKS} are "
                "possible. Use larger chunks, for example several steps per chunk"
            )
        if self.ranges is not None:
            check_ranges(self.name, self.ranges, total)
        if self.chunks is not None:
            self._check_chunks(self.chunks)

    def _check_chunks(self, chunks: tuple[tuple[int, ...], ...]) -> None:
        if tuple(len(dim) for dim in chunks) != self.numblocks:
            raise ExternalTaskError(
                f"chunks of external array {self.name!r} make a grid of "
                f"{tuple(len(dim) for dim in chunks)} chunks, but numblocks is {self.numblocks}"
            )
        if not all(type(n) is int and n >= 0 for dim in chunks for n in dim):
            raise ExternalTaskError(
                f"chunk lengths of external array {self.name!r} must be integers >= 0"
            )

    def __contains__(self, key: Key) -> bool:
        index = linear_index(key[1:], self.numblocks) if type(key) is tuple else None
        if index is None:
            return False
        return self.ranges is None or any(start <= index < stop for start, stop in self.ranges)

    def keys(self, ranges: Iterable[tuple[int, int]] | None = None) -> Iterator[Key]:
        """Yield the keys of `ranges`, or of all chunks that are tasks, in C order."""
        if ranges is None:
            ranges = ((0, prod(self.numblocks)),) if self.ranges is None else self.ranges
        for start, stop in ranges:
            yield from self._keys(start, stop)

    def _keys(self, start: int, stop: int) -> Iterator[Key]:
        # The last two dimensions by hand: this loop runs once per declared task.
        name, numblocks = self.name, self.numblocks
        inner = numblocks[-1]
        linear = start
        while linear < stop:
            row, column = divmod(linear, inner)
            prefix = (name, *chunk_index(row, numblocks[:-1]))
            end = min(inner, column + stop - linear)
            for i in range(column, end):
                yield (*prefix, i)
            linear += end - column

    def shape(self, key: Key) -> tuple[int, ...] | None:
        """Return the expected shape of the value of `key`; None if unknown."""
        if self.chunks is None:
            return None
        return tuple(dim[i] for dim, i in zip(self.chunks, key[1:], strict=True))


def check_name(what: str, name: Any) -> str:
    """Return `name` if it is a usable one."""
    if not isinstance(name, str) or not 0 < len(name) <= MAX_NAME:
        raise ExternalTaskError(f"{what} must be a string of 1 to {MAX_NAME} characters")
    return name


def check_key(key: Any) -> Key:
    """Return `key` if it can be the key of an external task.

    Raises
    ------
    ExternalTaskError
        It is neither a string nor a tuple of a string and integers.
    """
    if isinstance(key, str) and 0 < len(key) <= MAX_NAME:
        return key
    if (
        isinstance(key, tuple)
        and 1 < len(key) <= MAX_DIMENSIONS + 1
        and isinstance(key[0], str)
        and 0 < len(key[0]) <= MAX_NAME
        and all(type(i) is int and i >= 0 for i in key[1:])
    ):
        return key
    raise ExternalTaskError(
        "the key of an external task is a string or a tuple of a string and integers >= 0, "
        f"got {str(key)[:100]!r}"
    )


def check_ranges(name: str, ranges: Any, total: int) -> None:
    """Refuse ranges that are not ascending, disjoint and within `total` chunks."""
    last = 0
    for each in ranges:
        if not (isinstance(each, tuple) and len(each) == 2 and all(type(i) is int for i in each)):
            raise ExternalTaskError(
                f"needed chunks of external array {name!r} must be (start, stop) pairs of "
                f"integers, got {each!r}"
            )
        start, stop = each
        if not last <= start < stop <= total:
            raise ExternalTaskError(
                f"needed chunks of external array {name!r} must be ascending, disjoint, "
                f"non-empty ranges within 0..{total}; got ({start}, {stop}) after {last}"
            )
        last = stop
