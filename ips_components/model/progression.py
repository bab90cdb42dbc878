"""Finite arithmetic progressions: the one-dimensional atoms of strided boxes.

A slice ``start:stop:step`` of one dimension names the integers ``start, start + step, ...``.
Selections are products of such progressions, so that exact set algebra on selections (what two of
them share, what one has that the other has not) reduces to exact algebra here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import gcd

from ips_components.errors import GeometryError

_PAIRWISE_LIMIT = 32
"""Up to this many progressions every pair is tried when joining; beyond, neighbours only."""


@dataclass(frozen=True, slots=True, order=True)
class Progression:
    """The integers ``start + i * step`` for ``0 <= i < count``, in canonical form.

    An empty progression is always ``(0, 0, 1)`` and one of a single element has ``step == 1``, so
    that equal sets compare equal.

    Examples
    --------
    >>> Progression(3, 4, 5).intersect(Progression(0, 100, 2))
    Progression(start=8, count=2, step=10)
    >>> Progression(0, 6, 1).subtract(Progression(2, 2, 1))
    [Progression(start=0, count=2, step=1), Progression(start=4, count=2, step=1)]
    """

    start: int
    count: int
    step: int = 1

    def __post_init__(self) -> None:
        if self.step < 1:
            raise GeometryError(f"step must be >= 1, got {self.step}")
        if self.count < 0:
            raise GeometryError(f"count must be >= 0, got {self.count}")
        if self.count <= 1 and self.step != 1:
            object.__setattr__(self, "step", 1)
        if self.count == 0 and self.start != 0:
            object.__setattr__(self, "start", 0)

    @property
    def stop(self) -> int:
        """One past the last element (``start`` when empty)."""
        return self.start + (self.count - 1) * self.step + 1 if self.count else self.start

    def __contains__(self, value: int) -> bool:
        return self.start <= value < self.stop and (value - self.start) % self.step == 0

    def clip(self, low: int, high: int) -> Progression:
        """Return the elements ``x`` with ``low <= x < high``."""
        first = max(0, -((self.start - low) // self.step)) if low > self.start else 0
        last = min(self.count - 1, (high - 1 - self.start) // self.step)
        if last < first:
            return EMPTY
        return Progression(self.start + first * self.step, last - first + 1, self.step)

    def intersect(self, other: Progression) -> Progression:
        """Return the common elements; they form a progression again (Chinese remainders)."""
        if not self.count or not other.count:
            return EMPTY
        common = gcd(self.step, other.step)
        apart = other.start - self.start
        if apart % common:
            return EMPTY
        modulus = other.step // common
        turns = (apart // common) * pow(self.step // common, -1, modulus) % modulus
        step = self.step * modulus
        member = self.start + turns * self.step
        low = max(self.start, other.start)
        first = member - (member - low) // step * step
        high = min(self.stop, other.stop)
        if first >= high:
            return EMPTY
        return Progression(first, (high - 1 - first) // step + 1, step)

    def contains(self, other: Progression) -> bool:
        """Return whether every element of ``other`` is one of this progression."""
        return self.intersect(other) == other

    def within(self, outer: Progression) -> Progression:
        """Return the positions of these elements in ``outer``, which must contain them all."""
        if not outer.contains(self):
            raise GeometryError(f"{self} is not contained in {outer}")
        if not self.count:
            return EMPTY
        return Progression(
            (self.start - outer.start) // outer.step, self.count, max(1, self.step // outer.step)
        )

    def compose(self, inner: Progression) -> Progression:
        """Return the elements of this progression at the positions ``inner``."""
        if inner.stop > self.count:
            raise GeometryError(f"positions {inner} are beyond the {self.count} elements of {self}")
        if not inner.count:
            return EMPTY
        return Progression(
            self.start + inner.start * self.step, inner.count, self.step * inner.step
        )

    def subtract(self, other: Progression) -> list[Progression]:
        """Return disjoint progressions that hold the elements of this one not in ``other``."""
        shared = self.intersect(other)
        if not shared.count:
            return [self] if self.count else []
        stride = max(1, shared.step // self.step)
        first = (shared.start - self.start) // self.step
        last = (shared.stop - 1 - self.start) // self.step
        parts = [Progression(0, first, 1)]
        gaps, residues = shared.count - 1, stride - 1
        if gaps <= residues:
            parts += [Progression(first + i * stride + 1, residues, 1) for i in range(gaps)]
        else:
            parts += [Progression(first + r, gaps, stride) for r in range(1, stride)]
        parts.append(Progression(last + 1, self.count - 1 - last, 1))
        return join_all([self.compose(part) for part in parts if part.count])


EMPTY = Progression(0, 0, 1)
"""The progression without elements."""


def cover(progressions: Iterable[Progression]) -> Progression:
    """Return the smallest progression that holds all the given ones.

    Examples
    --------
    >>> cover([Progression(0, 3, 4), Progression(6, 1)])
    Progression(start=0, count=5, step=2)
    """
    parts = [p for p in progressions if p.count]
    if not parts:
        return EMPTY
    start = min(p.start for p in parts)
    stop = max(p.stop for p in parts)
    step = gcd(*(p.start - start for p in parts), *(p.step for p in parts if p.count > 1)) or 1
    return Progression(start, (stop - 1 - start) // step + 1, step)


def join(a: Progression, b: Progression) -> Progression | None:
    """Return the union of two progressions where it is a progression itself, else None.

    Examples
    --------
    >>> join(Progression(0, 5, 2), Progression(1, 5, 2))
    Progression(start=0, count=10, step=1)
    >>> join(Progression(0, 5, 2), Progression(1, 1)) is None
    True
    """
    whole = cover((a, b))
    return whole if whole.count == a.count + b.count - a.intersect(b).count else None


def join_all(progressions: Sequence[Progression]) -> list[Progression]:
    """Join progressions where their union is one; the set of elements stays the same.

    The result is sorted. It need not be disjoint, nor the shortest possible: neighbours are always
    joined, distant ones only while there are few.

    Examples
    --------
    >>> join_all([Progression(t, 1) for t in range(0, 1000, 10)])
    [Progression(start=0, count=100, step=10)]
    >>> join_all([Progression(r, 25, 4) for r in range(4)])
    [Progression(start=0, count=100, step=1)]
    """
    parts: list[Progression] = []
    for part in sorted(set(progressions)):
        joined = join(parts[-1], part) if parts else None
        if joined is None:
            parts.append(part)
        else:
            parts[-1] = joined
    while len(parts) <= _PAIRWISE_LIMIT:
        for i, a in enumerate(parts):
            found = next(
                ((j, w) for j in range(i + 1, len(parts)) if (w := join(a, parts[j]))), None
            )
            if found is not None:
                j, whole = found
                parts = sorted([*parts[:i], *parts[i + 1 : j], *parts[j + 1 :], whole])
                break
        else:
            break
    return parts
