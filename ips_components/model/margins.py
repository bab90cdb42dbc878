"""What a rank's array has around the cells that it owns: ghost cells, and points that it shares."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from ips_components.errors import GeometryError
from ips_components.model.block import Block

if TYPE_CHECKING:
    from ips_components.model.decomposition import Decomposition

Sides: TypeAlias = tuple[tuple[int, int], ...]
"""Cells below and above, per dimension."""

OWNERS = ("", "low", "high")


def sides(halo: Any, ndim: int) -> Sides:
    """Return a halo as cells below and above per dimension.

    Parameters
    ----------
    halo
        A number for all sides; or an entry per dimension, a number for both sides or a pair; or a
        single pair for all dimensions, as `numpy.pad` takes it.
    ndim
        Number of dimensions of space.

    Raises
    ------
    GeometryError
        If entries and dimensions differ in number, or one is no number >= 0.

    Examples
    --------
    >>> sides(1, 2), sides((1, 0), 2), sides(((2, 3), 1), 2)
    (((1, 1), (1, 1)), ((1, 1), (0, 0)), ((2, 3), (1, 1)))
    >>> sides(((2, 3),), 3)
    ((2, 3), (2, 3), (2, 3))
    """
    entries = list(halo) if isinstance(halo, Iterable) else [halo] * ndim
    if len(entries) == 1 and isinstance(entries[0], Iterable):
        entries *= ndim
    found = []
    for entry in entries:
        pair = tuple(entry) if isinstance(entry, Iterable) else (entry, entry)
        if len(pair) != 2 or not all(isinstance(n, int) and n >= 0 for n in pair):
            raise GeometryError(
                f"halo must be numbers >= 0, or pairs of them (below, above), got {entry!r} in "
                f"{halo!r}"
            )
        found.append(pair)
    if len(found) != ndim:
        raise GeometryError(
            f"halo must have {ndim} entries, one per dimension, got {len(found)}: {halo!r}"
        )
    return tuple(found)


def owners(shared: Any, ndim: int) -> tuple[str, ...]:
    """Return the owner of shared points, per dimension: ``"low"``, ``"high"``, or ``""``.

    Raises
    ------
    GeometryError
        If entries and dimensions differ in number, or one is another word.

    Examples
    --------
    >>> owners("low", 2), owners((None, "high"), 2)
    (('low', 'low'), ('', 'high'))
    """
    entries = [shared] * ndim if shared is None or isinstance(shared, str) else list(shared)
    found = tuple(entry or "" for entry in entries)
    if len(found) != ndim or any(entry not in OWNERS for entry in found):
        raise GeometryError(
            "shared must be 'low', 'high' or None, one for all dimensions or one for each of "
            f"{ndim}, got {shared!r}"
        )
    return found


class Margins(NamedTuple):
    """What the blocks of one array have around the cells that their ranks own.

    A staggered array (points at the faces or corners of cells) has ``n + 1`` points along a
    dimension of ``n`` cells, and the points between two blocks are in both. One rule decides for
    all ranks which of the two blocks owns them, from their places alone.

    Parameters
    ----------
    shape
        Global shape of space.
    halo
        Ghost cells below and above a block, per dimension.
    shared
        Per dimension ``"low"`` where the block that begins lower owns the plane of points that it
        shares with the next one, ``"high"`` where the next one owns it, ``""`` where blocks share
        no points.

    Examples
    --------
    >>> margins = Margins((5,), ((2, 3),), ("low",))
    >>> left, right = Block((0,), (3,)), Block((2,), (3,))
    >>> margins.owned(left), margins.owned(right)
    (Block(offset=(0,), shape=(3,)), Block(offset=(3,), shape=(2,)))
    >>> margins.extent(right), margins.before(right)
    ((8,), (3,))
    """

    shape: tuple[int, ...]
    halo: Sides
    shared: tuple[str, ...]

    @classmethod
    def of(cls, array: str, shape: tuple[int, ...], halo: Any, shared: Any) -> Margins:
        """Return the margins of an array from their notations.

        Raises
        ------
        GeometryError
            Naming the array.
        """
        try:
            margins = cls(shape, sides(halo, len(shape)), owners(shared, len(shape)))
        except GeometryError as error:
            raise GeometryError(f"array {array!r}: {error}") from None
        for dim, (n, owner) in enumerate(zip(shape, margins.shared, strict=True)):
            if owner and n < 2:
                raise GeometryError(
                    f"array {array!r}: dimension {dim} has shared points, so that it must have at "
                    f"least 2, got {n}"
                )
        return margins

    def owned(self, block: Block) -> Block:
        """Return what the rank owns of a block (with shared points, without halo)."""
        if not any(self.shared):
            return block
        offset, shape = list(block.offset), list(block.shape)
        for dim, owner in enumerate(self.shared):
            below, above = self._others(owner, block, dim)
            offset[dim] += below
            shape[dim] -= below + above
        return Block(tuple(offset), tuple(shape))

    def before(self, block: Block) -> tuple[int, ...]:
        """Return the cells that the rank's array has before the first one it owns."""
        return tuple(
            low + self._others(owner, block, dim)[0]
            for dim, ((low, _), owner) in enumerate(zip(self.halo, self.shared, strict=True))
        )

    def extent(self, block: Block) -> tuple[int, ...]:
        """Return the shape of the rank's array of a block: with halo and shared points."""
        return tuple(n + a + b for n, (a, b) in zip(block.shape, self.halo, strict=True))

    def within(self, extent: Sequence[int]) -> tuple[int, ...]:
        """Return the shape of the block of an array; negative where it is too small."""
        return tuple(n - a - b for n, (a, b) in zip(extent, self.halo, strict=True))

    def regular(self, grid: Sequence[int]) -> Decomposition:
        """Return the regular decomposition, of the cells between the points where these are shared.

        Examples
        --------
        >>> Margins((9,), ((0, 0),), ("low",)).regular((2,)).blocks
        ((Block(offset=(0,), shape=(5,)),), (Block(offset=(4,), shape=(5,)),))
        """
        from ips_components.model.decomposition import Decomposition  # few ranks need it

        more = tuple(int(bool(owner)) for owner in self.shared)
        cells = tuple(n - m for n, m in zip(self.shape, more, strict=True))
        found = Decomposition.regular(cells, grid)
        blocks = tuple(
            tuple(
                Block(b.offset, tuple(n + m for n, m in zip(b.shape, more, strict=True)))
                for b in of_rank
            )
            for of_rank in found.blocks
        )
        return Decomposition(self.shape, blocks)

    def text(self) -> str:
        """Return the halo in words, empty if there is none."""
        if not any(map(any, self.halo)):
            return ""
        even = all(low == high for low, high in self.halo)
        return f" with halo {tuple(low for low, _ in self.halo) if even else self.halo}"

    def _others(self, owner: str, block: Block, dim: int) -> tuple[int, int]:
        """Return how many planes of points below and above belong to other blocks."""
        n, first = block.shape[dim], block.offset[dim]
        if not owner or not n:
            return 0, 0
        inner = first > 0 if owner == "low" else first + n < self.shape[dim]
        if inner and n < 2:
            from ips_components.model.decomposition import text

            raise GeometryError(
                f"block {text(block)} shares its only plane along dimension {dim} with another "
                "block: a block has the points on both sides of its cells, 2 at least, or none"
            )
        return (int(inner), 0) if owner == "low" else (0, int(inner))
