"""The task graph of the incremental principal component analysis: updates, results, restoring."""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import dask.array as da
import numpy as np
from dask.base import tokenize

from ips_components.algorithms import _pca_kernels as kernels
from ips_components.algorithms._batches import Batch, Part, Roles
from ips_components.algorithms._fold import keep
from ips_components.algorithms._graph import Chain, Task, TaskRef, lazy_array, refs

__all__ = [
    "STATE_ARRAYS",
    "Model",
    "components",
    "extend",
    "history",
    "moment",
    "restore",
    "shared",
]

# What a state that can be saved consists of, next to the two counters.
STATE_ARRAYS = (
    "components",
    "singular_values",
    "explained_variance",
    "explained_variance_ratio",
    "noise_variance",
    "mean",
    "var",
)


@dataclass(frozen=True, slots=True)
class Model:
    """A fit as far as it is known without computing, and the keys of its last tasks.

    Attributes
    ----------
    solver : Solver
    k : number of components
    chunks : chunks along each feature axis, which all batches share
    token : names this state: what was fitted, and how
    chain : the graph so far
    seen, batches : samples and batches so far
    portions : one key per feature chunk, of a `kernels.Portion`
    spectrum : key of the `kernels.Spectrum`
    whole : key of a `kernels.State` instead, where features lie in one chunk
    history : keys of what holds the spectra after the batches, and how many batches each is of
    at_most : whether batches at the end may never come, as of an array of at most so many steps
    """

    solver: kernels.Solver
    k: int
    chunks: tuple[tuple[int, ...], ...]
    token: str
    chain: Chain | None = None
    seen: int = 0
    batches: int = 0
    portions: tuple[Hashable, ...] = ()
    spectrum: Hashable = None
    whole: Hashable = None
    history: tuple[tuple[Hashable, int], ...] = ()
    at_most: bool = False

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """Shape of each feature chunk in C order."""
        return list(itertools.product(*self.chunks))

    @property
    def feature_shape(self) -> tuple[int, ...]:
        """Sizes of the feature axes."""
        return tuple(sum(sizes) for sizes in self.chunks)

    @property
    def features(self) -> int:
        """Number of features."""
        return math.prod(self.feature_shape)


def extend(model: Model, array: da.Array, roles: Roles, batches: Sequence[Batch]) -> Model:
    """Append the updates for `batches`, which are read from blocks of `array`, as one layer."""
    many = None if model.at_most else len(batches)  # a graph over more steps goes on from this one
    token = tokenize(model.token, array.name, roles, many)
    tasks: dict[Hashable, Task] = {}
    whole = len(model.shapes) == 1
    step = _append_whole if whole else _append_split
    added = []
    for group in _groups(batches) if whole else ([batch] for batch in batches):
        before, model = model, step(tasks, model, token, roles, group)
        added.append((model.whole or model.spectrum, len(group)))
        if model.at_most and before.batches:
            model = _keep(tasks, before, model, token)
    parents = [array] if model.chain is None else [model.chain, array]
    chain = Chain.build(f"ipca-{token}", tasks, *parents)
    return replace(model, token=token, chain=chain, history=(*model.history, *added))


def _groups(batches: Sequence[Batch]) -> Iterator[list[Batch]]:
    """Give the batches that lie in the same blocks together: one task takes them in turn."""
    for _, group in itertools.groupby(batches, lambda batch: [part.key for part in batch.parts[0]]):
        yield list(group)


def _keep(tasks: dict[Hashable, Task], before: Model, model: Model, token: str) -> Model:
    """Add tasks that stay at the state before a batch that never comes."""

    def kept(name: str, old: Hashable, new: Hashable, *index: int) -> Hashable:
        key = (f"ipca-kept-{name}-{token}", before.batches, *index)
        tasks[key] = Task(key, keep, TaskRef(old), TaskRef(new))
        return key

    if model.whole is not None:
        return replace(model, whole=kept("whole", before.whole, model.whole))
    portions = [
        kept("portion", old, new, j)
        for j, (old, new) in enumerate(zip(before.portions, model.portions, strict=True))
    ]
    spectrum = kept("spectrum", before.spectrum, model.spectrum)
    return replace(model, portions=tuple(portions), spectrum=spectrum)


def _append_whole(
    tasks: dict[Hashable, Task],
    model: Model,
    token: str,
    roles: Roles,
    group: Sequence[Batch],
) -> Model:
    """Add the updates of features in one chunk: a task, or one more per part of the samples."""
    number = model.batches
    # For each part of the samples, what it is in each of the batches; they share its block.
    parts = list(zip(*(batch.parts[0] for batch in group), strict=True))
    previous = None if model.whole is None else TaskRef(model.whole)
    arguments = (model.k, model.seen, number, model.solver, previous)
    key = (f"ipca-update-{token}", number)

    def read(part: Sequence[Part]) -> tuple[Any, ...]:
        takes = tuple(each.take for each in part)
        return TaskRef(part[0].key), takes, roles.order, part[0].samples

    if len(parts) == 1:
        tasks[key] = Task(key, kernels.advance_block, *read(parts[0]), *arguments)
    else:
        rows = []
        for i, part in enumerate(parts):
            rows.append((f"ipca-rows-{token}", number, i))
            tasks[rows[-1]] = Task(rows[-1], kernels.summarise, *read(part), number, True)
        tasks[key] = Task(key, kernels.advance, refs(rows), *arguments)
    seen = model.seen + sum(batch.samples for batch in group)
    return replace(model, seen=seen, batches=number + len(group), whole=key)


def _append_split(
    tasks: dict[Hashable, Task],
    model: Model,
    token: str,
    roles: Roles,
    group: Sequence[Batch],
) -> Model:
    """Add the update of features in `p` chunks: `p` factorisations, `p - 1` cuts and a merge."""
    (batch,) = group
    number = model.batches
    spectrum = None if model.spectrum is None else TaskRef(model.spectrum)
    portions, factors = [], []
    for j, (part,) in enumerate(batch.parts):
        portion = (f"ipca-factorise-{token}", number, j)
        tasks[portion] = Task(
            portion,
            kernels.factorise,
            TaskRef(part.key),
            part.take,
            roles.order,
            part.samples,
            number,
            model.seen,
            j,
            model.solver.method == "gram",
            TaskRef(model.portions[j]) if model.portions else None,
            spectrum,
        )
        portions.append(portion)
        if j:
            factor = (f"ipca-factor-{token}", number, j)
            tasks[factor] = Task(factor, kernels.factor_of, TaskRef(portion))
            factors.append(factor)
    # The first portion is an argument as a whole: Dask runs a task where its largest input lies,
    # so the merge runs beside it and the portion is not copied.
    key = (f"ipca-merge-{token}", number)
    tasks[key] = Task(
        key,
        kernels.merge,
        TaskRef(portions[0]),
        refs(factors),
        model.k,
        batch.samples,
        model.seen,
        model.features,
        number,
        model.solver,
    )
    return replace(
        model,
        seen=model.seen + batch.samples,
        batches=number + 1,
        portions=tuple(portions),
        spectrum=key,
    )


def restore(model: Model, state: Mapping[str, Any]) -> Model:
    """Give `model` the values of a saved `state`, with features in the chunks of `model`."""
    seen, batches = int(state["n_samples_seen"]), int(state["n_batches_seen"])
    arrays = {}
    for name in STATE_ARRAYS:
        array = da.asarray(state[name])
        spread = model.chunks if array.ndim >= len(model.chunks) > 0 and _has_features(name) else ()
        arrays[name] = array.rechunk((*array.shape[: array.ndim - len(spread)], *spread))
    token = tokenize(model.token, seen, batches, *(array.name for array in arrays.values()))
    vectors = [TaskRef(_only_key(arrays[name])) for name in STATE_ARRAYS[1:5]]
    spectrum = (f"ipca-restore-spectrum-{token}",)
    tasks = {spectrum: Task(spectrum, kernels.restore_spectrum, *vectors, len(model.shapes))}
    portions = []
    for j, index in enumerate(_chunk_indices(model)):
        key = (f"ipca-restore-{token}", j)
        blocks = [(arrays[name].name, *index) for name in ("mean", "var")]
        blocks.insert(0, (arrays["components"].name, 0, *index))
        tasks[key] = Task(key, kernels.restore_portion, *(TaskRef(block) for block in blocks), seen)
        portions.append(key)
    whole = None
    if len(portions) == 1:
        whole = (f"ipca-restore-whole-{token}",)
        tasks[whole] = Task(whole, kernels.restore_state, TaskRef(portions[0]), TaskRef(spectrum))
    return replace(
        model,
        token=token,
        chain=Chain.build(f"ipca-restore-{token}", tasks, *arrays.values()),
        seen=seen,
        batches=batches,
        portions=() if whole else tuple(portions),
        spectrum=None if whole else spectrum,
        whole=whole,
    )


def components(model: Model) -> da.Array:
    """Give the signed vectors, shape (k, *features), chunked as the features are."""
    name = f"ipca-components-{model.token}"
    tasks: dict[Hashable, Task] = {}
    sources = [_sources(model, j) for j in range(len(model.shapes))]
    peaks = []
    for j, source in enumerate(sources):
        key = (f"ipca-peaks-{model.token}", j)
        tasks[key] = Task(key, kernels.peaks_of, *source, j)
        peaks.append(key)
    for j, (index, shape) in enumerate(zip(_chunk_indices(model), model.shapes, strict=True)):
        key = (name, 0, *index)
        tasks[key] = Task(key, kernels.signed_components, *sources[j], j, refs(peaks), shape)
    return lazy_array(name, tasks, ((model.k,), *model.chunks), model.chain)


def moment(model: Model, field: str) -> da.Array:
    """Give ``mean`` or ``var`` of the features, shape (*features)."""
    name = f"ipca-{field}-{model.token}"
    tasks = {}
    for j, (index, shape) in enumerate(zip(_chunk_indices(model), model.shapes, strict=True)):
        key = (name, *index)
        portion, _ = _sources(model, j)
        tasks[key] = Task(key, kernels.moment_of, portion, field, shape)
    return lazy_array(name, tasks, model.chunks, model.chain)


def counted(model: Model) -> da.Array:
    """Return the number of samples, which is not known before they have come."""
    name = f"ipca-count-{model.token}"
    portion, _ = _sources(model, 0)
    task = Task((name,), kernels.count_of, portion)
    return lazy_array(name, {(name,): task}, (), model.chain, dtype=np.int64)


def shared(model: Model, field: str) -> da.Array:
    """Give a field of the spectrum after the last batch."""
    name = f"ipca-{field.replace('_', '-')}-{model.token}"
    chunks = () if field == "noise_variance" else ((model.k,),)
    key = (name, *(0 for _ in chunks))
    task = Task(key, kernels.field_of, TaskRef(model.whole or model.spectrum), field)
    return lazy_array(name, {key: task}, chunks, model.chain)


def history(model: Model, field: str) -> da.Array:
    """Give a field of the spectrum after every batch, shape (batches, k), a chunk per update."""
    name = f"ipca-{field.replace('_', '-')}-history-{model.token}"
    tasks = {}
    for t, (source, _) in enumerate(model.history):
        key = (name, t, 0)
        tasks[key] = Task(key, kernels.rows_of, TaskRef(source), field)
    sizes = tuple(math.nan if model.at_most else count for _, count in model.history)
    return lazy_array(name, tasks, (sizes, (model.k,)), model.chain)


def _chunk_indices(model: Model) -> Iterator[tuple[int, ...]]:
    return itertools.product(*(range(len(sizes)) for sizes in model.chunks))


def _sources(model: Model, chunk: int) -> tuple[Task | TaskRef, Task | TaskRef]:
    """Give task arguments for the portion of a chunk and for the spectrum."""
    if model.whole is None:
        return TaskRef(model.portions[chunk]), TaskRef(model.spectrum)
    state = TaskRef(model.whole)
    return tuple(Task(None, operator.getitem, state, i) for i in range(2))


def _has_features(name: str) -> bool:
    return name in ("components", "mean", "var")


def _only_key(array: da.Array) -> Hashable:
    return (array.name, *(0 for _ in array.shape))
