"""Tasks of Dask as operations on cells.

Functions are known by their names and by where they come from, NumPy, Dask and Python only: a
function of the user that is called alike, or wraps one of them, is not meant. A task that is not
understood needs all cells of what it is made of.
"""

from __future__ import annotations

import logging
import pickle
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from numbers import Number
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
from dask.utils import apply, methodcaller

from ips_components.analysis.cells.contractions import (
    Contraction,
    einsum_labels,
    matmul_labels,
    tensordot_labels,
)
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
from ips_components.analysis.cells.windows import Coarsen, Largest, Repeat

logger = logging.getLogger(__name__)


def _names(*lines: str) -> frozenset[str]:
    return frozenset(" ".join(lines).split())


#: Modules, with those below them, whose functions are meant. Others have some that are called
#: alike and do something else: ``numpy.linalg.inv``, ``numpy.ma.where``, ``scipy.ndimage.mean``.
_MODULES = _names(
    "_operator builtins dask.array dask.core dask.utils dask._task_spec",
    "numpy.core numpy._core numpy.fft numpy.lib scipy.fft xarray.core.missing",
)
_ELEMENTWISE = _names(
    "abs add and_ angle around astype ceil clip conj conjugate copy digitize eq fix floor",
    "floordiv ge gt i0 imag inv invert iscomplex isclose isfinite isin isinf isnan isnull isreal",
    "le lshift lt mod mul nan_to_num ne neg not_ or_ pos positive pow real rint round rshift sinc",
    "_sqrt sub truediv xor _cumsum_merge _cumprod_merge _numpy_vindex",
)
#: Element-wise in their first argument, the others are not broadcast to it.
_OF_THE_FIRST = _names("astype digitize isin _numpy_vindex setitem")
_PICKS = _names("getitem getter getter_inline getter_nofancy")
_REDUCTIONS = _names(
    "all amax amin any chunk_max chunk_min max mean mean_agg mean_chunk mean_combine median min",
    "moment_agg moment_chunk moment_combine _nanmax_skip _nanmin_skip nanmax nanmean nanmedian",
    "nanmin nannumel nanprod nanstd nansum nanvar numel prod std sum var",
    "arg_agg arg_chunk _arg_combine",  # nanarg_agg refuses slices of NaN, which may be garbage
)
_ALONG = _names(
    "argsort cumprod cumsum fft fftshift hfft ifft ifftshift ihfft irfft nancumprod nancumsum",
    "rfft sort",
)
_MOVES = _names(
    "_getitem _trim _vindex_merge _vindex_slice_and_transpose atleast_1d atleast_2d atleast_3d",
    "broadcast_to concatenate_arrays diag diagonal expand_dims flip fliplr flipud moveaxis ravel",
    "repeat reshape roll rollaxis rot90 sliding_window_view squeeze stack swapaxes take tile tril",
    "triu",
)
_QUANTILES = _names("_custom_nanquantile nanpercentile nanquantile percentile quantile")
_JOINS = _names("concatenate concatenate3 concatenate_axes concatenate_shaped _concatenate2")
_CONTRACTIONS = _names("chunk_einsum _matmul _tensordot")
_MAKERS = _names(
    "apply arange _broadcast_trick_inner full full_like ones ones_like zeros zeros_like",
)
#: What is done at once to arrays that are in the graph itself.
_OF_CONSTANTS = _MAKERS | _PICKS | _ELEMENTWISE | _MOVES | _JOINS | {"where"}


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
    for each in _one_by_one(task.func):
        function, _, _ = _unwrapped(each, {})
        if function is apply:
            function = task.args[0]
        if _name(function) not in _OF_CONSTANTS and not _is_ufunc(function):
            return None
    value = task({key: constants[key] for key in task.dependencies})
    return np.asanyarray(value) if isinstance(value, np.ndarray | np.generic | Number) else None


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
        if arg.klass is dict and not arg.dependencies:
            return arg()
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
    first, *others = _one_by_one(task.func)
    node = _operation(first, args, options)
    for function in others:
        node = _operation(function, [node], {})
    return node


def _operation(function: Any, args: list[Any], options: dict[str, Any]) -> Node:
    before = args
    function, bound, options = _unwrapped(function, options)
    args = [*bound, *before]
    name = _name(function)
    if function is apply:
        return _operation(args[0], list(args[1]), dict(*args[2:]))
    if name == "_enforce_dtype":
        options.pop("enforce_dtype", None)
        return _operation(options.pop("enforce_dtype_function"), args, options)
    if name == "_pass_extra_kwargs":  # such as the place of a block
        (function, names), given = args[:2], args[2:]
        n = len(names)
        options |= dict(zip(names, given[:n], strict=True))
        return _operation(function, given[n:], options)
    if name == "where" and len(args) == 3:  # with the condition alone the result is a tuple
        if isinstance(args[0], Ref | Operation):
            return Elementwise(_arrays(args))
        return Choose(np.asarray(args[0], bool), _arrays(args[1:2]), _arrays(args[2:]))
    if name in _OF_THE_FIRST:
        return Elementwise(_arrays(args[:1]))
    if name in _ELEMENTWISE or _is_ufunc(function):
        if any(np.ndim(each) for each in options.values()):  # an array that may broadcast others
            raise _NotUnderstood
        return Elementwise(_arrays(args))
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
        (isinstance(each, int | np.integer | slice | None) and not isinstance(each, bool))
        or each is Ellipsis
        or (isinstance(each, list | np.ndarray) and _are_positions(each))
        for each in index
    )
    integers = any(isinstance(each, int | np.integer) for each in index)
    if not isinstance(args[0], Ref | Operation) or not plain:
        raise _NotUnderstood
    if len(lists) > 1 or (lists and (integers or np.ndim(lists[0]) != 1)):
        return _move("getitem", function, args[:2], {})
    return Pick(args[0], index, of_array=isinstance(args[1], tuple))


def _are_positions(index: Any) -> bool:
    positions = np.asarray(index)
    return positions.dtype.kind in "iub" or not positions.size


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
    if name == "arg_chunk":
        along = tuple(args[3])
        if len(along) != 1:  # the whole block is laid out in one row
            raise _NotUnderstood
        return Along(args[2], along, keeps=True, size=1)
    operand = args[1] if name in ("arg_agg", "_arg_combine") else args[0]
    if "axis" not in options:
        raise _NotUnderstood
    given = options["axis"]
    axes = None if given is None else (given,) if isinstance(given, int) else tuple(given)
    if isinstance(operand, list):  # the function joins the partial results itself
        if axes is None or not _origin(function).startswith("dask"):  # NumPy would stack them
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
    return _name(_unwrapped(function, {})[0]) == "_interpnd"


def _interpolation(function: Any, args: list[Any], options: dict[str, Any]) -> Node:
    data, *coordinates = args
    linear = options.get("interp_kwargs", {}).get("method") in ("linear", "nearest")
    if not linear or any(isinstance(each, Ref | Operation) for each in coordinates):
        raise _NotUnderstood
    coordinates = [np.asarray(each) for each in coordinates]

    def call(block: Any) -> Any:
        return function(block, *coordinates, **options)

    return Linear(data, call, len(coordinates) // 2)


def _gradient(name: str, function: Any, args: list[Any], options: dict[str, Any]) -> Node:
    return Along(args[0], (options["axis"],), keeps=True, size=-1)


def _coarsen(name: str, function: Any, args: list[Any], options: dict[str, Any]) -> Node:
    reduction, operand, factors = args[:3]
    if _name(reduction) not in _REDUCTIONS or options or not isinstance(operand, Ref | Operation):
        raise _NotUnderstood
    return Coarsen(operand, dict(factors))


def _largest(name: str, function: Any, args: list[Any], options: dict[str, Any]) -> Node:
    operand = args[0]
    if not isinstance(operand, Ref | Operation):
        raise _NotUnderstood
    return Largest(operand, tuple(options["axis"]), keeps=True, most=abs(options["k"]))


def _quantiles(name: str, function: Any, args: list[Any], options: dict[str, Any]) -> Node:
    operand, q = args
    if not isinstance(operand, Ref | Operation) or isinstance(q, Ref | Operation):
        raise _NotUnderstood
    if options.keys() - {"axis", "method", "keepdims"} or options.get("axis") is None:
        raise _NotUnderstood
    if np.ndim(q) > 1 and "nan" in name:  # NumPy mixes slices then if one has NaN only
        raise _NotUnderstood
    axes = tuple(np.atleast_1d(options["axis"]).tolist())
    found = Along(operand, axes, keeps=bool(options.get("keepdims")), size=1)
    return Repeat(found, np.shape(q)) if np.ndim(q) else found


def _block_sum(name: str, function: Any, args: list[Any], options: dict[str, Any]) -> Node:
    (axis,) = options["axis"]  # of size 1, see dask.array.matmul
    blocks = args[0] if isinstance(args[0], list) else args[:1]
    return Along(Elementwise(_arrays(blocks)), (axis,), keeps=bool(options["keepdims"]), size=1)


def _contraction(name: str, function: Any, args: list[Any], options: dict[str, Any]) -> Node:
    operands = _arrays(args)
    if len(operands) != len(args) or options.get("is_sparse"):
        raise _NotUnderstood
    if name == "chunk_einsum":
        return Contraction(einsum_labels(options["subscripts"]), operands)
    if name == "_tensordot":
        return Contraction(tensordot_labels(options["axes"]), operands)
    return Contraction(matmul_labels, operands)


def _move(name: str, function: Any, args: list[Any], options: dict[str, Any]) -> Node:
    operands: list[Node] = []
    place = 1 if name == "_vindex_merge" else 0  # arrays elsewhere say how cells are moved
    if any(i != place and any(_nodes(each)) for i, each in enumerate(args)) or (
        options.keys() & {"dtype", "out"} or any(any(_nodes(each)) for each in options.values())
    ):
        raise _NotUnderstood

    def take(arg: Any) -> Any:
        if isinstance(arg, Ref | Operation):
            operands.append(arg)
            return _Place(len(operands) - 1)
        if isinstance(arg, list | tuple):
            return type(arg)([take(each) for each in arg])
        return arg

    taken = [take(each) for each in args]
    if not operands:
        raise _NotUnderstood

    def call(arrays: Sequence[Any]) -> Any:
        return function(*_put(taken, arrays), **options)

    return Move(call, operands, (_origin(function), name, pickle.dumps((taken, options))))


def _nodes(arg: Any) -> Iterator[bool]:
    """Yield True for each result of another task in an argument."""
    if isinstance(arg, Ref | Operation):
        yield True
    elif isinstance(arg, list | tuple):
        for each in arg:
            yield from _nodes(each)


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
    _CONTRACTIONS: _contraction,
    _QUANTILES: _quantiles,
    _names("_chunk_sum"): _block_sum,
    _names("coarsen"): _coarsen,
    _names("topk topk_aggregate"): _largest,
    _names("_gradient_kernel"): _gradient,
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


def _one_by_one(function: Any) -> list[Any]:
    """Return the functions that one consists of, each but the first one of the result before it."""
    if type(function).__name__ == "Compose" and "toolz" in type(function).__module__:
        return [function.first, *function.funcs]
    return [function]


def _unwrapped(function: Any, options: Mapping[str, Any]) -> tuple[Any, tuple[Any, ...], Any]:
    """Take partials apart: the function, arguments bound by position, and by name."""
    bound: tuple[Any, ...] = ()
    options = dict(options)
    while type(function) is partial:
        bound = (*function.args, *bound)
        options = {**function.keywords, **options}
        function = function.func
    return function, bound, options


def _name(function: Any) -> str:
    """Return the name of a function of the libraries; of any other one an empty string."""
    if type(function) is methodcaller:
        return str(function.method)
    name, origin = str(getattr(function, "__name__", "")), _origin(function)
    if origin != "numpy" and not any(f"{origin}.".startswith(f"{each}.") for each in _MODULES):
        return ""
    written_there = hasattr(function, "__globals__")
    return name if written_there or getattr(sys.modules[origin], name, None) is function else ""


def _origin(function: Any) -> str:
    """Return the module that a function is written in, even if it wraps one of another module."""
    scope = getattr(function, "__globals__", None)
    found = getattr(function, "__module__", None) if scope is None else scope.get("__name__")
    return found if isinstance(found, str) and found in sys.modules else ""
