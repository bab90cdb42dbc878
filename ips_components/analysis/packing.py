"""Values that may be lazy, as what can be written into a checkpoint and made lazy again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import dask
import dask.array as da
import numpy as np
from dask.base import unpack_collections
from dask.delayed import Delayed
from distributed import Client

from ips_components.errors import ContractError


@dataclass(frozen=True, slots=True)
class _Lazy:
    """A computed value that was a lazy one."""

    kind: str
    value: Any
    chunks: Any = None


def is_lazy(value: Any) -> bool:
    """Whether a value is lazy, or a container with something lazy in it."""
    return bool(unpack_collections(value)[0])


def pack(value: Any, client: Client) -> Any:
    """Compute what is lazy in a value, such that `unpack` makes it lazy again.

    Raises
    ------
    ContractError
        For lazy values of a kind that cannot be made again.
    """
    lazy: list[Any] = []
    shape = _note(value, lazy)
    return _fill(shape, iter(client.gather(client.compute(lazy))))


@dataclass(frozen=True, slots=True)
class _Place:
    kind: str
    chunks: Any


def _note(value: Any, lazy: list[Any]) -> Any:
    """Replace what is lazy by a `_Place`, and put it into a list."""
    if isinstance(value, dict):
        return {name: _note(each, lazy) for name, each in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_note(each, lazy) for each in value)
    if not is_lazy(value):
        return value
    lazy.append(value)
    if isinstance(value, da.Array):
        return _Place("array", value.chunks)
    if isinstance(value, Delayed):
        return _Place("delayed", None)
    if hasattr(value, "chunksizes"):  # of xarray
        return _Place("xarray", dict(value.chunksizes))
    raise ContractError(
        f"a state of windows that is a {type(value).__name__} cannot be kept; use arrays, xarray, "
        "delayed values, or tuples, lists and dicts of them"
    )


def _fill(shape: Any, values: Any) -> Any:
    if isinstance(shape, dict):
        return {name: _fill(each, values) for name, each in shape.items()}
    if type(shape) in (list, tuple):
        return type(shape)(_fill(each, values) for each in shape)
    if isinstance(shape, _Place):
        return _Lazy(shape.kind, next(values), shape.chunks)
    return shape


def unpack(packed: Any) -> Any:
    """Return what `pack` was given, lazy where that was lazy, in the same chunks."""
    if isinstance(packed, dict):
        return {name: unpack(each) for name, each in packed.items()}
    if type(packed) in (list, tuple):
        return type(packed)(unpack(each) for each in packed)
    if not isinstance(packed, _Lazy):
        return packed
    if packed.kind == "array":
        return _array(packed.value, packed.chunks)
    if packed.kind == "delayed":
        return dask.delayed(packed.value, pure=False)
    return packed.value.chunk(packed.chunks)


def _array(value: Any, chunks: Any) -> da.Array:
    known = not any(np.isnan(size) for sizes in chunks for size in sizes)
    # One chunk of an unknown size is what there was, or is as good.
    return da.from_array(value, chunks=chunks if known else -1, name=False)
