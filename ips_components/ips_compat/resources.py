"""IPS's own resource manager, asked before a run whether the tasks of the run will fit."""

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self, TypeAlias

from ips_components.config import (
    AnalyticsConfig,
    Findings,
    Platform,
    Problem,
    RunConfig,
    SimulationConfig,
    check_files,
)
from ips_components.ips_compat._ips import ResourceManager, resource_list


def check_files_and_resources(configs: Sequence[Path], platform: Path) -> Findings:
    """Check files as `ips_components.config.check_files` does, and whether all tasks will fit."""
    found = check_files(configs, platform)
    if found.errors or found.platform is None:
        return found
    problems = [each for run in found.runs for each in check_resources(run, found.platform)]
    return replace(found, errors=tuple(problems))


def check_resources(run: RunConfig, platform: Platform) -> list[Problem]:
    """Return what IPS would refuse, or what would wait for ever.

    The Dask workers and the simulations of our driver run at the same time; IPS gives cores to the
    first task and lets the second one wait until they are free, which here is never. Any other
    driver may launch one simulation after the other; a launch then waits for those before it.
    """
    pool: list[Task] = [
        (config, "DASK_NODES", workers(config, platform)) for config in run.analytics
    ]
    simulations: list[Task] = [(config, "NPROC", ranks(config)) for config in run.simulations]
    together = [simulations] if run.attended or not simulations else [[s] for s in simulations]
    for tasks in together:
        if problems := _check_together(run, platform, [*pool, *tasks]):
            return problems
    return []


def _check_together(run: RunConfig, platform: Platform, tasks: "list[Task]") -> list[Problem]:
    """Return why tasks do not fit on a platform at the same time."""
    allocator = Allocator.of_platform(platform)
    if allocator is None:  # the nodes are known inside of a batch job only
        return []
    for config, name, request in tasks:
        if refusal := allocator.allocate(request):
            return [
                Problem(
                    run.file,
                    config.section,
                    name,
                    f"{request.what} does not fit on the platform: {refusal}",
                    "give the platform more CORES_PER_NODE (on a workstation these are slots, "
                    "which may be more than cores) or NODES, or ask for less",
                )
            ]
    return []


def workers(config: AnalyticsConfig, platform: Platform) -> "Request":
    """Return what IPS's ``submit_dask_tasks`` asks for."""
    nodes = 1 if platform.mpirun == "eval" else config.dask_nodes
    gpus = config.gpus_per_node if config.dask_worker_per_gpu else 0
    return Request(
        what=f"the Dask pool with DASK_NODES = {nodes}",
        nproc=nodes * max(gpus, 1),
        ppn=max(gpus, 1),
        gpp=1 if gpus else 0,
        shared=config.shared_nodes,
    )


def ranks(config: SimulationConfig) -> "Request":
    """Return what the task of a simulation asks for."""
    return Request(
        what=f"the simulation with NPROC = {config.nproc}",
        nproc=config.nproc,
        ppn=config.task_ppn or config.procs_per_node,
        cpp=config.task_cpp or config.cpus_per_proc,
        gpp=config.task_gpp,
        shared=config.shared_nodes,
    )


@dataclass(frozen=True, slots=True)
class Request:
    """What one task asks for, as in ``launch_task``."""

    what: str
    nproc: int
    ppn: int = 0
    cpp: int = 0
    gpp: int = 0
    shared: bool = True


Task: TypeAlias = tuple[AnalyticsConfig | SimulationConfig, str, Request]
"""A component, the parameter that says how large its task is, and what the task asks for."""


class Allocator:
    """Gives out the cores of a platform to tasks that run at the same time.

    Parameters
    ----------
    nodes
        Pairs of a node's name and the processes that it takes.
    cores_per_node, sockets_per_node, max_ppn, ppn, gpus_per_node
        As IPS knows them.
    exclusive
        Whether the platform gives whole nodes only.
    """

    def __init__(
        self,
        nodes: list[tuple[str, int]],
        cores_per_node: int,
        sockets_per_node: int,
        max_ppn: int,
        ppn: int,
        gpus_per_node: int,
        exclusive: bool,
    ) -> None:
        def quiet(*_: Any, **__: Any) -> None:
            return None

        framework = SimpleNamespace(
            register_service_handler=quiet, debug=quiet, warning=quiet, exception=quiet
        )
        manager = ResourceManager(framework)
        manager.reporting_file = io.StringIO()
        manager.cores_per_node = cores_per_node
        manager.sockets_per_node = sockets_per_node
        manager.cores_per_socket = cores_per_node // sockets_per_node
        manager.max_ppn, manager.ppn, manager.gpn = max_ppn, ppn, gpus_per_node
        manager.node_alloc_mode = "EXCLUSIVE" if exclusive else "SHARED"
        manager.total_cores = manager.avail_cores = manager.add_nodes(nodes)
        self._manager = manager
        self._nodes = nodes
        self._granted: list[Request] = []

    @classmethod
    def of_platform(cls, platform: Platform) -> Self | None:
        """Make one as IPS does from a platform file; None when the nodes cannot be known here."""
        services = SimpleNamespace(
            get_platform_parameter=lambda name, silent=False: getattr(platform, name.lower(), None)
        )
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                nodes, cores, sockets, max_ppn, _ = resource_list(services, platform.host)
        except Exception:  # outside of a batch job its commands and variables are missing
            return None
        wanted = platform.procs_per_node or max_ppn
        ppn = min(wanted, max_ppn)
        if cores % sockets:
            sockets = 1
        return cls(
            [(name, min(int(count), ppn)) for name, count in nodes],
            cores,
            sockets,
            max_ppn,
            ppn,
            platform.gpus_per_node,
            platform.node_allocation_mode == "EXCLUSIVE",
        )

    def allocate(self, request: Request) -> str:
        """Give a task its cores; what is wrong when that is not possible, else ""."""
        try:
            self._manager.get_allocation(
                request.what,
                request.nproc,
                len(self._granted) + 1,
                not request.shared,
                not request.shared,
                task_ppn=request.ppn,
                task_cpp=request.cpp,
                task_gpp=request.gpp,
            )
        except Exception as error:
            return self._refusal(request, error)
        self._granted.append(request)
        return ""

    def _refusal(self, request: Request, error: Exception) -> str:
        total = sum(count for _, count in self._nodes)
        have = f"{len(self._nodes)} nodes with {total} processes in all"
        if type(error).__name__ == "InsufficientResourcesException":
            others = " and ".join(each.what for each in self._granted)
            kind = "whole nodes" if not request.shared else "cores"
            return (
                f"{others} holds {kind} that it needs, at the same time, so that both would wait "
                f"for ever ({have})"
            )
        return f"{have}; {request.nproc} processes asked for" + (
            f", {request.ppn} per node" if request.ppn else ""
        )
