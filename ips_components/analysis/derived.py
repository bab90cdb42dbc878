"""Arrays that are computed cell by cell, and whose slices slice what they are computed from.

``(x.T * 2)[3]`` asks for one row of ``x`` only: element-wise operations, casts and transpositions
of external arrays remember their operands, and an index is applied to these. The result is what
dask.array makes of the sliced operands.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import dask.array as da
import numpy as np
from dask.array.core import elemwise

from ips_components.analysis.view_layer import ViewLayer

Select = Callable[[tuple[Any, ...]], Any]


class EqualToDaskArray(type):
    """Type of classes that compare equal to ``dask.array.Array``.

    xarray refuses arguments whose array types differ and compares these with ``==``; an external
    array and an ordinary dask array take the same way everywhere.
    """

    def __eq__(cls, other: object) -> bool:
        return other is cls or other is da.Array or isinstance(other, EqualToDaskArray)

    def __hash__(cls) -> int:
        return hash(da.Array)


class SlicedFirst(da.Array, metaclass=EqualToDaskArray):
    """A dask array whose element-wise results are sliced before they are computed."""

    @property
    def _elemwise(self) -> Callable[..., Any]:
        return derived_elemwise

    def astype(self, dtype: Any, **options: Any) -> da.Array:
        result = super().astype(dtype, **options)
        if result is self:
            return self

        def select(key: tuple[Any, ...]) -> Any:
            return self[key].astype(dtype, **options)

        return DerivedArray(result, select)

    def transpose(self, *axes: Any) -> da.Array:
        result = super().transpose(*axes)
        if result is self or not axes:
            order = tuple(reversed(range(self.ndim)))
        else:
            given = axes[0] if len(axes) == 1 and isinstance(axes[0], Sequence) else axes
            order = tuple(a % self.ndim for a in given) if given[0] is not None else ()
        if result is self or len(order) != self.ndim:
            return result

        def select(key: tuple[Any, ...]) -> Any:
            moved: list[Any] = [None] * self.ndim
            for position, axis in enumerate(order):
                moved[axis] = key[position]
            part = self[tuple(moved)]
            left = [axis for axis in order if not isinstance(moved[axis], int)]
            kept = sorted(left)
            return part.transpose([kept.index(axis) for axis in left]) if left else part

        return DerivedArray(result, select)

    @property
    def T(self) -> da.Array:
        return self.transpose()

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        if options:  # such as out=, which must stay the object that it is
            return super().__array_ufunc__(ufunc, method, *inputs, **options)
        result = _ordinary(self).__array_ufunc__(ufunc, method, *map(_ordinary, inputs))
        if method != "__call__" or ufunc.signature is not None or ufunc.nout != 1:
            return result
        if type(result) is not da.Array or not result.ndim or not all(map(_is_operand, inputs)):
            return result

        def select(key: tuple[Any, ...]) -> Any:
            return ufunc(*[_part(i, key, result.shape) if np.ndim(i) else i for i in inputs])

        return DerivedArray(result, select)

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        if function is np.where and len(args) == 3 and not kwargs:
            return derived_elemwise(np.where, *args)
        if function is np.transpose and args and args[0] is self:
            axes = args[1] if len(args) > 1 else kwargs.get("axes")
            return self.transpose() if axes is None else self.transpose(axes)
        ordinary = [da.Array if issubclass(each, SlicedFirst) else each for each in types]
        return super().__array_function__(function, ordinary, args, kwargs)


class DerivedArray(SlicedFirst):
    """The result of an element-wise operation, a cast or a transposition.

    Parameters
    ----------
    array
        The result as dask.array makes it.
    select
        Function from an index with one integer or slice per dimension to the result for it.
    """

    _select: Select
    _made_as: str

    def __new__(cls, array: da.Array, select: Select) -> DerivedArray:
        self = super().__new__(cls, array.dask, array.name, array.chunks, meta=array._meta)
        self._select = select
        self._made_as = array.name
        return self

    def __getitem__(self, index: Any) -> da.Array:
        index = with_known_values(index)
        key = _basic(index, self.shape)
        # An assignment to the array, or its use as out=, gives it another name.
        if key is None or self.name != self._made_as:
            return super().__getitem__(index)
        if all(isinstance(item, slice) and item == slice(None) for item in key):
            return self
        result = self._select(key)
        return result if result.dtype == self.dtype else result.astype(self.dtype)


def derived_elemwise(function: Any, *args: Any, **options: Any) -> Any:
    """Return ``elemwise(function, *args)``, sliced by slicing its operands."""
    result = elemwise(function, *args, **options)
    operands = [arg for arg in args if np.ndim(arg)]
    if type(result) is not da.Array or set(options) - {"dtype"} or result.ndim == 0:
        return result
    if not all(type(arg) is np.ndarray or isinstance(arg, da.Array) for arg in operands):
        return result

    def select(key: tuple[Any, ...]) -> Any:
        parts = [_part(arg, key, result.shape) if np.ndim(arg) else arg for arg in args]
        return derived_elemwise(function, *parts, **options)

    return DerivedArray(result, select)


#: Bytes of a dask array that is an index, up to which it is computed at once.
MAX_INDEX_BYTES = 16 << 20


def with_known_values(index: Any) -> Any:
    """Return an index with the values of those dask arrays in it that need no simulation."""
    items = index if isinstance(index, tuple) else (index,)
    if not any(isinstance(item, da.Array) for item in items):
        return index
    known = tuple(item.compute() if _is_known(item) else item for item in items)
    return known if isinstance(index, tuple) else known[0]


def _is_known(item: Any) -> bool:
    return (
        isinstance(item, da.Array)
        and item.ndim == 1
        and item.nbytes <= MAX_INDEX_BYTES
        and not any(isinstance(layer, ViewLayer) for layer in item.dask.layers.values())
    )


def _part(operand: Any, key: tuple[Any, ...], shape: Sequence[Any]) -> Any:
    """Return the part of an operand that belongs to a part of what it is broadcast to."""
    own = []
    skipped = len(shape) - operand.ndim
    for item, size, whole in zip(key[skipped:], operand.shape, shape[skipped:], strict=True):
        stretched = size == 1 and whole != 1
        own.append((0 if isinstance(item, int) else slice(None)) if stretched else item)
    part = operand[tuple(own)]
    return np.asarray(part) if isinstance(operand, np.ndarray) else part


def _basic(index: Any, shape: Sequence[Any]) -> tuple[Any, ...] | None:
    """Return an index as one integer or slice per dimension; None for any other index."""
    items = index if isinstance(index, tuple) else (index,)
    if len(items) > len(shape) + 1:
        return None
    key: list[Any] = []
    for item in items:
        if item is Ellipsis:
            key += [slice(None)] * (len(shape) - len(items) + 1)
        elif isinstance(item, slice):
            key.append(item)
        elif isinstance(item, int | np.integer) and not isinstance(item, bool):
            key.append(int(item))
        else:
            return None
    key += [slice(None)] * (len(shape) - len(key))
    if len(key) != len(shape) or sum(item is Ellipsis for item in items) > 1:
        return None
    for item, size in zip(key, shape, strict=True):
        if np.isnan(size):  # whether there is such an entry is known at the end
            continue
        if isinstance(item, int) and not -size <= item < size:
            return None  # dask.array raises its own IndexError
        if isinstance(item, slice) and not len(range(*_bounds(item, size))):
            return None
    return tuple(key)


def _bounds(item: slice, size: int) -> tuple[int, int, int]:
    try:
        return item.indices(size)
    except (TypeError, ValueError):
        return 0, 0, 1


def _binary(name: str) -> Callable[[Any, Any], Any]:
    ordinary = getattr(da.Array, name)

    def operate(self: Any, other: Any) -> Any:
        result = ordinary(_ordinary(self), _ordinary(other))
        if type(result) is not da.Array or not _is_operand(other):
            return result

        def select(key: tuple[Any, ...]) -> Any:
            mine = _part(self, key, result.shape)
            theirs = _part(other, key, result.shape) if np.ndim(other) else other
            return operate(mine, theirs)

        return DerivedArray(result, select) if result.ndim else result

    operate.__name__ = name
    return operate


def _mixed(name: str) -> Callable[[Any, Any], Any]:
    """Return an operation whose slices are not pushed down."""
    ordinary = getattr(da.Array, name)

    def operate(self: Any, other: Any) -> Any:
        return ordinary(_ordinary(self), _ordinary(other))

    operate.__name__ = name
    return operate


def _unary(name: str) -> Callable[[Any], Any]:
    ordinary = getattr(da.Array, name)

    def operate(self: Any) -> Any:
        return DerivedArray(ordinary(self), lambda key: getattr(self[key], name)())

    operate.__name__ = name
    return operate


def _ordinary(operand: Any) -> Any:
    """Return an operand as an ordinary dask array: dask.array refuses to mix its subclasses."""
    if not isinstance(operand, SlicedFirst):
        return operand
    return da.Array(operand.dask, operand.name, operand.chunks, meta=operand._meta)


def _is_operand(other: Any) -> bool:
    return type(other) is np.ndarray or isinstance(other, da.Array) or np.ndim(other) == 0


_ARITHMETIC = ["add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "and", "or", "xor"]
_ARITHMETIC += ["lshift", "rshift"]
for _name in _ARITHMETIC:
    setattr(SlicedFirst, f"__{_name}__", _binary(f"__{_name}__"))
    setattr(SlicedFirst, f"__r{_name}__", _binary(f"__r{_name}__"))
for _name in ["matmul", "divmod"]:
    setattr(SlicedFirst, f"__{_name}__", _mixed(f"__{_name}__"))
    setattr(SlicedFirst, f"__r{_name}__", _mixed(f"__r{_name}__"))
for _name in ["lt", "le", "eq", "ne", "gt", "ge"]:
    setattr(SlicedFirst, f"__{_name}__", _binary(f"__{_name}__"))
for _name in ["neg", "pos", "abs", "invert"]:
    setattr(SlicedFirst, f"__{_name}__", _unary(f"__{_name}__"))
