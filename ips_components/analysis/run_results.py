"""The results of a run: planned, submitted, followed until they end, and kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import dask.array as da
from distributed import Client

from ips_components.analysis.at_most import (
    has_growing_views,
    is_at_most,
    refuse_large,
    submit_at_most,
)
from ips_components.analysis.contract import submit
from ips_components.analysis.coordinator_client import Coordinator
from ips_components.analysis.failures import details, message
from ips_components.analysis.growing_run import GrowingRun
from ips_components.analysis.keeping import completed_by_name, incomplete, keep_results
from ips_components.analysis.needed_chunks import needs_external
from ips_components.analysis.provenance import provenance
from ips_components.analysis.result_values import name_results
from ips_components.analysis.results import GATHER_LIMIT, ResultStore, lazy_parts
from ips_components.analysis.views import Source
from ips_components.coordination.settings import RunSettings
from ips_components.errors import ContractError, ExternalTaskError, SimulationLost
from ips_components.external._compat import make_future

__all__ = ["RunResults"]


async def _futures(client: Client, keys: Mapping[str, Any]) -> dict[str, Any]:
    return {name: make_future(client, key) for name, key in keys.items()}


class RunResults:
    """What an analysis has returned, from its plan to what is kept of it.

    Parameters
    ----------
    client
        Client of the cluster.
    settings
        Of the run.
    coordinator
        Of the run; its graphs may need external chunks that it knows.

    Attributes
    ----------
    store : ResultStore
        Where results are kept.
    futures : dict
        Of the results that were submitted, by name.
    stored : set of str
        Names of the results that workers write.
    growing : GrowingRun or None
        The graph over arrays of any number of steps. It refers to the run, and has to be given up
        when that is over.
    """

    def __init__(self, client: Client, settings: RunSettings, coordinator: Coordinator) -> None:
        self._client, self._settings, self._coordinator = client, settings, coordinator
        self.store = ResultStore(
            settings.results, settings.results_format, {"run": settings.run}, settings.overwrite
        )
        self.futures: dict[str, Any] = {}
        self.stored: set[str] = set()
        self.growing: GrowingRun | None = None
        self._order: list[str] = []
        self._constants: dict[str, Any] = {}

    # -- submitting ------------------------------------------------------------------------

    def plan(
        self, results: Any, state: Mapping[str, Any], sources: Sequence[Source]
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Name results, and decide which of them workers write.

        Parameters
        ----------
        results, state
            What the analysis has returned, see `take_out`.
        sources
            Of the external arrays.

        Returns
        -------
        tuple of dict
            All lazy results by name, and those among them that need an external array.

        Raises
        ------
        ContractError
            If there is no lazy result, or none needs an external array.
        """
        named = name_results(results)
        for name, each in named.items():
            if isinstance(each, da.Array):
                found = provenance(each)
                self.store.name_dims(name, found.dims, found.units, found.time)
        refuse_large(named, GATHER_LIMIT)
        gathered, stored = self.store.plan(named)
        gathered |= state
        lazy = {**lazy_parts(gathered), **stored}
        self._constants = {n: v for n, v in gathered.items() if n not in lazy}
        self.stored = set(stored)
        external = {name: each for name, each in lazy.items() if needs_external(each, sources)}
        if not external:
            kinds = ", ".join(f"{name!r}: {type(each).__name__}" for name, each in gathered.items())
            raise ContractError(
                f"the analysis returned no lazy result of an external array ({kinds}), so that "
                "nothing of the simulation would be analysed; return lazy results, for example "
                "{'mean': arrays['temperature'].mean()}"
            )
        self._order = list(lazy)
        return lazy, external

    def resume(self, keys: Mapping[str, Any]) -> None:
        """Follow results that an earlier attempt has submitted before its worker died."""
        self.futures = self._client.sync(_futures, self._client, keys)

    def submit(self, lazy: Mapping[str, Any], sources: Sequence[Source]) -> None:
        """Submit the graphs of further results."""
        streaming = self._settings.streaming_reductions
        bounded = {n: each for n, each in lazy.items() if is_at_most(each, sources)}
        plain = {n: self._coordinator.with_sources(e) for n, e in lazy.items() if n not in bounded}
        futures = submit(self._client, plain, streaming=streaming)
        if bounded:
            futures |= submit_at_most(self._client, bounded, sources, streaming=streaming)
        self.futures.update({name: futures[name] for name in lazy})

    def add(
        self,
        results: Any,
        state: Mapping[str, Any],
        sources: Sequence[Source],
        *,
        with_windows: bool,
    ) -> None:
        """Take results beyond those of the contract: constants, and graphs over what is there.

        Parameters
        ----------
        results, state, sources
            See `plan`.
        with_windows
            Whether the contract is that of windows.

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
            if not with_windows and needs_external(each, sources):
                raise ContractError(
                    f"result {name!r} needs an external array, but was returned after "
                    "run.commit, when chunks that no committed result needs are freed; pass "
                    "it to run.commit with the others"
                )
        self._constants.update({n: v for n, v in named.items() if n not in lazy})
        self.submit(lazy, sources)

    # -- the end ---------------------------------------------------------------------------

    def completed(self) -> Iterator[tuple[list[str], Any]]:
        """Yield futures as they end, with the names of all results that have the same key."""
        if self.growing is not None:
            return self.growing.completed()
        return completed_by_name(self.futures)

    def collect(
        self, abort: Callable[[str], None]
    ) -> tuple[dict[str, Any], dict[str, BaseException]]:
        """Wait for all results; return those that the store writes, and the errors of others.

        Parameters
        ----------
        abort
            Is called with the cause when the analysis has made a result fail.
        """
        values: dict[str, Any] = {}
        errors: dict[str, BaseException] = {}
        self.store.read_libraries()
        for names, future in self.completed():
            error = future.exception()
            if error is None:
                values |= {name: future.result() for name in names if name not in self.stored}
                continue
            errors |= dict.fromkeys(names, error.with_traceback(future.traceback()))
            if not isinstance(error, ExternalTaskError | SimulationLost):
                cause = f"result {names[0]!r}: {type(error).__name__}: {message(error)}"
                abort(f"{details(error)}\n{cause}")
        # In the order of the analysis, so that names of dimensions do not depend on timing.
        order = dict.fromkeys((*self._order, *self.futures))
        return {name: values[name] for name in order if name in values}, errors

    def keep(
        self,
        values: Mapping[str, Any],
        errors: dict[str, BaseException],
        coordinators: Mapping[str, Coordinator],
    ) -> dict[str, Any]:
        """Write what was collected, and what was no lazy result; see `keep_results`."""
        return keep_results(
            self.store,
            {**values, **self._constants},
            errors,
            stored=self.stored,
            coordinators=coordinators,
            settings=self._settings,
        )

    def incomplete(
        self, values: Mapping[str, Any], errors: Mapping[str, BaseException]
    ) -> BaseException:
        """Return the first error, with what is missing and what was kept in a note."""
        return incomplete(self.store, errors, len(self.futures), {*values, *self.stored})
