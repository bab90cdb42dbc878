"""The analysis of a run: from a function over lazy arrays to results on disk.

:func:`run_analysis` is what the IPS task pool executes; everything else happens through
:class:`Run`, which an analysis function may ask for by naming a parameter ``run``.
"""

from __future__ import annotations

import contextlib
import logging
import pickle
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import dask.array as da
from distributed import Client, Future

from ips_components.analysis.arrays import ExternalArray
from ips_components.analysis.at_most import (
    has_growing_views,
    is_at_most,
    is_growing,
    noted,
    refuse_large,
    refuse_stored,
    submit_at_most,
)
from ips_components.analysis.calling import call_again, call_analysis, takes_run
from ips_components.analysis.checkpoint import take_out
from ips_components.analysis.compute_guard import ComputeGuard
from ips_components.analysis.contract import contracts_from_graph, submit
from ips_components.analysis.coordinator_client import (
    Coordinator,
    RemoteCoordinator,
    current_client,
)
from ips_components.analysis.failures import details, message, portable
from ips_components.analysis.growing import Growth
from ips_components.analysis.growing_run import GrowingRun
from ips_components.analysis.keeping import completed_by_name, incomplete, keep_results
from ips_components.analysis.needed_chunks import needs_external
from ips_components.analysis.offers import offered_arrays
from ips_components.analysis.open_analysis import (
    FIRST_BOUND,
    OpenAnalysis,
    bounded_arrays,
    call_with,
)
from ips_components.analysis.provenance import provenance
from ips_components.analysis.published_values import check_published
from ips_components.analysis.result_values import merge_returned, name_results
from ips_components.analysis.results import GATHER_LIMIT, ResultStore, lazy_parts
from ips_components.analysis.signing import SignedContract
from ips_components.analysis.views import Source
from ips_components.analysis.window_checkpoints import WindowCheckpoints
from ips_components.analysis.window_group import WindowGroup
from ips_components.analysis.windows import Rolling
from ips_components.coordination.loading import load_analysis
from ips_components.coordination.settings import RunSettings
from ips_components.coordination.window_saves import NO_CHECKPOINT
from ips_components.errors import ContractError, ExternalTaskError, SimulationLost
from ips_components.external._compat import make_future
from ips_components.model.contract import Contract
from ips_components.wire.messages import Feedback
from ips_components.wire.values import NO_MORE, encode, encode_model

logger = logging.getLogger(__name__)


async def _futures(client: Client, keys: Mapping[str, Any]) -> dict[str, Any]:
    return {name: make_future(client, key) for name, key in keys.items()}


def run_analysis(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Run one analysis from the opening of its run to its results on disk.

    Parameters
    ----------
    settings : mapping
        A :class:`~.coordination.settings.RunSettings` as a dict.

    Returns
    -------
    dict
        ``{"results": path, "variables": {...}, "contract": [rows]}``.

    Raises
    ------
    Exception
        Whatever the analysis raises, see `failures.portable`; the run is failed before, so that
        the simulation gets the cause.
    """
    parsed = RunSettings.from_dict(settings)
    with current_client() as client:
        return Run(client, parsed).execute()


class Run:
    """One coupled run as the analysis sees it.

    Where several simulations feed one analysis, each has a run of its own with the coordinator,
    with its own ranks and receivers; their arrays meet in the graph of this one.

    Parameters
    ----------
    client : distributed.Client
        Client of the cluster.
    settings : RunSettings
        Of the run; further runs are among its partners.
    coordinators : mapping of str to Coordinator, optional
        By run id, the run's own first. Default: those on the scheduler.
    offered_by : str
        What offers the arrays, for messages.

    Attributes
    ----------
    arrays : mapping of str to ExternalArray
        What the simulation offers.
    settings : RunSettings
    """

    def __init__(
        self,
        client: Client,
        settings: RunSettings,
        coordinators: Mapping[str, Coordinator] | None = None,
        offered_by: str = "the simulation",
    ) -> None:
        self.client = client
        self.settings = settings
        self.arrays: Mapping[str, ExternalArray] = {}
        self.offered_by = offered_by
        partners = [RunSettings.from_dict(each) for each in settings.partners]
        self._settings = {each.run: each for each in (settings, *partners)}
        self._coordinators: Mapping[str, Coordinator] = coordinators or {
            run: RemoteCoordinator(client, run) for run in self._settings
        }
        self._own = self._coordinators[settings.run]
        self._signed = SignedContract(self._settings, self._coordinators)
        self.checkpoints = WindowCheckpoints(client, self._own, settings)
        self._published = 0
        self._offered: Mapping[str, Any] = {}  # as described; the graph spans some steps of these
        self._bound = FIRST_BOUND
        self._analyses: Sequence[Callable[..., Any]] = ()
        self._growing: GrowingRun | None = None
        self._awaited: list[Any] = []
        self._order: list[str] = []
        self._guard: ComputeGuard | None = None
        self._futures: dict[str, Any] = {}
        self._resumed: dict[str, Any] = {}  # keys of results that an earlier attempt submitted
        self._constants: dict[str, Any] = {}
        self._stored: set[str] = set()
        self._with_windows = False
        self._windows: WindowGroup | None = None  # refers to the run: given up when it is over
        self._aborted = False
        self._store = ResultStore(
            settings.results, settings.results_format, {"run": settings.run}, settings.overwrite
        )

    @property
    def contract(self) -> Contract | None:
        """All arrays, of all simulations; None until `commit`."""
        return self._signed.contract

    # -- for analysis functions --------------------------------------------------------

    def send(self, name: str, value: Any, step: int = 0) -> None:
        """Send a value back to the simulation, all of them (see ``Bridge.receive``)."""
        if name == NO_MORE.name:
            raise ContractError("a value for the simulation must have a name")
        if self.checkpoints.replaying:
            return  # the simulation has got it before the restart
        self._send(encode(name, step, value))

    def send_model(self, name: str, arrays: Mapping[str, Any], version: int) -> None:
        """Send a model to the simulation, all its ranks (see ``Bridge.receive_model``).

        Parameters
        ----------
        name
            Of the model.
        arrays
            Computed arrays of real numbers by name, sent in double precision (integers as such); at
            most 60 MiB each.
        version
            A number that grows; the ranks keep the two latest.
        """
        for each in encode_model(name, arrays, int(version)):
            self._send(each)

    def stop(self, reason: str = "converged") -> None:
        """End the simulation early and cleanly: exit status 0."""
        for coordinator in self._coordinators.values():
            coordinator.stop(reason)

    def publish(self, values: Mapping[str, Any], step: int, time: float | None = None) -> None:
        """Make values available to the other components of the workflow while the run goes on.

        The analytics writes them to its OUTPUT_FILES and STATE_FILES at its next ``step``.

        Parameters
        ----------
        values
            By name: numbers, arrays, or xarray's DataArrays; computed, and of one shape per name.
        step
            Simulation step that they are of.
        time
            Physical time, the coordinate of the file. When it is not given, that of the step, as
            the simulation or the time loop says it; the step where neither does.

        Raises
        ------
        ContractError
            When a value is lazy, or the file could not hold it.
        """
        check_published(values)
        self._published += 1
        if self._published <= self.settings.launches.get("published", 0):
            return  # the workflow has taken it before the restart
        self._own.publish(int(step), pickle.dumps((time, dict(values))))

    def awaits(self, futures: Iterable[Any]) -> None:
        """Report the results of which the analysis waits for the first, where steps wait for it."""
        self._awaited = [each.key for each in futures if isinstance(each, Future)]
        self._report_awaited()

    def _report_awaited(self) -> None:
        if self.settings.launches:
            steps = [] if self._growing is None else self._growing.awaited
            self._own.awaits([*self._awaited, *steps])

    def commit(self, returned: Any) -> None:
        """Derive the contract from these lazy results, sign it and submit the whole graph.

        Raises
        ------
        ContractError
            If there is no lazy result, none needs an external array, or the contract is signed.
        """
        results, state = take_out(returned)
        if self.contract is not None:
            raise ContractError("the contract of a run is signed once; commit was called before")
        if self.checkpoints.enabled:
            raise ContractError(NO_CHECKPOINT)
        named = name_results(results)
        for name, each in named.items():
            if isinstance(each, da.Array):
                found = provenance(each)
                self._store.name_dims(name, found.dims, found.units, found.time)
        refuse_large(named, GATHER_LIMIT)
        gathered, stored = self._store.plan(named)
        gathered |= state
        lazy = {**lazy_parts(gathered), **stored}
        self._constants = {n: v for n, v in gathered.items() if n not in lazy}
        self._stored = set(stored)
        external = {
            name: each for name, each in lazy.items() if needs_external(each, self._sources)
        }
        if not external:
            kinds = ", ".join(f"{name!r}: {type(each).__name__}" for name, each in gathered.items())
            raise ContractError(
                f"the analysis returned no lazy result of an external array ({kinds}), so that "
                "nothing of the simulation would be analysed; return lazy results, for example "
                "{'mean': arrays['temperature'].mean()}"
            )
        self._order = list(lazy)
        if is_growing(external, self._sources):
            refuse_stored(self._stored)
            others = {n: each for n, each in lazy.items() if n not in external}
            self._follow(external, submit(self.client, others))
            return
        contracts = contracts_from_graph(
            external, self.arrays, runs=list(self._settings), policies=self.settings.policies
        )
        self._sign(contracts)
        if self._resumed.keys() == lazy.keys() and lazy:
            # An earlier attempt has submitted the graph before its worker died.
            self._futures = self.client.sync(_futures, self.client, self._resumed)
            return
        self._futures = self._submit(lazy)
        keys = [future.key for future in self._futures.values()]
        for coordinator in self._coordinators.values():
            coordinator.commit(keys, list(self._futures), self.settings.deadlines["contract"])

    def _follow(self, results: Mapping[str, Any], futures: dict[str, Any]) -> None:
        """Submit results over arrays of any number of steps: a graph that grows with them."""
        settings, first = self.settings, self.arrays

        def call(arrays: Mapping[str, Any], bound: int) -> Mapping[str, Any]:
            if arrays is first:
                return results
            found = call_again(self._analyses, arrays, self, settings, self.offered_by)
            # About half of the steps before have come when a graph over twice as many is made.
            refuse_large(found, GATHER_LIMIT, bound // 4 if bound > 2 * FIRST_BOUND else 1)
            sources = [array.source for array in arrays.values()]
            return {n: each for n, each in found.items() if needs_external(each, sources)}

        policies, streaming = settings.policies, settings.streaming_reductions
        analysis = OpenAnalysis(self._offered, call, policies, streaming, first)
        bound = analysis.agree(self._bound)
        contract = Contract(settings.run, tuple(analysis.contracts.values()))
        self._sign({settings.run: contract}, ahead=True)
        self._futures = futures
        growth = Growth(analysis.graph, bound, analysis.open_names)
        within = settings.deadlines["contract"]
        self._growing = GrowingRun(
            self.client,
            self._own,
            growth,
            analysis.contracts,
            futures,
            within,
            self._report_awaited,
        )
        self._growing.begin()

    def completed(self) -> Iterator[tuple[str, Any]]:
        """Results as they become known, ``(name, value)``; for feedback while the run is on.

        Raises
        ------
        ExternalTaskError, SimulationLost, Exception
            What made a result fail.
        """
        left = {future.key: future for future in self._futures.values()}
        self.awaits(left.values())
        try:
            for names, future in self._completed():
                value = future.result()
                for name in names:
                    yield name, value
                left.pop(future.key, None)
                self.awaits(left.values())
        finally:
            self.awaits([])

    def _completed(self) -> Iterator[tuple[list[str], Any]]:
        if self._growing is not None:
            return self._growing.completed()
        return completed_by_name(self._futures)

    def rolling(self, array: Any, size: int, **options: Any) -> Rolling:
        """Return windows of `size` consecutive steps of one or several arrays.

        All windows of a run are made before the first of them is iterated, and are iterated
        together; see :class:`~.windows.Rolling`.
        """
        return Rolling(self, array, size, **options)

    # -- for rolling windows, see `window_group.WindowRun` ----------------------------------

    @property
    def windows(self) -> WindowGroup:
        """All windows of this run."""
        if self._windows is None:
            self._windows = WindowGroup(self)
        return self._windows

    def sign(self, contract: Contract, *, ahead: bool = False) -> None:
        """Sign a contract that does not come from a graph, and let the ranks begin."""
        if len(self._settings) > 1:
            raise ContractError(
                "windows are for the arrays of one simulation; where several feed an analysis, "
                "return results over all their steps"
            )
        self._with_windows = True
        self._sign({contract.run: contract}, ahead=ahead)
        self._own.commit([], [], self.settings.deadlines["contract"], hold=True)

    def declare_ahead(self, array: int, first: int, stop: int) -> None:
        """Make external tasks of the time indices ``first .. stop - 1`` and allow their data."""
        self._own.declare_ahead(array, first, stop)

    def end_windows(self) -> None:
        """Let the simulation go on: nothing that is not declared is needed."""
        self._own.end_windows()

    def release_steps(self, array: int, first: int, stop: int) -> None:
        """Leave the chunks of these time indices to the graphs that need them."""
        self._own.release_steps(array, first, stop)

    def raise_if_failed(self) -> None:
        """Raise the run's first fault, if it has failed."""
        self._own.raise_if_failed()

    def _sign(self, contracts: Mapping[str, Contract], *, ahead: bool = False) -> None:
        self._signed.sign(contracts, self.arrays, ahead=ahead)
        if self._guard is not None and self._with_windows:
            self._guard.lift()
        elif self._guard is not None:
            self._guard.committed = True

    # -- for run_analysis --------------------------------------------------------------

    def execute(self) -> dict[str, Any]:
        """Run the configured analysis; see :func:`run_analysis`."""
        try:
            return self._execute()
        except BaseException as error:
            cause = details(error)
            failure = portable(error)
            logger.error("Run %s: the analysis failed\n%s", self.settings.run, cause)
            with contextlib.suppress(Exception):  # the first error must not be hidden
                self._abort(cause)
                for coordinator in self._coordinators.values():  # the simulation may go on
                    coordinator.finish(None)
            if failure is error:
                raise
        finally:
            self._windows = self._growing = None  # a circle would keep the futures of the results
        raise failure  # outside of the handler, so that it has no context of an unknown class

    def _execute(self) -> dict[str, Any]:
        settings = self.settings
        opened = self._open()
        if opened.get("outcome") is not None:
            return dict(opened["outcome"])
        self._resumed = opened.get("results") or {}
        self._store.prepare()
        if not settings.analysis:
            return self._without_analysis()
        names = settings.analysis.replace(",", " ").split()
        self._analyses = [load_analysis(name) for name in names]
        connect = settings.deadlines["connect"]
        for coordinator in self._coordinators.values():
            coordinator.wait_for_receivers(settings.n_receivers, connect)
        follows = any(map(takes_run, self._analyses))
        notices = "the analysis follows the run" if follows else ""
        self._offered, self._signed.chunk_reasons = offered_arrays(
            self._settings, self._coordinators, connect, notices
        )
        self.arrays = (
            self._offered if self._other_runs else bounded_arrays(self._offered, FIRST_BOUND)
        )
        sources = self._sources
        with ComputeGuard(sources) as self._guard, noted(sources):
            returned = self._analyse()
            committed = self.contract is not None
            self.checkpoints.end()
            if not committed:
                self.commit(returned)
        if committed and returned is not None:
            self._add(*take_out(returned))
        return self._finish()

    def _without_analysis(self) -> dict[str, Any]:
        """Let the simulation run, with nothing wanted of it but what attached clients ask for."""
        for run in self._settings:
            self._signed.sign_one(run, Contract(run, ()))
            self._coordinators[run].commit([], [], self.settings.deadlines["contract"])
        outcome = {"results": "", "checkpoint": "", "variables": {}, "contract": []}
        for coordinator in self._coordinators.values():
            coordinator.finish(outcome)
        return outcome

    def _abort(self, cause: str) -> None:
        """Fail the runs of all simulations, once: what fails afterwards is a consequence."""
        if not self._aborted:
            self._aborted = True
            for coordinator in self._coordinators.values():
                coordinator.abort(cause)

    def _analyse(self) -> Any:
        """Call the analysis functions; again where they ask for steps that no array has yet."""

        def call(arrays: dict[str, Any]) -> Any:
            self.arrays = arrays
            run = self, self.settings, self.offered_by
            return merge_returned({f: call_analysis(f, arrays, *run) for f in self._analyses})

        if self._other_runs:
            return call(dict(self.arrays))
        self._bound, _, returned = call_with(
            self._offered, self._bound, call, lambda: self.contract is not None
        )
        return returned

    def _add(self, results: Any, state: Mapping[str, Any]) -> None:
        """Take results beyond those of the contract: constants, and graphs over what is there.

        Raises
        ------
        ContractError
            If one needs an external array, whose chunks are freed as the graph of `commit` goes on.
        """
        named = {**name_results(results), **state}
        lazy = lazy_parts(named)
        for name, each in lazy.items():
            if has_growing_views(each):
                raise ContractError(
                    f"result {name!r} needs all steps of an array without a number of steps, but "
                    "the run is analysed by windows; fold over them with scan, or give a number "
                    "that is never exceeded (STEPS = 0:1000 and AT_MOST = True)"
                )
            if not self._with_windows and needs_external(each, self._sources):
                raise ContractError(
                    f"result {name!r} needs an external array, but was returned after "
                    "run.commit, when chunks that no committed result needs are freed; pass "
                    "it to run.commit with the others"
                )
        self._constants.update({n: v for n, v in named.items() if n not in lazy})
        self._futures.update(self._submit(lazy))

    @property
    def _other_runs(self) -> bool:
        return len(self._settings) > 1

    @property
    def _sources(self) -> list[Source]:
        return [array.source for array in self.arrays.values()]

    def _submit(self, lazy: Mapping[str, Any]) -> dict[str, Any]:
        """Submit graphs to the scheduler; return a future for each result, by name."""
        streaming = self.settings.streaming_reductions
        sources = self._sources
        bounded = {n: each for n, each in lazy.items() if is_at_most(each, sources)}
        plain = {n: self._own.with_sources(e) for n, e in lazy.items() if n not in bounded}
        futures = submit(self.client, plain, streaming=streaming)
        if bounded:
            futures |= submit_at_most(self.client, bounded, sources, streaming=streaming)
        return {name: futures[name] for name in lazy}

    def _finish(self) -> dict[str, Any]:
        """Collect all results, keep those that are complete, then raise what failed."""
        values: dict[str, Any] = {}
        errors: dict[str, BaseException] = {}
        self._store.read_libraries()
        for names, future in self._completed():
            error = future.exception()
            if error is None:
                values |= {name: future.result() for name in names if name not in self._stored}
                continue
            errors |= dict.fromkeys(names, error.with_traceback(future.traceback()))
            if not isinstance(error, ExternalTaskError | SimulationLost):
                cause = f"result {names[0]!r}: {type(error).__name__}: {message(error)}"
                self._abort(f"{details(error)}\n{cause}")
        if not errors:
            self._send(NO_MORE)
        # In the order of the analysis, so that names of dimensions do not depend on timing.
        order = dict.fromkeys((*self._order, *self._futures))
        values = {name: values[name] for name in order if name in values}
        kept = keep_results(
            self._store,
            {**values, **self._constants},
            errors,
            stored=self._stored,
            coordinators=self._coordinators,
            checkpoints=self.settings.run_dir,
        )
        outcome = {**kept, "contract": self._signed.terms()}
        for coordinator in self._coordinators.values():
            coordinator.finish(None if errors else outcome)
        if errors:
            raise incomplete(self._store, errors, len(self._futures), {*values, *self._stored})
        return outcome

    # -- one or several simulations ----------------------------------------------------

    def _send(self, value: Feedback) -> None:
        fields = {each: getattr(value, each) for each in ("name", "step", "kind", "shape", "data")}
        for coordinator in self._coordinators.values():
            coordinator.send(fields)

    def _open(self) -> dict[str, Any]:
        """Open the runs of all simulations; return what an earlier attempt has left."""
        opened = {
            run: self._coordinators[run].open(replace(settings, partners=()))
            for run, settings in reversed(self._settings.items())
        }
        return opened[self.settings.run]
