"""Components that are none of ours, and whose tasks put data: COUPLED = True in their section.

Their tasks find the run in their environment; `launch_task` begins a launch, and the end of the
task ends it, whichever way the component waits for it.
"""

from typing import Any

from ips_components import ips_compat
from ips_components.errors import IPSComponentsError
from ips_components.ips.launches import Launches
from ips_components.ips.pool_tasks import CoupledCall

_LAUNCHES = "_ips_components_launches"


class TaskFailed(IPSComponentsError):
    """A task of a coupled component did not end well."""


def begin_task(services: Any, nproc: int, command: str) -> ips_compat.CoupledTask | None:
    """Begin a launch for a task of a coupled component; None when the run has no ranks.

    Parameters
    ----------
    services
        Of the component that launches the task.
    nproc
        Ranks of the task.
    command
        Its command line, for the record.
    """
    launches = _launches_of(services)
    if launches is None:
        return None
    launch = launches.begin(int(nproc), _time_of(services), attended=False)
    launch.facts.update(executable=command)

    def ended(status: int) -> None:
        launch.facts.update(exit_status=status)
        error = None
        if status != 0:
            why = f"exit status {status}" if status > 0 else f"signal {-status}"
            error = TaskFailed(f"the task of {launches.port} ({command}) ended with {why}")
        launches.end(launch, error, again=launches.tries_again(launch), raises=False)

    return ips_compat.CoupledTask(launch.environment, ended)


def begin_pool(services: Any, name: str, tasks: int) -> ips_compat.CoupledPool | None:
    """Begin the launches of a task pool on Dask; None when the run has no ranks.

    Parameters
    ----------
    services
        Of the component that submits the pool.
    name
        Of the pool.
    tasks
        How many it has.
    """
    launches = _launches_of(services)
    if launches is None:
        return None
    time = _time_of(services)
    launch = launches.begin_pool(name, tasks, time)
    coupling = launches.coupling(f"{launches.port} {name} {launch.number}", time)

    def ended(error: BaseException | None) -> None:
        launches.end_pool(launch, error)

    return ips_compat.CoupledPool(lambda function: CoupledCall(function, coupling), ended)


def _launches_of(services: Any) -> Launches | None:
    """The launches of a coupled component, None when no analytics gets its data."""
    config = ips_compat.run_config(services)
    name = ips_compat.section_of(services.component_ref)
    coupled = next((each for each in config.coupled if each.section == name), None)
    if coupled is None:
        return None
    launches: Launches | None = services.__dict__.get(_LAUNCHES)
    if launches is None:
        launches = Launches(services, config, coupled.port, silent=True)
        services.__dict__[_LAUNCHES] = launches
    return launches


def _time_of(services: Any) -> Any:
    """Time of the driver's call that the component answers; "" when it has none."""
    arguments = services.component_ref.args
    return arguments[0] if arguments else ""


ips_compat.couple_tasks(begin_task, begin_pool)
