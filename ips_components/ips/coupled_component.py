"""Components that are none of ours, and whose tasks put data: COUPLED = True in their section.

Their tasks find the run in their environment; `launch_task` begins a launch, and the end of the
task ends it, whichever way the component waits for it.
"""

from typing import Any

from ips_components import ips_compat
from ips_components.errors import IPSComponentsError
from ips_components.ips.launches import Launches

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
    config = ips_compat.run_config(services)
    name = ips_compat.section_of(services.component_ref)
    coupled = next((each for each in config.coupled if each.section == name), None)
    if coupled is None:
        return None
    launches: Launches | None = services.__dict__.get(_LAUNCHES)
    if launches is None:
        launches = services.__dict__[_LAUNCHES] = Launches(services, config, coupled.port)
    launch = launches.begin(int(nproc), "", attended=False)
    launch.facts.update(executable=command)

    def ended(status: int) -> None:
        launch.facts.update(exit_status=status)
        error = None
        if status != 0:
            why = f"exit status {status}" if status > 0 else f"signal {-status}"
            error = TaskFailed(f"the task of {coupled.port} ({command}) ended with {why}")
        launches.end(launch, error, raises=False)

    return ips_compat.CoupledTask(launch.environment, ended)


ips_compat.couple_tasks(begin_task)
