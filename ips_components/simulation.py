"""The name that configs use; see `ips_components.ips.simulation`."""

from ips_components.ips.simulation import Simulation, SimulationFailed

__all__ = ["Simulation", "SimulationFailed"]
