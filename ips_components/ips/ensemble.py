"""IPS components that run one function many times, as tasks of a Dask pool.

In the config: port ``DRIVER`` with ``NAME = EnsembleDriver``, and port ``WORKER`` with the name of
an ensemble below, ``MODULE = ips_components.ensemble`` both. An ensemble of your own is a subclass
of `Ensemble` with two methods.
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


class MonteCarloPi(Ensemble):
    """The number pi from ``TASKS`` tasks of ``POINTS`` random points each; ``SEED`` counts up."""

    def members(self) -> Iterator[tuple[str, Any, tuple[Any, ...]]]:
        """Yield one task for each seed."""
        from ips_components.algorithms import count_inside

        for task in range(int(self.TASKS)):
            yield f"points_{task}", count_inside, (int(self.POINTS), int(self.SEED) + task)

    def conclude(self, found: Mapping[str, Any]) -> dict[str, Any]:
        """Return ``value`` and its standard ``error``."""
        from ips_components.algorithms import pi_from_counts

        value, error = pi_from_counts([int(count) for count in found.values()], int(self.POINTS))
        return {"value": value, "error": error, "summary": f"pi = {value:.5f} +- {error:.5f}"}


class Eigenvalues(Ensemble):
    """Eigenvalues of ``MEMBERS`` random matrices of ``SIZE`` x ``SIZE``; ``SEED`` counts up.

    ``SYMMETRIC = True``: real eigenvalues, which follow the semicircle law between -1 and 1.
    """

    def members(self) -> Iterator[tuple[str, Any, tuple[Any, ...]]]:
        """Yield one task for each matrix."""
        from ips_components.algorithms import member_eigenvalues

        symmetric = self.SYMMETRIC == "True"
        for member in range(int(self.MEMBERS)):
            arguments = (int(self.SIZE), int(self.SEED) + member, symmetric)
            yield f"matrix_{member}", member_eigenvalues, arguments

    def conclude(self, found: Mapping[str, Any]) -> dict[str, Any]:
        """Return real and imaginary parts of all ``eigenvalues``, and their second ``moment``."""
        import numpy as np

        values = np.stack([found[f"matrix_{member}"] for member in range(len(found))])
        moment = float((np.abs(values) ** 2).mean())
        return {
            "eigenvalues": {"real": values.real.tolist(), "imaginary": values.imag.tolist()},
            "moment": moment,
            "summary": f"{values.shape[0]} matrices, mean square of the eigenvalues {moment:.4f}",
        }
