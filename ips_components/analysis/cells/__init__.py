"""Which cells of external arrays a graph needs, beyond which of their chunks."""

from ips_components.analysis.cells.region import Region
from ips_components.analysis.cells.search import CulledLayer, needed_cells

__all__ = ["CulledLayer", "Region", "needed_cells"]
