"""The analysis of a run: from a function over lazy arrays to results on disk.

:func:`run_analysis` is what the IPS task pool executes; everything else happens through
:class:`Run`, which an analysis function may ask for by naming a parameter ``run``.
"""

from __future__ import annotations

import contextlib
import logging
import pickle
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from distributed import Client, Future

from ips_components.analysis.arrays import ExternalArray
from ips_components.analysis.at_most import is_growing, noted, refuse_large, refuse_stored
from ips_components.analysis.calling import call_again, call_analysis, takes_run
from ips_components.analysis.checkpoint import take_out
from ips_components.analysis.compute_guard import ComputeGuard
from ips_components.analysis.contract import contracts_from_graph, submit
from ips_components.analysis.coordinator_client import Coordinator, current_client
from ips_components.analysis.coordinators import Coordinators
from ips_components.analysis.failures import details, portable
from ips_components.analysis.growing import Growth
from ips_components.analysis.growing_run import GrowingRun
from ips_components.analysis.needed_chunks import needs_external
from ips_components.analysis.offers import offered_arrays
from ips_components.analysis.open_analysis import (
    FIRST_BOUND,
    OpenAnalysis,
    bounded_arrays,
    call_with,
)
from ips_components.analysis.published_values import check_published
from ips_components.analysis.result_values import merge_returned
from ips_components.analysis.results import GATHER_LIMIT
from ips_components.analysis.run_results import RunResults
from ips_components.analysis.signing import SignedContract
from ips_components.analysis.views import Source
from ips_components.analysis.window_checkpoints import WindowCheckpoints
from ips_components.analysis.window_group import WindowGroup
from ips_components.analysis.windows import Rolling
from ips_components.coordination.loading import load_analysis
from ips_components.coordination.settings import RunSettings
from ips_components.coordination.window_saves import NO_CHECKPOINT
from ips_components.errors import ContractError
from ips_components.model.contract import Contract
from ips_components.wire.values import NO_MORE, encode, encode_model

logger = logging.getLogger(__name__)


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
        self._coordinators = Coordinators(client, settings, coordinators)
        self._own = self._coordinators.own
        self._signed = SignedContract(self._coordinators.settings, self._coordinators.by_run)
        self.checkpoints = WindowCheckpoints(client, self._own, settings)
        self._published = 0
        self._offered: Mapping[str, Any] = {}  # as described; the graph spans some steps of these
        self._bound = FIRST_BOUND
        self._analyses: Sequence[Callable[..., Any]] = ()
        self._awaited: list[Any] = []
        self._guard: ComputeGuard | None = None
        self._resumed: dict[str, Any] = {}  # keys of results that an earlier attempt submitted
        self._with_windows = False
        self._windows: WindowGroup | None = None  # refers to the run: given up when it is over
        self._results = RunResults(client, settings, self._own)

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
        self._coordinators.send(encode(name, step, value))

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
            self._coordinators.send(each)

    def stop(self, reason: str = "converged") -> None:
        """End the simulation early and cleanly: exit status 0."""
        self._coordinators.stop(reason)

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
            growing = self._results.growing
            steps = [] if growing is None else growing.awaited
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
        lazy, external = self._results.plan(results, state, self._sources)
        if is_growing(external, self._sources):
            refuse_stored(self._results.stored)
            others = {n: each for n, each in lazy.items() if n not in external}
            self._follow(external, submit(self.client, others))
            return
        contracts = contracts_from_graph(
            external,
            self.arrays,
            runs=list(self._coordinators.settings),
            policies=self.settings.policies,
        )
        self._sign(contracts)
        if self._resumed.keys() == lazy.keys() and lazy:
            self._results.resume(self._resumed)
            return
        self._results.submit(lazy, self._sources)
        futures = self._results.futures
        self._coordinators.commit([future.key for future in futures.values()], list(futures))

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
        self._results.futures = futures
        growth = Growth(analysis.graph, bound, analysis.open_names)
        within = settings.deadlines["contract"]
        growing = self._results.growing = GrowingRun(
            self.client,
            self._own,
            growth,
            analysis.contracts,
            futures,
            within,
            self._report_awaited,
        )
        growing.begin()

    def completed(self) -> Iterator[tuple[str, Any]]:
        """Results as they become known, ``(name, value)``; for feedback while the run is on.

        Raises
        ------
        ExternalTaskError, SimulationLost, Exception
            What made a result fail.
        """
        left = {future.key: future for future in self._results.futures.values()}
        self.awaits(left.values())
        try:
            for names, future in self._results.completed():
                value = future.result()
                for name in names:
                    yield name, value
                left.pop(future.key, None)
                self.awaits(left.values())
        finally:
            self.awaits([])

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
        if self._coordinators.are_several:
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
                self._coordinators.abort(cause)
                self._coordinators.finish(None)  # the simulation may go on
            if failure is error:
                raise
        finally:
            # A circle would keep the futures of the results.
            self._windows = self._results.growing = None
        raise failure  # outside of the handler, so that it has no context of an unknown class

    def _execute(self) -> dict[str, Any]:
        settings = self.settings
        opened = self._coordinators.open()
        if opened.get("outcome") is not None:
            return dict(opened["outcome"])
        self._resumed = opened.get("results") or {}
        self._results.store.prepare()
        if not settings.analysis:
            return self._without_analysis()
        names = settings.analysis.replace(",", " ").split()
        self._analyses = [load_analysis(name) for name in names]
        self._coordinators.wait_for_receivers()
        follows = any(map(takes_run, self._analyses))
        notices = "the analysis follows the run" if follows else ""
        self._offered, self._signed.chunk_reasons = offered_arrays(
            self._coordinators.settings,
            self._coordinators.by_run,
            settings.deadlines["connect"],
            notices,
        )
        self.arrays = (
            self._offered
            if self._coordinators.are_several
            else bounded_arrays(self._offered, FIRST_BOUND)
        )
        sources = self._sources
        with ComputeGuard(sources) as self._guard, noted(sources):
            returned = self._analyse()
            committed = self.contract is not None
            self.checkpoints.end()
            if not committed:
                self.commit(returned)
        if committed and returned is not None:
            results, state = take_out(returned)
            self._results.add(results, state, self._sources, with_windows=self._with_windows)
        return self._finish()

    def _without_analysis(self) -> dict[str, Any]:
        """Let the simulation run, with nothing wanted of it but what attached clients ask for."""
        for run, coordinator in self._coordinators.by_run.items():
            self._signed.sign_one(run, Contract(run, ()))
            coordinator.commit([], [], self.settings.deadlines["contract"])
        outcome = {"results": "", "checkpoint": "", "variables": {}, "contract": []}
        self._coordinators.finish(outcome)
        return outcome

    def _analyse(self) -> Any:
        """Call the analysis functions; again where they ask for steps that no array has yet."""

        def call(arrays: dict[str, Any]) -> Any:
            self.arrays = arrays
            run = self, self.settings, self.offered_by
            return merge_returned({f: call_analysis(f, arrays, *run) for f in self._analyses})

        if self._coordinators.are_several:
            return call(dict(self.arrays))
        self._bound, _, returned = call_with(
            self._offered, self._bound, call, lambda: self.contract is not None
        )
        return returned

    @property
    def _sources(self) -> list[Source]:
        return [array.source for array in self.arrays.values()]

    def _finish(self) -> dict[str, Any]:
        """Collect all results, keep those that are complete, then raise what failed."""
        values, errors = self._results.collect(self._coordinators.abort)
        if not errors:
            self._coordinators.send(NO_MORE)
        kept = self._results.keep(values, errors, self._coordinators.by_run)
        outcome = {**kept, "contract": self._signed.terms()}
        self._coordinators.finish(None if errors else outcome)
        if errors:
            raise self._results.incomplete(values, errors)
        return outcome
