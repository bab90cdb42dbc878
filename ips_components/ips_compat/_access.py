"""What our components ask of the framework that they live in."""

import os
from typing import Any

from ips_components.config import RunConfig, load
from ips_components.ips_compat._ips import Component

_OPEN_MPI_OVERSUBSCRIBE = {
    "OMPI_MCA_rmaps_base_oversubscribe": "1",
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
    "OMPI_MCA_mpi_yield_when_idle": "1",
}


def run_config(services: Any) -> RunConfig:
    """The config of the simulation that a component belongs to, as it was checked at the start."""
    framework = services.fwk
    file = services.sim_conf["SIMULATION_CONFIG_FILE"]
    for config in framework.__dict__.get("_ips_components_runs", ()):
        if config.file == file:
            found: RunConfig = config
            return found
    # A simulation that was created while others ran was not there when the files were checked.
    return load(file, framework.config_manager.platform_file)


def section_of(component: Component) -> str:
    """Name of the config section that a component was made from."""
    return str(component.config.name)


def prepare_launcher(oversubscribe: bool) -> None:
    """Tell Open MPI, through the environment, what other launchers take for granted."""
    if oversubscribe:
        for name, value in _OPEN_MPI_OVERSUBSCRIBE.items():
            os.environ.setdefault(name, value)
