"""The contract that follows from a graph: what the simulation must send, and nothing else.

The graph of all results is culled once, on the client and symbolically: the leaves that are left
are chunks of views of external arrays. The union of their cells, each counted once, is what is
wanted. Then the arrays are bound, and the results can be computed by Dask's own means: the graph
travels in its compact form and is optimised on the scheduler, as any other.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import dask
from dask._expr import FinalizeCompute
from dask._task_spec import convert_legacy_graph, fuse_linear_task_spec
from dask.array.optimization import optimize as optimize_arrays
from dask.base import collections_to_expr, unpack_collections
from dask.blockwise import fuse_roots, optimize_blockwise
from dask.core import flatten
from dask.highlevelgraph import HighLevelGraph
from dask.utils import ensure_dict

from ips_components.analysis.arrays import ExternalArray, OpenEndedArray
from ips_components.analysis.inlining import inline_cuts
from ips_components.analysis.needed_chunks import needed_chunks
from ips_components.analysis.selections import blank_shapes, boxes_of, whole_boxes
from ips_components.analysis.streaming import stream_reductions
from ips_components.analysis.view_layer import ViewLayer
from ips_components.errors import ContractError
from ips_components.external._compat import gc_paused
from ips_components.external.packed_tasks import pack
from ips_components.model.contract import ArrayContract, Contract, Policy
from ips_components.model.layout import ChunkLayout
from ips_components.model.placement import Placement
from ips_components.model.selection import disjoint

if TYPE_CHECKING:
    from distributed import Client, Future

PlacementRule = Callable[[ChunkLayout, tuple[int, ...]], Placement]


def contract_from_graph(
    results: Any,
    arrays: Mapping[str, ExternalArray | OpenEndedArray],
    *,
    run: str,
    placement: PlacementRule | None = None,
    policies: Mapping[str, Policy] | None = None,
) -> Contract:
    """Derive the contract of a run from lazy results, and bind the arrays to it.

    Afterwards the results can be computed or persisted as usual, or with `submit`.

    Parameters
    ----------
    results
        Any nesting (mappings, lists, tuples) of dask collections: arrays, delayed, xarray objects,
        dataframes.
    arrays
        Result of `external_arrays`.
    run
        Run id; the one that the arrays were made for.
    placement
        Function from a chunk layout and the chunks in space that are needed to a placement.
        Default: even load on the receivers that the arrays were made for.
    policies
        What a full receiver means, by name of the array: ``"block"`` (default) or ``"drop"``.

    Returns
    -------
    Contract
        Arrays of which nothing is needed are not in it.

    Raises
    ------
    ContractError
        A result does not depend on any external array, a policy names an unknown array, or the
        arrays have a contract already.
    """
    contracts = contracts_from_graph(
        results, arrays, runs=[run], placement=placement, policies=policies
    )
    return contracts[run]


def contracts_from_graph(
    results: Any,
    arrays: Mapping[str, ExternalArray | OpenEndedArray],
    *,
    runs: Sequence[str],
    placement: PlacementRule | None = None,
    policies: Mapping[str, Policy] | None = None,
) -> dict[str, Contract]:
    """Derive one contract for each of several runs, whose arrays meet in one graph.

    Parameters
    ----------
    results, arrays, placement, policies
        See `contract_from_graph`.
    runs
        Run ids: one for each simulation that offers some of the arrays.

    Returns
    -------
    dict
        A contract by run id, without arrays for a run of which nothing is needed.

    Raises
    ------
    ContractError
        See `contract_from_graph`.
    """
    sources = {name: array.source for name, array in arrays.items()}
    policies = dict(policies or {})
    if unknown := sorted(set(policies) - set(sources)):
        raise ContractError(
            f"policies name arrays {unknown}, which the simulation does not offer; "
            f"it offers {sorted(sources)}"
        )
    for name, source in sources.items():
        if source.signed:
            raise ContractError(f"array {name!r} has a contract already; it is made once per run")
        if source.run not in runs:
            expected = " or ".join(map(repr, runs))
            raise ContractError(f"array {name!r} belongs to run {source.run!r}, not to {expected}")
    with gc_paused():
        needed = needed_chunks(results, sources.values())
    agreed: dict[str, list[ArrayContract]] = {run: [] for run in runs}
    for name, source in sources.items():
        mine = {view: indices for view, indices in needed.items() if view.source is source}
        contract = None
        if mine:
            contract = ArrayContract.agree(
                source.spec,
                boxes_of(mine),
                run=source.run,
                held=[box for view, chunks in mine.items() for box in whole_boxes(view, chunks)],
                receivers=range(source.n_receivers),
                layout=source.layout,
                policy=policies.get(name, "block"),
                blocks=source.chosen.choice,
            )
            if placement is not None:
                rule = placement(contract.layout, contract.needed_space)
                contract = contract.with_placement(rule)
            agreed[source.run].append(contract)
        source.bind(
            contract,
            {view.name: set(chunks) for view, chunks in mine.items()},
            blank_shapes(mine, contract),
        )
        if contract is not None and (functions := needed.widened_by.get(source.name)):
            used = {view: {**of, **needed.used.get(view, {})} for view, of in mine.items()}
            cells = sum(part.size for part in disjoint(boxes_of(used)))
            asked = sum(part.size for part in contract.wanted)
            source.widened = (asked / cells, tuple(sorted(functions)))
    return {run: Contract(run, tuple(mine)) for run, mine in agreed.items()}


def submit(
    client: Client, results: Mapping[str, Any], *, streaming: bool = True, **options: Any
) -> dict[str, Future]:
    """Submit lazy results, after the contract was made; better than ``client.compute`` by itself.

    Cuts and aliases of external chunks go into the tasks that use them, which saves a task per
    chunk. Results of different kinds are submitted apart: Dask returns them in another order than
    they were given when delayed values and arrays are mixed.

    Parameters
    ----------
    client
        Client of the cluster.
    results
        Dask collections by name.
    streaming
        Make chains with a running state of the reductions over time, see `stream_reductions`.
    **options
        For ``client.compute``.

    Returns
    -------
    dict
        A future for each result, by name.
    """
    kinds: dict[Any, list[str]] = defaultdict(list)
    futures: dict[str, Future] = {}
    optimizer = optimize if streaming else optimize_as_trees
    with dask.config.set(array_optimize=optimizer), gc_paused():
        for name, result in results.items():
            kinds[_kind(result)].append(name)
        for names in kinds.values():
            try:
                submitted = _compute(client, [results[name] for name in names], **options)
            except TypeError as error:
                raise _not_sent(names, error) from error
            futures.update(zip(names, submitted, strict=True))
    return {name: futures[name] for name in results}


def _compute(client: Client, collections: Sequence[Any], **options: Any) -> Sequence[Future]:
    """Submit collections as ``client.compute`` does, optimised here and with packed tasks."""
    expression = FinalizeCompute(collections_to_expr(collections)).optimize()
    if any(expression.__dask_annotations__().values()):  # which only a compact graph carries
        found: Sequence[Future] = client.compute(collections, sync=False, **options)
        return found
    tasks = pack(convert_legacy_graph(expression.__dask_graph__()))
    keys = list(flatten(expression.__dask_keys__()))
    return client.get(tasks, keys, sync=False, **options)


def _not_sent(names: Sequence[str], error: TypeError) -> Exception:
    """Return why the graph of some results could not be sent to the scheduler."""
    causes: list[BaseException] = [error]
    while (before := causes[-1].__cause__ or causes[-1].__context__) is not None:
        causes.append(before)
    if not str(error).startswith("Could not serialize"):
        return error
    cause = next((each for each in causes if "pickle" in str(each)), causes[-1])
    which = f"result{'s' if names[1:] else ''} {', '.join(map(repr, names[:5]))}"
    return ContractError(
        f"the tasks of {which} cannot be sent to the workers: {cause}; a function of the "
        "graph uses something that exists in its own process only, such as a lock, an open file or "
        "a connection: make it inside the function"
    )


def persist_together(*values: Any) -> tuple[Any, ...]:
    """Persist the collections in some values, whatever their kinds; as ``dask.persist`` otherwise.

    Dask mixes up collections when delayed values are between arrays, so that those of one kind are
    given to it one after the other.
    """
    collections, repack = unpack_collections(*values)
    kinds: dict[Any, list[int]] = defaultdict(list)
    for number, each in enumerate(collections):
        kinds[_kind(each)].append(number)
    order = [number for numbers in kinds.values() for number in numbers]
    persisted = dask.persist(*(collections[number] for number in order), traverse=False)
    by_number = dict(zip(order, persisted, strict=True))
    return tuple(repack([by_number[number] for number in range(len(collections))]))


def _kind(collection: Any) -> Any:
    """Return what collections have in common that Dask optimises, and returns, together."""
    return getattr(collection, "__dask_optimize__", type(collection))


def optimize_as_trees(graph: Any, keys: Any, **options: Any) -> Any:
    """Optimise as `optimize` does, with reductions over time left as trees."""
    return optimize(graph, keys, streaming=False, **options)


def optimize(graph: Any, keys: Any, *, streaming: bool = True, **options: Any) -> Any:
    """Optimise a graph of arrays as dask.array does, without a task to cut each external chunk.

    A function for Dask's configuration value ``array_optimize``.

    Parameters
    ----------
    graph, keys, **options
        As for ``dask.array.optimize``.
    streaming
        Make chains of reductions over time, see `stream_reductions`.
    """
    if isinstance(graph, HighLevelGraph) and streaming:
        graph = stream_reductions(graph)
    layers = graph.layers.values() if isinstance(graph, HighLevelGraph) else ()
    views = {layer.name for layer in layers if isinstance(layer, ViewLayer) and not layer.is_whole}
    if not views or dask.config.get("optimization.fuse.active") is False:
        return optimize_arrays(graph, keys, **options)
    outputs = set(flatten(keys if isinstance(keys, list | set) else [keys]))
    graph = fuse_roots(optimize_blockwise(graph, keys=outputs), keys=outputs).cull(outputs)
    tasks = inline_cuts(convert_legacy_graph(ensure_dict(graph)), views, outputs)
    return fuse_linear_task_spec(tasks, keys=outputs)
