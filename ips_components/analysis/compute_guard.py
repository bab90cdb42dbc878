"""A clear error for computing inside an analysis, where the data do not exist yet.

Until the contract is made no rank sends anything: ``if t.max() > 40``, ``np.asarray(t)`` or
``t.compute()`` would wait for data that wait for the contract.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from typing import Any

import dask
from dask._task_spec import convert_legacy_graph
from dask.core import flatten
from dask.utils import ensure_dict

from ips_components.analysis.views import Source
from ips_components.errors import ContractError


class ComputeGuard:
    """Refuses to compute external arrays in one thread, while it is entered and until `lift`.

    Parameters
    ----------
    sources : iterable of Source
        Of the external arrays.

    Attributes
    ----------
    committed : bool
        Whether there is a contract, for the message.

    Notes
    -----
    Dask's configuration is shared by all threads of a process; what other threads compute, and
    what needs no external array, goes the usual way.
    """

    def __init__(self, sources: Iterable[Source]) -> None:
        self._names = {source.name: source.spec.name for source in sources}
        self._thread = threading.get_ident()
        self._setting: Any = None
        self.committed = False

    def __enter__(self) -> ComputeGuard:
        self._previous = dask.config.get("scheduler", None)
        self._setting = dask.config.set(scheduler=self._get)
        return self

    def __exit__(self, *args: object) -> None:
        self.lift()

    def lift(self) -> None:
        """Allow computing: windows have chunks of their own, which are held."""
        setting, self._setting = self._setting, None
        if setting is not None:
            setting.__exit__(None, None, None)

    def _get(self, graph: Any, keys: Any, **options: Any) -> Any:
        if threading.get_ident() == self._thread and (name := self._external(graph, keys)):
            if self.committed:
                raise ContractError(
                    f"the analysis computes with array {name!r} after run.commit, when chunks that "
                    "no committed result needs are freed; pass what you need to run.commit and "
                    "take it from run.completed"
                )
            raise ContractError(
                f"the analysis computes with array {name!r}, but nothing can be computed here: the "
                "data do not exist before the simulation starts, which waits for this analysis. "
                "Return lazy results without .compute(), float(), bool(), if, or numpy.asarray; "
                "choose with dask.array.where; for values while the run is on use run.commit and "
                "run.completed, or run.rolling"
            )
        return self._usual()(graph, keys, **options)

    def _external(self, graph: Any, keys: Any) -> str:
        """Return the name of an external array whose chunks the graph or expression needs."""
        if not isinstance(graph, Mapping):
            graph = graph.__dask_graph__()
        tasks = convert_legacy_graph(ensure_dict(graph))
        needed = {each for task in tasks.values() for each in task.dependencies}
        for key in (*flatten(keys), *tasks, *needed):
            name = key[0] if type(key) is tuple and key else key
            if isinstance(name, str) and name in self._names:
                return self._names[name]
        return ""

    def _usual(self) -> Any:
        """Return the function that computes where there is no guard."""
        from dask.base import get_scheduler
        from distributed import get_client

        if self._previous is not None and not callable(self._previous):
            return get_scheduler(scheduler=self._previous)
        try:
            return get_client().get
        except ValueError:
            return dask.threaded.get
