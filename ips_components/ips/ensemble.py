"""IPS components that run one function many times, as tasks of a Dask pool.

In the config: port ``DRIVER`` with ``NAME = EnsembleDriver``, and port ``WORKER`` with the name of
an ensemble. An ensemble is a subclass of `Ensemble` with two methods, see
`ips_components.examples.ensembles`.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ipsframework import Component

from ips_components import ips_compat

ips_compat.install()

POOL = "ensemble"
RESULTS = "results.json"


class EnsembleDriver(Component):
    """Calls the port ``WORKER``: init, step, finalize."""

    def step(self, timestamp: float = 0.0, **keywords: Any) -> None:
        """Run the ensemble."""
        worker = self.services.get_port("WORKER")
        for method in ("init", "step", "finalize"):
            self.services.call(worker, method, timestamp)


class Ensemble(Component):
    """Runs the tasks that `members` names, and writes what `conclude` makes of their results.

    Parameters of its section: ``DASK_NODES``, ``DASK_WORKERS_PER_NODE``, ``DASK_PPW``, as for the
    analytics, and those of the ensemble.
    """

    def members(self) -> Iterator[tuple[str, Any, tuple[Any, ...]]]:
        """Yield the tasks: a name, a function, and its arguments."""
        raise NotImplementedError(f"{type(self).__name__} does not say what its members are")

    def conclude(self, found: Mapping[str, Any]) -> dict[str, Any]:
        """Return the result, as JSON values, from the results of the tasks by name."""
        return dict(found)

    def step(self, timestamp: float = 0.0, **keywords: Any) -> None:
        """Run all tasks, and write ``results.json`` into the working directory."""
        services, here = self.services, self.services.get_working_dir()
        services.create_task_pool(POOL)
        for name, function, arguments in self.members():
            services.add_task(POOL, name, 1, here, _call(function, arguments))
        services.submit_tasks(
            POOL,
            use_dask=True,
            dask_nodes=int(getattr(self, "DASK_NODES", 1)),
            dask_ppw=int(getattr(self, "DASK_PPW", 1)),
        )
        result = self.conclude(services.get_finished_tasks(POOL))
        Path(here, RESULTS).write_text(json.dumps(result, indent=1) + "\n")
        services.info("%s: %s", type(self).__name__, result.get("summary", result))
        if self.OUTPUT_FILES:
            services.stage_output_files(timestamp, self.OUTPUT_FILES, save_plasma_state=False)


def _call(function: Any, arguments: tuple[Any, ...]) -> Any:
    """Bind arguments; IPS would turn them into text on their way."""

    def member() -> Any:
        return function(*arguments)

    return member
