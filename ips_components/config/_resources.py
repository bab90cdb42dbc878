"""Whether all tasks of a run fit on the platform together, asked from IPS's own bookkeeping."""

from collections.abc import Mapping
from typing import Any

from configobj import ConfigObj

from ips_components.config._files import Problems
from ips_components.config._run import AnalyticsConfig, RunConfig, SimulationConfig


def check_resources(
    run: RunConfig, conf: ConfigObj, machine: Mapping[str, Any], problems: Problems
) -> None:
    """Note tasks that IPS would refuse, or that would wait for each other for ever.

    The Dask workers and the simulation run at the same time; IPS gives cores to the first task and
    lets the second one wait until they are free, which here is never.
    """
    from ips_components.ips_compat.resources import Allocator, Request

    allocator = Allocator.of_platform(machine)
    if allocator is None:  # the nodes are known inside of a batch job only
        return
    requests = [
        *(_workers(each, conf, machine, Request) for each in run.analytics),
        *(_ranks(each, conf, machine, Request) for each in run.simulations),
    ]
    for request, config in zip(requests, [*run.analytics, *run.simulations], strict=True):
        refusal = allocator.allocate(request)
        if refusal:
            name = "NPROC" if isinstance(config, SimulationConfig) else "DASK_NODES"
            problems.add(
                config.section,
                name,
                f"{request.what} does not fit on the platform: {refusal}",
                "give the platform more CORES_PER_NODE (on a workstation these are slots, which "
                "may be more than cores) or NODES, or ask for less",
            )
            return


def _shares(conf: ConfigObj, section: str, machine: Mapping[str, Any]) -> bool:
    for place in (conf.get(section, {}), conf):
        mode = str(place.get("NODE_ALLOCATION_MODE", "")).upper()
        if mode in ("SHARED", "EXCLUSIVE"):
            return mode == "SHARED"
    return bool(machine["NODE_ALLOCATION_MODE"] == "SHARED")


def _workers(
    config: AnalyticsConfig, conf: ConfigObj, machine: Mapping[str, Any], request: Any
) -> Any:
    """As in IPS's submit_dask_tasks."""
    nodes = 1 if machine["MPIRUN"] == "eval" else config.dask_nodes
    gpus = config.gpus_per_node if config.dask_worker_per_gpu else 0
    return request(
        what=f"the Dask pool with DASK_NODES = {nodes}",
        nproc=nodes * max(gpus, 1),
        ppn=max(gpus, 1),
        gpp=1 if gpus else 0,
        shared=_shares(conf, config.section, machine),
    )


def _ranks(
    config: SimulationConfig, conf: ConfigObj, machine: Mapping[str, Any], request: Any
) -> Any:
    section = conf.get(config.section, {})
    return request(
        what=f"the simulation with NPROC = {config.nproc}",
        nproc=config.nproc,
        ppn=config.task_ppn or int(section.get("PROCS_PER_NODE") or 0),
        cpp=config.task_cpp or int(section.get("CPUS_PER_PROC") or 0),
        gpp=config.task_gpp,
        shared=_shares(conf, config.section, machine),
    )
