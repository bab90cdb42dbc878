"""Algorithms on dask arrays: dask in, dask out, nothing computed before it is asked for.

All of them follow one rule: the graph is built once for all time steps, each task needs a bounded
number of steps, and what is carried from step to step has a fixed size. So they run in transit, on
blocks that do not exist yet, in memory that does not grow with the length of the run.
"""

from ips_components.algorithms.correlation import lag_correlation, moving_average
from ips_components.algorithms.derivative import time_derivative
from ips_components.algorithms.eigenvalues import (
    delayed_eigenvalues,
    eigenvalues,
    ensemble_eigenvalues,
    member_eigenvalues,
    random_matrix,
)
from ips_components.algorithms.histogram import Histogram, histogram
from ips_components.algorithms.incremental_pca import InSituIncrementalPCA
from ips_components.algorithms.moments import RunningMoments, running_moments
from ips_components.algorithms.monte_carlo import (
    PiEstimate,
    count_inside,
    monte_carlo_pi,
    pi_from_counts,
)
from ips_components.algorithms.quantiles import quantile_sketch
from ips_components.algorithms.spectrum import (
    IsotropicSpectrum,
    PowerSpectrum,
    isotropic_spectrum,
    power_spectrum,
)

__all__ = [
    "Histogram",
    "InSituIncrementalPCA",
    "IsotropicSpectrum",
    "PiEstimate",
    "PowerSpectrum",
    "RunningMoments",
    "count_inside",
    "delayed_eigenvalues",
    "eigenvalues",
    "ensemble_eigenvalues",
    "histogram",
    "isotropic_spectrum",
    "lag_correlation",
    "member_eigenvalues",
    "monte_carlo_pi",
    "moving_average",
    "pi_from_counts",
    "power_spectrum",
    "quantile_sketch",
    "random_matrix",
    "running_moments",
    "time_derivative",
]
