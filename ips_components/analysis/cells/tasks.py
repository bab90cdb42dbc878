"""Tasks of Dask as operations on cells.

Functions are known by their names, of NumPy, Dask and Python only: a function of the user that is
called alike is not meant. A task that is not understood needs all cells of what it is made of.
"""

from __future__ import annotations

import logging
import pickle
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from dask._task_spec import (
    Alias,
    DataNode,
    GraphNode,
    NestedContainer,
    Task,
    TaskRef,
    _identity_cast,
)
from dask.utils import apply

from ips_components.analysis.cells.operations import (
    Along,
    Choose,
    Constant,
    Elementwise,
    Join,
    Linear,
    Move,
    Node,
    Operation,
    Permute,
    Pick,
    Ref,
)

logger = logging.getLogger(__name__)


def _names(*lines: str) -> frozenset[str]:
    return frozenset(" ".join(lines).split())


_LIBRARIES = _names("_operator operator builtins numpy dask scipy")
_ELEMENTWISE = _names(
    "abs add and_ angle around astype ceil clip conj conjugate copy digitize eq fix floor",
    "floordiv ge gt i0 imag inv invert iscomplex isclose isfinite isin isinf isnan isnull isreal",
    "le lshift lt mod mul nan_to_num ne neg not_ or_ pos positive pow real rint round rshift sinc",
    "_sqrt sub truediv where xor _cumsum_merge _cumprod_merge _numpy_vindex",
)
#: Element-wise in their first argument, the others are not broadcast to it.
_OF_THE_FIRST = _names("astype digitize isin _numpy_vindex")
_PICKS = _names("getitem getter getter_inline getter_nofancy")
_REDUCTIONS = _names(
    "all amax amin any chunk_max chunk_min max mean mean_agg mean_chunk mean_combine median min",
    "moment_agg moment_chunk moment_combine _nanmax_skip _nanmin_skip nanmax nanmean nanmedian",
    "nanmin nannumel nanprod nanstd nansum nanvar numel prod std sum var",
    "arg_agg arg_chunk _arg_combine nanarg_agg nanarg_chunk",
)
_ALONG = _names(
    "argsort cumprod cumsum fft fftshift hfft ifft ifftshift ihfft irfft nancumprod nancumsum",
    "rfft sort",
)
_MOVES = _names(
    "_getitem _vindex_merge _vindex_slice_and_transpose atleast_1d atleast_2d atleast_3d",
    "broadcast_to concatenate_arrays diag diagonal expand_dims flip fliplr flipud moveaxis ravel",
    "repeat reshape roll rollaxis rot90 sliding_window_view squeeze stack swapaxes take tile tril",
    "triu",
)
_JOINS = _names("concatenate concatenate3 concatenate_axes concatenate_shaped _concatenate2")
_MAKERS = _names(
    "apply arange _broadcast_trick_inner empty empty_like full full_like ones ones_like zeros",
    "zeros_like",
)
#: What is done at once to arrays that are in the graph itself.
_OF_CONSTANTS = _MAKERS | _PICKS | _ELEMENTWISE | _MOVES | _JOINS


class _NotUnderstood(Exception):
    pass


def operation_of(task: GraphNode, constants: Mapping[Any, Any]) -> Operation | Ref | None:
    """Return what a task does to cells; None where it is not understood.

    Parameters
    ----------
    task
        Of Dask's current notation.
    constants
        Values of tasks that are no more than data, by key.
    """
    try:
        node = _node(task, constants)
    except Exception as error:  # also of a task of another version of dask
        logger.debug("Task %s is not understood: %r", task.key, error)
        return None
    return node if isinstance(node, Operation | Ref) else None


def value_of(task: GraphNode, constants: Mapping[Any, Any]) -> Any:
    """Return the value of a task that makes or picks something of constants; None for any other."""
    if isinstance(task, Alias):
        return constants.get(task.target)
    if not isinstance(task, Task) or task.dependencies - constants.keys():
        return None
    function, _, _ = _unwrapped(getattr(task.func, "first", task.func), {})
    if function is apply:
        function = task.args[0]
    if _name(function) not in _OF_CONSTANTS and not _is_ufunc(function):
        return None
    return np.asarray(task({key: constants[key] for key in task.dependencies}))


def narrows(function: Any) -> bool:
    """Return whether a task with this function may need less than all of an operand."""
    name = _name(_unwrapped(function, {})[0])
    return name in _PICKS | _MOVES | {"where", "_enforce_dtype"} or _is_interpolation(function)


def _node(arg: Any, constants: Mapping[Any, Any]) -> Any:
    """Return an argument of a task as a node, a list of nodes, or as it is."""
    if isinstance(arg, TaskRef):
        return _reference(arg.key, constants)
    if isinstance(arg, Alias):
        return _reference(arg.target, constants)
    if isinstance(arg, DataNode):
        return arg.value
    if isinstance(arg, NestedContainer):
        if arg.klass not in (list, tuple):
            raise _NotUnderstood
        return arg.klass([_node(each, constants) for each in arg.args])
    if isinstance(arg, Task):
        if arg.func is _identity_cast:  # a list in the old notation
            return arg.kwargs["typ"]([_node(each, constants) for each in arg.args])
        value = value_of(arg, constants)
        if value is not None:
            return value
        return _call(arg, constants)
    if isinstance(arg, list | tuple):
        return type(arg)([_node(each, constants) for each in arg])
    return arg


def _reference(key: Any, constants: Mapping[Any, Any]) -> Any:
    return constants[key] if key in constants else Ref(key)


def _call(task: Task, constants: Mapping[Any, Any]) -> Node:
    args = [_node(each, constants) for each in task.args]
    options = {name: _node(each, constants) for name, each in task.kwargs.items()}
    if hasattr(task.func, "funcs"):  # first one function, then others of its result
        node = _operation(task.func.first, args, options)
        for function in task.func.funcs:
            node = _operation(function, [node], {})
        return node
    return _operation(task.func, args, options)


def _operation(function: Any, args: list[Any], options: dict[str, Any]) -> Node:
    before = args
    function, bound, options = _unwrapped(function, options)
    args = [*bound, *before]
    if _is_ufunc(function):
        return Elementwise(_arrays(args))
    name = _name(function)
    if name == "_enforce_dtype":
        options.pop("enforce_dtype", None)
        return _operation(options.pop("enforce_dtype_function"), args, options)
    if name == "where" and len(args) == 3 and not isinstance(args[0], Ref | Operation):
        return Choose(np.asarray(args[0], bool), _arrays(args[1:2]), _arrays(args[2:]))
    if name in _ELEMENTWISE:
        return Elementwise(_arrays(args[:1] if name in _OF_THE_FIRST else args))
    if name == "identity" or (name == "asarray" and len(args) == 1):
        return Elementwise(_arrays(args))
    if name in _PICKS:
        return _pick(function, args, options)
    if name == "transpose":
        axes = args[1] if len(args) > 1 else options.get("axes")
        return Permute(args[0], None if axes is None else tuple(axes))
    if _is_interpolation(function):
        return _interpolation(function, args, options)
    for known, build in _BUILDERS.items():
        if name in known:
            return build(name, function, args, options)
    raise _NotUnderstood


def _pick(function: Any, args: list[Any], options: dict[str, Any]) -> Node:
    index = args[1] if isinstance(args[1], tuple) else (args[1],)
    lists = [each for each in index if isinstance(each, list | np.ndarray)]
    plain = all(
        isinstance(each, int | np.integer | slice | list | np.ndarray | None) or each is Ellipsis
        for each in index
    )
    integers = any(isinstance(each, int | np.integer) for each in index)
    if not isinstance(args[0], Ref | Operation) or not plain:
        raise _NotUnderstood
    if len(lists) > 1 or (lists and (integers or np.ndim(lists[0]) != 1)):
        return _move("getitem", function, args[:2], {})
    return Pick(args[0], index)


def _join(name: str, function: Any, args: list[Any], options: dict[str, Any]) -> Node:
    blocks = args[0]
    if name == "concatenate_shaped":
        grid = _grid(blocks, 1)
        return Join(grid.reshape(args[1]), tuple(range(len(args[1]))))
    if name == "concatenate":
        axis = args[1] if len(args) > 1 else options.get("axis", 0)
        return Join(_grid(blocks, 1), (axis,))
    if name == "concatenate3":
        grid = _grid(blocks)
        return Join(grid, tuple(range(grid.ndim)))
    axes = tuple(options["axes"] if "axes" in options else args[1])
    if not axes:
        return blocks[0] if isinstance(blocks, list) else blocks
    return Join(_grid(blocks, len(axes)), axes)


def _grid(blocks: Any, ndim: int | None = None) -> Any:
    """Return nested lists of nodes as an array of objects."""
    shape: list[int] = []
    level = blocks
    while isinstance(level, list) and (ndim is None or len(shape) < ndim):
        shape.append(len(level))
        level = level[0]
    grid = np.empty(shape, dtype=object)
    for index in np.ndindex(*shape):
        node = blocks
        for i in index:
            node = node[i]
        grid[index] = node if isinstance(node, Ref | Operation) else Constant(node)
    if not shape:
        raise _NotUnderstood
    return grid


def _reduction(name: str, function: Any, args: list[Any], options: dict[str, Any]) -> Node:
    if name in ("arg_chunk", "nanarg_chunk"):
        axes = tuple(args[3])
        if len(axes) != 1:  # the whole block is laid out in one row
            raise _NotUnderstood
        return Along(args[2], axes, keeps=True, size=1)
    operand = args[1] if name in ("arg_agg", "_arg_combine", "nanarg_agg") else args[0]
    if "axis" not in options:
        raise _NotUnderstood
    axes = options["axis"]
    axes = None if axes is None else (axes,) if isinstance(axes, int) else tuple(axes)
    if isinstance(operand, list):  # the function joins the partial results itself
        if axes is None:
            raise _NotUnderstood
        operand = Join(_grid(operand, len(axes)), tuple(sorted(axes)))
    if not isinstance(operand, Ref | Operation):
        raise _NotUnderstood
    return Along(operand, axes, keeps=bool(options.get("keepdims")), size=1)


def _along(name: str, function: Any, args: list[Any], options: dict[str, Any]) -> Node:
    axis = options.get("axis", args[2] if len(args) > 2 and "fft" in name else None)
    if axis is None or not isinstance(args[0], Ref | Operation):
        raise _NotUnderstood
    axes = (axis,) if isinstance(axis, int) else tuple(axis)
    prefix = "cum" in name
    size = -1 if prefix or "sort" in name or "shift" in name else None
    return Along(args[0], axes, keeps=True, size=size, prefix=prefix)


def _is_interpolation(function: Any) -> bool:
    function, _, _ = _unwrapped(function, {})
    return getattr(function, "__name__", "") == "_interpnd" and _module(function) == "xarray"


def _interpolation(function: Any, args: list[Any], options: dict[str, Any]) -> Node:
    data, *coordinates = args
    if any(isinstance(each, Ref | Operation) for each in coordinates):
        raise _NotUnderstood
    coordinates = [np.asarray(each) for each in coordinates]

    def call(block: Any) -> Any:
        return function(block, *coordinates, **options)

    return Linear(data, call, len(coordinates) // 2)


def _move(name: str, function: Any, args: list[Any], options: dict[str, Any]) -> Node:
    operands: list[Node] = []

    def take(arg: Any) -> Any:
        if isinstance(arg, Ref | Operation):
            operands.append(arg)
            return _Place(len(operands) - 1)
        if isinstance(arg, list | tuple):
            return type(arg)([take(each) for each in arg])
        return arg

    taken, named = [take(each) for each in args], {k: take(v) for k, v in options.items()}
    if not operands:
        raise _NotUnderstood

    def call(arrays: Sequence[Any]) -> Any:
        return function(*_put(taken, arrays), **{k: _put(v, arrays) for k, v in named.items()})

    return Move(call, operands, (name, pickle.dumps((taken, named))))


class _Place(int):
    """Stands for an operand in the arguments of a function."""

    __slots__ = ()


def _put(arg: Any, arrays: Sequence[Any]) -> Any:
    if isinstance(arg, _Place):
        return arrays[arg]
    if isinstance(arg, list | tuple):
        return type(arg)([_put(each, arrays) for each in arg])
    return arg


_BUILDERS: dict[frozenset[str], Callable[..., Node]] = {
    _JOINS: _join,
    _REDUCTIONS: _reduction,
    _ALONG: _along,
    _MOVES: _move,
}


def _arrays(args: Sequence[Any]) -> list[Node]:
    """Return the operands of an element-wise operation."""
    return [
        each if isinstance(each, Ref | Operation) else Constant(each)
        for each in args
        if isinstance(each, Ref | Operation) or np.ndim(each)
    ]


def _is_ufunc(function: Any) -> bool:
    """Return whether it is a ufunc that works cell by cell, and not a function of the user."""
    return (
        isinstance(function, np.ufunc)
        and function.signature is None
        and function.nout == 1  # a tuple of arrays is no array, and indices pick from the tuple
        and not all(set(each) <= set("O->") for each in function.types)
    )


def _unwrapped(function: Any, options: Mapping[str, Any]) -> tuple[Any, tuple[Any, ...], Any]:
    """Take partials apart: the function, arguments bound by position, and by name."""
    bound: tuple[Any, ...] = ()
    options = dict(options)
    while hasattr(function, "func") and hasattr(function, "keywords"):
        bound = (*function.args, *bound)
        options = {**function.keywords, **options}
        function = function.func
    return function, bound, options


def _name(function: Any) -> str:
    """Return the name of a function of NumPy, Dask or Python; of any other one an empty string."""
    if type(function).__name__ == "methodcaller" and hasattr(function, "method"):
        return str(function.method)
    return str(getattr(function, "__name__", "")) if _module(function) in _LIBRARIES else ""


def _module(function: Any) -> str:
    return str(getattr(function, "__module__", None) or "").partition(".")[0]
