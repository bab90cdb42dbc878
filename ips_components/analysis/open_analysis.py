"""Analysis functions over arrays that have no number of steps: what they are called with and need.

The function sees arrays of at most n steps, and is called again for more of them, see `growing`.
The contract is made of what the graphs over n and over 2 n steps need: what is needed in the same
way up to the last step of both is needed of all steps that come.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ips_components.analysis.arrays import ExternalArray, OpenEndedArray
from ips_components.analysis.at_most import AtMostGraph, build_at_most
from ips_components.analysis.needed_chunks import Needed, needed_chunks
from ips_components.analysis.selections import blank_shapes, boxes_of, whole_boxes
from ips_components.analysis.views import Source, View
from ips_components.errors import ContractError
from ips_components.model.array_contract import ArrayContract
from ips_components.model.contract import Policy
from ips_components.model.layout import ChunkLayout
from ips_components.model.progression import Progression
from ips_components.model.selection import Selection, cover, disjoint
from ips_components.model.spec import OPEN_ENDED, StepAxis

__all__ = [
    "BEYOND",
    "FIRST_BOUND",
    "MAX_BOUND",
    "SAME_GRAPH",
    "OpenAnalysis",
    "bounded_arrays",
    "call_with",
]

#: Steps that the first graph spans.
FIRST_BOUND = 64
#: Steps that a graph spans at most; the scheduler holds a few tasks for each of them and result.
MAX_BOUND = 1 << 18

BEYOND = (
    "fold over its steps with windows, run.rolling(array, size).scan, or give a number that is "
    "never exceeded (STEPS = 0:1000 and AT_MOST = True in its section)"
)


def grows(array: Any) -> bool:
    """Whether an array on offer has no number of steps, and chunks of one step."""
    return isinstance(array, OpenEndedArray) and array.source.layout.chunks[0] == (1,)


def bounded_arrays(offered: Mapping[str, Any], bound: int) -> dict[str, Any]:
    """Return the arrays on offer as a graph over `bound` steps sees them.

    Parameters
    ----------
    offered
        As made by `external_arrays`. Those with a number of steps keep it.
    bound
        Steps of those without one.
    """
    arrays: dict[str, Any] = {}
    for name, array in offered.items():
        source = array.source
        spec, layout = source.spec, source.layout
        if grows(array):
            axis = spec.steps
            spec = replace(spec, steps=StepAxis(axis.start, axis.every, bound, at_most=True))
            layout = ChunkLayout((bound, *layout.shape[1:]), ((1,) * bound, *layout.chunks[1:]))
        elif isinstance(array, OpenEndedArray):
            arrays[name] = array
            continue
        seen = Source(spec, layout, source.run, source.n_receivers, chosen=source.chosen)
        seen.unbounded = source if grows(array) else None
        whole = Selection.full(layout.shape)
        arrays[name] = ExternalArray(seen.view(whole, tuple(range(layout.ndim))))
    return arrays


def wider(arrays: Iterable[Any], bound: int) -> int:
    """Return the bound that arrays need for the steps that were asked for by their numbers.

    Raises
    ------
    ContractError
        A graph that spans all steps up to that one would be too large.
    """
    furthest = max(arrays, key=lambda array: array.source.asked)
    if furthest.source.asked > MAX_BOUND:
        raise ContractError(
            f"array {furthest.spec.name!r} has no number of steps, and step index "
            f"{furthest.source.asked - 1} is asked for; {MAX_BOUND} steps are the most that one "
            f"graph spans: {BEYOND}"
        )
    while bound < furthest.source.asked:
        bound *= 2
    return bound


def call_with(
    offered: Mapping[str, Any],
    bound: int,
    call: Callable[[dict[str, Any]], Any],
    done: Callable[[], bool] = lambda: False,
) -> tuple[int, dict[str, Any], Any]:
    """Call an analysis with arrays, again while it asks for steps that they do not have.

    Parameters
    ----------
    offered, bound
        See `bounded_arrays`.
    call
        Calls it.
    done
        Whether it must not be called again.

    Returns
    -------
    tuple
        The bound, the arrays, and what the analysis returned.
    """
    while True:
        arrays = bounded_arrays(offered, bound)
        failure: Exception | None = None
        returned = None
        try:
            returned = call(arrays)
        except Exception as error:
            failure = error
        least = bound if done() or not arrays else wider(arrays.values(), bound)
        if least > bound:
            bound = least
        elif failure is not None:
            raise failure
        else:
            return bound, arrays, returned


# -- the contract ------------------------------------------------------------------------------


def agree_open(
    source: Source, chunks: Sequence[Mapping[View, Any]], bounds: Sequence[int], policy: Policy
) -> ArrayContract:
    """Return the contract of an array, of which the first graph and the next one need `chunks`.

    What both need in the same way up to their last step is needed of all steps that come.
    """
    first, second = (boxes_of(each) for each in chunks)
    held = [
        [box for view, indices in each.items() for box in whole_boxes(view, indices)]
        for each in chunks
    ]
    spec, layout = source.spec, source.layout
    if source.unbounded is not None:
        layout = source.unbounded.layout
        spec = replace(spec, steps=replace(spec.steps, count=None))
        first = _for_ever(first, second, bounds)
        held = [_for_ever(held[0], held[1], bounds)]
    else:
        first, held = first + second, [held[0] + held[1]]
    return ArrayContract.agree(
        spec,
        first,
        run=source.run,
        held=held[0],
        receivers=range(source.n_receivers),
        layout=layout,
        policy=policy,
        blocks=source.chosen.choice,
    )


def _for_ever(
    first: list[Selection], second: list[Selection], bounds: Sequence[int]
) -> list[Selection]:
    """Go on with boxes that are needed of 0 .. n - 1 and of 0 .. 2 n - 1; all steps if unclear."""
    found, left = [], list(second)
    for box in first:
        same = box if box in left else None
        times = box.dims[0]
        if same is None:
            same = next((each for each in left if _goes_on(box, each, bounds)), None)
            times = _all_from(times.start, times.step if times.count > 1 else bounds[1])
        if same is None:
            left = second
            break
        left.remove(same)
        if times.step == bounds[1]:  # one step of the first graph, more of the second
            times = _all_from(same.dims[0].start, same.dims[0].step)
        found.append(Selection.of([times, *box.dims[1:]]))
    if not left:
        return found
    space = cover([*first, *second]).dims[1:]
    return [Selection.of([_all_from(0, 1), *space])]


def _goes_on(box: Selection, other: Selection, bounds: Sequence[int]) -> bool:
    """Whether two boxes have the same cells of the same steps up to the ends of their graphs."""
    mine, its = box.dims[0], other.dims[0]
    step = its.step
    return (
        box.dims[1:] == other.dims[1:]
        and mine.start == its.start
        and (mine.count == 1 or mine.step == step)
        and its.count > 1
        and mine.start + mine.count * step >= bounds[0]
        and its.start + its.count * step >= bounds[1]
    )


def _all_from(start: int, step: int) -> Progression:
    return Progression(start, -(-(OPEN_ENDED - start) // step), step)


def bind_open(arrays: Mapping[str, Any], needed: Needed, contracts: Mapping[str, Any]) -> None:
    """Let the arrays of a graph cut themselves out of what the contract delivers.

    Parameters
    ----------
    arrays
        As made by `bounded_arrays`.
    needed
        What the results over them need.
    contracts
        `ArrayContract` by name of the array; arrays of which nothing is needed are missing.

    Raises
    ------
    ContractError
        Something is needed that was not agreed: the analysis has asked for less before.
    """
    for name, array in arrays.items():
        source = array.source
        mine = {view: chunks for view, chunks in needed.items() if view.source is source}
        contract = contracts.get(name)
        if mine:
            _check_agreed(name, boxes_of(mine), contract)
        source.bind(
            contract,
            {view.name: set(chunks) for view, chunks in mine.items()},
            blank_shapes(mine, contract),
        )


def _check_agreed(name: str, boxes: list[Selection], contract: ArrayContract | None) -> None:
    for box in disjoint(boxes):
        parts = () if contract is None else contract.wanted
        common = [part.intersect(box) for part in parts]
        if sum(each.size for each in common if each is not None) < box.size:
            raise ContractError(
                f"array {name!r}: the analysis needs {box} in a graph over more steps, which it "
                f"did not need before; {SAME_GRAPH}"
            )


SAME_GRAPH = (
    "it is called again as steps come, since the number of steps is not known, and must make the "
    f"same graph over more steps; {BEYOND}"
)


class OpenAnalysis:
    """An analysis function over arrays of any number of steps: the contract and its graphs.

    Parameters
    ----------
    offered
        The arrays on offer, see `bounded_arrays`.
    call
        Calls the function with arrays of some number of steps; returns its lazy results by name.
    policies
        What a full receiver means, by name of the array.
    streaming
        Make chains with a running state of the reductions over time.
    first
        Arrays for the first call, if there are some already.
    """

    def __init__(
        self,
        offered: Mapping[str, Any],
        call: Callable[[Mapping[str, Any], int], Mapping[str, Any]],
        policies: Mapping[str, Policy] | None = None,
        streaming: bool = True,
        first: Mapping[str, Any] | None = None,
    ) -> None:
        self._first = first
        self._offered = offered
        self._call = call
        self._policies = policies or {}
        self._streaming = streaming
        self._made: dict[int, tuple[Mapping[str, Any], Mapping[str, Any]]] = {}
        self.contracts: dict[str, ArrayContract] = {}
        """By name of the array, once `agree` was called; in the order of the arrays."""

    def made(self, bound: int) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
        """Return the arrays of a graph and the results over them."""
        if bound not in self._made:
            arrays = bounded_arrays(self._offered, bound)
            results = self._call(arrays, bound)
            for _, before in list(self._made.values())[-1:]:
                if before.keys() != results.keys():
                    raise ContractError(
                        f"the analysis returned the results {sorted(results)}, and "
                        f"{sorted(before)} before; {SAME_GRAPH}"
                    )
            self._made[bound] = arrays, results
        return self._made[bound]

    def agree(self, bound: int) -> int:
        """Make the contract; return the bound of the first graph, larger where it must be."""
        first, self._first = self._first, None
        least = bound if first is None else wider(first.values(), bound)
        if first is not None and least == bound:
            self._made[bound] = first, self._call(first, bound)
        else:
            bound, arrays, results = call_with(
                self._offered, least, lambda arrays: self._call(arrays, least)
            )
            self._made[bound] = arrays, results
        bounds = bound, 2 * bound
        needed = [
            needed_chunks(results, [array.source for array in arrays.values()])
            for arrays, results in map(self.made, bounds)
        ]
        for name, array in self.made(bound)[0].items():
            sources = [self.made(each)[0][name].source for each in bounds]
            mine = [
                {view: chunks for view, chunks in each.items() if view.source is source}
                for each, source in zip(needed, sources, strict=True)
            ]
            if any(mine):
                policy = self._policies.get(name, "block")
                self.contracts[name] = agree_open(array.source, mine, bounds, policy)
        return bound

    @property
    def open_names(self) -> dict[str, bool]:
        """Dask names of the arrays in the contract; whether each has any number of steps."""
        return {each.name: each.spec.steps.open_ended for each in self.contracts.values()}

    def graph(self, bound: int) -> AtMostGraph:
        """Return the graph over a number of steps, once there is a contract."""
        arrays, results = self.made(bound)
        sources = [array.source for array in arrays.values()]
        bind_open(arrays, needed_chunks(results, sources), self.contracts)
        self._made = {n: each for n, each in self._made.items() if n >= bound}
        return build_at_most(results, sources, streaming=self._streaming, growing=True)
