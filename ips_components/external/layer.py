"""The leaves of an external graph: keys without tasks.

A graph over external tasks only has to name them; the scheduler has the tasks already.  Dask
leaves out of a graph what is an alias of itself (so it treats collections that were persisted),
but learns from it that the key is one: without that, layers that still write references as
plain tuples (``x.blocks``, for one) would take the key for a value.  The layer makes these
aliases when asked, so that on the wire it is a name and a grid however many chunks there are.
"""

from __future__ import annotations

from collections.abc import Iterator, Set
from copy import copy
from itertools import product
from math import prod
from typing import Any

from dask._task_spec import Alias
from dask.highlevelgraph import Layer

from ips_components.external.names import Key, linear_index


class ChunkKeys(Set[Any]):
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
        return prod(self._numblocks)


class Hold:
    """What lives as long as a layer, or a copy of it, does on this client."""

    __slots__ = ("__weakref__",)

    def __deepcopy__(self, memo: Any) -> Hold:
        return self


class ExternalLayer(Layer):
    """The keys of an external array, as aliases of themselves.

    Parameters
    ----------
    name : str
        First element of all keys.
    numblocks : tuple of int
        Number of chunks per dimension.

    Attributes
    ----------
    hold : Hold
        Shared by all copies of the layer in this process; a finalizer on it runs when no
        graph needs the keys any more.
    """

    def __init__(self, name: str, numblocks: tuple[int, ...]) -> None:
        super().__init__()
        self.name = name
        self.numblocks = tuple(numblocks)
        self.hold: Hold | None = Hold()
        self._keys: Set[Key] = ChunkKeys(self.name, self.numblocks)

    def __getitem__(self, key: Key) -> Alias:
        if key not in self._keys:
            raise KeyError(key)
        return Alias(key, key)

    def __iter__(self) -> Iterator[Key]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)

    def __repr__(self) -> str:
        return f"ExternalLayer<name={self.name!r}, numblocks={self.numblocks}>"

    @property
    def has_legacy_tasks(self) -> bool:
        return False

    def is_materialized(self) -> bool:
        return False

    def get_output_keys(self) -> Set[Key]:
        return self._keys

    def get_dependencies(self, key: Key, all_hlg_keys: Any) -> set[Key]:
        return set()

    def cull(self, keys: set[Key], all_hlg_keys: Any) -> tuple[Layer, dict[Key, set[Key]]]:
        wanted = {key for key in keys if key in self._keys}
        culled = copy(self)
        culled._keys = wanted
        return culled, {key: set() for key in wanted}

    def __getstate__(self) -> dict[str, Any]:
        # A copy in another process holds nothing.
        return {**self.__dict__, "hold": None}
