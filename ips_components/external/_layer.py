"""The leaves of an external graph: keys without tasks.

A graph over external tasks only has to name them; the scheduler has the tasks already.  The
layer therefore produces keys for the collections above it and no tasks at all, however many
chunks the array has, and costs nothing on the wire.
"""

from __future__ import annotations

from collections.abc import Iterator, Set
from itertools import product
from typing import Any

from dask.highlevelgraph import Layer

from ips_components.external._names import Key, linear_index


class _ChunkKeys(Set[Any]):
    """The keys of a chunk grid as a set that is never stored."""

    def __init__(self, name: str, numblocks: tuple[int, ...]) -> None:
        self._name = name
        self._numblocks = numblocks

    @classmethod
    def _from_iterable(cls, it: Any) -> Any:
        return set(it)

    def __contains__(self, key: object) -> bool:
        return (
            type(key) is tuple
            and len(key) > 1
            and key[0] == self._name
            and linear_index(key[1:], self._numblocks) is not None
        )

    def __iter__(self) -> Iterator[Key]:
        for index in product(*map(range, self._numblocks)):
            yield (self._name, *index)

    def __len__(self) -> int:
        total = 1
        for n in self._numblocks:
            total *= n
        return total


class Hold:
    """What lives as long as a layer, or a copy of it, does on this client."""

    __slots__ = ("__weakref__",)

    def __deepcopy__(self, memo: Any) -> Hold:
        return self


class ExternalLayer(Layer):
    """Keys of an external array, without tasks.

    Parameters
    ----------
    name : str
        First element of all keys.
    numblocks : tuple of int
        Number of chunks per dimension.

    Attributes
    ----------
    hold : Hold
        Shared by all copies of the layer in this process; a finalizer on it tells when no
        graph needs the keys any more.
    """

    def __init__(self, name: str, numblocks: tuple[int, ...]) -> None:
        super().__init__()
        self.name = name
        self.numblocks = tuple(numblocks)
        self.hold: Hold | None = Hold()

    def __getitem__(self, key: Key) -> Any:
        raise KeyError(key)

    def __iter__(self) -> Iterator[Key]:
        return iter(())

    def __len__(self) -> int:
        return 0

    def __bool__(self) -> bool:
        return True

    def __repr__(self) -> str:
        return f"ExternalLayer<name={self.name!r}, numblocks={self.numblocks}>"

    def is_materialized(self) -> bool:
        return False

    def get_output_keys(self) -> Set[Key]:
        return _ChunkKeys(self.name, self.numblocks)

    def cull(self, keys: set[Key], all_hlg_keys: Any) -> tuple[Layer, dict[Key, set[Key]]]:
        return self, {}

    def __getstate__(self) -> dict[str, Any]:
        # A copy in another process holds nothing.
        return {**self.__dict__, "hold": None}
