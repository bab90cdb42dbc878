"""The library inside simulation ranks: open, put, close. Imports NumPy and the standard library."""

from ips_components.bridge.api import Bridge
from ips_components.bridge.arrays import Array
from ips_components.bridge.rows import Rows
from ips_components.bridge.statistics import BridgeStatistics
from ips_components.model.spec import StepAxis

__all__ = ["Array", "Bridge", "BridgeStatistics", "Rows", "StepAxis"]
