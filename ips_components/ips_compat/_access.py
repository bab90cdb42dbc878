"""What our components ask of the framework that they live in."""

import os

from ips_components.ips_compat._ips import Component

_OPEN_MPI_OVERSUBSCRIBE = {
    "OMPI_MCA_rmaps_base_oversubscribe": "1",
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
    "OMPI_MCA_mpi_yield_when_idle": "1",
}


def section_of(component: Component) -> str:
    """Name of the config section that a component was made from."""
    return str(component.config.name)


def prepare_launcher(oversubscribe: bool) -> None:
    """Set in the environment what Open MPI must be given, and other launchers assume."""
    if oversubscribe:
        for name, value in _OPEN_MPI_OVERSUBSCRIBE.items():
            os.environ.setdefault(name, value)
