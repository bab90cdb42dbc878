"""The name that configs use; see `ips_components.ips.ensemble`."""

from ips_components.ips.ensemble import Eigenvalues, Ensemble, EnsembleDriver, MonteCarloPi

__all__ = ["Eigenvalues", "Ensemble", "EnsembleDriver", "MonteCarloPi"]
