"""IPS components that couple MPI simulations to Dask analytics in transit.

Importing this package loads neither dask nor ipsframework: simulation ranks import
:mod:`ips_components.bridge` and must stay light.
"""

from ips_components._version import __version__

__all__ = ["__version__"]
