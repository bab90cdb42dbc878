"""IPS's own resource manager, asked before a run whether the tasks of the run will fit."""

import contextlib
import io
from collections.abc import Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Self

from ips_components.ips_compat._ips import ResourceManager, resource_list


@dataclass(frozen=True, slots=True)
class Request:
    """What one task asks for, as in ``launch_task``."""

    what: str
    nproc: int
    ppn: int = 0
    cpp: int = 0
    gpp: int = 0
    shared: bool = True


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
    def of_platform(cls, machine: Mapping[str, Any]) -> Self | None:
        """Make one as IPS does from a platform file; None when the nodes cannot be known here."""
        platform = SimpleNamespace(
            get_platform_parameter=lambda name, silent=False: machine.get(name)
        )
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                nodes, cores, sockets, max_ppn, _ = resource_list(platform, machine.get("HOST"))
        except Exception:  # outside of a batch job its commands and variables are missing
            return None
        wanted = int(machine.get("PROCS_PER_NODE") or 0) or max_ppn
        ppn = min(wanted, max_ppn)
        if cores % sockets:
            sockets = 1
        return cls(
            [(name, min(int(count), ppn)) for name, count in nodes],
            cores,
            sockets,
            max_ppn,
            ppn,
            int(machine.get("GPUS_PER_NODE") or 0),
            machine["NODE_ALLOCATION_MODE"] == "EXCLUSIVE",
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
