"""The library inside simulation ranks: open, put, close. Imports NumPy and the standard library."""

from ips_components.bridge._arrays import Array
from ips_components.bridge._bridge import Bridge, BridgeStatistics
from ips_components.model.spec import StepAxis

__all__ = ["Array", "Bridge", "BridgeStatistics", "StepAxis"]
