"""A box that one rank produced, in global indices of space."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from ips_components.errors import GeometryError


@dataclass(frozen=True, slots=True, order=True)
class Block:
    """A half-open box in the global space of an array (time is not part of it).

    Parameters
    ----------
    offset
        Global index of the first cell, per dimension.
    shape
        Number of cells, per dimension; zero is allowed (a rank without cells).

    Examples
    --------
    >>> block = Block((0, 4), (4, 4))
    >>> block.stop, block.size
    ((4, 8), 16)
    >>> block.intersect(Block((2, 6), (10, 1)))
    Block(offset=(2, 6), shape=(2, 1))
    """

    offset: tuple[int, ...]
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        offset = tuple(int(o) for o in self.offset)
        shape = tuple(int(s) for s in self.shape)
        if len(offset) != len(shape):
            raise GeometryError(
                f"offset {offset} has {len(offset)} dimensions, shape {shape} has {len(shape)}"
            )
        if any(o < 0 for o in offset):
            raise GeometryError(f"offset must be >= 0 in every dimension, got {offset}")
        if any(s < 0 for s in shape):
            raise GeometryError(f"shape must be >= 0 in every dimension, got {shape}")
        object.__setattr__(self, "offset", offset)
        object.__setattr__(self, "shape", shape)

    @property
    def ndim(self) -> int:
        """Number of dimensions of space."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of cells."""
        return prod(self.shape)

    @property
    def stop(self) -> tuple[int, ...]:
        """Global index one past the last cell, per dimension."""
        return tuple(o + s for o, s in zip(self.offset, self.shape, strict=True))

    def intersect(self, other: Block) -> Block | None:
        """Return the common box, or None when there is no common cell."""
        if self.ndim != other.ndim:
            raise GeometryError(f"{self} and {other} have different numbers of dimensions")
        start = tuple(max(a, b) for a, b in zip(self.offset, other.offset, strict=True))
        stop = tuple(min(a, b) for a, b in zip(self.stop, other.stop, strict=True))
        if any(a >= b for a, b in zip(start, stop, strict=True)):
            return None
        return Block(start, tuple(b - a for a, b in zip(start, stop, strict=True)))

    def grow(self, halo: Sequence[int], shape: Sequence[int]) -> Block:
        """Return the block with ``halo`` more cells on each side, cut at the global ``shape``.

        Examples
        --------
        >>> Block((0, 4), (4, 4)).grow((1, 1), (8, 8))
        Block(offset=(0, 3), shape=(5, 5))
        """
        start = tuple(max(0, o - h) for o, h in zip(self.offset, halo, strict=True))
        stop = tuple(min(n, e + h) for n, e, h in zip(shape, self.stop, halo, strict=True))
        return Block(start, tuple(b - a for a, b in zip(start, stop, strict=True)))

    def to_slices(self, origin: Sequence[int] | None = None) -> tuple[slice, ...]:
        """Return the slices that cut this block out of an array that begins at ``origin``.

        Examples
        --------
        >>> Block((2, 4), (2, 4)).to_slices(origin=(1, 4))
        (slice(1, 3, None), slice(0, 4, None))
        """
        origin = (0,) * self.ndim if origin is None else tuple(origin)
        return tuple(
            slice(o - g, o - g + s) for o, s, g in zip(self.offset, self.shape, origin, strict=True)
        )
