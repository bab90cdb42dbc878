"""The name that configs use; see `ips_components.ips.driver`."""

from ips_components.ips.driver import Driver, RunFailed

__all__ = ["Driver", "RunFailed"]
