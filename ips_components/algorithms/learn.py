"""Training of estimators over the steps of a run as they come, in one chain of tasks."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Hashable, Iterator, Sequence
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from dask.base import tokenize
from dask.delayed import Delayed

from ips_components.algorithms import _learner
from ips_components.algorithms._estimator import Estimator
from ips_components.algorithms._fold import located
from ips_components.algorithms._graph import Chain, Task, TaskRef, lazy_array
from ips_components.algorithms._learner import Settings, State, TrainedModel
from ips_components.algorithms._training_graph import Samples, Steps, check, places_of
from ips_components.errors import AnalysisError

__all__ = ["InTransit", "TrainedModel", "Training"]

Axes = int | str | Sequence[int | str]


class InTransit(Estimator):
    """Train any estimator with ``partial_fit`` on steps that do not exist yet.

    Parameters
    ----------
    estimator : object
        With ``partial_fit(X, y)``, or ``partial_fit(X)`` without targets, and ``predict``. It is
        copied and never changed.
    reservoir : int
        Steps that wait in a buffer: each new step takes the place of a random one, which is then
        trained. 0: steps are trained in their order. The steps for validation that are kept are
        as many, at least one.
    hold_out : int
        Every so many steps one is for validation only; 0: none.
    standardise : bool
        Bring features to mean 0 and deviation 1, of the steps so far.
    scale_targets : bool
        Do the same with targets; predictions are scaled back.
    seed : int
        Of the shuffling; equal seeds give equal models.
    metric : callable, optional
        ``metric(model, X, y) -> float`` with a `TrainedModel`, smaller is better. Default: mean
        squared error; with `classes` the share of wrong answers; without targets the mean squared
        error of ``inverse_transform(transform(X))``, or the mean squared distance to the next
        cluster, else ``-score(X)``.
    classes : sequence, optional
        All classes, for classifiers.
    patience, tolerance : int, float
        End the training when the validation has not improved by more than `tolerance` for so many
        chunks of time; 0: never.
    parallel : bool
        Train a copy for each chunk of space and average ``coef_`` and ``intercept_`` after each
        chunk of time; for linear models whose samples are spread over space.

    Notes
    -----
    Standardisation is by the one-pass formulas of Chan, Golub and LeVeque (1983). The loss of a
    step is taken before the step is trained, so that it is of data that the model has not seen.

    Examples
    --------
    >>> import dask.array as da
    >>> from sklearn.linear_model import SGDRegressor
    >>> x = da.random.default_rng(0).random((200, 3), chunks=(10, 3))
    >>> training = InTransit(SGDRegressor(random_state=0)).fit(x, x.sum(axis=1))
    >>> bool(training.curve.loss[-1] < training.curve.loss[1])
    True
    """

    def __init__(
        self,
        estimator: Any,
        *,
        reservoir: int = 0,
        hold_out: int = 0,
        standardise: bool = True,
        scale_targets: bool = False,
        seed: int = 0,
        metric: Callable[..., float] | None = None,
        classes: Sequence[Any] | None = None,
        patience: int = 0,
        tolerance: float = 0.0,
        parallel: bool = False,
    ) -> None:
        self.estimator = estimator
        self.reservoir = reservoir
        self.hold_out = hold_out
        self.standardise = standardise
        self.scale_targets = scale_targets
        self.seed = seed
        self.metric = metric
        self.classes = classes
        self.patience = patience
        self.tolerance = tolerance
        self.parallel = parallel

    def fit(
        self,
        features: Any,
        targets: Any = None,
        *,
        batch: int | None = None,
        samples: Axes = 0,
        start: Any = None,
    ) -> Training:
        """Return the lazy training.

        Parameters
        ----------
        features, targets : dask.array.Array or xarray.DataArray
            Over time, space or both, with equal sample axes; targets may be None.
        batch : int, optional
            Samples per call of ``partial_fit``; by default those of a step.
        samples : axes by number or name
            Those that number samples, time first; by default time alone: one sample for each
            step. All other axes together are the columns.
        start : array of bytes or dask.delayed.Delayed, optional
            `Training.checkpoint` of an earlier run, to go on from.

        Raises
        ------
        AnalysisError
            If a parameter or the arrays do not fit.
        """
        settings = self._settings(batch, targets is not None)
        x, y = self._samples(features, targets, samples, start)
        names = [each.array.name for each in (x, y) if each is not None]
        y_axes = x.axes if y is None else y.axes
        key = tokenize("learn", names, x.axes, y_axes, self.get_params(), settings, start)
        steps = Steps(key, self.estimator, x, y, settings, start)
        chunks = [steps.add(step) for step in range(x.array.numblocks[x.axes[0]])]
        arrays = [each.array for each in (x, y) if each is not None]
        parents = [each for each in (*arrays, start) if hasattr(each, "__dask_graph__")]
        chain = Chain.build(f"learn-{key}", steps.tasks, *parents)
        ends = None if x.at_most else np.cumsum(x.array.chunks[x.axes[0]]) - 1
        forms = ("skops", "joblib") if _is_of_sklearn(self.estimator) else ("joblib",)
        return Training(chain, key, chunks, steps.last, ends, settings, forms)

    def follow(
        self, run: Any, rolling: Any, split: Callable[[Any], tuple[Any, Any]], **options: Any
    ) -> Iterator[Any]:
        """Train window by window in a run of unknown length; end the run when `patience` is over.

        Parameters
        ----------
        run : Run
            Its ``stop`` is called.
        rolling : Rolling
            ``run.rolling(array, size)``.
        split : callable
            From a lazy window to ``(features, targets)``.
        **options
            `batch` and `samples` of `fit`.

        Yields
        ------
        Window
            Whose value is a `State` with the ``record`` of its learning curve; `rolling.state` is
            the checkpoint to go on from, and ``model`` of the last value the model.
        """

        def update(state: Any, window: Any) -> tuple[Any, Any]:
            training = self.fit(*split(window), start=state, **options)
            return training.checkpoint, training.state

        for window in rolling.scan(update, None):
            yield window
            if window.value.stopped_at >= 0:
                run.stop(f"the validation has not improved since step {window.value.stopped_at}")
                return

    def _samples(
        self, features: Any, targets: Any, samples: Axes, start: Any
    ) -> tuple[Samples, Samples | None]:
        """Return features and targets, checked, with the same chunks of time."""
        x, axes = located(features, samples)
        y, y_axes = (None, axes) if targets is None else located(targets, samples)
        check(x, axes, y, y_axes)
        if y is not None and str(y.chunks[y_axes[0]]) != str(x.chunks[axes[0]]):  # with nan
            y = y.rechunk({y_axes[0]: x.chunks[axes[0]]})  # such as the next step of each
        if self.parallel and (start is not None or not axes[1:]):
            raise AnalysisError(
                "parallel=True needs samples over time and space, and no checkpoint to start from; "
                f"got samples={samples!r}, start={'given' if start is not None else None}"
            )
        found = Samples(x, axes, places_of(x, axes, parallel=self.parallel))
        if y is None:
            return found, None
        places = places_of(y, y_axes, parallel=self.parallel)
        if len(places) != len(found.places):
            raise AnalysisError(
                "parallel=True needs equal chunks of the sample axes, got "
                f"{x.chunks} and {y.chunks}"
            )
        return found, Samples(y, y_axes, places)

    def _settings(self, batch: int | None, with_targets: bool) -> Settings:
        if not hasattr(self.estimator, "partial_fit"):
            raise AnalysisError(
                f"{type(self.estimator).__name__} has no partial_fit, and cannot be trained step "
                "by step; take an estimator that has"
            )
        numbers = ("reservoir", "hold_out", "patience", "tolerance")
        for name in numbers:
            if getattr(self, name) < 0:
                raise AnalysisError(f"{name} must be >= 0, got {getattr(self, name)}")
        if self.hold_out == 1:
            raise AnalysisError("hold_out = 1 leaves no step to train with; expected 0, 2, 3, ...")
        if self.patience and not self.hold_out:
            raise AnalysisError("patience needs steps for validation: give hold_out = 2, 3, ...")
        if batch is not None and batch < 1:
            raise AnalysisError(f"batch must be >= 1, got {batch}")
        if self.scale_targets and (not with_targets or self.classes is not None):
            raise AnalysisError("scale_targets needs targets that are numbers")
        return Settings(
            batch,
            self.reservoir,
            self.hold_out,
            self.standardise,
            self.scale_targets,
            self.seed,
            self.metric,
            None if self.classes is None else tuple(self.classes),
            self.patience,
            self.tolerance,
        )


class Training:
    """A lazy training: everything that it offers goes into the results of an analysis.

    Attributes
    ----------
    curve : xarray.Dataset
        Learning curve with one entry for each chunk of time: ``loss``, ``validation`` and the
        number of ``samples`` over ``step``, the last of the chunk.
    model : dask.delayed.Delayed
        The `TrainedModel`.
    checkpoint : dask.delayed.Delayed
        Bytes for `start` of a later `InTransit.fit`.
    stopped_at : dask.array.Array
        Step after which the training ended for want of progress, -1 for none.
    """

    def __init__(
        self,
        chain: Chain,
        token: str,
        chunks: Sequence[Hashable],
        last: Hashable,
        ends: np.ndarray | None,
        settings: Settings,
        forms: tuple[str, ...],
    ) -> None:
        self._forms = forms
        self._chain, self._token, self._chunks, self._last = chain, token, chunks, last
        self._ends, self._settings = ends, settings

    @property
    def curve(self) -> xr.Dataset | dict[str, xr.DataArray]:
        names = {
            "loss": "loss before training",
            "validation": "loss of held-out steps",
            "samples": "samples trained",
        }
        records = {
            name: xr.DataArray(self._records(name), dims="step", attrs={"long_name": title})
            for name, title in names.items()
        }
        if self._ends is None:
            return records
        return xr.Dataset(records, coords={"step": self._ends})

    @property
    def state(self) -> Delayed:
        return self._delayed("state", _same)

    @property
    def model(self) -> Delayed:
        return self._delayed("model", _learner.finished, self._settings)

    @property
    def checkpoint(self) -> Delayed:
        return self._delayed("checkpoint", _learner.packed)

    @property
    def stopped_at(self) -> da.Array:
        name = f"learn-stopped-{self._token}"
        task = Task((name,), _stopped_at, TaskRef(self._last))
        return lazy_array(name, {(name,): task}, (), self._chain, dtype=np.int64)

    def attribute(self, name: str, shape: tuple[int, ...]) -> da.Array:
        """Return an attribute of the trained estimator, such as ``coef_``, as a lazy array."""
        return da.from_delayed(
            self._delayed(f"attribute-{name}", _attribute, self._settings, name), shape, float
        )

    def save(self, path: str | Path) -> Delayed:
        """Return a lazy number of bytes: when it is computed, the model is written.

        Parameters
        ----------
        path : path-like
            Without a suffix; ``.skops`` or ``.joblib`` is added, by what is installed. Name a place
            that the workers reach, such as one beside ``run.settings.results``.

        Raises
        ------
        AnalysisError
            If neither skops, for estimators of scikit-learn, nor joblib is installed.
        """
        for form in self._forms:
            if importlib.util.find_spec(form) is not None:
                target = Path(f"{path}.{form}").absolute()
                return self._delayed("save", _save, self._settings, str(target), form)
        raise AnalysisError(
            f"saving this model needs {' or '.join(self._forms)}: pip install {self._forms[0]}"
        )

    def _records(self, field: str) -> da.Array:
        name = f"learn-{field}-{self._token}"
        tasks = {
            (name, i): Task((name, i), _recorded, TaskRef(key), field)
            for i, key in enumerate(self._chunks)
        }
        size = np.nan if self._ends is None else 1
        return lazy_array(name, tasks, ((size,) * len(tasks),), self._chain)

    def _delayed(self, name: str, function: Callable[..., Any], *arguments: Any) -> Delayed:
        key = f"learn-{name}-{tokenize(self._token, name, arguments)}"
        task = Task(key, function, TaskRef(self._last), *arguments)
        chain = Chain.build(key, {key: task}, self._chain)
        return Delayed(key, chain.graph, layer=key)


def _is_of_sklearn(estimator: Any) -> bool:
    """Return whether skops knows the estimator; it cannot save those of PyTorch."""
    return type(estimator).__module__.partition(".")[0] == "sklearn"


def _same(state: State) -> State:
    return state


def _recorded(state: State, field: str) -> np.ndarray:
    return np.array([getattr(state.record, field)], dtype=np.float64)


def _stopped_at(state: State) -> np.ndarray:
    return np.asarray(state.stopped_at, dtype=np.int64)


def _attribute(state: State, settings: Settings, name: str) -> np.ndarray:
    return np.asarray(getattr(_learner.finished(state, settings).estimator, name), dtype=np.float64)


def _save(state: State, settings: Settings, path: str, form: str) -> int:
    model = _learner.finished(state, settings)
    target = Path(path)
    draft = target.with_name(f".{target.name}.partial")
    try:
        if form == "skops":
            from skops.io import dump
        else:
            from joblib import dump
        dump(model, draft)
        draft.replace(target)
    finally:
        draft.unlink(missing_ok=True)
    return target.stat().st_size
