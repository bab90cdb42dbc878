"""The configs of a framework's simulations, checked before their components are made."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from configobj import ConfigObj

from ips_components.config import Findings, RunConfig, check_files, check_simulation, explain
from ips_components.errors import ConfigError
from ips_components.ips_compat import _supervisor
from ips_components.ips_compat._ips import ConfigurationManager
from ips_components.ips_compat.resources import check_files_and_resources

_RUNS = "_ips_components_runs"


def check_new_framework(supervisor: _supervisor.Supervisor) -> None:
    """Refuse a framework whose files cannot work, and watch for simulations that come later."""
    framework = supervisor.framework
    manager = framework.config_manager
    framework.__dict__[_RUNS] = {}
    if supervisor.late:
        being_made = _simulation_under_construction()
        if being_made is not None:
            _check_simulation(framework, being_made)
    else:
        # The number of nodes on the command line holds, whatever the platform file says.
        check = check_files if supervisor.nodes_from_command_line else check_files_and_resources
        found = check(
            [Path(name) for name in manager.config_file_list], Path(manager.platform_file)
        )
        _warn(framework, found)
        if found.errors:
            supervisor.refuse(ConfigError(explain(found.errors)))
        framework.__dict__[_RUNS].update({run.sim_name: run for run in found.runs})
    initialize = manager._initialize_sim

    def check_first(simulation: Any) -> None:
        if simulation.sim_name not in framework.__dict__[_RUNS]:
            _check_simulation(framework, simulation)
        initialize(simulation)

    manager._initialize_sim = check_first


def run_config(services: Any) -> RunConfig:
    """Return the config of the simulation that a component belongs to.

    It is the one that IPS made the component from: that of a sub-workflow, not of its parent, with
    what ``create_simulation`` has overridden.
    """
    framework, name = services.fwk, services.sim_name
    runs: Mapping[str, RunConfig] = framework.__dict__.get(_RUNS, {})
    if name in runs:
        return runs[name]
    return _checked(framework, framework.config_manager.sim_map[name]).runs[0]


def _check_simulation(framework: Any, simulation: Any) -> None:
    """Check a simulation that is created while others run."""
    found = _checked(framework, simulation)
    _warn(framework, found)
    if found.errors:
        raise ConfigError(explain(found.errors))
    framework.__dict__[_RUNS][simulation.sim_name] = found.runs[0]


def _checked(framework: Any, simulation: Any) -> Findings:
    file = Path(simulation.config_file)
    own = frozenset(ConfigObj(str(file), interpolation=False, raise_errors=False))
    return check_simulation(
        file, simulation.sim_conf, own, Path(framework.config_manager.platform_file)
    )


def _warn(framework: Any, found: Findings) -> None:
    for warning in found.warnings:
        framework.warning("ips_components: %s", warning)


def _simulation_under_construction() -> Any:
    code = ConfigurationManager._initialize_sim.__code__
    for frame in _supervisor.stack():
        if frame.f_code is code:
            return frame.f_locals["sim_data"]
    return None
