"""The name that configs use; see `ips_components.ips.ensemble`."""

from ips_components.ips.ensemble import Ensemble, EnsembleDriver

__all__ = ["Ensemble", "EnsembleDriver"]
