"""What the tasks of a training in transit do: plain functions over a state of bounded size.

A state is never changed in place: a task that Dask runs again, because a worker died, gives the
same result. All random numbers follow from the seed and the number of the step.
"""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ips_components.errors import AnalysisError

__all__ = ["Record", "Scaler", "Settings", "State", "TrainedModel", "advance", "average"]

AVERAGED = ("coef_", "intercept_")


@dataclass(frozen=True)  # without slots, which skops cannot save
class Scaler:
    """Mean and sum of squared deviations of columns (Chan, Golub and LeVeque 1983)."""

    count: int
    mean: np.ndarray
    squares: np.ndarray

    @classmethod
    def of(cls, rows: np.ndarray) -> Scaler:
        mean = rows.mean(axis=0)
        return cls(len(rows), mean, ((rows - mean) ** 2).sum(axis=0))

    @property
    def scale(self) -> np.ndarray:
        """Standard deviations; 1 for columns that do not vary."""
        deviation = np.sqrt(self.squares / self.count)
        return np.where(deviation > 0, deviation, 1.0)

    def joined(self, other: Scaler) -> Scaler:
        n = self.count + other.count
        delta = other.mean - self.mean
        squares = self.squares + other.squares + delta**2 * (self.count * other.count / n)
        return Scaler(n, self.mean + delta * (other.count / n), squares)


@dataclass
class TrainedModel:
    """An estimator with the standardisation that it was trained with; what `save` writes.

    Attributes
    ----------
    estimator : object
        The trained estimator.
    features, targets : Scaler or None
        Mean and scale of the columns; None where nothing is standardised.
    updates : int
        Calls of ``partial_fit`` so far.
    """

    estimator: Any
    features: Scaler | None = None
    targets: Scaler | None = None
    updates: int = 0

    def scaled(self, rows: np.ndarray) -> np.ndarray:
        """Return rows of features as the estimator takes them."""
        rows = np.asarray(rows, dtype=np.float64)
        return rows if self.features is None else (rows - self.features.mean) / self.features.scale

    def predict(self, rows: np.ndarray) -> np.ndarray:
        """Predict in the units of the targets, from rows of features in their units."""
        found = np.asarray(self.estimator.predict(self.scaled(rows)))
        if self.targets is None:
            return found
        mean, scale = self.targets.mean, self.targets.scale
        return found * scale[0] + mean[0] if found.ndim == 1 else found * scale + mean


@dataclass(frozen=True, slots=True)
class Settings:
    """The parameters of `InTransit`, as its tasks need them."""

    batch: int | None = None
    reservoir: int = 0
    hold_out: int = 0
    standardise: bool = True
    scale_targets: bool = False
    seed: int = 0
    metric: Callable[[TrainedModel, np.ndarray, np.ndarray | None], float] | None = None
    classes: tuple[Any, ...] | None = None
    patience: int = 0
    tolerance: float = 0.0


@dataclass(frozen=True, slots=True)
class Record:
    """One point of the learning curve; NaN where there is nothing to say."""

    loss: float = math.nan
    validation: float = math.nan
    samples: int = 0


Rows = tuple[np.ndarray, np.ndarray | None]


@dataclass(slots=True)
class State:
    """What is carried from chunk to chunk of time."""

    model: TrainedModel
    waiting: tuple[Rows, ...] = ()  # steps in the reservoir
    held: tuple[Rows, ...] = ()  # steps for validation
    n_held: int = 0
    seen: tuple[Scaler | None, Scaler | None] = (None, None)  # in this part of space
    steps: int = 0
    samples: int = 0
    record: Record = field(default_factory=Record)
    best: float = math.inf
    waited: int = 0
    stopped_at: int = -1


def advance(
    state: State | None,
    shared: State | None,
    estimator: Any,
    blocks: Any,
    targets: Any,
    axes: tuple[tuple[int, ...], tuple[int, ...]],
    settings: Settings,
    alone: bool,
) -> State:
    """Train on the steps of one chunk of time.

    Parameters
    ----------
    state : state after the chunk before, None for the first; bytes of `packed` for a restart
    shared : average of the states of all parts of space, where there are several
    blocks, targets : nested lists of blocks
    axes : axes of the features and of the targets that number samples, time first
    alone : whether this is the only part of space
    """
    if isinstance(state, bytes | np.ndarray):
        state = unpacked(state)
    if state is None:
        state = State(TrainedModel(estimator))
    model = state.model if shared is None else shared.model
    stopped = state.stopped_at if shared is None else shared.stopped_at
    state = replace(state, model=copy.deepcopy(model), stopped_at=stopped, record=Record())
    features = as_rows(blocks, axes[0])
    wanted = None if targets is None else as_rows(targets, axes[1])
    if wanted is not None and wanted.shape[-1] == 1:
        wanted = wanted[..., 0]  # as estimators want a single target
    losses = []
    for i, rows in enumerate(features):
        answer = None if wanted is None else wanted[i]
        if state.stopped_at < 0:
            loss = _step(state, rows, answer, settings, own_scale=alone or shared is None)
            if loss is not None:
                losses.append(loss)
        state.steps += 1
    validation = _validation(state, settings)
    loss = float(np.mean(losses)) if losses else math.nan
    state.record = Record(loss, validation, state.samples)
    return judged(state, settings) if alone else state


def _step(
    state: State,
    rows: np.ndarray,
    wanted: np.ndarray | None,
    settings: Settings,
    *,
    own_scale: bool,
) -> float | None:
    """Take one step; return the loss of the model on it before it is trained with it."""
    random = np.random.default_rng([settings.seed, state.steps])
    keep = max(1, settings.reservoir)
    if settings.hold_out and state.steps % settings.hold_out == settings.hold_out - 1:
        state.n_held += 1
        if len(state.held) < keep:
            state.held += ((rows, wanted),)
        elif (at := int(random.integers(state.n_held))) < keep:
            state.held = (*state.held[:at], (rows, wanted), *state.held[at + 1 :])
        return None
    _measure(state, rows, wanted, settings, own_scale=own_scale)
    loss = _loss(state.model, rows, wanted, settings) if state.model.updates else None
    if len(state.waiting) < settings.reservoir:
        state.waiting += ((rows, wanted),)
        return loss
    if settings.reservoir:
        at = int(random.integers(settings.reservoir))
        leaving = state.waiting[at]
        state.waiting = (*state.waiting[:at], (rows, wanted), *state.waiting[at + 1 :])
        rows, wanted = leaving
    _train(state, rows, wanted, settings, random)
    return loss


def _measure(
    state: State,
    rows: np.ndarray,
    wanted: np.ndarray | None,
    settings: Settings,
    *,
    own_scale: bool,
) -> None:
    """Add a step to the means and scales."""
    x, y = state.seen
    if settings.standardise:
        x = Scaler.of(rows) if x is None else x.joined(Scaler.of(rows))
    if settings.scale_targets and wanted is not None:
        columns = wanted.reshape(len(wanted), -1)
        y = Scaler.of(columns) if y is None else y.joined(Scaler.of(columns))
    state.seen = (x, y)
    if own_scale:
        state.model.features, state.model.targets = x, y


def _train(
    state: State,
    rows: np.ndarray,
    wanted: np.ndarray | None,
    settings: Settings,
    random: np.random.Generator,
) -> None:
    model = state.model
    order = random.permutation(len(rows))
    size = settings.batch or len(rows)
    for start in range(0, len(rows), size):
        take = order[start : start + size]
        arguments = [model.scaled(rows[take])]
        if wanted is not None:
            arguments.append(_scaled_targets(model, wanted[take]))
        options = {} if settings.classes is None else {"classes": np.asarray(settings.classes)}
        try:
            model.estimator.partial_fit(*arguments, **options)
        except Exception as error:
            raise AnalysisError(
                f"training at step {state.steps}: {type(model.estimator).__name__}.partial_fit "
                f"failed on {len(take)} samples of {rows.shape[1]} features: {error}"
            ) from error
        model.updates += 1
        state.samples += len(take)


def _scaled_targets(model: TrainedModel, wanted: np.ndarray) -> np.ndarray:
    if model.targets is None:
        return wanted
    mean, scale = model.targets.mean, model.targets.scale
    return (wanted - mean[0]) / scale[0] if wanted.ndim == 1 else (wanted - mean) / scale


def _loss(
    model: TrainedModel, rows: np.ndarray, wanted: np.ndarray | None, settings: Settings
) -> float:
    if settings.metric is not None:
        return float(settings.metric(model, rows, wanted))
    if wanted is not None:
        found = model.predict(rows)
        if settings.classes is not None:
            return float(np.mean(found != wanted))
        return float(np.mean((found.reshape(wanted.shape) - wanted) ** 2))
    x, estimator = model.scaled(rows), model.estimator
    if hasattr(estimator, "inverse_transform"):
        return float(np.mean((estimator.inverse_transform(estimator.transform(x)) - x) ** 2))
    if hasattr(estimator, "cluster_centers_"):
        centers = estimator.cluster_centers_
        squares = (x**2).sum(1)[:, None] - 2 * x @ centers.T + (centers**2).sum(1)
        return float(np.maximum(squares, 0).min(axis=1).mean())
    return -float(estimator.score(x)) if hasattr(estimator, "score") else math.nan


def _validation(state: State, settings: Settings) -> float:
    if not state.held or not state.model.updates:
        return math.nan
    return float(np.mean([_loss(state.model, *rows, settings) for rows in state.held]))


def judged(state: State, settings: Settings) -> State:
    """Note whether the validation still improves; the training stops when it does not."""
    value = state.record.validation
    if not settings.patience or math.isnan(value) or state.stopped_at >= 0:
        return state
    if value < state.best - settings.tolerance:
        state.best, state.waited = value, 0
    else:
        state.waited += 1
        if state.waited >= settings.patience:
            state.stopped_at = state.steps - 1
    return state


def average(states: Sequence[State], before: State | None, settings: Settings) -> State:
    """Average what the parts of space have learned from one chunk of time.

    Coefficients are weighted by the samples of each part; scales are joined exactly.
    """
    total = sum(state.samples for state in states)
    fresh = [state for state in states if state.model.updates]
    model = copy.deepcopy((fresh or states)[0].model)
    for name in AVERAGED if len(fresh) > 1 else ():
        values = [getattr(state.model.estimator, name, None) for state in fresh]
        if any(value is None for value in values):
            raise AnalysisError(
                f"parallel=True averages {' and '.join(AVERAGED)}, but "
                f"{type(model.estimator).__name__} has no {name}; use parallel=False"
            )
        weights = [state.samples for state in fresh]
        setattr(model.estimator, name, np.average(np.stack(values), axis=0, weights=weights))
    for side, name in enumerate(("features", "targets")):
        scales = [each for state in states if (each := state.seen[side]) is not None]
        joined = None
        for each in scales:
            joined = each if joined is None else joined.joined(each)
        setattr(model, name, joined)
    loss, validation = (
        _mean([getattr(state.record, name) for state in states]) for name in ("loss", "validation")
    )
    shared = replace(
        states[0],
        model=model,
        waiting=tuple(rows for state in states for rows in state.waiting),
        held=(),
        samples=total,
        record=Record(loss, validation, total),
        best=math.inf if before is None else before.best,
        waited=0 if before is None else before.waited,
        stopped_at=-1 if before is None else before.stopped_at,
    )
    return judged(shared, settings)


def _mean(values: list[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return float(np.mean(known)) if known else math.nan


def finished(state: State, settings: Settings) -> TrainedModel:
    """Train with what is left in the reservoir, and return the model."""
    state = replace(state, model=copy.deepcopy(state.model))
    if state.stopped_at < 0:
        random = np.random.default_rng([settings.seed, state.steps, 1])
        for i in random.permutation(len(state.waiting)):
            _train(state, *state.waiting[i], settings, random)
    return state.model


def as_rows(blocks: Any, axes: tuple[int, ...]) -> np.ndarray:
    """Lay blocks out as (steps, samples of a step, columns)."""
    whole = np.asarray(np.block(blocks) if isinstance(blocks, list) else blocks)
    whole = np.moveaxis(whole, axes, range(len(axes)))
    samples = math.prod(whole.shape[1 : len(axes)])
    return whole.reshape(whole.shape[0], samples, -1)


def packed(state: State) -> np.ndarray:
    """Return a state as bytes, for a checkpoint."""
    return np.frombuffer(pickle.dumps(state), np.uint8)


def unpacked(data: bytes | np.ndarray) -> State:
    """Return the state of a checkpoint.

    Raises
    ------
    AnalysisError
        If it is none.
    """
    state = pickle.loads(bytes(data) if isinstance(data, bytes) else data.tobytes())
    if not isinstance(state, State):
        raise AnalysisError(f"expected the checkpoint of a training, got a {type(state).__name__}")
    return state
